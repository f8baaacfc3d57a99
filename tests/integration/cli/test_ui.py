"""The terminal interface over a real API server: what it shows and what its keys do."""

import asyncio
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from cli.connection import Connection
from cli.resources import Discovery
from cli.ui.actions import Verbs
from cli.ui.app import WherryUI
from cli.ui.screens import Ask, Confirm, Pager
from machinery.client.kubeconfig import load_config
from machinery.client.rest import Client
from tests.e2e.conftest import ROOT
from tests.integration.cli.conftest import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def until(pilot: Pilot[None], met: Callable[[WherryUI], Any], what: str) -> Any:
    app = pilot.app
    assert isinstance(app, WherryUI)
    deadline = asyncio.get_running_loop().time() + 25
    while not (found := met(app)):
        if asyncio.get_running_loop().time() > deadline:
            told = [one.message for one in app._notifications]
            raise AssertionError(f"{what} did not show: {app._shown_top} {names(app)} {app.screen_stack} {told}")
        await pilot.pause(0.05)  # the interface draws by itself, twice a second
    return found


def names(app: WherryUI) -> list[str]:
    return [row.name for row in app.grid.rows]


async def test_keys_lead_through_the_cluster_and_change_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(lab.layout.root))
    for line in (
        "create namespace ui", "create deployment boat --image=x --replicas=2 -n ui",
        "rollout status deploy/boat -n ui --timeout=30s",
    ):  # fmt: skip
        made = lab.wherry(line)
        assert made.code == 0, made.err
    kubeconfig = str(lab.layout.kubeconfig)
    config = load_config(kubeconfig)
    discovery, verbs = Discovery(Connection(config)), Verbs(["--kubeconfig", kubeconfig])
    async with Client(config) as client:
        app = WherryUI(client, discovery, verbs, kind="deploy", namespace="ui")
        async with app.run_test(size=(140, 30)) as pilot:
            await until(pilot, lambda app: names(app) == ["boat"], "the deployment")
            await pilot.press("s")
            await until(pilot, lambda app: isinstance(app.screen, Ask) and app.focused, "the question")
            await pilot.press("3", "enter")
            await until(pilot, lambda app: "3/3" in app.grid.rows[0].cells, "the third pod")
            await pilot.press("enter")
            pods = await until(pilot, lambda app: len(names(app)) == 3 and names(app), "its pods")
            await pilot.press("down", "d")
            page = await until(pilot, lambda app: isinstance(app.screen, Pager) and app.screen, "the description")
            await until(pilot, lambda _: any(pods[1] in line.text for line in page.body.lines), "its text")
            await pilot.press("escape", "ctrl+d")
            await until(pilot, lambda app: isinstance(app.screen, Confirm), "the question")
            await pilot.press("n")
            await pilot.press("ctrl+d")
            await until(pilot, lambda app: isinstance(app.screen, Confirm), "the question again")
            await pilot.press("y")
            await until(
                pilot, lambda app: len(names(app)) == 3 and pods[1] not in names(app), "another pod in its place"
            )
            assert {pods[0], pods[2]} < set(names(app))
            await pilot.press("slash", *pods[0][-5:], "enter")
            await until(pilot, lambda app: names(app) == [pods[0]], "the filtered pod")
            await pilot.press("escape", "escape")
            await until(pilot, lambda app: names(app) == ["boat"], "where we came from")
            await pilot.press("colon")
            await until(pilot, lambda app: isinstance(app.screen, Ask) and app.focused, "the question which kind")
            await pilot.press(*"no", "enter")
            await until(pilot, lambda app: names(app)[:1] == ["sim-0"], "the nodes")
            await pilot.press("c")
            await until(pilot, lambda app: "SchedulingDisabled" in str(app.grid.rows[0].cells), "the cordoned node")
            await pilot.press("c")
            await until(
                pilot, lambda app: "SchedulingDisabled" not in str(app.grid.rows[0].cells), "the node as before"
            )
    lab.wherry("delete namespace ui --wait=false")


def test_in_a_terminal_it_draws_lends_the_terminal_and_leaves_it_sane(lab: Lab) -> None:
    lab.wherry("create namespace drawing")
    lab.wherry("create configmap drawn -n drawing --from-literal=colour=blue")
    environment = {
        **os.environ, "KUBECONFIG": str(lab.layout.kubeconfig), "HOME": str(lab.layout.root), "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color", "EDITOR": "sed -i s/blue/green/",
    }  # fmt: skip
    leader, follower = pty.openpty()
    argv = [sys.executable, "-m", "cluster.main", "ui", "cm", "-n", "drawing"]
    process = subprocess.Popen(
        argv, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    )  # fmt: skip
    os.close(follower)
    try:
        drawn = _read_until(leader, "drawn ")
        os.write(leader, b"e")
        drawn = _read_until(leader, "configmap/drawn edited")
        os.write(leader, b"q")
        drawn += _read_until(leader, "\x1b[?1049l", plain=False)
        assert "\x1b[?1049l" in drawn  # back from the other screen
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert lab.kubectl("get cm drawn -n drawing -o jsonpath={.data.colour}").out == "green"


def _read_until(terminal: int, text: str, *, plain: bool = True) -> str:
    seen, deadline = "", time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                break
        shown = re.sub(r"\x1b\[[0-9;?$]*[a-zA-Z]", "", seen) if plain else seen
        if text in shown:
            return seen
    raise AssertionError(f"{text!r} was not drawn:\n{seen[-3000:]}")


def test_without_a_terminal_it_says_so(lab: Lab) -> None:
    answer = lab.wherry("ui")
    assert (answer.code, answer.err) == (1, "error: wherry ui needs a terminal\n")
