"""Draws a model's rows: only the lines that are visible, however many rows there are."""

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cli.ui.model import Model, Row

_GAP = 2
_WIDEST = 60
_MEASURED_ROWS = 2000
_BAD = ("error", "crash", "backoff", "failed", "evicted", "oomkilled", "notready", "lost", "unknown", "invalid")
_BUSY = ("pending", "creating", "init:", "terminating", "schedulingdisabled", "initializing", "warning")
_DONE = ("completed", "succeeded")
HEAD, PLAIN = Style(bold=True, underline=True), Style()
STYLES = {"bad": Style(color="red", bold=True), "busy": Style(color="yellow"), "done": Style(dim=True), "": PLAIN}


def mood(row: Row) -> str:
    """Return how a row is to look: bad, busy, done or as usual."""
    for kind, words in (("bad", _BAD), ("busy", _BUSY), ("done", _DONE)):
        if any(word in row.text for word in words):
            return kind
    ready = next((cell for cell in row.cells if "/" in cell and cell.replace("/", "").isdigit()), "")
    have, _, want = ready.partition("/")
    return "busy" if have != want else ""


class Grid(ScrollView, can_focus=True):
    """A table with a cursor that stays on its object while others come and go."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False), Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False), Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "move(-1000000)", show=False), Binding("end,G", "move(1000000)", show=False),
        Binding("enter", "open", show=False),
    ]  # fmt: skip

    class Opened(Message):
        """Enter was typed on a row."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.rows: Sequence[Row] = ()
        self.wide = False
        self.word = ""
        self.by, self.backwards = -1, False
        self._cursor, self._uid = 0, ""
        self._widths: list[int] = []
        self._drawn: tuple[object, ...] = ()
        self._lines: list[tuple[Row, bool]] = []
        self._frame: tuple[object, ...] = ()

    @property
    def chosen(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self._cursor] if self._cursor < len(self.rows) else None

    def show(self, model: Model) -> None:
        """Begin with another model."""
        self.model, self._cursor, self._uid, self._widths, self._drawn = model, 0, "", [], ()
        self._frame = ()
        self.by, self.backwards, self.word = -1, False, ""
        self.scroll_home(animate=False)
        self.look()

    def look(self) -> None:
        """Take in what has changed; draws only where something has."""
        now = (self.model.changes, self.word, self.by, self.backwards, self.wide)
        if now == self._drawn:
            return
        self._drawn = now
        self.rows = self.model.view(self.word, by=self.by, backwards=self.backwards)
        self._follow()
        self._measure()
        self.virtual_size = Size(sum(self._widths) + _GAP * len(self._widths), len(self.rows) + 1)
        self._draw_changed()

    def _draw_changed(self) -> None:
        """Draw the lines that are not as they were: of thousands of rows that change, few are visible."""
        top, height = self._top(), self.size.height
        at_cursor = self._cursor - top
        lines = [(row, at == at_cursor) for at, row in enumerate(self.rows[top : top + max(height - 1, 0)])]
        before, self._lines = self._lines, lines
        frame = (top, height, tuple(self._widths), self.wide, self.by, self.backwards)
        if frame != self._frame or len(before) != len(lines):
            self._frame = frame
            self.refresh()
            return
        for at, (old, new) in enumerate(zip(before, lines, strict=True)):
            if old != new:
                self.refresh(Region(0, at + 1, self.size.width, 1))

    def _follow(self) -> None:
        """Keep the cursor on its object, or near where that was."""
        here = self.rows[self._cursor].uid if self._cursor < len(self.rows) else ""
        if self._uid and here != self._uid:
            self._cursor = next((at for at, row in enumerate(self.rows) if row.uid == self._uid), self._cursor)
        self._cursor = max(min(self._cursor, len(self.rows) - 1), 0)
        self._uid = self.rows[self._cursor].uid if self.rows else ""

    def _shown(self) -> list[int]:
        return [at for at, one in enumerate(self.model.columns) if self.wide or not one.wide]

    def _measure(self) -> None:
        """Make columns as wide as their cells; they only grow, so that nothing jumps about while it is read."""
        shown = self._shown()
        before = self._widths if len(self._widths) == len(shown) else [0] * len(shown)
        columns = self.model.columns
        sample = self.rows[self._top() : self._top() + self.size.height] if any(before) else self.rows[:_MEASURED_ROWS]
        self._widths = [
            min(max(width, len(columns[at].title) + 2, *(len(self.model.cell(row, at)) for row in sample), 0), _WIDEST)
            for at, width in zip(shown, before, strict=True)
        ]

    def _top(self) -> int:
        return int(self.scroll_offset.y)

    def render_line(self, y: int) -> Strip:
        """Return one line of the screen: the head, or a row."""
        width, left = self.size.width, int(self.scroll_offset.x)
        at = y - 1 + self._top()
        if y == 0:
            return Strip([Segment(self._head(), HEAD)]).crop_extend(left, left + width, HEAD)
        if at >= len(self.rows):
            return Strip.blank(width)
        row = self.rows[at]
        text = self._line([self.model.cell(row, column) for column in self._shown()])
        style = STYLES[mood(row)]
        if at == self._cursor:
            style += Style(reverse=True)
        return Strip([Segment(text, style)]).crop_extend(left, left + width, style)

    def _head(self) -> str:
        marks = {self.by: " ↓" if self.backwards else " ↑"}
        return self._line([self.model.columns[at].title.upper() + marks.get(at, "") for at in self._shown()])

    def _line(self, cells: Sequence[str]) -> str:
        return "".join(
            cell[:width].ljust(width + _GAP) for cell, width in zip(cells, self._widths, strict=False)
        )  # fmt: skip

    def action_move(self, by: int) -> None:
        """Move the cursor; the view follows."""
        if not self.rows:
            return
        self._cursor = max(min(self._cursor + by, len(self.rows) - 1), 0)
        self._uid = self.rows[self._cursor].uid
        height = max(self.size.height - 1, 1)
        top = min(max(self._top(), self._cursor - height + 1), self._cursor)
        if top != self._top():
            self.scroll_to(y=top, animate=False)
        self._draw_changed()

    def action_page(self, by: int) -> None:
        """Move the cursor by a screen."""
        self.action_move(by * max(self.size.height - 2, 1))

    def action_open(self) -> None:
        """Tell that a row was chosen."""
        if self.chosen is not None:
            self.post_message(self.Opened())

    def refresh_ages(self) -> None:
        """Draw anew what changes by itself."""
        self.refresh()
