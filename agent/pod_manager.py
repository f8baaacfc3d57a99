"""All pods of this node: each wanted one is run, each unwanted one ended; static ones are mirrored into the API."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from agent import admission, preemption
from agent.container_config import log_folder
from agent.cri.client import POD_NAME, POD_NAMESPACE, POD_UID, RuntimeFailure
from agent.environment import ConfigError
from agent.node_services import NodeServices
from agent.pod_runtime import PodRuntime
from agent.pod_state import is_critical, is_mirror, is_over, is_static
from machinery.api.quantity import cpu_millis, to_bytes
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
_RECONNECT_SECONDS = 0.2
_LEFT_SECONDS, _MAX_LEFT_SECONDS = 1.0, 120.0
_RELIST_SECONDS = 1.0  # as often as the generic PLEG of kubelets
_CONDITIONS = {
    "memory": "MemoryPressure", "ephemeral-storage": "DiskPressure", "inodes": "DiskPressure", "pids": "PIDPressure",
}  # fmt: skip
APPARMOR = Path("/sys/kernel/security/apparmor")


class PodManager:
    """Starts and ends a PodRuntime for each pod, and wakes them on news from the runtime."""

    def __init__(self, services: NodeServices, pressures: Callable[[], Mapping[str, str]] = dict) -> None:
        """Args: `pressures` tells what the node is short of; pods that need it are not taken then."""
        self._pressures = pressures
        self._services = services
        self._running: dict[str, PodRuntime] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taken: set[str] = set()
        """Uids of pods that were let in: they hold their room before the API tells that they have begun."""
        services.admission_failure, services.make_room = self.admission_failure, self.make_room
        services.resizes.refusal = self.resize_refusal
        self.is_shutting_down = False  # the machine is about to stop: no new pods
        self.node: Mapping[str, Any] = {}  # the Node object as it was last seen
        self.on_network_change: Callable[[], None] = lambda: None
        self.on_mirror: Callable[[Pod | None, Pod | None], None] = lambda _, __: None  # news of a static pod's mirror
        self.on_end: Callable[[], None] = lambda: None  # a pod has ended and is gone from here

    def on_pod(self, old: Pod | None, new: Pod | None) -> None:
        """Take news of a pod from the API."""
        if any(one is not None and is_mirror(one) for one in (old, new)):
            self.on_mirror(old, new)  # what runs is not the mirror
            return
        if new is not None:
            if old is not None and old["metadata"]["uid"] != new["metadata"]["uid"]:
                self._vanish(old)  # deleted and made anew under the same name
            self._ensure(new)
        elif old is not None:
            self._vanish(old)

    def take(self, pod: Pod) -> None:
        """Run a pod that the API need not know: a static one, or one that was known when the API was last there."""
        self._ensure(pod)

    def keep_only(self, uids: Collection[str]) -> None:
        """End the pods that were taken over from an agent before this one and that the API has no more."""
        for uid, one in list(self._running.items()):
            if uid not in uids and not is_static(one.pod) and not one.deleted:
                one.vanish()

    def _vanish(self, pod: Pod) -> None:
        found = self._running.get(pod["metadata"]["uid"])
        if found is not None:
            found.vanish(pod)

    def _ensure(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._running:
            self._running[uid].update(pod)
            return
        runtime = self._running[uid] = PodRuntime(self._services, pod, self._network_changed)
        self._tasks[uid] = asyncio.create_task(self._run(uid, runtime))

    async def _run(self, uid: str, runtime: PodRuntime) -> None:
        try:
            await runtime.run()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("pod %s/%s", runtime.pod["metadata"]["namespace"], runtime.pod["metadata"]["name"])
            await asyncio.sleep(1.0)
        finally:
            self._running.pop(uid, None)
            self._tasks.pop(uid, None)
            self._services.puller.forget(uid)
            self.on_network_change()
            self.on_end()
        if not runtime.deleted and not runtime.pod["metadata"].get("deletionTimestamp"):
            self._ensure(runtime.pod)  # it fell over: start it anew
        else:
            self._taken.discard(uid)

    def _network_changed(self) -> None:
        self.on_network_change()

    def find(self, namespace: str, name: str) -> PodRuntime | None:
        """Return a pod that runs here."""
        for one in self._running.values():
            metadata = one.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return one
        return None

    def runtimes(self) -> Iterator[PodRuntime]:
        """Yield what runs the pods of this node."""
        yield from self._running.values()

    def growing_logs(self) -> Iterator[tuple[str, Path]]:
        """Yield the ids of containers that run, and where their logs are."""
        for one in self._running.values():
            folder = log_folder(self._services.config.logs_dir, one.pod)
            for name, attempts in one.seen.containers.items():
                if attempts and attempts[0].state == "running":
                    yield attempts[0].id, folder / name / f"{attempts[0].attempt}.log"

    def pods(self) -> Iterator[Pod]:
        """Yield the pods of this node."""
        yield from (one.pod for one in self._running.values())

    async def end_orphans(self) -> None:
        """End what the runtime still holds of pods that were deleted while no agent was there."""
        for sandbox in await self._services.runtime.sandboxes():
            uid = sandbox.labels.get(POD_UID, "")
            if uid and uid not in self._running:
                self._services.metrics.add("kubelet_orphaned_runtime_pods_total")
                metadata = {"name": sandbox.labels[POD_NAME], "namespace": sandbox.labels[POD_NAMESPACE], "uid": uid}
                ghost = PodRuntime(self._services, {"metadata": metadata, "spec": {}}, self._network_changed)
                ghost.vanish()
                self._running[uid] = ghost
                self._tasks[uid] = asyncio.create_task(self._run(uid, ghost))
        for uid in self._services.volumes.known():
            if uid not in self._running:
                self._tasks[uid] = asyncio.create_task(self._remove_left(uid))

    async def _remove_left(self, uid: str) -> None:
        """Remove volumes of a pod that is gone, however often it takes: a driver may come only later, or never."""
        pause = _LEFT_SECONDS
        while uid not in self._running:
            try:
                await self._services.volumes.remove(uid)
                break
            except (OSError, ValueError, RuntimeFailure, APIError, ConnectionFailed) as error:
                log.warning("volumes of pod %s, which is gone: %s; trying again in %.0f s", uid, error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_LEFT_SECONDS)
        if uid not in self._running:
            self._tasks.pop(uid, None)

    async def follow_runtime(self) -> None:
        """Wake pods when the runtime tells that something of theirs changed; for ever."""
        while True:
            try:
                async for event in self._services.runtime.events():
                    found = self._running.get(event.pod_sandbox_status.metadata.uid)
                    if found is not None:
                        found.wake()
            except RuntimeFailure as error:
                if error.code == grpc.StatusCode.UNIMPLEMENTED:
                    with contextlib.suppress(RuntimeFailure):
                        await self._relist()
            await asyncio.sleep(_RECONNECT_SECONDS)
            for one in self._running.values():
                one.wake()  # what happened meanwhile was not told

    async def _relist(self) -> None:
        """Look again and again at all containers of a runtime that tells of no events, and wake pods that changed."""
        before: dict[str, frozenset[Any]] = {}
        while True:
            found: dict[str, set[Any]] = {}
            runtime = self._services.runtime
            for one in (*await runtime.sandboxes(), *await runtime.containers()):
                found.setdefault(one.labels.get(POD_UID, ""), set()).add((one.id, one.state))
            now = {uid: frozenset(states) for uid, states in found.items()}
            for uid in before.keys() | now.keys():
                if before.get(uid) != now.get(uid) and uid in self._running:
                    self._running[uid].wake()
            before = now
            await asyncio.sleep(_RELIST_SECONDS)

    def admission_failure(self, pod: Pod) -> tuple[str, str] | None:
        """Return reason and message when the node can't take a pod beside those it has; None when it can."""
        uid = pod["metadata"]["uid"]
        if uid in self._taken or (pod.get("status") or {}).get("startTime"):
            return None
        reason = self._refusal(pod)
        if reason is None:
            self._taken.add(uid)
        return reason

    def _refusal(self, pod: Pod) -> tuple[str, str] | None:
        if self.is_shutting_down:
            return "NodeShutdown", "Pod was rejected as the node is shutting down."
        if (short := self._pressures()) and not is_critical(pod):
            quality = (pod.get("status") or {}).get("qosClass")
            if set(short) != {"memory"} or quality == "BestEffort":
                told = ", ".join(dict.fromkeys(_CONDITIONS[one] for one in short))
                return "Evicted", f"The node had condition: [{told}]. "
        if (refused := self._short_of_devices(pod)) is not None:
            return refused
        refused = admission.refusal(
            pod, self._admitted(pod), self._services.allocatable, self.node, apparmor=APPARMOR.is_dir(),
            allows_sysctl=self._services.config.settings.allows_sysctl,
        )  # fmt: skip
        if refused is not None and self._services.devices is not None:
            self._services.devices.forget(pod["metadata"]["uid"])
        return refused

    def make_room(self, pod: Pod, reason: str) -> bool:
        """End other pods for a critical one that was refused for want of room; returns whether it is to wait."""
        if not reason.startswith("OutOf"):
            return False
        others = self._admitted(pod)
        found = preemption.victims(pod, others, admission.missing(pod, others, self._services.allocatable))
        if found is None:
            return False
        for one in found:
            if self._running[one["metadata"]["uid"]].evict(preemption.REASON, preemption.MESSAGE, grace=None):
                self._services.metrics.add("kubelet_preemptions", "resource")
        return True

    def _short_of_devices(self, pod: Pod) -> tuple[str, str] | None:
        """Set devices aside for a pod; return reason and message where there are not enough."""
        devices = self._services.devices
        if devices is None or not devices.are_asked_for(pod):
            return None
        # What has ended holds none, though it may still be tidied up: the scheduler counts so, too.
        devices.release(uid for uid, one in self._running.items() if not is_over(one.pod))
        try:
            devices.reserve(pod)
        except ConfigError as error:
            return "UnexpectedAdmissionError", f"Allocate failed due to {error}, which is unexpected"
        return None

    def _admitted(self, pod: Pod) -> list[Pod]:
        # One that is gone from the API holds nothing any more, though its containers may still be ending.
        others = [one.pod for one in self._running.values() if not one.deleted and one.uid != pod["metadata"]["uid"]]
        return [one for one in others if self._is_taken(one) and not is_over(one)]

    def _is_taken(self, pod: Pod) -> bool:
        return pod["metadata"]["uid"] in self._taken or bool((pod.get("status") or {}).get("startTime"))

    def resize_refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Return why a running pod can't have the resources it asks for now; None when it can."""
        allocatable = self._services.allocatable
        for name, read in (("cpu", cpu_millis), ("memory", to_bytes)):
            most, asked = read(allocatable.get(name, "0")), admission.requested(pod, name)
            if asked > most:
                text = f"Node didn't have enough capacity: {name}, requested: {asked}, capacity: {most}"
                return "Infeasible", text
            used = sum(admission.requested(one, name) for one in self._admitted(pod))
            if asked + used > most:
                text = f"requested: {asked}, used: {used}, capacity: {most}"
                return "Deferred", f"Node didn't have enough resource: {name}, {text}"
        return None

    def wake(self, uids: Iterable[str]) -> None:
        """Something that concerns these pods changed."""
        for uid in uids:
            if uid in self._running:
                self._running[uid].wake()

    def wake_all(self) -> None:
        """Something that concerns all pods changed."""
        for one in self._running.values():
            one.wake()

    def objects_changed(self, uid: str) -> None:
        """An object that a pod uses changed."""
        if (found := self._running.get(uid)) is not None:
            found.refresh()

    async def close(self) -> None:
        """Stop looking after pods; their containers go on."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
