"""Tables: what kubectl prints, made by the server from a kind's columns.

A row is encoded once and kept with its entry; only ages are filled in anew.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from apiserver.registry.columns import AGE, NAME
from apiserver.registry.durations import human_duration
from apiserver.registry.kind import Column, Kind, Since
from apiserver.storage.watch_cache import Entry
from machinery.api.meta import parse_time

_DEFAULT_COLUMNS = (NAME, AGE)


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


def table_bytes(
    kind: Kind, entries: Iterable[Entry], metadata: bytes, include: str, *, header: bool = True, version: str = "v1"
) -> bytes:  # fmt: skip
    """Return a whole Table; watches leave the header out after the first. `version` is that of meta.k8s.io."""
    now = time.time()
    rows = b",".join([row_bytes(kind, entry, now, include) for entry in entries])
    columns = orjson.dumps(definitions(kind)) if header else b"[]"
    return (
        b'{"kind":"Table","apiVersion":"meta.k8s.io/' + (version or "v1").encode() + b'","metadata":' + metadata
        + b',"columnDefinitions":' + columns + b',"rows":[' + rows + b"]}"
    )  # fmt: skip


def partial_bytes(entry: Entry, version: str = "v1") -> bytes:
    """Return an object's metadata alone, as a PartialObjectMetadata of a version of meta.k8s.io."""
    found = {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version or 'v1'}"}
    return orjson.dumps({**found, "metadata": entry.object()["metadata"]})
