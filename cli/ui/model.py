"""The rows of one kind, as the server's tables tell them: kept, filtered and put in order. No I/O, no terminal."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.durations import short
from machinery.api.meta import parse_time

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_DIGITS = re.compile(r"(\d+)")
_AGE = "Age"
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, and whether it is only shown when more is asked for."""

    title: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One object: its cells in the order of the columns, and what actions need to know."""

    uid: str
    namespace: str
    name: str
    created: float  # seconds since 1970; 0 when unknown
    cells: tuple[str, ...]
    order: Key
    text: str = field(repr=False, default="")  # what a filter looks through


def plain(value: Any) -> str:
    """Return a cell's text without anything a terminal would take for a command."""
    return _CONTROL.sub(" ", "" if value is None else str(value))


class Model:
    """What is known of a kind. `changes` grows with every change, so that a drawer knows when to draw."""

    def __init__(self, *, all_namespaces: bool = False) -> None:
        """Args: `all_namespaces` puts a column with the namespace in front."""
        self.columns: list[Column] = []
        self.changes = 0
        self._all = all_namespaces
        self._rows: dict[str, Row] = {}
        self._age = -1
        self._view: list[Row] = []
        self._seen: tuple[Any, ...] = ()
        self._moved = True  # rows have come or gone since the view was made

    def __len__(self) -> int:
        return len(self._rows)

    def replace(self, table: Mapping[str, Any]) -> None:
        """Take a whole list."""
        self._head(table)
        rows = [self._row(one) for one in table.get("rows") or ()]
        self._rows = {row.uid: row for row in rows}
        self._moved = True
        self.changes += 1

    def apply(self, kind: str, table: Mapping[str, Any]) -> None:
        """Take one event of a watch: ADDED, MODIFIED or DELETED, and the table of its object."""
        if table.get("columnDefinitions"):
            self._head(table)
        for one in table.get("rows") or ():
            row = self._row(one)
            self._moved |= kind == "DELETED" or row.uid not in self._rows
            if kind == "DELETED":
                self._rows.pop(row.uid, None)
            else:
                self._rows[row.uid] = row
        self.changes += 1

    def _head(self, table: Mapping[str, Any]) -> None:
        definitions = table.get("columnDefinitions") or ()
        found = [Column(plain(one["name"]), bool(one.get("priority"))) for one in definitions]
        self._age = next((at for at, one in enumerate(found) if one.title == _AGE), -1)
        if self._all:
            found = [Column("Namespace"), *found]
        self.columns = found

    def _row(self, one: Mapping[str, Any]) -> Row:
        metadata = one["object"]["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        cells = [plain(cell) for cell in one["cells"]]
        created = parse_time(metadata["creationTimestamp"]).timestamp() if metadata.get("creationTimestamp") else 0.0
        if self._all:
            cells = [namespace, *cells]
        order = (namespace, *natural(name))
        return Row(metadata["uid"], namespace, name, created, tuple(cells), order, " ".join(cells).lower())

    def cell(self, row: Row, at: int) -> str:
        """Return a cell as it is now: ages go on growing while nothing else changes."""
        if row.created and at == self._age + self._all and self._age >= 0:
            return short(max(time.time() - row.created, 0))
        return row.cells[at] if at < len(row.cells) else ""

    def view(self, word: str = "", *, by: int = -1, backwards: bool = False) -> Sequence[Row]:
        """Return the rows that have a word (or, after "!", have it not), by name or by the column `by`."""
        asked = (self.changes, word, by, backwards)
        if asked == self._seen:
            return self._view
        if not self._moved and not word and by < 0 and asked[1:] == self._seen[1:]:
            self._view = [self._rows[row.uid] for row in self._view]  # sorting thousands for each change is dear
        else:
            wanted, word = not word.startswith("!"), word.lstrip("!").lower()
            found = [row for row in self._rows.values() if not word or (word in row.text) is wanted]
            found.sort(key=lambda row: self._order(row, by), reverse=backwards)
            self._view, self._moved = found, False
        self._seen = asked
        return self._view

    def _order(self, row: Row, by: int) -> Key:
        if by < 0 or by >= len(row.cells):
            return row.order
        if by == self._age + self._all:
            return (-row.created, *row.order)
        return (*natural(row.cells[by]), *row.order)


def natural(text: str) -> Key:
    """Return what sorts web-2 before web-10; numbers come before words."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(text) if part)
