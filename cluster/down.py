"""How a cluster on this machine is looked at, stopped and wiped."""

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.layout import Layout
from cluster.plan import COMPONENTS, plan
from cluster.processes import SUPERVISOR, running_pid, stop_pid
from cluster.settings import Settings, load

log = logging.getLogger(__name__)


def take_over(layout: Layout) -> None:
    """End what a killed `wherry up` left running; containers stay."""
    for component in reversed(COMPONENTS):
        pid = running_pid(layout, component)
        if pid is not None:
            log.warning("ending a left-over %s (process %s)", component, pid)
            stop_pid(pid)
        layout.pid_file(component).unlink(missing_ok=True)
    layout.addons_installed.unlink(missing_ok=True)


def statuses(layout: Layout) -> Iterator[tuple[str, int | None]]:
    """Yield each component that should run and its process id, None where it does not."""
    settings = load(layout)
    for component in plan(layout, settings) if settings else ():
        yield component.name, running_pid(layout, component.name)


def stop(layout: Layout) -> bool:
    """Stop a cluster: its pods, then its components. Returns False when nothing ran."""
    supervisor = running_pid(layout, SUPERVISOR)
    found = supervisor is not None or any(pid for _, pid in statuses(layout))
    settings = load(layout)
    if settings is not None and settings.agent and (found or (layout.run / "runtime").exists()):
        _stop_pods(layout, settings, supervisor)
    if supervisor is not None:
        stop_pid(supervisor, timeout_seconds=30)
        layout.pid_file(SUPERVISOR).unlink(missing_ok=True)
    take_over(layout)
    _leave_network(layout)
    return found


def _stop_pods(layout: Layout, settings: Settings, supervisor: int | None) -> None:
    """End all sandboxes through the runtime while nobody starts them anew; one that is away is started for it."""
    from cluster.teardown import stop_sandboxes

    if supervisor is not None:
        os.kill(supervisor, signal.SIGSTOP)  # it must not restart the agent meanwhile
    ours: subprocess.Popen[bytes] | None = None
    try:
        agent = running_pid(layout, "agent")
        if agent is not None:
            stop_pid(agent)
        if not settings.cri_endpoint and running_pid(layout, "runtime") is None:
            argv = next(one.argv for one in plan(layout, settings) if one.name == "runtime")
            with layout.log_file("runtime").open("ab") as log:
                ours = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        endpoint = settings.cri_endpoint.removeprefix("unix://")
        stop_sandboxes(Path(endpoint) if endpoint else layout.runtime_socket, layout.log_file("runtime"))
    finally:
        if ours is not None:
            ours.terminate()
            ours.wait()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGCONT)


def _leave_network(layout: Layout) -> None:
    settings = load(layout)
    if settings is not None and settings.agent and os.geteuid() == 0:
        from cluster.teardown import leave_cgroups, leave_network

        leave_cgroups()

        announced = "" if settings.load_balancer in ("nodes", "none") else settings.load_balancer
        leave_network(settings.bridge, settings.service_cidr, announced)


def wipe(layout: Layout) -> None:
    """Remove all of a cluster's data; it must be stopped."""
    from cluster.teardown import unmount_below

    unmount_below(layout.root)
    for entry in layout.root.iterdir() if layout.root.exists() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
