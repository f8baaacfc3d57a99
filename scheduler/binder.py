"""What the scheduler writes most: bindings, and the events that tell of them.

Bindings go out as prepared bytes over connections of their own. Events are real and come after: while bindings are
under way they trickle, and catch up when there is time. They are held in a queue whose length is bounded; one that
finds no room is counted and logged, never lost in silence.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from machinery.api.meta import now
from machinery.client.kubeconfig import ClientConfig
from machinery.client.poster import Poster
from scheduler.metrics import EVENTS_DROPPED
from scheduler.pods import Pod

log = logging.getLogger(__name__)

BINDINGS_AT_ONCE = 32
EVENTS_AT_ONCE = 8
MAX_EVENTS = 100_000
_TRICKLE_SECONDS = 1.0
"""An event that has waited this long is sent, whatever else is under way."""

OnBound = Callable[[int, bytes], None]


class Binder:
    """Writes bindings and their events; an async context manager."""

    def __init__(self, config: ClientConfig) -> None:
        self._bindings = Poster(config, connections=BINDINGS_AT_ONCE, user_agent="wherry-scheduler")
        self._events = Poster(config, connections=EVENTS_AT_ONCE, user_agent="wherry-scheduler")
        self._said: deque[tuple[float, str, Pod, str]] = deque()
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    async def __aenter__(self) -> "Binder":
        await self._bindings.__aenter__()
        await self._events.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        await self._bindings.__aexit__(*error)
        await self._events.__aexit__(*error)

    @property
    def pending(self) -> int:
        """How many bindings are not answered yet."""
        return self._bindings.pending

    def bind(self, pod: Pod, node: str, on_answer: OnBound) -> None:
        """Bind a pod to a node; `on_answer` is called with the status and body of the answer."""
        namespace, name = pod.key
        body = (
            f'{{"apiVersion":"v1","kind":"Binding","metadata":{{"name":"{name}","namespace":"{namespace}",'
            f'"uid":"{pod.uid}"}},"target":{{"apiVersion":"v1","kind":"Node","name":"{node}"}}}}'
        )

        def answered(status: int, answer: bytes) -> None:
            on_answer(status, answer)
            if self._said:
                self._send_events()

        self._bindings.post(f"/api/v1/namespaces/{namespace}/pods/{name}/binding", body.encode(), answered)

    # ---- events

    def say_scheduled(self, pod: Pod, node: str) -> None:
        """Tell users that a pod was assigned to a node."""
        if len(self._said) >= MAX_EVENTS:
            EVENTS_DROPPED.inc()
            log.warning("too many events wait: none is written about %s", pod.key)
            return
        self._said.append((asyncio.get_running_loop().time(), now(), pod, node))
        self._send_events()

    def _send_events(self) -> None:
        loop = asyncio.get_running_loop()
        while self._said and self._under_way < EVENTS_AT_ONCE:
            busy = self._bindings.pending > 0
            if busy and (self._under_way or loop.time() - self._said[0][0] < _TRICKLE_SECONDS):
                if self._timer is None:
                    self._timer = loop.call_later(_TRICKLE_SECONDS / 4, self._later)
                return
            _, when, pod, node = self._said.popleft()
            self._under_way += 1
            body = orjson.dumps(_scheduled_event(pod, node, when))
            self._events.post(f"/api/v1/namespaces/{pod.key.namespace}/events", body, self._told)

    def _later(self) -> None:
        self._timer = None
        self._send_events()

    def _told(self, status: int, answer: bytes) -> None:
        self._under_way -= 1
        # A namespace on its way out takes no more events; that is nobody's trouble.
        if status not in (201, 403, 404) and not self._closing:
            log.warning("an event was not written: %d %s", status, answer[:200].decode(errors="replace"))
        self._send_events()


def _scheduled_event(pod: Pod, node: str, when: str) -> dict[str, Any]:
    namespace, name = pod.key
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": f"{name}.{os.urandom(8).hex()}", "namespace": namespace},
        "involvedObject": pod.reference, "type": "Normal", "reason": "Scheduled", "action": "Binding",
        "message": f"Successfully assigned {namespace}/{name} to {node}",
        "source": {"component": pod.scheduler}, "reportingComponent": pod.scheduler, "reportingInstance": "",
        "firstTimestamp": when, "lastTimestamp": when, "count": 1,
    }  # fmt: skip
