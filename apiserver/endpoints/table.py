"""Tables: what kubectl prints, made by the server from a kind's columns.

A row is encoded once and kept with its entry; only ages are filled in anew.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from apiserver.registry.columns import AGE, NAME
from apiserver.registry.kind import Column, Kind, Since
from apiserver.storage.watch_cache import Entry
from machinery.api.meta import parse_time

_DEFAULT_COLUMNS = (NAME, AGE)


_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
# Below the first number of seconds, a span is told in the second's unit and the rest in the fourth's, if any.
_DURATIONS = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)


class Row:
    """The encoded parts of a row between its ages; `moments` has one item less than `parts`."""

    __slots__ = ("moments", "parts")

    def __init__(self, cells: Sequence[Any], metadata: Any) -> None:
        self.parts: list[bytes] = []
        self.moments: list[tuple[float, str, str]] = []
        pending = bytearray(b'{"cells":[')
        for index, cell in enumerate(cells):
            if index:
                pending += b","
            if isinstance(cell, Since):
                self.parts.append(bytes(pending) + b'"')
                self.moments.append((parse_time(cell.timestamp).timestamp(), cell.before, cell.after))
                pending = bytearray(b'"')
            else:
                pending += orjson.dumps(cell)
        pending += b'],"object":' + metadata + b"}"
        self.parts.append(bytes(pending))

    def encode(self, now: float) -> bytes:
        """Return the row as of `now` (Unix seconds)."""
        if not self.moments:
            return self.parts[0]
        pieces = [self.parts[0]]
        for (moment, before, after), part in zip(self.moments, self.parts[1:], strict=True):
            pieces.append(f"{before}{human_duration(now - moment)}{after}".encode())
            pieces.append(part)
        return b"".join(pieces)


def human_duration(seconds: float) -> str:
    """Return a span as kubectl shows ages: "45s", "5m30s", "3h12m", "4d", "2y30d".

    The units and their limits are those of apimachinery's duration.HumanDuration.
    """
    if seconds < -1:
        return "<invalid>"
    total = max(int(seconds), 0)
    for limit, unit, name, rest_unit, rest_name in _DURATIONS:
        if total < limit:
            rest = total % unit // rest_unit if rest_unit else 0
            return f"{total // unit}{name}{rest}{rest_name}" if rest else f"{total // unit}{name}"
    return f"{total // _YEAR}y"


def columns_of(kind: Kind) -> Sequence[Column]:
    """Return the columns of a kind; name and age for those that declare none."""
    return kind.columns or _DEFAULT_COLUMNS


def definitions(kind: Kind) -> list[dict[str, Any]]:
    """Return a Table's columnDefinitions."""
    return [
        {"name": c.name, "type": c.type, "format": c.format, "description": c.description, "priority": c.priority}
        for c in columns_of(kind)
    ]


def row_bytes(kind: Kind, entry: Entry, now: float, include: str = "Metadata") -> bytes:
    """Return the row of an object; `include` is the includeObject parameter: Metadata, Object or None."""
    if include == "Metadata":
        if entry.row is None:
            entry.row = _row(kind, entry.object(), None)
        return entry.row.encode(now)
    return _row(kind, entry.object(), entry.value if include == "Object" else b"null").encode(now)


def _row(kind: Kind, obj: dict[str, Any], shown: bytes | None) -> Row:
    if shown is None:
        metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        shown = orjson.dumps(partial)
    return Row([_cell(column, obj) for column in columns_of(kind)], shown)


def _cell(column: Column, obj: dict[str, Any]) -> Any:
    try:
        return column.value(obj)
    except (KeyError, TypeError, AttributeError, ValueError):
        return "<unknown>"  # an object another client wrote in an odd form must not hide the others


def table_bytes(kind: Kind, entries: Iterable[Entry], metadata: bytes, include: str, *, header: bool = True) -> bytes:
    """Return a whole Table; watches leave the header out after the first."""
    now = time.time()
    rows = b",".join([row_bytes(kind, entry, now, include) for entry in entries])
    columns = orjson.dumps(definitions(kind)) if header else b"[]"
    return (
        b'{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":' + metadata + b',"columnDefinitions":' + columns
        + b',"rows":[' + rows + b"]}"
    )  # fmt: skip


def partial_bytes(entry: Entry) -> bytes:
    """Return an object's metadata alone, as a PartialObjectMetadata."""
    metadata = entry.object()["metadata"]
    return orjson.dumps({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
