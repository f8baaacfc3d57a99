"""A CRI in memory: sandboxes and containers that only exist, begin, and end as they are told to.

How they behave is set for all by `Behaviour`, and for a pod by its annotations, such as
`simulated.wherry/run-seconds: "5"` with `simulated.wherry/exit-code: "1"`.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import grpc

from agent.cri import api_pb2 as cri
from agent.cri.client import POD_UID, Runtime, RuntimeFailure

PREFIX = "simulated.wherry/"
_NANOSECONDS = 1_000_000_000
_KILLED, _FAILED = 137, 128


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What containers do; times in seconds.

    Attributes:
        pull_seconds: how long an image takes to come, the first time on a node.
        start_seconds: how long a container takes to start.
        stop_seconds: how long it goes on after it was told to end.
        run_seconds: it ends by itself after this long; negative for never.
        exit_code: what it ends with then.
        start_failures: how many in a hundred starts fail.
        sandbox_failures: how many in a hundred sandboxes can't be made.
    """

    pull_seconds: float = 0.0
    start_seconds: float = 0.0
    stop_seconds: float = 0.0
    run_seconds: float = -1.0
    exit_code: int = 0
    start_failures: float = 0.0
    sandbox_failures: float = 0.0

    def changed_by(self, annotations: Mapping[str, str]) -> "Behaviour":
        """Return this as a pod's annotations change it; what is no number is left out."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            text = annotations.get(PREFIX + field.name.replace("_", "-"))
            if text is not None:
                try:
                    changes[field.name] = int(text) if field.name == "exit_code" else float(text)
                except ValueError:
                    continue
        return replace(self, **changes) if changes else self


@dataclass(slots=True)
class _Sandbox:
    status: Any
    behaviour: Behaviour


@dataclass(slots=True)
class _Container:
    status: Any
    sandbox_id: str
    behaviour: Behaviour
    ending: "asyncio.TimerHandle | None" = None


class SimulatedRuntime(Runtime):
    """The agent's view of a runtime, with nothing behind it."""

    is_simulated = True

    def __init__(self, behaviour: Behaviour, first_address: str) -> None:
        """Args: `first_address` is the beginning of pods' addresses, three numbers such as "10.200.0"."""
        self._behaviour = behaviour
        self._first_address = first_address
        self._addresses = 0
        self._sandboxes: dict[str, dict[str, _Sandbox]] = {}  # uid of the pod -> id
        self._containers: dict[str, dict[str, _Container]] = {}  # uid of the pod -> id
        self._owners: dict[str, str] = {}  # id of a sandbox or container -> uid of the pod
        self._images: set[str] = set()
        self._events: asyncio.Queue[str] = asyncio.Queue()

    async def close(self) -> None:
        """End all timers."""
        for containers in self._containers.values():
            for one in containers.values():
                if one.ending is not None:
                    one.ending.cancel()

    async def wait_until_up(self) -> str:
        """Return the name and version of this runtime."""
        return "simulated://1"

    async def conditions(self) -> Mapping[str, tuple[bool, str, str]]:
        """All is well."""
        return {"RuntimeReady": (True, "", ""), "NetworkReady": (True, "", "")}

    # ---- sandboxes

    async def sandboxes(self, uid: str = "") -> list[Any]:
        """Return the sandboxes of a pod, or all."""
        groups = [self._sandboxes.get(uid, {})] if uid else list(self._sandboxes.values())
        return [
            cri.PodSandbox(
                id=one.status.id, metadata=one.status.metadata, state=one.status.state,
                created_at=one.status.created_at, labels=one.status.labels,
            )
            for group in groups for one in group.values()
        ]  # fmt: skip

    async def sandbox_status(self, sandbox_id: str) -> Any:
        """Return a sandbox's status."""
        return self._sandbox(sandbox_id).status

    def _sandbox(self, sandbox_id: str) -> _Sandbox:
        found = self._sandboxes.get(self._owners.get(sandbox_id, ""), {}).get(sandbox_id)
        if found is None:
            raise RuntimeFailure(grpc.StatusCode.NOT_FOUND, f'sandbox "{sandbox_id}": not found')
        return found

    async def run_sandbox(self, config: Any, handler: str = "") -> str:
        """Make a sandbox with an address of its own."""
        behaviour = self._behaviour.changed_by(config.annotations)
        if random.random() * 100 < behaviour.sandbox_failures:  # noqa: S311 - chance, no secret
            raise RuntimeFailure(grpc.StatusCode.UNKNOWN, "a simulated failure")
        self._addresses += 1
        ip = f"{self._first_address}.{self._addresses % 254 + 1}"
        uid = config.labels[POD_UID]
        status = cri.PodSandboxStatus(
            id=uuid.uuid4().hex, metadata=config.metadata, state=cri.SANDBOX_READY, created_at=time.time_ns(),
            network=cri.PodSandboxNetworkStatus(ip=ip), labels={POD_UID: uid, **config.labels},
        )  # fmt: skip
        self._sandboxes.setdefault(uid, {})[status.id] = _Sandbox(status, behaviour)
        self._owners[status.id] = uid
        return str(status.id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """End a sandbox and its containers."""
        uid = self._owners.get(sandbox_id, "")
        for one in list(self._containers.get(uid, {}).values()):
            if one.sandbox_id == sandbox_id:
                self._end(one, _KILLED)
        if sandbox_id in self._sandboxes.get(uid, {}):
            self._sandboxes[uid][sandbox_id].status.state = cri.SANDBOX_NOTREADY

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox and its containers."""
        uid = self._owners.pop(sandbox_id, "")
        for one in list(self._containers.get(uid, {}).values()):
            if one.sandbox_id == sandbox_id:
                await self.remove_container(one.status.id)
        self._sandboxes.get(uid, {}).pop(sandbox_id, None)
        if not self._sandboxes.get(uid):
            self._sandboxes.pop(uid, None)
            self._containers.pop(uid, None)

    # ---- containers

    async def containers(self, uid: str = "") -> list[Any]:
        """Return the containers of a pod, or all."""
        groups = [self._containers.get(uid, {})] if uid else list(self._containers.values())
        return [
            cri.Container(
                id=one.status.id, pod_sandbox_id=one.sandbox_id, metadata=one.status.metadata, state=one.status.state,
                created_at=one.status.created_at, labels=one.status.labels,
            )
            for group in groups for one in group.values()
        ]  # fmt: skip

    async def container_status(self, container_id: str) -> Any:
        """Return a container's status."""
        return self._container(container_id).status

    def _container(self, container_id: str) -> _Container:
        found = self._containers.get(self._owners.get(container_id, ""), {}).get(container_id)
        if found is None:
            raise RuntimeFailure(grpc.StatusCode.NOT_FOUND, f'container "{container_id}": not found')
        return found

    async def create_container(self, sandbox_id: str, config: Any, sandbox_config: Any) -> str:
        """Make a container."""
        sandbox = self._sandbox(sandbox_id)
        uid = self._owners[sandbox_id]
        status = cri.ContainerStatus(
            id=uuid.uuid4().hex, metadata=config.metadata, state=cri.CONTAINER_CREATED, created_at=time.time_ns(),
            image=cri.ImageSpec(image=config.image.user_specified_image), image_ref=config.image.image,
            labels=config.labels, annotations=config.annotations,
            resources=cri.ContainerResources(linux=config.linux.resources),
        )  # fmt: skip
        self._containers.setdefault(uid, {})[status.id] = _Container(status, sandbox_id, sandbox.behaviour)
        self._owners[status.id] = uid
        return str(status.id)

    async def start_container(self, container_id: str) -> None:
        """Let a container begin, or fail to."""
        one = self._container(container_id)
        if one.behaviour.start_seconds:
            await asyncio.sleep(one.behaviour.start_seconds)
        if random.random() * 100 < one.behaviour.start_failures:  # noqa: S311 - chance, no secret
            one.status.reason, one.status.message = "StartError", "a simulated failure"
            self._end(one, _FAILED)
            raise RuntimeFailure(grpc.StatusCode.UNKNOWN, "a simulated failure")
        one.status.state, one.status.started_at = cri.CONTAINER_RUNNING, time.time_ns()
        if one.behaviour.run_seconds >= 0:
            loop = asyncio.get_running_loop()
            one.ending = loop.call_later(one.behaviour.run_seconds, self._end, one, one.behaviour.exit_code)

    def _end(self, one: _Container, code: int) -> None:
        if one.ending is not None:
            one.ending.cancel()
            one.ending = None
        if one.status.state == cri.CONTAINER_EXITED:
            return
        one.status.state, one.status.finished_at, one.status.exit_code = cri.CONTAINER_EXITED, time.time_ns(), code
        one.status.reason = one.status.reason or ("Completed" if code == 0 else "Error")
        self._events.put_nowait(self._owners.get(one.status.id, ""))

    async def stop_container(self, container_id: str, grace_seconds: int) -> None:
        """End a container as soon as it does so, or its grace is over."""
        try:
            one = self._container(container_id)
        except RuntimeFailure:
            return
        if one.behaviour.stop_seconds:
            await asyncio.sleep(min(one.behaviour.stop_seconds, grace_seconds))
        self._end(one, _KILLED if one.behaviour.stop_seconds > grace_seconds else 0)

    async def remove_container(self, container_id: str) -> None:
        """Forget a container."""
        uid = self._owners.pop(container_id, "")
        one = self._containers.get(uid, {}).pop(container_id, None)
        if one is not None and one.ending is not None:
            one.ending.cancel()

    async def update_container(self, container_id: str, resources: Any) -> None:
        """Change the limits of a container."""
        self._container(container_id).status.resources.linux.CopyFrom(resources)

    async def exec_sync(self, container_id: str, command: list[str], timeout_seconds: int) -> tuple[int, str]:
        """Every command succeeds and says nothing."""
        return 0, ""

    # ---- the rest

    async def stats(self) -> list[Any]:
        """Nothing is used."""
        return []

    async def sandbox_stats(self) -> list[Any]:
        """Nothing is used."""
        return []

    async def events(self) -> AsyncIterator[Any]:
        """Yield an event for each container that ends."""
        while True:
            event = cri.ContainerEventResponse()
            event.pod_sandbox_status.metadata.uid = await self._events.get()
            yield event

    async def image(self, name: str) -> Any:
        """Return an image that was pulled before, or None."""
        return cri.Image(id=name, size=1) if name in self._images else None

    async def pull(self, name: str, auth: Mapping[str, str] | None, sandbox_config: Any) -> str:
        """Have an image after a while."""
        seconds = self._behaviour.changed_by(sandbox_config.annotations).pull_seconds
        if seconds:
            await asyncio.sleep(seconds)
        self._images.add(name)
        return name

    async def images(self) -> list[Any]:
        """Return the images that were pulled."""
        return [cri.Image(id=name, repo_tags=[name], size=1) for name in self._images]

    async def remove_image(self, image_id: str) -> None:
        """Forget an image."""
        self._images.discard(image_id)
