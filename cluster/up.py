"""`wherry up`: a whole cluster on this machine, under a supervisor."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from cluster.layout import Layout
from cluster.plan import OF_ADDONS, plan
from cluster.processes import SUPERVISOR, Supervisor, write_pid
from cluster.settings import Settings, load

log = logging.getLogger(__name__)

_READY_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


async def serve(layout: Layout, settings: Settings, *, announce: bool) -> None:
    """Run a cluster until SIGINT or SIGTERM."""
    supervisor = Supervisor(layout)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    changed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, changed.set)
    write_pid(layout, SUPERVISOR, os.getpid())
    try:
        for component in plan(layout, settings):
            supervisor.start(component)
        tasks = [
            asyncio.create_task(_follow_addons(layout, supervisor, settings, changed)),
            asyncio.create_task(_complete(layout, settings, announce=announce)),
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()
    finally:
        await supervisor.stop()
        layout.pid_file(SUPERVISOR).unlink(missing_ok=True)


async def _follow_addons(layout: Layout, supervisor: Supervisor, settings: Settings, changed: asyncio.Event) -> None:
    """Run what belongs to the add-ons that the settings on disk name, whenever we are told that those have changed."""
    running = {one.name: one for one in plan(layout, settings) if one.name in OF_ADDONS}
    while True:
        await changed.wait()
        changed.clear()
        settings = load(layout) or settings
        wanted = {one.name: one for one in plan(layout, settings) if one.name in OF_ADDONS}
        if gone := [name for name in running if wanted.get(name) != running[name]]:
            await supervisor.stop(*gone)
        for name, component in wanted.items():
            if running.get(name) != component:
                supervisor.start(component)
        running = wanted


async def _complete(layout: Layout, settings: Settings, *, announce: bool) -> None:
    """Put the add-ons in when the cluster is ready, and tell of it."""
    if not announce and not settings.addons:
        return
    try:
        await asyncio.to_thread(wait_ready, layout, settings)
        await asyncio.to_thread(_install_addons, layout, settings)
    except (TimeoutError, ChildProcessError) as error:
        log.error("%s", error)
        return
    if announce:
        print(greeting(layout), flush=True)


def _install_addons(layout: Layout, settings: Settings) -> None:
    """Apply the add-ons' manifests, in processes of their own: we stay small. Raises: ChildProcessError."""
    for name in settings.addons:
        argv = [sys.executable, "-m", "cluster.main", "addon", "enable", name, "--data-dir", str(layout.root)]
        environment = {**os.environ, "KUBECONFIG": str(layout.kubeconfig)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ChildProcessError(f"add-on {name}: {done.stderr.strip()}")
    layout.addons_installed.touch()


def wait_addons(layout: Layout, settings: Settings) -> None:
    """Wait until the supervisor has put the add-ons in. Raises: TimeoutError."""
    deadline = time.monotonic() + _READY_SECONDS
    while settings.addons and not layout.addons_installed.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the add-ons could not be put in")
        time.sleep(_PAUSE_SECONDS)  # the other process has no other way to tell us


def greeting(layout: Layout) -> str:
    """Return what to tell when the cluster is up."""
    return f"The cluster is up. To use it:\n\n  export KUBECONFIG={layout.kubeconfig}\n  kubectl get nodes\n"


def wait_ready(layout: Layout, settings: Settings) -> None:
    """Wait until the API is ready and a node, if one was asked for, takes pods. Raises: TimeoutError."""
    from cluster.probe import Probe

    deadline = time.monotonic() + _READY_SECONDS
    probe = Probe(layout)
    try:
        probe.until_ready(deadline)
        if settings.agent or settings.simulated_nodes:
            probe.until_node_ready(deadline)
            probe.until_pods_may_start(deadline)
    finally:
        probe.close()


def start_detached(layout: Layout, arguments: Sequence[str], *, command: str = "up") -> None:
    """Start `wherry up`, or another command that keeps processes, as a process of its own session."""
    with layout.log_file(SUPERVISOR).open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "cluster.main", command, "--data-dir", str(layout.root), *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
