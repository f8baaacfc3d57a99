"""Runs one pod: looks at what the runtime holds, asks pod_worker what to do, does it, and reports the status."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from agent import cgroups, container_config, pod_worker
from agent.cri import api_pb2 as cri
from agent.cri.client import CONTAINER_NAME, RuntimeFailure
from agent.dra.claims import ClaimError
from agent.environment import ConfigError
from agent.node_services import NodeServices
from agent.pod_context import PodContext
from agent.pod_end import ContainerEnder
from agent.pod_files import NameTooLong
from agent.pod_probes import PodProbes
from agent.pod_report import PodReporter
from agent.pod_resize import PodResizer
from agent.pod_start import ContainerStarter
from agent.pod_state import ContainerSeen, Pod, Seen, all_specs, begin_anew_at, is_over
from agent.pod_timing import PodTiming
from agent.pod_worker import EndSidecars, KillContainer, MakeSandbox, StartContainer, StopSandbox
from agent.volumes.manager import VolumeError, has_files
from machinery.api.meta import parse_time
from machinery.api.resources import PODS
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError, Conflict, NotFound

log = logging.getLogger(__name__)

# Files of tokens are looked at this often; ConfigMaps and Secrets are followed.
REFRESH_SECONDS = 60.0
# Without news, the runtime is looked at this often all the same.
RELIST_SECONDS = 30.0
# … and at one that has ended, this often.
_REST_SECONDS = 600.0
_END_SECONDS = 0.02
_RETRY_SECONDS = 1.0
# A start that takes longer than this is told of before it is done.
_SLOW_SECONDS = 0.4
_STATES = {
    cri.CONTAINER_CREATED: "created", cri.CONTAINER_RUNNING: "running", cri.CONTAINER_EXITED: "exited",
}  # fmt: skip
_EVICTION_SECONDS = 1
# An API server that doesn't answer holds a pod up this long; then it is tried again after at most so long.
_TELL_SECONDS, _MAX_UNTOLD_SECONDS = 3.0, 5.0
# So often it is looked whether pods that were ended for a critical one have gone.
_ROOM_SECONDS = 0.2
_MAX_KEPT = 2  # attempts of a container that are kept: the newest and the one before it, for its logs


class PodRuntime:
    """One pod on this node, from the first look until nothing of it is left."""

    def __init__(self, services: NodeServices, pod: Pod, network_changed: Callable[[], None]) -> None:
        """Args: `network_changed` is called when the pod's address came or went."""
        self._node = services
        self._network_changed = network_changed
        self._context = PodContext(services, pod)
        self._starter = ContainerStarter(self._context)
        self._ender = ContainerEnder(self._context)
        self._probes = PodProbes(self._context)
        self._reporter = PodReporter(self._context)
        self._resizer = PodResizer(self._context)
        self.deleted = False  # gone from the API
        self._dead: dict[str, ContainerSeen] = {}
        self._timing = PodTiming(services.metrics, pod)
        self._refreshed_at = 0.0
        self._is_stale = False  # an object behind the pod's files changed
        self._end: Mapping[str, str] | None = None  # why the node ended the pod
        self._end_grace: int | None = None  # how long its containers get then; their own time when None
        self._is_evicted = False  # that was for the node's own sake
        self.comes_back = False  # a static pod whose manifest went and came again while it was ending
        self._untold = 0  # statuses in a row that could not be told
        self.ended = asyncio.Event()  # nothing of it runs, and the API was told

    @property
    def pod(self) -> Pod:
        """The pod as the API told it last."""
        return self._context.pod

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self._context.uid

    @property
    def seen(self) -> Seen:
        """What the runtime held at the last look."""
        return self._context.seen

    def update(self, pod: Pod) -> None:
        """Take a newer version of the pod from the API."""
        old = self._context.pod["metadata"]
        if any(old.get(part) != pod["metadata"].get(part) for part in ("labels", "annotations")):
            self._is_stale = True  # the downward API shows them
        self._context.update(pod)

    def vanish(self, pod: Pod | None = None) -> None:
        """The pod is gone from the API: end it."""
        if pod is not None:
            self._context.update(pod)
        self.deleted = True
        self._context.wake()

    def wake(self) -> None:
        """Something may have changed: look again."""
        self._context.wake()

    def show_by(self, mirror: Pod | None) -> None:
        """A static pod is shown by this pod of the API from now on."""
        before, self._context.mirror = self._context.mirror, mirror
        if mirror is not None and (before is None or before["metadata"]["uid"] != mirror["metadata"]["uid"]):
            self._context.wake()

    @property
    def is_mirrored(self) -> bool:
        """Whether a pod of the API shows this static one."""
        return self._context.mirror is not None

    def now(self) -> str | None:
        """Return the time as the API tells it."""
        return self._reporter.now()

    def refresh(self) -> None:
        """An object behind the pod's files changed."""
        self._is_stale = True
        self._context.wake()

    def evict(
        self, reason: str, message: str, *, grace: int | None = _EVICTION_SECONDS, with_event: bool = True
    ) -> bool:
        """End the pod for good, as the node's decision; it stays in the API as Failed. Returns whether that is news.

        Args: `grace` is how long its containers get, in seconds; as long as they ask for with None.
        """
        if self._end is None:
            if with_event:
                self._context.event("Warning", reason, message)
            self._end = {"phase": "Failed", "reason": reason, "message": message}
            self._end_grace, self._is_evicted = grace, True
            self._context.wake()
            return True
        self._context.wake()
        return False

    @property
    def _is_ending(self) -> bool:
        return self.deleted or bool(self.pod["metadata"].get("deletionTimestamp"))

    async def run(self) -> None:
        """Work until the pod has ended for good and is gone."""
        try:
            while True:
                self._context.changed.clear()
                try:
                    if self._is_ending:
                        with self._timing.round("terminate"):
                            is_gone = await self._terminate()
                        if is_gone:
                            return
                        pause: float | None = _RETRY_SECONDS
                    else:
                        with self._timing.round("sync"):
                            pause = await self._sync_until_ending()
                except (RuntimeFailure, APIError, ClaimError, ConnectionFailed, OSError) as error:
                    log.warning("pod %s: %s", self._context.name, error)
                    pause = _RETRY_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RELIST_SECONDS if pause is None else max(pause, 0.0)):
                        await self._context.changed.wait()
        finally:
            self.ended.set()
            await self._context.close()
            await self._probes.close()

    # ---- looking

    async def _look(self) -> Seen:
        with self._timing.look():
            return await self._look_now()

    async def _look_now(self) -> Seen:
        runtime, uid = self._node.runtime, self._context.uid
        sandboxes = sorted(await runtime.sandboxes(uid), key=lambda one: one.created_at, reverse=True)
        found: dict[str, list[ContainerSeen]] = {}
        for one in await runtime.containers(uid):
            seen = self._dead.get(one.id) or await self._container(one)
            if seen is not None:
                found.setdefault(seen.name, []).append(seen)
        for attempts in found.values():
            attempts.sort(key=lambda seen: (seen.attempt, seen.created_at), reverse=True)
        newest = sandboxes[0] if sandboxes else None
        before = self.seen.ip
        ips = await self._ips(newest)
        is_ready = newest is not None and newest.state == cri.SANDBOX_READY
        self._context.seen = Seen(
            sandbox_id=newest.id if newest else "",
            sandbox_ready=is_ready,
            sandbox_attempt=newest.metadata.attempt if newest else 0,
            ip=ips[0] if ips and is_ready else "", ips=ips, containers=found, since=begin_anew_at(self.pod, found),
            old_sandboxes=[one.id for one in sandboxes[1:]],
        )  # fmt: skip
        if self.seen.ip != before:
            self._network_changed()
        return self.seen

    async def _ips(self, sandbox: Any) -> list[str]:
        if sandbox is None:
            return []
        if sandbox.id == self.seen.sandbox_id and self.seen.ips:
            return list(self.seen.ips)
        if sandbox.state != cri.SANDBOX_READY:
            return []
        network = (await self._node.runtime.sandbox_status(sandbox.id)).network
        return [ip for ip in (network.ip, *(one.ip for one in network.additional_ips)) if ip]

    async def _container(self, one: Any) -> ContainerSeen | None:
        try:
            status = await self._node.runtime.container_status(one.id)
        except RuntimeFailure as error:
            if error.is_absent:
                return None
            raise
        user = status.user.linux if status.HasField("user") else None
        seen = ContainerSeen(
            id=one.id, name=one.labels.get(CONTAINER_NAME, one.metadata.name), sandbox_id=one.pod_sandbox_id,
            state=_STATES.get(status.state, "unknown"),
            attempt=status.metadata.attempt, created_at=status.created_at / 1e9, started_at=status.started_at / 1e9,
            finished_at=status.finished_at / 1e9, exit_code=status.exit_code,
            reason=status.reason, message=status.message,
            image=status.image.user_specified_image or status.image.image, image_id=status.image_ref,
            spec_hash=status.annotations.get(container_config.HASH, ""),
            user=(user.uid, user.gid, *user.supplemental_groups) if user is not None else (),
            resources=status.resources.linux if status.HasField("resources") else None,
        )  # fmt: skip
        if seen.state == "exited":
            self._dead[one.id] = seen
            if seen.finished_at >= self._node.began_at:  # else an agent before this one has counted it
                self._timing.container_ended(seen)
        return seen

    # ---- towards running

    async def _sync_until_ending(self) -> float | None:
        """Work on the pod; what takes long (an image, a hook) is left as soon as the pod is to end."""
        was_evicted = self._is_evicted
        work = asyncio.create_task(self._sync())
        telling = asyncio.create_task(self._tell_if_slow())
        try:
            while not work.done():
                waking = asyncio.create_task(self._context.changed.wait())
                await asyncio.wait([work, waking], return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if self._is_ending or self._is_evicted != was_evicted:
                    return 0.0
                if not work.done():
                    await asyncio.wait([work], timeout=0.05)
            return work.result()
        finally:
            work.cancel()
            telling.cancel()
            await asyncio.gather(work, telling, return_exceptions=True)

    async def _tell_if_slow(self) -> None:
        await asyncio.sleep(_SLOW_SECONDS)
        with contextlib.suppress(APIError, ConnectionFailed):
            await self._reporter.report()

    async def _sync(self) -> float | None:
        """Take steps until nothing is left to do now; returns how long to wait at most."""
        if is_over(self.pod) or self._end is not None:
            await self._rest()
            return _REST_SECONDS
        if reason := self._node.admission_failure(self.pod):
            if self._node.make_room(self.pod, reason[0]):
                return _ROOM_SECONDS
            await self._reject(*reason)
            return None
        if self._past_deadline():
            text = "Pod was active on the node longer than the specified deadline"
            self._context.event("Normal", "DeadlineExceeded", text)
            self._end = {"phase": "Failed", "reason": "DeadlineExceeded", "message": text}
            await self._rest()
            return _REST_SECONDS
        decision = pod_worker.Decision()
        self._context.memory.max_backoff = self._node.config.settings.max_backoff_seconds
        while True:
            seen = await self._look()
            self._probes.keep(seen)
            await self._resizer.resize(seen)
            hashes = {spec["name"]: container_config.container_hash(spec) for _, spec in all_specs(self.pod)}
            decision = pod_worker.decide(self.pod, seen, self._context.memory, time.time(), hashes)
            if not decision.actions or not await self._act(decision.actions):
                break
        self._timing.seen(seen)
        await self._tell()
        await self._tidy(seen)
        return await self._until(decision)

    async def _tell(self) -> None:
        """Report; a pod is looked after even while the API can't be told of it."""
        try:
            async with asyncio.timeout(_TELL_SECONDS):
                await self._reporter.report()
        except (APIError, ConnectionFailed, TimeoutError) as error:
            self._untold += 1
            log.warning("the status of pod %s was not told: %s", self._context.name, error)
        else:
            self._untold = 0

    async def _rest(self) -> None:
        """End what still runs of a pod that is over, and keep its logs and statuses."""
        seen = await self._look()
        self._probes.keep(Seen())
        if seen.sandbox_ready:
            await self._ender.stop_all(self._end_grace)
            await self._node.runtime.stop_sandbox(seen.sandbox_id)
            await self._look()
        await self._release_claims()
        if self._end is not None:
            await self._reporter.report(self._end, disrupted=self._is_evicted)
        self._node.objects.forget(self._context.uid)
        self.ended.set()

    async def _release_claims(self) -> None:
        if self._node.claims is not None:
            await self._node.claims.release(self._context.uid)

    async def _until(self, decision: pod_worker.Decision) -> float | None:
        now = time.time()
        waits = [decision.look_again_at - now] if decision.look_again_at is not None else []
        waits += [at - now for at in self._context.memory.not_before.values() if at > now]
        if self._untold:
            waits.append(min(_RETRY_SECONDS * 2 ** min(self._untold - 1, 10), _MAX_UNTOLD_SECONDS))
        if decision.actions:  # something of them failed
            waits.append(_RETRY_SECONDS)
        if deadline := self.pod["spec"].get("activeDeadlineSeconds"):
            waits.append(self._started_at() + deadline - now)
        if has_files(self.pod) and self.seen.sandbox_ready:
            if self._is_stale or time.monotonic() - self._refreshed_at >= REFRESH_SECONDS:
                await self._refresh_files()
            waits.append(REFRESH_SECONDS)
        return min(waits, default=None)

    async def _refresh_files(self) -> None:
        self._refreshed_at, self._is_stale = time.monotonic(), False
        try:
            await self._node.volumes.prepare(self.pod, self._context.sources())
        except VolumeError as error:
            log.info("pod %s: volume %s is not brought up to date: %s", self._context.name, error.volume, error)

    async def _act(self, actions: Any) -> bool:
        """Do what was decided; containers of one step are started together. Returns whether to look again at once."""
        for action in actions:
            match action:
                case MakeSandbox():
                    if not await self._make_sandbox(action.attempt):
                        return False
                case StopSandbox():
                    await self._node.runtime.stop_sandbox(action.sandbox_id)
                case KillContainer():
                    await self._ender.kill(action)
                case EndSidecars():
                    await self._ender.stop_all(only=action.names)
        starts = [one for one in actions if isinstance(one, StartContainer)]
        if starts and not self._node.volumes.is_prepared(self.uid) and not await self._find_volumes():
            return False
        return await self._starter.start_all(starts) if starts else True

    async def _find_volumes(self) -> bool:
        """Make the pod's volumes, or find out where those are that are there already; returns whether all are."""
        try:
            await self._node.volumes.prepare(self.pod, self._context.sources())
        except VolumeError as error:
            text = f'MountVolume.SetUp failed for volume "{error.volume}" : {error}'
            self._context.event("Warning", "FailedMount", text)
            return False
        return True

    async def _make_sandbox(self, attempt: int) -> bool:
        if not await self._find_volumes():
            return False
        try:
            if self._node.claims is not None:
                await self._node.claims.prepare(self.pod)
        except ClaimError as error:
            text = f"Failed to prepare dynamic resources: {error}"
            self._context.event("Warning", "FailedPrepareDynamicResources", text)
            return False
        self._refreshed_at, self._is_stale = time.monotonic(), False
        if not self._node.runtime.is_simulated:
            with self._node.metrics.timed("kubelet_cgroup_manager_duration_seconds", "create"):
                await asyncio.to_thread(cgroups.make_pod, self.pod, self._node.config.settings.pids_limit)
        try:
            config = self._context.sandbox_config(attempt)
        except (NameTooLong, ConfigError) as error:
            self._context.event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return False
        try:
            handler = await self._node.runtime_handler(self.pod)
            with self._timing.sandbox(handler):
                await self._node.runtime.run_sandbox(config, handler)
        except RuntimeFailure as error:
            if not error.is_away:
                text = f"Failed to create pod sandbox: {error}"
                self._context.event("Warning", "FailedCreatePodSandBox", text)
            raise
        return True

    # ---- towards the end

    async def _terminate(self) -> bool:
        """End the pod; returns True when nothing of it is left, here or in the API."""
        seen = await self._look()
        self._probes.keep(seen, ("readinessProbe",))  # traffic may still come
        grace = self._grace_seconds()
        stops = asyncio.create_task(self._ender.stop_all(grace))
        await self._stop_or_hurry(stops, grace)
        await self._look()
        if not self.deleted:
            await self._reporter.report(self._end, is_final=True)
        if self.comes_back:  # and counts its restarts on
            await self._node.runtime.stop_sandbox(seen.sandbox_id)
            return True
        for sandbox_id in filter(None, (seen.sandbox_id, *seen.old_sandboxes)):
            with contextlib.suppress(RuntimeFailure):
                await self._node.runtime.stop_sandbox(sandbox_id)
                await self._node.runtime.remove_sandbox(sandbox_id)
        if await self._node.runtime.sandboxes(self._context.uid):
            return False
        if not self._node.runtime.is_simulated:
            with self._node.metrics.timed("kubelet_cgroup_manager_duration_seconds", "destroy"):
                await asyncio.to_thread(cgroups.remove_pod, container_config.cgroup_parent(self.pod))
        await self._release_claims()
        await self._node.volumes.remove(self._context.uid)
        await self._node.remove_logs(self.pod)
        self._node.forget(self._context.uid)
        return self.deleted or await self._delete_object()

    async def _stop_or_hurry(self, stops: "asyncio.Task[None]", grace: int) -> None:
        """Wait for the containers' end; a grace period cut short meanwhile begins anew with less."""
        while not stops.done():
            waking = asyncio.create_task(self._context.changed.wait())
            await asyncio.wait({stops, waking}, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            if not stops.done():
                # What woke us is mostly the end itself, a moment before it is seen here: then one report says it all.
                await asyncio.wait({stops}, timeout=_END_SECONDS)
            self._context.changed.clear()
            shorter = self._grace_seconds()
            if not stops.done() and shorter < grace - 1:
                stops.cancel()
                await asyncio.gather(stops, return_exceptions=True)
                await self._look()
                await self._ender.stop_all(shorter)
                break
            if not stops.done() and not self.deleted:
                await self._look()
                await self._reporter.report(self._end)
        self._probes.keep(Seen())
        if not stops.cancelled():
            await stops

    def _grace_seconds(self) -> int:
        metadata = self.pod["metadata"]
        if self.deleted and not metadata.get("deletionTimestamp"):
            return 0 if metadata.get("deletionGracePeriodSeconds") == 0 else 1
        return int(metadata.get("deletionGracePeriodSeconds") or 0)

    async def _delete_object(self) -> bool:
        metadata = self.pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._context.uid}}
        with contextlib.suppress(NotFound, Conflict):
            await self._node.client.delete(PODS, metadata["name"], metadata["namespace"], options=options)
        return True

    def _past_deadline(self) -> bool:
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        return bool(deadline) and time.time() >= self._started_at() + deadline

    def _started_at(self) -> float:
        started = (self.pod.get("status") or {}).get("startTime")
        return parse_time(started).timestamp() if started else time.time()

    async def _reject(self, reason: str, message: str) -> None:
        self._context.event("Warning", reason, message)
        self._node.metrics.add("kubelet_admission_rejections_total", reason)
        status: dict[str, Any] = {"phase": "Failed", "reason": reason, "message": f"Pod was rejected: {message}"}
        generation = self.pod["metadata"].get("generation")
        status |= {"observedGeneration": generation} if generation else {}
        await self._reporter.write({**status, "startTime": self._reporter.now(), "qosClass": self._reporter.quality()})

    async def _tidy(self, seen: Seen) -> None:
        """Remove attempts and sandboxes that nobody asks for any more."""
        for attempts in seen.containers.values():
            for old in attempts[_MAX_KEPT:]:
                self._dead.pop(old.id, None)
                with contextlib.suppress(RuntimeFailure):
                    await self._node.runtime.remove_container(old.id)
        if seen.sandbox_ready:
            for sandbox_id in seen.old_sandboxes:
                with contextlib.suppress(RuntimeFailure):  # its containers go with it
                    await self._node.runtime.stop_sandbox(sandbox_id)
                    await self._node.runtime.remove_sandbox(sandbox_id)
