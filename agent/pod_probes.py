"""Probes the containers of one pod that run, and nothing else."""

import asyncio
from collections.abc import Callable, Sequence

from agent.pod_context import PodContext
from agent.pod_state import Seen, Spec, all_specs
from agent.probes import KINDS, Prober, Target, Verdict

_WORDS = {"startupProbe": "startup", "livenessProbe": "liveness"}


class PodProbes:
    """The probers of one pod."""

    def __init__(self, context: PodContext) -> None:
        self._context = context
        self._probers: dict[str, Prober] = {}

    def keep(self, seen: Seen, kinds: Sequence[str] = KINDS) -> None:
        """Begin to probe what runs now; stop where it doesn't, and all that is not of these kinds."""
        for prober in self._probers.values():
            prober.keep(kinds)
        wanted: dict[str, Spec] = {}
        for _, spec in all_specs(self._context.pod):
            last = seen.newest(spec["name"])
            if last is not None and last.state == "running" and any(spec.get(kind) for kind in KINDS):
                wanted[last.id] = spec
        for container_id in set(self._probers) - set(wanted):
            self._context.spawn(self._probers.pop(container_id).close())
        for container_id, spec in wanted.items():
            if container_id not in self._probers and self._context.host:
                target = Target(self._context.pod, spec, container_id, self._context.host)
                self._probers[container_id] = Prober(
                    self._context.node.runtime,
                    target,
                    self._hear(container_id, spec),
                    self._warn(spec),
                    self._observe(spec),
                )

    def _hear(self, container_id: str, spec: Spec) -> Callable[[Verdict], None]:
        memory = self._context.memory

        def hear(verdict: Verdict) -> None:
            if verdict.kind == "readinessProbe":
                memory.ready[container_id] = verdict.healthy
            elif verdict.kind == "startupProbe" and verdict.healthy:
                memory.started[container_id] = True
            elif not verdict.healthy:
                text = f"Container {spec['name']} failed {_WORDS[verdict.kind]} probe"
                memory.unhealthy[container_id] = (text, verdict.kind)
            self._context.wake()

        return hear

    def _warn(self, spec: Spec) -> Callable[[str, str], None]:
        return lambda reason, text: self._context.event_on(spec, "Warning", reason, text)

    def _observe(self, spec: Spec) -> Callable[[str, bool, float], None]:
        metrics, metadata, name = self._context.node.metrics, self._context.pod["metadata"], spec["name"]
        whose = (name, metadata["name"], metadata["namespace"])

        def observe(kind: str, healthy: bool, seconds: float) -> None:
            result = "successful" if healthy else "failed"
            metrics.add("prober_probe_total", kind, result, *whose, metadata["uid"])
            metrics.observe("prober_probe_duration_seconds", seconds, kind, *whose)

        return observe

    async def close(self) -> None:
        """Stop probing."""
        await asyncio.gather(*(prober.close() for prober in self._probers.values()), return_exceptions=True)
        self._probers.clear()
        metadata = self._context.pod["metadata"]
        self._context.node.metrics.forget("prober_", pod=metadata["name"], namespace=metadata["namespace"])
