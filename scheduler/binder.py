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
from dataclasses import dataclass, field
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
_MAX_TRIES = 5
_TRICKLE_SECONDS = 1.0
"""An event that has waited this long is sent, whatever else is under way."""

OnBound = Callable[[int, bytes], None]


class Binder:
    """Writes bindings and their events; an async context manager."""

    def __init__(self, config: ClientConfig) -> None:
        self._bindings = Poster(config, connections=BINDINGS_AT_ONCE, user_agent="wherry-scheduler")
        self._events = Poster(config, connections=EVENTS_AT_ONCE, user_agent="wherry-scheduler")
        self._said: deque[_Said] = deque()
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
            EVENTS_DROPPED.add()
            log.warning("too many events wait: none is written about %s", pod.key)
            return
        self._said.append(_Said(pod, node, now(), asyncio.get_running_loop().time()))
        self._send_events()

    def _send_events(self) -> None:
        loop = asyncio.get_running_loop()
        while self._said and self._under_way < EVENTS_AT_ONCE:
            busy = self._bindings.pending > 0
            if busy and (self._under_way or loop.time() - self._said[0].since < _TRICKLE_SECONDS):
                self._look_again(_TRICKLE_SECONDS / 4)
                return
            self._send_event(self._said.popleft())

    def _look_again(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._later)

    def _later(self) -> None:
        self._timer = None
        self._send_events()

    def _send_event(self, said: "_Said") -> None:
        def told(status: int, answer: bytes) -> None:
            self._under_way -= 1
            # A namespace on its way out takes no more events, and what is there already was written after all.
            if status not in (201, 403, 404, 409) and not self._closing:
                self._not_written(said, status, answer)
            self._send_events()

        self._under_way += 1
        body = orjson.dumps(_scheduled_event(said))
        self._events.post(f"/api/v1/namespaces/{said.pod.key.namespace}/events", body, told)

    def _not_written(self, said: "_Said", status: int, answer: bytes) -> None:
        """A connection was cut, or the server is in trouble: say it again, but not for ever."""
        said.tries += 1
        if said.tries < _MAX_TRIES and (status == 0 or status >= 500):
            self._said.append(said)
            return
        EVENTS_DROPPED.add()
        text = answer[:200].decode(errors="replace")
        log.warning("no event was written about %s: %d %s", said.pod.key, status, text)


@dataclass(slots=True)
class _Said:
    """An event that waits to be sent; its name is given once, so that it can't be there twice."""

    pod: Pod
    node: str
    when: str
    since: float
    name: str = field(default_factory=lambda: os.urandom(8).hex())
    tries: int = 0


def _scheduled_event(said: _Said) -> dict[str, Any]:
    pod, when = said.pod, said.when
    namespace, name = pod.key
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": f"{name}.{said.name}", "namespace": namespace},
        "involvedObject": pod.reference, "type": "Normal", "reason": "Scheduled", "action": "Binding",
        "message": f"Successfully assigned {namespace}/{name} to {said.node}",
        "source": {"component": pod.scheduler}, "reportingComponent": pod.scheduler, "reportingInstance": "",
        "firstTimestamp": when, "lastTimestamp": when, "count": 1,
    }  # fmt: skip
