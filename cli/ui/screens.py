"""What lies over the table for a moment: a text, a log, a question."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.suggester import SuggestFromList
from textual.widgets import Input, RichLog, Static

from cli.ui.feed import lines
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

_MAX_LINES = 20_000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
_BACK = Binding("escape,q", "app.pop_screen", "Back")


def harmless(text: str) -> str:
    """Return a text without anything a terminal would take for a command."""
    return _ESCAPES.sub("", text.replace("\t", "    "))


class Pager(Screen[None]):
    """A long text, to be read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        _BACK,
        Binding("w", "wrap", "Wrap"),
        Binding("g", "top", show=False),
        Binding("G", "bottom", show=False),
    ]

    def __init__(self, title: str, text: str = "") -> None:
        super().__init__()
        self._title, self._text = title, text
        self.body = RichLog(max_lines=_MAX_LINES, highlight=False, markup=False, auto_scroll=False)

    def compose(self) -> ComposeResult:
        """Lay the title over the text."""
        yield Static(Text(self._title, style="reverse"), classes="bar")
        yield self.body

    def on_mount(self) -> None:
        """Show what there is."""
        for line in self._text.splitlines():
            self.body.write(Text(harmless(line)))
        self.body.focus()

    def action_wrap(self) -> None:
        """Break long lines, or do not."""
        self.body.wrap = not self.body.wrap
        self.notify(f"long lines are {'broken' if self.body.wrap else 'cut'} from here on")

    def action_top(self) -> None:
        """Go to the beginning."""
        self.body.scroll_home(animate=False)

    def action_bottom(self) -> None:
        """Go to the end."""
        self.body.scroll_end(animate=False)


class LogView(Pager):
    """The logs of a pod's containers, followed as they are written."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "stay", "Stay at the end")]

    def __init__(self, client: Client, path: str, containers: Sequence[str], params: Mapping[str, str]) -> None:
        """Args: `path` is the pod's; `params` those of its log."""
        super().__init__(f" Logs of {path.rpartition('/')[2]}   escape: back, s: stay at the end, w: wrap")
        self._client, self._path, self._containers, self._params = client, path, containers, params
        self._tasks: list[asyncio.Task[None]] = []

    def on_mount(self) -> None:
        """Begin to follow."""
        super().on_mount()
        self.body.auto_scroll = True
        self._tasks = [asyncio.create_task(self._follow(at, name)) for at, name in enumerate(self._containers)]

    def on_unmount(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self, at: int, container: str) -> None:
        params = {"container": container, **self._params}
        prefix = f"{container} " if len(self._containers) > 1 else ""
        try:
            async with self._client.stream("GET", f"{self._path}/log", params=params) as answer:
                async for line in lines(answer.chunks()):
                    text = Text(prefix, style=_COLOURS[at % len(_COLOURS)])
                    self.body.write(text + Text(harmless(line.decode(errors="replace"))))
        except (APIError, ConnectionFailed) as error:
            self.body.write(Text(f"{prefix}{error}", style="bold red"))

    def action_stay(self) -> None:
        """Stay at the end, or where one reads."""
        self.body.auto_scroll = not self.body.auto_scroll
        self.notify("the end is followed" if self.body.auto_scroll else "the view stays")


class Ask(ModalScreen[str]):
    """A line to be typed; "" when escape was."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('')", "Cancel")]

    def __init__(self, question: str, value: str = "", offers: Sequence[str] = ()) -> None:
        super().__init__()
        self._question = question
        suggester = SuggestFromList(offers, case_sensitive=False) if offers else None
        self._input = Input(value, suggester=suggester)

    def compose(self) -> ComposeResult:
        """Lay the question over the line."""
        with Vertical(classes="box"):
            yield Static(Text(self._question))
            yield self._input

    def on_mount(self) -> None:
        """Wait for keys."""
        self._input.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the line back."""
        self.dismiss(event.value.strip())


class Confirm(ModalScreen[bool]):
    """A question of yes and no; anything but y is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,enter,q", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Show the question."""
        with Vertical(classes="box"):
            yield Static(Text(f"{self._question}\n\ny: yes    n: no"))
