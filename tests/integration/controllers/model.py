"""What random histories of workloads are played on, and how it is seen that too few pods serve."""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from controllers import manager
from controllers.node_zones import EvictionRates
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.support.machines import Machines
from tests.support.server import running_server

NODE_NAMES = ("n1", "n2", "n3", "n4")
GRACE_SECONDS = 1.0

T = TypeVar("T")


class World:
    """A server, the controllers on it, and nodes that run pods; one loop that runs while it is asked something."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._folder = folder
        self._manager: asyncio.Task[None] | None = None
        self.client: Client
        self.machines: Machines
        self._config: ClientConfig

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def open(self) -> None:
        _, self._config = await self._stack.enter_async_context(running_server(self._folder))
        self.client = await self._stack.enter_async_context(Client(self._config))

        def exit_code(pod: dict[str, Any]) -> int | None:
            wanted = pod["metadata"].get("annotations", {}).get("ends")
            return int(wanted) if wanted else None

        machines = Machines(self.client, NODE_NAMES, exit_code=exit_code)
        self.machines = await self._stack.enter_async_context(machines)
        await self.restart_controllers()

    async def restart_controllers(self) -> None:
        """End the controllers as a crash does, in the middle of whatever they do, and start new ones."""
        await self._end_controllers()
        options = manager.Options(
            node_monitor_grace_seconds=GRACE_SECONDS, eviction_rates=EvictionRates(normal=100, disrupted=100)
        )
        self._manager = asyncio.create_task(manager.run(self._config, leader_elect=False, options=options))

    async def recover(self) -> None:
        """Let all nodes be there again."""
        for name in tuple(self.machines.silent):
            await self.machines.recover(name)

    async def _end_controllers(self) -> None:
        if self._manager is not None:
            self._manager.cancel()
            await asyncio.gather(self._manager, return_exceptions=True)

    def close(self) -> None:
        async def end() -> None:
            await self._end_controllers()
            await self._stack.aclose()

        self.run(end())
        self.runner.close()


class InAWorld(RuleBasedStateMachine):
    """What may happen whatever the objects: nodes fall silent and come back, controllers restart, time passes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @precondition(lambda self: not self._world.machines.silent)
    @rule(name=st.sampled_from(NODE_NAMES))
    def lose_a_node(self, name: str) -> None:
        self._world.machines.fail(name)

    @precondition(lambda self: self._world.machines.silent)
    @rule()
    def find_a_node(self) -> None:
        self._recover()

    def _recover(self) -> None:
        self._world.run(self._world.recover())

    @rule()
    def restart_controllers(self) -> None:
        self._world.run(self._world.restart_controllers())

    @rule(milliseconds=st.integers(1, 50))
    def pass_time(self, milliseconds: int) -> None:
        self._world.run(asyncio.sleep(milliseconds / 1000))


class Available:
    """The pods of one owner that serve, and how many of them were lost through no act of a controller.

    What a controller takes away by itself must leave as many as the owner's strategy says; what users delete and nodes
    lose is not its doing, and lowers that number until all is quiet again.
    """

    def __init__(self) -> None:
        self.floor: int | None = None
        """How few may serve as long as nothing is lost; None: nothing is promised."""
        self.lost = 0
        self._serving: set[str] = set()
        self._taken: set[str] = set()

    def take(self, uid: str) -> None:
        """Note that a user is about to delete a pod."""
        self._taken.add(uid)

    def promise(self, floor: int | None) -> None:
        """All is quiet: from now on so many serve."""
        self.floor, self.lost = floor, 0

    def note(self, pod: dict[str, Any], *, gone: bool) -> None:
        """Take in a change of a pod."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        states = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        uid, going = metadata["uid"], gone or bool(metadata.get("deletionTimestamp"))
        if states.get("Ready") == "True" and status.get("phase") == "Running" and not going:
            self._serving.add(uid)
        elif uid in self._serving:
            self._serving.discard(uid)
            self.lost += not going or uid in self._taken or states.get("DisruptionTarget") == "True"

    def among(self, uids: set[str]) -> set[str]:
        """Return which of these serve."""
        return self._serving & uids

    def is_too_few(self, count: int) -> bool:
        """Say whether fewer serve than there may."""
        return self.floor is not None and count < self.floor - self.lost
