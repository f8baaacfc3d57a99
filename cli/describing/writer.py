"""Lines with tabs, aligned as Go's text/tabwriter aligns them; and the pieces that every description has.

A column is aligned over neighbouring lines that have it, so what is aligned with what follows from the text alone, and
writing what kubectl writes gives what kubectl prints. Source: https://pkg.go.dev/text/tabwriter
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cli.durations import short
from machinery.api.meta import parse_time

Object = dict[str, Any]
NONE = "<none>"
_PADDING = 2
_HIDDEN = ("kubectl.kubernetes.io/last-applied-configuration",)
_MAX_ANNOTATION = 140


class Writer:
    """Collects lines; `level` is how deep they stand."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def write(self, level: int, text: str) -> None:
        """Add a line, or several; tabs part its cells."""
        self._text.append("  " * level + text)

    def raw(self) -> str:
        """Return all lines with their tabs."""
        return "\n".join(self._text)

    def text(self) -> str:
        """Return all lines, aligned."""
        return aligned(self.raw())


def aligned(text: str) -> str:
    """Return text with its tabs turned into columns."""
    lines = [line.split("\t") for line in text.split("\n")]
    result: list[str] = []
    _align(lines, 0, len(lines), [], result)
    return "\n".join(result)


def _align(lines: list[list[str]], start: int, end: int, widths: list[int], result: list[str]) -> None:
    column = len(widths)
    at = start
    while at < end:
        if column >= len(lines[at]) - 1:
            at += 1
            continue
        _emit(lines[start:at], widths, result)
        start = at
        width = 0
        while at < end and column < len(lines[at]) - 1:
            width = max(width, len(lines[at][column]) + _PADDING)
            at += 1
        _align(lines, start, at, [*widths, width], result)
        start = at
    _emit(lines[start:end], widths, result)


def _emit(lines: list[list[str]], widths: list[int], result: list[str]) -> None:
    for line in lines:
        cells = [cell.ljust(widths[at]) if at < len(widths) else cell for at, cell in enumerate(line)]
        result.append("".join(cells))


def mapping(out: Writer, level: int, title: str, values: Mapping[str, Any] | None, *, sign: str = "=") -> None:
    """Write a title and KEY=VALUE lines beside it, sorted."""
    out.write(level, f"{title}:\t" + ("\n" + "  " * level + "\t").join(_pairs(values, sign)))


def _pairs(values: Mapping[str, Any] | None, sign: str) -> list[str]:
    return [f"{key}{sign}{value}" for key, value in sorted((values or {}).items())] or [NONE]


def annotations(out: Writer, level: int, title: str, values: Mapping[str, str] | None) -> None:
    """Write annotations; long ones stand below their key and are cut, what apply remembers is left out."""
    kept = {key: value for key, value in (values or {}).items() if key not in _HIDDEN}
    if not kept:
        out.write(level, f"{title}:\t{NONE}")
        return
    for at, (key, value) in enumerate(sorted(kept.items())):
        head = f"{title}:\t" if at == 0 else "\t"
        text = value.removesuffix("\n")
        if len(text) + len(key) + 2 < _MAX_ANNOTATION and "\n" not in text:
            out.write(level, f"{head}{key}: {text}")
            continue
        out.write(level, f"{head}{key}:")
        for line in text.split("\n"):
            out.write(level, f"\t  {line[: _MAX_ANNOTATION - 2] + '...' if len(line) > _MAX_ANNOTATION else line}")


def head(out: Writer, obj: Object, *, namespaced: bool = True, name_only: bool = False) -> None:
    """Write name, namespace, labels and annotations."""
    metadata = obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    if namespaced:
        out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    if not name_only:
        mapping(out, 0, "Labels", metadata.get("labels"))
        annotations(out, 0, "Annotations", metadata.get("annotations"))


def timestamp(text: str | None) -> str:
    """Return a time as Go's RFC1123Z prints it."""
    if not text:
        return "<unknown>"
    return parse_time(text).astimezone().strftime("%a, %d %b %Y %H:%M:%S %z")


def age(text: str | None) -> str:
    """Return how long ago a time was."""
    return short(time.time() - parse_time(text).timestamp()) if text else "<unknown>"


def selector(value: Mapping[str, Any] | None, *, empty: str = NONE) -> str:
    """Return a label selector, or plain labels, as one line."""
    from machinery.api.selectors import from_label_selector

    if value is None:
        return empty
    return str(from_label_selector(value)) or empty


def truth(value: Any) -> str:
    """Return a truth value as Go prints it."""
    return "true" if value else "false"


def rows(out: Writer, level: int, headers: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Write a table with dashes under its headers."""
    out.write(level, "\t".join(headers))
    out.write(level, "\t".join("-" * len(one) for one in headers))
    for line in lines:
        out.write(level, "\t".join(map(str, line)))
