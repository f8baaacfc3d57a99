"""Ends a node's pods in good order before the machine stops: usual ones first, critical ones after them.

The machine's logind is asked to wait (logind.py), where there is one; elsewhere its service manager tells by SIGUSR1
that it is about to stop. When all is done, or its time is up, the
file graceful_node_shutdown_state in the agent's folder says so by an `endTime`.

Source: https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#graceful-node-shutdown
"""

import asyncio
import contextlib
import json
import logging
import signal
import time
from collections.abc import Callable, Collection

from agent import logind
from agent.logind import Logind
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_runtime import PodRuntime
from agent.pod_state import CRITICAL_PRIORITY, is_over
from machinery.api.meta import now

log = logging.getLogger(__name__)

STATE_FILE = "graceful_node_shutdown_state"
REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."


class NodeShutdown:
    """Waits to be told that the machine stops, and ends the pods of the node then."""

    def __init__(self, services: NodeServices, pods: PodManager, tell_node: Callable[[bool], None]) -> None:
        """Args: `tell_node` makes the Node say that it is not ready any more, or again."""
        self._services = services
        self._pods = pods
        self._tell_node = tell_node
        self._told = asyncio.Event()
        self._off = asyncio.Event()  # the machine does not stop after all
        self._telling: asyncio.Task[None] | None = None
        self._logind = Logind(self._hear, lambda: sum(seconds for _, seconds in self._groups()))

    def _hear(self, is_about_to_stop: bool) -> None:
        (self._told if is_about_to_stop else self._off).set()

    def settings_changed(self, names: Collection[str]) -> None:
        """Settings of these names are others than before."""
        if any(name.startswith("shutdown_") for name in names):
            self._logind.settings_changed()

    async def run(self) -> None:
        """Wait for the signal, then end the pods; for ever."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._told.set)
        holding = asyncio.create_task(self._logind.run()) if logind.is_there() else None
        try:
            while True:
                await self._told.wait()
                self._off.clear()
                if any(seconds for _, seconds in self._groups()):
                    await self._end_all()
                    self._logind.release()
                    await self._off.wait()  # else the machine stops; another signal changes nothing
                    log.info("the machine does not stop")
                    self._pods.is_shutting_down = False
                    self._tell_node(False)
                else:
                    log.warning("the machine is about to stop, and pods are given no time to end")
                self._told.clear()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            if holding is not None:
                holding.cancel()
                await asyncio.gather(holding, return_exceptions=True)

    async def _end_all(self) -> None:
        log.info("the machine is about to stop")
        state = {"startTime": now()}
        self._services.metrics.set("kubelet_graceful_shutdown_start_time_seconds", time.time())
        await asyncio.to_thread(self._write, state)
        self._pods.is_shutting_down = True
        self._tell_node(True)
        if self._pods.node:
            text = "Shutdown manager detected shutdown event"
            telling = self._services.recorder.event(self._pods.node, "Normal", "NodeShutdown", text)
            self._telling = asyncio.create_task(telling)
        groups = self._groups()
        for number, (least, seconds) in enumerate(groups):
            below = groups[number + 1][0] if number + 1 < len(groups) else None
            await self._end(least if number else None, below, seconds)
        await asyncio.to_thread(self._write, {**state, "endTime": now()})
        self._services.metrics.set("kubelet_graceful_shutdown_end_time_seconds", time.time())
        log.info("the pods of this node have ended")

    def _write(self, state: dict[str, str]) -> None:
        path = self._services.config.data_dir / STATE_FILE
        new = path.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(path)

    def _groups(self) -> list[tuple[int, float]]:
        """Return the least priority of each group and its time in seconds, those that end first in front."""
        now = self._services.config.settings
        if now.shutdown_by_priority:
            return list(now.shutdown_by_priority)
        critical = min(now.shutdown_critical_seconds, now.shutdown_seconds)
        return [(0, now.shutdown_seconds - critical), (CRITICAL_PRIORITY, critical)]

    async def _end(self, least: int | None, below: int | None, seconds: float) -> None:
        """End the pods of one group together, none of which gets longer than the group has.

        Args: the group has priorities from `least` on and under `below`; None for no such bound.
        """
        group = [
            one for one in self._pods.runtimes()
            if not is_over(one.pod) and (least is None or _priority(one) >= least)
            and (below is None or _priority(one) < below)
        ]  # fmt: skip
        for one in group:
            own = one.pod["spec"].get("terminationGracePeriodSeconds", 30)
            one.evict(REASON, MESSAGE, grace=int(min(int(own), seconds)), with_event=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(one.ended.wait() for one in group))


def _priority(one: PodRuntime) -> int:
    return int(one.pod["spec"].get("priority") or 0)
