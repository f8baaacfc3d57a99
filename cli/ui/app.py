"""The interface itself: which kind is shown, and what each key does."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import click
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from cli.resources import Discovery, Known
from cli.ui.actions import Verbs
from cli.ui.feed import Feed
from cli.ui.grid import Grid
from cli.ui.model import Model, Row
from cli.ui.screens import Ask, Confirm, LogView, Pager
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

_TICK_SECONDS = 0.5
_AGES_EVERY = 10  # ticks
_SHELLS = "command -v bash >/dev/null && exec bash || exec sh"
_KEYS = "  : kind   / filter   d describe   y yaml   l logs   s shell, scale   e edit   ctrl+d delete   ? all keys"
_HELP = """
Moving        ↑ ↓ j k, page up and down, g and G; enter opens: a workload or node its pods, a namespace all in it,
              a pod its log, anything else its description; escape goes back
Choosing      :  a kind (po, deploy, nodes, any the server has); `:pods shop` that of a namespace; 0  all namespaces
              n  another namespace;  /  rows with a word, /!word rows without it
Columns       w  all of them;  o  order by the next column;  O  the other way round
Looking       d  describe;  y  YAML;  l  logs;  p  logs of the container before;  v  events of the object
Acting        s  a shell in a pod, or how many replicas of a workload;  a  attach;  e  edit;  r  roll a workload out anew
              f  forward a port to a pod or service;  F  end all forwardings
              c  cordon a node or uncordon it;  ctrl+d  delete;  ctrl+k  kill: delete without waiting
Leaving       q or ctrl+c
"""
_SCALED = ("deployments", "statefulsets", "replicasets", "replicationcontrollers")
_ROLLED = ("deployments", "statefulsets", "daemonsets")


class WherryUI(App[None]):
    """Browse a cluster."""

    CSS = """
    Screen { layers: base; }
    .bar { height: 1; dock: top; }
    #foot { height: 1; dock: bottom; }
    #filter { height: 3; dock: bottom; display: none; }
    ModalScreen { align: center middle; }
    .box { width: 80; height: auto; border: round $accent; padding: 1 2; background: $surface; }
    RichLog { background: $background; }
    Grid { background: $background; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(keys, action, show=False)
        for keys, action in {
            "colon": "kind", "slash": "filter", "escape": "leave", "q,ctrl+c": "quit", "question_mark": "help",
            "d": "describe", "y": "yaml", "l": "logs", "p": "logs(True)", "s": "shell_or_scale", "a": "attach",
            "e": "edit", "r": "restart", "f": "forward", "F": "end_forwards", "c": "cordon", "v": "events",
            "ctrl+d": "delete", "ctrl+k": "delete(True)", "n": "namespace", "0": "everywhere", "w": "wide", "o": "order",
            "O": "backwards",
        }.items()
    ]  # fmt: skip

    def __init__(
        self, client: Client, discovery: Discovery, verbs: Verbs, *, kind: str = "pods", namespace: str = ""
    ) -> None:
        """Args: `kind` and `namespace` ("" for all) are shown first."""
        super().__init__()
        self._client, self._discovery, self._verbs = client, discovery, verbs
        self._known: Known = discovery.find(kind)
        self._namespace = namespace
        self._selectors: Mapping[str, str] = {}
        self._history: list[tuple[Known, str, Mapping[str, str]]] = []
        self._trouble = ""
        self._ticks = 0
        self._feed: asyncio.Task[None] | None = None
        self.grid = Grid()
        self._top = Static(classes="bar")
        self._input = Input(id="filter", placeholder="rows with this word; !word for those without it")

    def compose(self) -> ComposeResult:
        """Lay out the table between two bars."""
        yield self._top
        yield self.grid
        yield self._input
        yield Static(Text(_KEYS, style="dim"), id="foot")

    def on_mount(self) -> None:
        """Begin to follow."""
        self.theme = "textual-ansi" if "textual-ansi" in self.available_themes else self.theme
        self.grid.focus()
        self._begin()
        self.set_interval(_TICK_SECONDS, self._tick)

    async def on_unmount(self) -> None:
        """Leave nothing running."""
        if self._feed is not None:
            self._feed.cancel()
        await self._verbs.stop_forwards()

    # ---- what is shown

    def _begin(self) -> None:
        if self._feed is not None:
            self._feed.cancel()
        resource = self._known.resource
        model = Model(all_namespaces=resource.namespaced and not self._namespace)
        self.grid.show(model)
        self._trouble = "…"
        feed = Feed(self._client, resource, self._namespace, self._selectors, model, self._tell)
        self._feed = asyncio.create_task(feed.run())
        self._draw_top()

    def _go(self, known: Known, namespace: str, selectors: Mapping[str, str] | None = None) -> None:
        self._history.append((self._known, self._namespace, self._selectors))
        self._known, self._namespace, self._selectors = known, namespace, selectors or {}
        self._begin()

    def _tell(self, trouble: str) -> None:
        self._trouble = trouble
        self._tick()

    def _tick(self) -> None:
        """Draw what has changed; between, only ages grow."""
        self._ticks += 1
        if len(self.screen_stack) > 1:
            return
        self.grid.look()
        if self._ticks % _AGES_EVERY == 0:
            self.grid.refresh_ages()
        self._draw_top()

    def _draw_top(self) -> None:
        rows, all_ = len(self.grid.rows), len(self.grid.model)
        count = f"{rows} of {all_}" if rows != all_ else str(rows)
        where = self._namespace or "all namespaces" if self._known.resource.namespaced else "the cluster"
        chosen = ", ".join(self._selectors.values())
        filtered = f"   /{self.grid.word}" if self.grid.word else ""
        text = f" {self._known.resource.plural} in {where}   {count}{filtered}" + (f"   {chosen}" if chosen else "")
        if self._verbs.forwards:
            text += "   ⇄ " + "; ".join(one.what for one in self._verbs.forwards)
        line = Text(text, style="reverse bold")
        if self._trouble:
            line.append(f"   {self._trouble}", style="red")
        shown = f"{text}{self._trouble}"
        if shown != getattr(self, "_shown_top", None):
            self._shown_top = shown
            self._top.update(line)

    # ---- finding one's way

    @work
    async def action_kind(self) -> None:
        """Show another kind."""
        names = sorted({name for one in self._discovery.preferred() if "list" in one.verbs for name in one.names})
        word = await self.push_screen_wait(Ask("Which kind? (with a namespace, if you like)", offers=names))
        kind, _, namespace = word.partition(" ")
        if not kind:
            return
        try:
            known = await asyncio.to_thread(self._discovery.find, kind)
        except (click.ClickException, APIError) as error:
            self.notify(str(getattr(error, "message", error)), severity="error")
            return
        if "list" not in known.verbs:
            self.notify(f"{known.resource.plural} can't be listed", severity="error")
            return
        self._go(known, namespace.strip() or self._namespace)

    @work
    async def action_namespace(self) -> None:
        """Show another namespace."""
        names: list[str] = []
        with contextlib.suppress(APIError, ConnectionFailed):
            listed = await self._client.list(self._discovery.find("namespaces").resource)
            names = [one["metadata"]["name"] for one in listed["items"]]
        word = await self.push_screen_wait(Ask("Which namespace?", offers=names))
        if word:
            self._go(self._known, word)

    def action_everywhere(self) -> None:
        """Show all namespaces."""
        self._go(self._known, "", self._selectors)

    def action_filter(self) -> None:
        """Show rows with a word only."""
        self._input.display = True
        self._input.value = self.grid.word
        self.set_focus(self._input)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if event.input is self._input:
            self.grid.word = event.value.strip()
            self.grid.look()
            self._draw_top()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the table, filtered."""
        if event.input is self._input:
            self._input.display = False
            self.set_focus(self.grid)

    def action_leave(self) -> None:
        """End the filter, or go back to what was shown before."""
        if self._input.display or self.grid.word:
            self._input.value = self.grid.word = ""
            self._input.display = False
            self.set_focus(self.grid)
            self.grid.look()
            self._draw_top()
        elif self._history:
            self._known, self._namespace, self._selectors = self._history.pop()
            self._begin()

    def action_wide(self) -> None:
        """Show all columns, or the usual ones."""
        self.grid.wide = not self.grid.wide
        self.grid.look()

    def action_order(self) -> None:
        """Order by the next column; after the last by name again."""
        self.grid.by = self.grid.by + 1 if self.grid.by + 1 < len(self.grid.model.columns) else -1
        self.grid.look()

    def action_leavewards(self) -> None:
        """Turn the order round."""
        self.grid.backwards = not self.grid.backwards
        self.grid.look()

    @work
    async def on_grid_opened(self) -> None:
        """Open the row: what belongs to it, else what there is to read of it."""
        row, plural = self.grid.chosen, self._known.resource.plural
        if row is None:
            return
        pods = self._discovery.find("pods")
        if plural == "namespaces":
            self._go(pods, row.name)
        elif plural == "nodes":
            self._go(pods, "", {"fieldSelector": f"spec.nodeName={row.name}"})
        elif plural == "cronjobs":
            self._go(self._discovery.find("jobs"), row.namespace)
        elif plural in (*_SCALED, "daemonsets", "jobs", "services"):
            if selector := await self._selector(row):
                self._go(pods, row.namespace, {"labelSelector": selector})
        elif plural == "pods":
            self.action_logs()
        else:
            self.action_describe()

    async def _selector(self, row: Row) -> str:
        try:
            found = await self._client.get(self._known.resource, row.name, row.namespace)
        except (APIError, ConnectionFailed) as error:
            self.notify(str(error), severity="error")
            return ""
        selector = found["spec"].get("selector") or {}
        labels = selector if self._known.resource.plural == "services" else selector.get("matchLabels", selector)
        return ",".join(f"{key}={value}" for key, value in labels.items() if isinstance(value, str))

    # ---- reading

    def action_help(self) -> None:
        """Show all keys."""
        self.push_screen(Pager(" Keys   escape: back", _HELP))

    def _words(self, row: Row) -> list[str]:
        resource = self._known.resource
        kind = f"{resource.plural}.{resource.version}.{resource.group}" if resource.group else resource.plural
        return [f"{kind}/{row.name}", *(["-n", row.namespace] if row.namespace else [])]

    @work
    async def _read(self, title: str, words: Sequence[str]) -> None:
        _, text = await self._verbs.run(*words)
        self.push_screen(Pager(f" {title}   escape: back, w: wrap", text))

    def action_describe(self) -> None:
        """Describe the object."""
        if row := self.grid.chosen:
            self._read(f"{self._known.resource.kind} {row.name}", ["describe", *self._words(row)])

    def action_yaml(self) -> None:
        """Show the object as YAML."""
        if row := self.grid.chosen:
            self._read(f"{self._known.resource.kind} {row.name}", ["get", *self._words(row), "-o", "yaml"])

    def action_events(self) -> None:
        """List the object's events."""
        if row := self.grid.chosen:
            about = f"{self._known.resource.kind.lower()}/{row.name}"
            where = ["-n", row.namespace] if row.namespace else []
            self._read(f"Events of {about}", ["events", "--for", about, *where])

    @work
    async def action_logs(self, previous: bool = False) -> None:
        """Show the logs of a pod, or of the first pod of a workload."""
        row = self.grid.chosen
        if row is None or self._known.resource.plural != "pods":
            self.notify("logs are those of pods: enter opens the pods of a workload", severity="warning")
            return
        resource = self._known.resource
        try:
            pod = await self._client.get(resource, row.name, row.namespace)
        except (APIError, ConnectionFailed) as error:
            self.notify(str(error), severity="error")
            return
        names = [one["name"] for group in ("initContainers", "containers") for one in pod["spec"].get(group) or ()]
        params: dict[str, str] = {"previous": "true"} if previous else {"follow": "true", "tailLines": "1000"}
        self.push_screen(LogView(self._client, resource.path(row.namespace, row.name), names, params))

    # ---- acting

    def _aside(self, *words: str) -> None:
        """Give the terminal to a verb until it ends."""
        try:
            with self.suspend():
                os.write(1, b"\x1b[2J\x1b[H")
                code = subprocess.run(self._verbs.argv(*words), check=False).returncode
                if code not in (0, 130):
                    os.write(1, f"\r\n(ended with code {code}; enter goes back)".encode())
                    with contextlib.suppress(EOFError, KeyboardInterrupt):
                        input()
        except SuspendNotSupported:
            self.notify("this terminal can't be lent to another program", severity="error")

    @work
    async def action_shell_or_scale(self) -> None:
        """Open a shell in a pod, or ask how many replicas there are to be."""
        row, plural = self.grid.chosen, self._known.resource.plural
        if row is None:
            return
        if plural == "pods":
            self._aside("exec", "-it", row.name, "-n", row.namespace, "--", "sh", "-c", _SHELLS)
        elif plural in _SCALED:
            count = await self.push_screen_wait(Ask(f"How many replicas of {row.name}?"))
            if count.isdigit():
                await self._do("scale", *self._words(row), f"--replicas={count}")
            elif count:
                self.notify(f"{count!r} is not a number", severity="error")
        else:
            self.notify(f"{plural} have neither a shell nor replicas", severity="warning")

    async def _do(self, *words: str) -> None:
        """Run a verb that changes something and tell what it said."""
        code, said = await self._verbs.run(*words)
        self.notify(Text(said.strip()).plain or "done", severity="error" if code else "information", markup=False)

    def action_attach(self) -> None:
        """Attach to a pod."""
        if (row := self.grid.chosen) and self._known.resource.plural == "pods":
            self._aside("attach", "-it", row.name, "-n", row.namespace)

    def action_edit(self) -> None:
        """Edit the object in $EDITOR."""
        if row := self.grid.chosen:
            self._aside("edit", *self._words(row))

    @work
    async def action_restart(self) -> None:
        """Roll a workload out anew."""
        row = self.grid.chosen
        if row is None or self._known.resource.plural not in _ROLLED:
            return
        if await self.push_screen_wait(Confirm(f"Replace all pods of {row.name}, one after the other?")):
            await self._do("rollout", "restart", *self._words(row))

    @work
    async def action_cordon(self) -> None:
        """Cordon a node, or uncordon it."""
        row = self.grid.chosen
        if row is not None and self._known.resource.plural == "nodes":
            await self._do("uncordon" if "schedulingdisabled" in row.text else "cordon", row.name)

    @work
    async def action_forward(self) -> None:
        """Forward a port."""
        row, plural = self.grid.chosen, self._known.resource.plural
        if row is None or plural not in ("pods", "services", "deployments", "statefulsets"):
            return
        ports = await self.push_screen_wait(Ask(f"Which ports of {row.name}? [LOCAL:]REMOTE …"))
        if not ports:
            return
        try:
            self.notify(await self._verbs.forward(row.namespace, self._words(row)[0], ports), markup=False)
        except RuntimeError as error:
            self.notify(str(error), severity="error", markup=False)

    @work
    async def action_end_forwards(self) -> None:
        """End all forwardings."""
        self.notify(f"{await self._verbs.stop_forwards()} ended")

    @work
    async def action_delete(self, force: bool = False) -> None:
        """Delete the object, after a question."""
        row = self.grid.chosen
        if row is None:
            return
        what = f"{self._known.resource.kind} {row.namespace + '/' if row.namespace else ''}{row.name}"
        if await self.push_screen_wait(Confirm(f"{'Kill' if force else 'Delete'} {what}?")):
            how = ["--force", "--grace-period=0"] if force else []
            await self._do("delete", *self._words(row), "--wait=false", *how)


async def run(client: Client, discovery: Discovery, verbs: Verbs, given: Mapping[str, Any]) -> None:
    """Run the interface until the user leaves."""
    async with client:
        await WherryUI(client, discovery, verbs, kind=given["kind"], namespace=given["namespace"]).run_async()
