"""Makes victims of a preemption go: says why in their status, deletes them, tells users."""

import asyncio
import logging
from typing import Any

from machinery.api.meta import now
from machinery.api.resources import PODS
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, PatchType
from machinery.errors import Conflict, NotFound
from scheduler.pods import Pod

log = logging.getLogger(__name__)

_AT_ONCE = 16


class Evictor:
    """Deletes victims."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def evict(self, victims: tuple[Pod, ...], preemptor: Pod, node: str, recorder: EventRecorder) -> None:
        """Delete the victims that are not on their way out already. Raises: APIError, ConnectionFailed."""
        going = [victim for victim in victims if not victim.deleting]
        await asyncio.gather(*(self._evict_one(victim, preemptor, node, recorder) for victim in going))

    async def _evict_one(self, victim: Pod, preemptor: Pod, node: str, recorder: EventRecorder) -> None:
        condition: dict[str, Any] = {
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": f"{preemptor.scheduler}: preempting to accommodate a higher priority pod",
            "lastProbeTime": None, "lastTransitionTime": now(),
        }  # fmt: skip
        patch = {"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}
        namespace, name = victim.key
        async with self._turns:
            try:
                await self._client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
                await self._client.delete(PODS, name, namespace, options={"preconditions": {"uid": victim.uid}})
            except (NotFound, Conflict):
                return  # gone, or another of its name: its room is free either way
        text = f"Preempted by pod {preemptor.uid} on node {node}"
        await recorder.event(victim.reference, "Normal", "Preempted", text)
