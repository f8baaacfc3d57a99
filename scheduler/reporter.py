"""Tells users why a pod is not placed: an event each time, and its condition when that says something else so far."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from machinery.api.meta import now
from machinery.api.resources import PODS
from machinery.client.events import EventRecorder, EventType
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import APIError
from scheduler.pods import Pod

log = logging.getLogger(__name__)

_AT_ONCE = 8


class Reporter:
    """Writes events and conditions in the names of some schedulers."""

    def __init__(self, client: Client, names: Iterable[str]) -> None:
        self._client = client
        self.recorders = {name: EventRecorder(client, name) for name in names}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._orders: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by uid

    async def tell(self, pod: Pod, kind: EventType, reason: str, text: str) -> None:
        """Tell of something about a pod by an event."""
        async with self._turns:
            await self.recorders[pod.scheduler].event(pod.reference, kind, reason, text)

    async def report(self, pod: Pod, text: str, nominated: str | None) -> None:
        """Tell of a pod that was not placed; `nominated` is its node to be, "" for none any more, None for no news."""
        order = self._orders.setdefault(pod.uid, asyncio.Lock())
        async with order, self._turns:  # what is said last of a pod is to be what stays
            if text:
                await self.recorders[pod.scheduler].event(pod.reference, "Warning", "FailedScheduling", text)
            if pod.condition == text and (nominated is None or nominated == pod.nominated):
                return
            status: dict[str, Any] = {"conditions": [_condition(pod, text)]} if text else {}
            if nominated is not None:
                status["nominatedNodeName"] = nominated or None
            patch = {"metadata": {"uid": pod.uid}, "status": status}
            namespace, name = pod.key
            try:
                await self._client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")
            except (APIError, ConnectionFailed) as error:
                log.info("the condition of %s was not written: %s", pod.key, error)
                return
            pod.condition = text or pod.condition
            pod.nominated = pod.nominated if nominated is None else nominated


def _condition(pod: Pod, text: str) -> dict[str, Any]:
    # The time is that of the change to "False", not of another reason.
    return {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text, "lastProbeTime": None,
        "lastTransitionTime": pod.unplaced_since or now(),
    }  # fmt: skip
