"""Makes and starts a pod's containers: image, environment, mounts, and the reasons users see when one can't be had."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent import container_config
from agent.cri.client import RuntimeFailure
from agent.deviceplugin.manager import Given
from agent.environment import ConfigError, make_environment, service_variables
from agent.hooks import run_hook
from agent.images import PullError
from agent.pod_context import PodContext
from agent.pod_files import write_hosts
from agent.pod_state import Spec, all_specs, crashes_before, was_steady
from agent.pod_timing import CONTAINER_TYPES
from agent.pod_worker import StartContainer
from agent.security import verify_user

_MAX_PAUSE_SECONDS = 30.0
_STATIC_GATE_SECONDS = 2.0


class ContainerStarter:
    """Starts the containers of one pod."""

    def __init__(self, context: PodContext) -> None:
        self._context = context

    async def start_all(self, actions: Sequence[StartContainer]) -> bool:
        """Start containers together; returns whether there is something new to look at."""
        context = self._context
        if not context.pod["spec"].get("hostNetwork") and not self._was_let_in():
            ips = tuple(context.seen.ips) or tuple(ip for ip in (context.seen.ip,) if ip)
            gate = context.node.network_gate(context.pod["metadata"]["namespace"], ips)
            with contextlib.suppress(TimeoutError):  # static pods may be what an API needs to come
                async with asyncio.timeout(_STATIC_GATE_SECONDS if context.is_static else None):
                    await gate
        return any(await asyncio.gather(*(self.start(one) for one in actions)))

    def _was_let_in(self) -> bool:
        """Whether a container of the present sandbox has been started before: the rules for it were there then."""
        seen = self._context.seen
        return any(
            one.sandbox_id == seen.sandbox_id and one.started_at > 0
            for attempts in seen.containers.values()
            for one in attempts
        )

    async def start(self, action: StartContainer) -> bool:
        """Make and start one container; failures are remembered as what it waits for. Returns whether to look again."""
        spec = self._context.spec(action.name)
        try:
            image, told = await self._image(spec)
            self._context.event_on(spec, "Normal", "Pulled", told)
            await self._image_volumes(spec)
            container_id = await self._create(spec, action.attempt, image)
        except PullError as error:
            return self._put_off(spec, error.reason, error.message, seconds=error.retry_seconds)
        except ConfigError as error:
            self._context.event_on(spec, "Warning", "Failed", f"Error: {error}")
            self._failed(spec, "CreateContainerConfigError")
            return self._put_off(spec, "CreateContainerConfigError", str(error))
        except RuntimeFailure as error:
            if error.is_away:
                raise
            self._context.event_on(spec, "Warning", "Failed", f"Error: {error}")
            self._failed(spec, "CreateContainerError")
            return self._put_off(spec, "CreateContainerError", str(error))
        self._context.event_on(spec, "Normal", "Created", "Container created")
        self._count(action)
        return await self._run(spec, container_id)

    def _count(self, action: StartContainer) -> None:
        memory = self._context.memory
        for known in (memory.waiting, memory.not_before, memory.failures):
            known.pop(action.name, None)
        last = self._context.seen.newest(action.name)
        if last is not None and action.attempt:
            crashes = 1 if was_steady(last) else crashes_before(last, memory) + 1
            memory.crashes[action.name] = (action.attempt, crashes)

    async def _run(self, spec: Spec, container_id: str) -> bool:
        hook = (spec.get("lifecycle") or {}).get("postStart")
        if hook:
            self._context.memory.hooking.add(container_id)
        try:
            await self._context.node.runtime.start_container(container_id)
        except RuntimeFailure as error:
            self._context.memory.hooking.discard(container_id)
            if error.is_away:
                raise
            self._context.event_on(spec, "Warning", "Failed", f"Error: {error}")
            self._failed(spec, "RunContainerError")
            return True  # its status tells of it, and back-off goes by that
        self._context.event_on(spec, "Normal", "Started", "Container started")
        self._context.node.metrics.add("kubelet_started_containers_total", self._kind(spec))
        if hook:  # what comes after this container waits for it: pod_worker.py
            self._context.spawn(self._post_start(spec, hook, container_id))
        return True

    def _kind(self, spec: Spec) -> str:
        groups = (group for group, one in all_specs(self._context.pod) if one["name"] == spec["name"])
        return CONTAINER_TYPES[next(groups)]

    def _failed(self, spec: Spec, code: str) -> None:
        metrics, kind = self._context.node.metrics, self._kind(spec)
        metrics.add("kubelet_started_containers_total", kind)
        metrics.add("kubelet_started_containers_errors_total", kind, code)

    async def _post_start(self, spec: Spec, hook: Any, container_id: str) -> None:
        context = self._context
        problem = await run_hook(context.node.runtime, hook, spec, container_id, context.host)
        context.memory.hooking.discard(container_id)
        if problem:
            context.event_on(spec, "Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}")
            context.memory.unhealthy[container_id] = ("FailedPostStartHook", "")
        context.wake()

    async def _image_volumes(self, spec: Spec) -> None:
        """Have the images on this machine that a container mounts. Raises: PullError."""
        volumes = {one["name"]: one for one in self._context.pod["spec"].get("volumes") or () if "image" in one}
        for wanted in spec.get("volumeMounts") or ():
            if (volume := volumes.get(wanted["name"])) is not None:
                source = volume["image"]
                policy = source.get("pullPolicy") or "IfNotPresent"
                await self._image({**spec, "image": source.get("reference", ""), "imagePullPolicy": policy})

    async def _image(self, spec: Spec) -> tuple[str, str]:
        context = self._context

        async def tell(type_: str, reason: str, message: str) -> None:
            context.event_on(spec, type_, reason, message)

        return await context.node.puller.ensure(context.pod, spec, context.sandbox_config(0), context.fetch, tell)

    def _put_off(self, spec: Spec, reason: str, message: str, *, seconds: float = 0.0) -> bool:
        """Remember why a container waits and for how long; another try now would come to the same."""
        name, memory = spec["name"], self._context.memory
        failures = memory.failures[name] = memory.failures.get(name, 0) + 1
        pause = seconds or min(2.0 ** min(failures, 5), _MAX_PAUSE_SECONDS)
        memory.waiting[name] = (reason, message)
        memory.not_before[name] = time.time() + pause
        return False

    async def _create(self, spec: Spec, attempt: int, image: str) -> str:
        context = self._context
        node, pod, seen = context.node, context.pod, context.seen
        links = pod["spec"].get("enableServiceLinks", True)
        services = service_variables(self._services(), pod["metadata"]["namespace"], links=links)
        environment = await make_environment(
            pod, spec, services, context.fetch_once, context.facts(), context.from_file
        )
        verify_user(pod, spec, await node.runtime.image(image))
        mounts: list[Any] = []
        if not node.runtime.is_simulated:
            mounts = await asyncio.to_thread(self._mounts, spec, attempt, environment)
        given = await node.devices.give(context.uid, spec) if node.devices is not None else Given()
        if node.claims is not None:
            given = replace(given, cdi_names=(*given.cdi_names, *node.claims.cdi_names(pod, spec)))
        environment.update(given.environment)
        options = container_config.ContainerOptions(
            attempt=attempt, image=image, environment=environment, mounts=mounts,
            resources=node.linux_resources(pod, spec),
            target_id=self._target(spec), seccomp_root=node.config.seccomp_dir,
            id_base=context.id_base(), given=given, block_devices=node.volumes.devices(pod, spec),
        )  # fmt: skip
        config = container_config.container_config(pod, spec, options)
        return await node.runtime.create_container(
            seen.sandbox_id, config, context.sandbox_config(seen.sandbox_attempt)
        )

    def _services(self) -> Sequence[Mapping[str, Any]]:
        found = self._context.node.services()
        if found is None and not self._context.is_static:
            raise ConfigError("services have not yet been read at least once, cannot construct envvars")
        return found or ()

    def _mounts(self, spec: Spec, attempt: int, environment: dict[str, str]) -> list[Any]:
        context = self._context
        mounts = context.node.volumes.mounts(context.pod, spec, environment)
        taken = {one.container_path for one in mounts}
        ips = context.seen.ips or [ip for ip in (context.seen.ip,) if ip]
        hosts = write_hosts(context.folder, context.pod, ips, context.node.config.settings.cluster_domain)
        if "/etc/hosts" not in taken:
            mounts.append(container_config.mount("/etc/hosts", hosts, readonly=False))
        note = context.folder / "termination" / f"{spec['name']}-{attempt}"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
        note.chmod(0o666)
        path = spec.get("terminationMessagePath") or "/dev/termination-log"
        mounts.append(container_config.mount(path, note, readonly=False))
        return mounts

    def _target(self, spec: Spec) -> str:
        """Return the container whose processes an ephemeral container is to see. Raises: ConfigError."""
        name = spec.get("targetContainerName")
        if not name:
            return ""
        target = self._context.seen.newest(name)
        if target is None or target.state != "running":
            raise ConfigError(f'unable to find target container "{name}"')
        return target.id
