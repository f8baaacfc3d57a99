"""Brings the running containers of one pod to the resources they were granted.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

import asyncio
from typing import Any

from agent import cgroups
from agent.cri.client import RuntimeFailure
from agent.environment import ConfigError
from agent.pod_context import PodContext
from agent.pod_state import ContainerSeen, Seen, Spec
from agent.resizes import asked

_FIELDS = ("cpu_shares", "cpu_quota", "memory_limit_in_bytes", "cpuset_cpus")

_BOUNDS = ("cpu_quota", "memory_limit_in_bytes")


def _bound(resources: Any, field: str) -> Any:
    """A field as it holds: none and -1 are both no limit."""
    value = getattr(resources, field)
    return max(value, 0) if field in _BOUNDS else value


class PodResizer:
    """Resizes one pod."""

    def __init__(self, context: PodContext) -> None:
        self._context = context
        self._known: dict[str, Any] = {}  # container id -> CRI resources, where the runtime doesn't tell them
        self._was_behind = False

    async def resize(self, seen: Seen) -> None:
        """Grant what is asked for if it fits, and change what runs otherwise. Raises: RuntimeFailure."""
        context = self._context
        resizes = context.node.resizes
        if resizes.grant(context.desired):
            context.pod = resizes.as_granted(context.desired)
            # Before the containers where the pod's bounds are to be wider; where narrower, the kernel takes them after.
            await self._bound_pod()
            self._was_behind = True
        error = ""
        is_behind = False
        for name in asked(context.pod):
            spec, last = context.spec(name), seen.newest(name)
            if last is None or last.state != "running":
                continue
            try:
                wanted = context.node.linux_resources(context.pod, spec)
            except ConfigError as failure:  # CPUs of its own can't be had any more: it runs on as it does
                error = str(failure)
                continue
            actual = self._known.setdefault(last.id, wanted) if last.resources is None else last.resources
            changed = [field for field in _FIELDS if _bound(wanted, field) != _bound(actual, field)]
            for field in changed:
                if field in _BOUNDS and not getattr(wanted, field):
                    setattr(wanted, field, -1)  # to the runtime 0 means: as it was
            if not changed:
                resizes.applied(last.id, spec.get("resources") or {})
                continue
            is_behind = True
            error = error or await self._change(spec, last, wanted, changed)
        if self._was_behind and not is_behind:
            await self._bound_pod()
        self._was_behind = is_behind
        if error or not is_behind:
            resizes.done(context.uid, error)

    async def _bound_pod(self) -> None:
        if not self._context.node.runtime.is_simulated:
            await asyncio.to_thread(cgroups.make_pod, self._context.pod)

    async def _change(self, spec: Spec, last: ContainerSeen, wanted: Any, changed: list[str]) -> str:
        """Change one container, or have it restarted where its resize policy says so; returns what went wrong."""
        context = self._context
        policies = {one["resourceName"]: one["restartPolicy"] for one in spec.get("resizePolicy") or ()}
        names = {"memory" if field.startswith("memory") else "cpu" for field in changed if field != "cpuset_cpus"}
        if any(policies.get(name) == "RestartContainer" for name in names):
            context.memory.resized[last.id] = f"Container {spec['name']} resize requires restart"
            return ""
        if "memory_limit_in_bytes" in changed and (error := await self._below_usage(last.id, wanted)):
            return error
        try:
            await context.node.runtime.update_container(last.id, wanted)
        except RuntimeFailure as error:
            if error.is_away:
                raise
            return str(error)
        self._known[last.id] = wanted
        context.node.resizes.applied(last.id, spec.get("resources") or {})
        context.wake()
        return ""

    async def _below_usage(self, container_id: str, wanted: Any) -> str:
        """Return why a limit can't be had without the container's death, "" when it can; upstream's words."""
        limit = wanted.memory_limit_in_bytes
        if limit <= 0:
            return ""
        for one in await self._context.node.runtime.stats():
            used = one.memory.usage_bytes.value or one.memory.working_set_bytes.value
            if one.attributes.id == container_id and used >= limit:
                return f"attempting to set container memory limit ({limit}) below current usage ({used})"
        return ""
