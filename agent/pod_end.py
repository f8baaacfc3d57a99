"""Ends a pod's containers: hooks first, main containers together, then sidecars one by one, within the grace period.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from agent.cri.client import RuntimeFailure
from agent.hooks import run_hook
from agent.pod_context import PodContext
from agent.pod_state import ContainerSeen, Spec, all_specs, sidecars
from agent.pod_worker import KillContainer

# No container is killed without this long to end by itself.
MIN_GRACE_SECONDS = 2
_DEFAULT_SECONDS = 30


class ContainerEnder:
    """Stops the containers of one pod."""

    def __init__(self, context: PodContext) -> None:
        self._context = context
        self.hurry = asyncio.Event()  # set when the grace period was cut short

    def grace_seconds(self, spec: Spec, probe: str = "") -> int:
        """Return how long a container has to end: the deletion's, that of the probe that gave it up, or the pod's."""
        metadata, pod_spec = self._context.pod["metadata"], self._context.pod["spec"]
        if metadata.get("deletionGracePeriodSeconds") is not None:
            return int(metadata["deletionGracePeriodSeconds"])
        of_probe = (spec.get(probe) or {}).get("terminationGracePeriodSeconds") if probe else None
        if of_probe is not None:
            return int(of_probe)
        return int(pod_spec.get("terminationGracePeriodSeconds", _DEFAULT_SECONDS))

    async def kill(self, action: KillContainer) -> None:
        """Stop one container for a reason of its own."""
        spec = self._context.spec(action.name)
        self._context.event_on(spec, "Normal", "Killing", action.why)
        await self.stop(spec, action.id, self.grace_seconds(spec, action.probe))
        self._context.memory.unhealthy.pop(action.id, None)
        self._context.memory.resized.pop(action.id, None)

    async def stop(self, spec: Spec, container_id: str, grace: int, turn: asyncio.Event | None = None) -> None:
        """Run the preStop hook, wait for the container's turn, and stop it; all within `grace` seconds."""
        started = time.monotonic()
        hook = (spec.get("lifecycle") or {}).get("preStop")
        if hook and grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    problem = await run_hook(
                        self._context.node.runtime, hook, spec, container_id, self._context.host
                    )  # fmt: skip
                    if problem:
                        text = f"PreStopHook failed: {problem}"
                        self._context.event_on(spec, "Warning", "FailedPreStopHook", text)
        if turn is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(grace - (time.monotonic() - started), 0)):
                    await turn.wait()
        left = max(grace - int(time.monotonic() - started), MIN_GRACE_SECONDS)
        with contextlib.suppress(RuntimeFailure):
            await self._context.node.runtime.stop_container(container_id, left)

    def running(self) -> list[tuple[Spec, ContainerSeen]]:
        """Return the containers that run, with their specs."""
        newest = ((spec, self._context.seen.newest(spec["name"])) for _, spec in all_specs(self._context.pod))
        return [(spec, last) for spec, last in newest if last is not None and last.state in ("running", "created")]

    async def stop_all(self, grace: int | None = None, *, only: Sequence[str] | None = None) -> None:
        """Stop all containers that run (or those named), sidecars after the others and in reverse order.

        Args: `grace` is in seconds; each container's own when it is left out.
        """
        found = [(spec, last) for spec, last in self.running() if only is None or spec["name"] in only]
        lasting = [spec["name"] for spec in sidecars(self._context.pod)]
        order = [[pair for pair in found if pair[0]["name"] not in lasting]]
        order += [[pair for pair in found if pair[0]["name"] == name] for name in reversed(lasting)]
        turn = asyncio.Event()
        turn.set()
        work = []
        for pairs in (step for step in order if step):
            done = asyncio.Event()
            for spec, _ in pairs:
                self._context.event_on(spec, "Normal", "Killing", f"Stopping container {spec['name']}")
            work.append(self._stop_step(pairs, grace, turn, done))
            turn = done
        await asyncio.gather(*work)

    async def _stop_step(
        self, pairs: Sequence[tuple[Spec, ContainerSeen]], grace: int | None, turn: asyncio.Event, done: asyncio.Event
    ) -> None:
        try:
            await asyncio.gather(
                *(
                    self.stop(spec, last.id, self.grace_seconds(spec) if grace is None else grace, turn)
                    for spec, last in pairs
                )
            )
        finally:
            done.set()
