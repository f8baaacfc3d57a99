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
from agent.environment import ConfigError, make_environment, service_variables
from agent.hooks import run_hook
from agent.images import PullError
from agent.node_services import NodeServices
from agent.pod_files import dns_config, write_hosts
from agent.pod_status import make_status
from agent.pod_worker import ContainerSeen, KillContainer, MakeSandbox, Memory, Seen, StartContainer, StopSandbox
from agent.probes import Prober, Target, Verdict
from agent.volumes.manager import VolumeError, has_files
from agent.volumes.sources import FileSources
from machinery.api.resources import PODS
from machinery.client.rest import ConnectionFailed, PatchType
from machinery.errors import APIError, Conflict, NotFound

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
# Files of ConfigMaps, Secrets and tokens are looked at this often.
REFRESH_SECONDS = 20.0
# Without news, the runtime is looked at this often all the same.
RELIST_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_STATES = {
    cri.CONTAINER_CREATED: "created", cri.CONTAINER_RUNNING: "running", cri.CONTAINER_EXITED: "exited",
}  # fmt: skip
_MAX_KEPT = 2  # attempts of a container that are kept: the newest and the one before it, for its logs


class PodRuntime:
    """One pod on this node, from the first look until nothing of it is left."""

    def __init__(self, services: NodeServices, pod: Pod, network_changed: Callable[[], None]) -> None:
        """Args: `network_changed` is called when the pod's address came or went."""
        self._node = services
        self._network_changed = network_changed
        self.pod: Pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.deleted = False  # gone from the API
        self._memory = Memory()
        self._wake = asyncio.Event()
        self._probers: dict[str, Prober] = {}
        self._dead: dict[str, ContainerSeen] = {}
        self._written: Any = None
        self._seen = Seen()
        self._said: set[str] = set()
        self._refreshed_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def update(self, pod: Pod) -> None:
        """Take a newer version of the pod from the API."""
        self.pod = pod
        self._wake.set()

    def vanish(self) -> None:
        """The pod is gone from the API: end it."""
        self.deleted = True
        self._wake.set()

    def wake(self) -> None:
        """Something may have changed: look again."""
        self._wake.set()

    @property
    def seen(self) -> Seen:
        """What the runtime held at the last look."""
        return self._seen

    async def run(self) -> None:
        """Work until the pod has ended for good and is gone."""
        try:
            while True:
                self._wake.clear()
                try:
                    if self.deleted or self.pod["metadata"].get("deletionTimestamp"):
                        if await self._terminate():
                            return
                        pause: float | None = _RETRY_SECONDS
                    else:
                        pause = await self._sync()
                except RuntimeFailure as error:
                    log.warning("pod %s: %s", self._name, error)
                    pause = _RETRY_SECONDS
                except (APIError, ConnectionFailed) as error:
                    log.warning("pod %s: %s", self._name, error)
                    pause = _RETRY_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RELIST_SECONDS if pause is None else max(pause, 0.0)):
                        await self._wake.wait()
        finally:
            await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for prober in list(self._probers.values()):
            await prober.close()
        self._probers.clear()

    @property
    def _name(self) -> str:
        metadata = self.pod["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    # ---- looking

    async def _look(self) -> Seen:
        sandboxes = sorted(await self._node.runtime.sandboxes(self.uid), key=lambda one: one.created_at, reverse=True)
        listed = await self._node.runtime.containers(self.uid)
        found: dict[str, list[ContainerSeen]] = {}
        for one in listed:
            seen = self._dead.get(one.id) or await self._container(one)
            if seen is not None:
                found.setdefault(seen.name, []).append(seen)
        for attempts in found.values():
            attempts.sort(key=lambda seen: (seen.attempt, seen.created_at), reverse=True)
        newest = sandboxes[0] if sandboxes else None
        before = self._seen.ip
        self._seen = Seen(
            sandbox_id=newest.id if newest else "",
            sandbox_ready=bool(newest and newest.state == cri.SANDBOX_READY),
            sandbox_attempt=newest.metadata.attempt if newest else 0,
            ip=await self._ip(newest), containers=found, old_sandboxes=[one.id for one in sandboxes[1:]],
        )  # fmt: skip
        if self._seen.ip != before:
            self._network_changed()
        return self._seen

    async def _ip(self, sandbox: Any) -> str:
        if sandbox is None or sandbox.state != cri.SANDBOX_READY:
            return ""
        if sandbox.id == self._seen.sandbox_id and self._seen.ip:
            return self._seen.ip
        return str((await self._node.runtime.sandbox_status(sandbox.id)).network.ip)

    async def _container(self, one: Any) -> ContainerSeen | None:
        try:
            status = await self._node.runtime.container_status(one.id)
        except RuntimeFailure as error:
            if error.is_absent:
                return None
            raise
        seen = ContainerSeen(
            id=one.id, name=one.labels.get(CONTAINER_NAME, one.metadata.name),
            state=_STATES.get(status.state, "unknown"),
            attempt=status.metadata.attempt, created_at=status.created_at / 1e9, started_at=status.started_at / 1e9,
            finished_at=status.finished_at / 1e9, exit_code=status.exit_code,
            reason=status.reason, message=status.message,
            image=status.image.user_specified_image or status.image.image, image_id=status.image_ref,
            spec_hash=status.annotations.get(container_config.HASH, ""),
        )  # fmt: skip
        if seen.state == "exited":
            self._dead[one.id] = seen
        return seen

    # ---- towards running

    async def _sync(self) -> float | None:
        """Take steps until nothing is left to do now; returns how long to wait at most."""
        if reason := self._node.admission_failure(self.pod):
            await self._reject(*reason)
            return None
        if self._past_deadline():
            await self._end_at_deadline()
            return None
        while True:
            seen = await self._look()
            self._keep_probes(seen)
            hashes = {one["name"]: container_config.container_hash(one) for one in self._all_specs()}
            decision = pod_worker.decide(self.pod, seen, self._memory, time.time(), hashes)
            if not decision.actions:
                break
            if await self._act(decision.actions, seen):
                await self._report()
                return _RETRY_SECONDS
        await self._report()
        await self._tidy(seen)
        return await self._until(decision.look_again_at)

    async def _until(self, look_again_at: float | None) -> float | None:
        waits = [look_again_at - time.time()] if look_again_at is not None else []
        if deadline := self.pod["spec"].get("activeDeadlineSeconds"):
            waits.append(self._started_at() + deadline - time.time())
        if has_files(self.pod) and self._seen.sandbox_ready:
            if time.monotonic() - self._refreshed_at >= REFRESH_SECONDS:
                self._refreshed_at = time.monotonic()
                await self._refresh_files()
            waits.append(REFRESH_SECONDS)
        return min(waits, default=None)

    async def _refresh_files(self) -> None:
        try:
            await self._node.volumes.prepare(self.pod, self._sources())
        except VolumeError as error:
            log.info("pod %s: volume %s is not brought up to date: %s", self._name, error.volume, error)

    async def _act(self, actions: Any, seen: Seen) -> bool:
        """Do what was decided; containers of one step are started together. Returns whether something failed."""
        starts = [one for one in actions if isinstance(one, StartContainer)]
        for action in actions:
            match action:
                case MakeSandbox():
                    if not await self._make_sandbox(action.attempt):
                        return True
                case StopSandbox():
                    await self._node.runtime.stop_sandbox(action.sandbox_id)
                case KillContainer():
                    await self._kill(action)
        if starts:
            results = await asyncio.gather(*(self._start(one, seen) for one in starts))
            return not any(results)
        return False

    async def _make_sandbox(self, attempt: int) -> bool:
        if not await self._prepare_volumes():
            return False
        config = self._sandbox_config(attempt)
        try:
            await self._node.runtime.run_sandbox(config)
        except RuntimeFailure as error:
            if not error.is_away:
                await self._event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise
        return True

    def _sandbox_config(self, attempt: int) -> Any:
        dns = dns_config(self.pod, self._node.config.cluster_dns, self._node.config.cluster_domain)
        return container_config.sandbox_config(self.pod, attempt, self._node.config.logs_dir, dns)

    async def _prepare_volumes(self) -> bool:
        try:
            await self._node.volumes.prepare(self.pod, self._sources())
        except VolumeError as error:
            text = f'MountVolume.SetUp failed for volume "{error.volume}" : {error}'
            await self._event("Warning", "FailedMount", text)
            return False
        self._refreshed_at = time.monotonic()
        return True

    def _sources(self) -> FileSources:
        return FileSources(self.pod, self._fetch, self._token, self._facts())

    async def _fetch(self, plural: str, name: str) -> Mapping[str, Any]:
        return await self._node.objects.get(plural, self.pod["metadata"]["namespace"], name)

    async def _token(self, source: Mapping[str, Any]) -> str:
        return await self._node.tokens.get(self.pod, source)

    def _facts(self) -> dict[str, Any]:
        config = self._node.config
        ip = config.node_ip if self.pod["spec"].get("hostNetwork") else self._seen.ip
        return {"host_ip": config.node_ip, "pod_ip": ip, "allocatable": self._node.allocatable}

    async def _start(self, action: StartContainer, seen: Seen) -> bool:
        """Make and start one container; failures are remembered as what it waits for."""
        spec = next(one for one in self._all_specs() if one["name"] == action.name)
        try:
            image = await self._image(spec)
            await self._event_on(spec, "Normal", "Pulled", image[1])
            container_id = await self._create(spec, action.attempt, image[0], seen)
        except PullError as error:
            return await self._put_off(spec, error.reason, error.message, seconds=error.retry_seconds)
        except ConfigError as error:
            await self._event_on(spec, "Warning", "Failed", f"Error: {error}")
            return await self._put_off(spec, "CreateContainerConfigError", str(error))
        except RuntimeFailure as error:
            if error.is_away:
                raise
            await self._event_on(spec, "Warning", "Failed", f"Error: {error}")
            return await self._put_off(spec, "CreateContainerError", str(error))
        await self._event_on(spec, "Normal", "Created", "Container created")
        self._memory.waiting.pop(action.name, None)
        self._memory.not_before.pop(action.name, None)
        try:
            await self._node.runtime.start_container(container_id)
        except RuntimeFailure as error:
            if error.is_away:
                raise
            await self._event_on(spec, "Warning", "Failed", f"Error: {error}")
            return True  # its status tells of it, and back-off goes by that
        await self._event_on(spec, "Normal", "Started", "Container started")
        hook = (spec.get("lifecycle") or {}).get("postStart")
        if hook:
            self._spawn(self._post_start(spec, hook, container_id))
        return True

    async def _image(self, spec: Mapping[str, Any]) -> tuple[str, str]:
        return await self._node.puller.ensure(
            self.pod, spec, self._sandbox_config(0), self._fetch, self._pull_event(spec)
        )

    def _pull_event(self, spec: Mapping[str, Any]) -> Any:
        async def tell(type_: str, reason: str, message: str) -> None:
            await self._event_on(spec, type_, reason, message)

        return tell

    async def _put_off(self, spec: Mapping[str, Any], reason: str, message: str, *, seconds: float = 0.0) -> bool:
        name = spec["name"]
        failures = self._memory.failures[name] = self._memory.failures.get(name, 0) + 1
        pause = seconds or min(2.0 ** min(failures, 5), 30.0)
        self._memory.waiting[name] = (reason, message)
        self._memory.not_before[name] = time.time() + pause
        return True

    async def _create(self, spec: Mapping[str, Any], attempt: int, image: str, seen: Seen) -> str:
        services = service_variables(
            self._node.services(),
            self.pod["metadata"]["namespace"],
            links=self.pod["spec"].get("enableServiceLinks", True),
        )
        environment = await make_environment(self.pod, spec, services, self._fetch, self._facts())
        folder = self._node.volumes.folder(self.uid)
        mounts = self._node.volumes.mounts(self.pod, spec, environment)
        hosts = await asyncio.to_thread(write_hosts, folder, self.pod, seen.ip, self._node.config.cluster_domain)
        if hosts is not None and not any(one.container_path == "/etc/hosts" for one in mounts):
            mounts.append(container_config.mount("/etc/hosts", hosts, readonly=False))
        note = folder / "termination" / f"{spec['name']}-{attempt}"
        await asyncio.to_thread(_touch, note)
        mounts.append(
            container_config.mount(spec.get("terminationMessagePath", "/dev/termination-log"), note, readonly=False)
        )
        config = container_config.container_config(
            self.pod, spec, attempt, image, environment, mounts, self._node.allocatable
        )
        return await self._node.runtime.create_container(
            seen.sandbox_id, config, self._sandbox_config(seen.sandbox_attempt)
        )

    async def _post_start(self, spec: Mapping[str, Any], hook: Mapping[str, Any], container_id: str) -> None:
        problem = await run_hook(self._node.runtime, hook, spec, container_id, self._seen.ip)
        if problem:
            await self._event_on(spec, "Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}")
            self._memory.unhealthy[container_id] = "FailedPostStartHook"
            self.wake()

    # ---- probes

    def _keep_probes(self, seen: Seen) -> None:
        """Probe what runs, and nothing else."""
        wanted: dict[str, Mapping[str, Any]] = {}
        for spec in self._all_specs():
            last = seen.newest(spec["name"])
            if (
                last is not None
                and last.state == "running"
                and any(spec.get(kind) for kind in ("startupProbe", "readinessProbe", "livenessProbe"))
            ):
                wanted[last.id] = spec
        for container_id in set(self._probers) - set(wanted):
            prober = self._probers.pop(container_id)
            self._spawn(prober.close())
        host = self._node.config.node_ip if self.pod["spec"].get("hostNetwork") else seen.ip
        for container_id, spec in wanted.items():
            if container_id not in self._probers and host:
                target = Target(self.pod, spec, container_id, host)
                self._probers[container_id] = Prober(
                    self._node.runtime, target, self._hear(container_id, spec), self._warn(spec)
                )

    def _hear(self, container_id: str, spec: Mapping[str, Any]) -> Any:
        def hear(verdict: Verdict) -> None:
            if verdict.kind == "readinessProbe":
                self._memory.ready[container_id] = verdict.healthy
            elif verdict.kind == "startupProbe" and verdict.healthy:
                self._memory.started[container_id] = True
            elif not verdict.healthy:
                kind = "startup" if verdict.kind == "startupProbe" else "liveness"
                self._memory.unhealthy[container_id] = (
                    f"Container {spec['name']} failed {kind} probe, will be restarted"
                )
            self.wake()

        return hear

    def _warn(self, spec: Mapping[str, Any]) -> Any:
        return lambda text: self._spawn(self._event_on(spec, "Warning", "Unhealthy", text))

    # ---- towards the end

    async def _kill(self, action: KillContainer) -> None:
        spec = next(one for one in self._all_specs() if one["name"] == action.name)
        await self._event_on(spec, "Normal", "Killing", action.why)
        grace = int(self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        probe = (spec.get("livenessProbe") or {}).get("terminationGracePeriodSeconds")
        await self._stop(spec, action.id, int(probe if probe is not None else grace))
        self._memory.unhealthy.pop(action.id, None)

    async def _stop(self, spec: Mapping[str, Any], container_id: str, grace: int) -> None:
        started = time.monotonic()
        hook = (spec.get("lifecycle") or {}).get("preStop")
        if hook and grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    problem = await run_hook(self._node.runtime, hook, spec, container_id, self._seen.ip)
                    if problem:
                        await self._event_on(spec, "Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}")
        # Upstream grants two seconds after a hook that took all of the grace period.
        left = max(grace - int(time.monotonic() - started), 2 if hook and grace > 0 else 0)
        with contextlib.suppress(RuntimeFailure):
            await self._node.runtime.stop_container(container_id, left)

    async def _terminate(self) -> bool:
        """End the pod; returns True when nothing of it is left, here or in the API."""
        seen = await self._look()
        self._keep_probes(Seen())
        running = [
            (spec, last) for spec in self._all_specs()
            if (last := seen.newest(spec["name"])) is not None and last.state in ("running", "created")
        ]  # fmt: skip
        grace = self._grace_seconds()
        for spec, _ in running:
            await self._event_on(spec, "Normal", "Killing", f"Stopping container {spec['name']}")
        stops = asyncio.gather(*(self._stop(spec, last.id, grace) for spec, last in running))
        await self._stop_or_hurry(stops, grace)
        await self._look()
        if not self.deleted:
            await self._report()
        for sandbox_id in filter(None, (seen.sandbox_id, *seen.old_sandboxes)):
            with contextlib.suppress(RuntimeFailure):
                await self._node.runtime.stop_sandbox(sandbox_id)
                await self._node.runtime.remove_sandbox(sandbox_id)
        if await self._node.runtime.sandboxes(self.uid):
            return False
        await asyncio.to_thread(cgroups.remove, container_config.cgroup_parent(self.pod))
        await self._node.volumes.remove(self.uid)
        await self._node.remove_logs(self.pod)
        self._node.tokens.forget(self.uid)
        return self.deleted or await self._delete_object()

    async def _stop_or_hurry(self, stops: Any, grace: int) -> None:
        """Wait for the containers' end; a grace period cut short meanwhile begins anew with less."""
        while not stops.done():
            waking = asyncio.create_task(self._wake.wait())
            await asyncio.wait([stops, waking], return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            self._wake.clear()
            if not stops.done() and self._grace_seconds() < grace - 1:
                stops.cancel()
                await asyncio.gather(stops, return_exceptions=True)
                shorter = self._grace_seconds()
                latest = [(s, last) for s in self._all_specs() if (last := self._seen.newest(s["name"])) is not None]
                await asyncio.gather(
                    *(self._stop(s, last.id, shorter) for s, last in latest if last.state == "running")
                )
                return
        await stops

    def _grace_seconds(self) -> int:
        metadata = self.pod["metadata"]
        if self.deleted and not metadata.get("deletionTimestamp"):
            return 0 if metadata.get("deletionGracePeriodSeconds") == 0 else 1
        return int(metadata.get("deletionGracePeriodSeconds") or 0)

    async def _delete_object(self) -> bool:
        metadata = self.pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        try:
            await self._node.client.delete(PODS, metadata["name"], metadata["namespace"], options=options)
        except (NotFound, Conflict):
            return True
        return True

    def _past_deadline(self) -> bool:
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        return bool(deadline) and time.time() >= self._started_at() + deadline

    def _started_at(self) -> float:
        from machinery.api.meta import parse_time

        started = (self.pod.get("status") or {}).get("startTime")
        return parse_time(started).timestamp() if started else time.time()

    async def _end_at_deadline(self) -> None:
        text = "Pod was active on the node longer than the specified deadline"
        seen = await self._look()
        if seen.sandbox_ready:
            await self._event("Normal", "DeadlineExceeded", text)
            await asyncio.gather(
                *(
                    self._node.runtime.stop_container(c[0].id, 30)
                    for c in seen.containers.values()
                    if c[0].state == "running"
                )
            )
            await self._node.runtime.stop_sandbox(seen.sandbox_id)
            await self._look()
        await self._report(override={"phase": "Failed", "reason": "DeadlineExceeded", "message": text})

    async def _reject(self, reason: str, message: str) -> None:
        if (self.pod.get("status") or {}).get("phase") != "Failed":
            await self._event("Warning", reason, message)
            await self._write_status({"phase": "Failed", "reason": reason, "message": f"Pod was rejected: {message}"})

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

    # ---- reporting

    async def _report(self, override: Mapping[str, Any] | None = None) -> None:
        status = make_status(
            self.pod, self._seen, self._memory, time.time(), self._node.config.node_ip, self._node.container_scheme
        )
        await asyncio.to_thread(self._add_messages, status)
        await self._write_status({**status, **(override or {})})

    def _add_messages(self, status: dict[str, Any]) -> None:
        """Add what containers left in their termination message files."""
        specs = {one["name"]: one for one in self._all_specs()}
        for one in [*status["containerStatuses"], *status.get("initContainerStatuses", ())]:
            for field, attempt in (("state", one["restartCount"]), ("lastState", one["restartCount"] - 1)):
                ended = one[field].get("terminated")
                if ended is None or ended.get("message"):
                    continue
                text = self._node.termination_message(
                    self.pod, specs[one["name"]], attempt, failed=ended["exitCode"] != 0
                )
                if text:
                    ended["message"] = text

    async def _write_status(self, status: dict[str, Any]) -> None:
        """Send the status when it says something new. A pod that is gone or another by now needs none."""
        if status == self._written:
            return
        metadata = self.pod["metadata"]
        body = dict(status)
        if "podIPs" in body:
            body["podIPs"] = [{"$patch": "replace"}, *body["podIPs"]]
        patch = {"metadata": {"uid": self.uid}, "status": body}
        try:
            await self._node.client.patch(
                PODS, metadata["name"], patch, metadata["namespace"], type=PatchType.STRATEGIC, subresource="status"
            )
        except (NotFound, Conflict) as error:
            log.debug("status of %s was not written: %s", self._name, error)
            return
        self._written = status

    def _all_specs(self) -> list[Mapping[str, Any]]:
        spec = self.pod["spec"]
        return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]

    async def _event(self, type_: str, reason: str, message: str) -> None:
        self._spawn(self._node.recorder.event(self.pod, type_, reason, message))  # type: ignore[arg-type]

    async def _event_on(self, spec: Mapping[str, Any], type_: str, reason: str, message: str) -> None:
        """Tell of one container; the event names it by its field path."""
        metadata, field = self.pod["metadata"], "containers"
        if any(one is spec for one in self.pod["spec"].get("initContainers") or ()):
            field = "initContainers"
        reference = {
            "kind": "Pod", "apiVersion": "v1", "namespace": metadata["namespace"], "name": metadata["name"],
            "uid": self.uid, "resourceVersion": metadata.get("resourceVersion", ""),
            "fieldPath": f"spec.{field}{{{spec['name']}}}",
        }  # fmt: skip
        self._spawn(self._node.recorder.event(reference, type_, reason, message))  # type: ignore[arg-type]

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _touch(path: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o666)
