"""core/v1 Events: what users read under `kubectl describe`.

Repeats are counted on one Event, chatter is cut, and failing to write one never disturbs who reports it; the rules
and figures are client-go's (tools/record).
"""

import asyncio
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Literal

from machinery.api.meta import now
from machinery.api.resources import EVENTS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Forbidden, NotFound

log = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]

MAX_REMEMBERED = 4096
BURST = 25
SECONDS_PER_EVENT = 300.0
"""One object may have BURST events at once, then one each five minutes."""
MAX_MESSAGE_LENGTH = 1024
MAX_WAITING, WRITERS = 20_000, 4


class EventRecorder:
    """Writes Events in the name of one component."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._component = component
        self._host = host
        self._written: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()  # -> (event name, count)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # uid -> (tokens, loop time)
        self._waiting: deque[tuple[dict[str, str], EventType, str, str]] = deque()
        self._writers: set[asyncio.Task[None]] = set()

    async def event(self, obj: Mapping[str, Any], type: EventType, reason: str, message: str) -> None:
        """Report something about `obj`: the object itself, or an ObjectReference to it (or to a field of it).

        Never raises, but for cancellation.
        """
        involved = object_reference(obj)
        if not self._allowed(involved.get("uid") or f"{involved.get('namespace')}/{involved['name']}"):
            return
        message = message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 3] + "..."
        try:
            await self._write(involved, type, reason, message)
        except (NotFound, Forbidden) as error:
            # A namespace on its way out takes no more events; that is nobody's trouble.
            log.debug("event %s about %s was not written: %s", reason, involved["name"], error)
        except (APIError, ConnectionFailed, OSError) as error:
            log.warning("event %s about %s was not written: %s", reason, involved["name"], error)

    def later(self, obj: Mapping[str, Any], type: EventType, reason: str, message: str) -> None:
        """Report as `event` does, without waiting: what is reported matters more than that it was.

        When very many wait to be written, more are dropped.
        """
        if len(self._waiting) >= MAX_WAITING:
            log.warning("event %s was not written: too many wait", reason)
            return
        self._waiting.append((object_reference(obj), type, reason, message))
        if len(self._writers) < WRITERS:
            writer = asyncio.create_task(self._write_waiting(), name=f"events of {self._component}")
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)

    async def _write_waiting(self) -> None:
        while self._waiting:
            obj, type, reason, message = self._waiting.popleft()
            try:
                await self.event(obj, type, reason, message)
            except RuntimeError as error:  # the client was closed meanwhile
                log.debug("event %s was not written: %s", reason, error)

    async def _write(self, involved: dict[str, str], type: EventType, reason: str, message: str) -> None:
        # The version is no part of it: the same thing said of a newer version is a repeat.
        identity = sorted(involved.items() - {("resourceVersion", involved.get("resourceVersion", ""))})
        key = (*(f"{field}={value}" for field, value in identity), type, reason, message)
        # Cluster-scoped objects have no namespace; their events live in "default".
        namespace = involved.get("namespace") or "default"
        if key in self._written:
            name, count = self._written[key]
            try:
                await self._client.patch(EVENTS, name, {"count": count + 1, "lastTimestamp": now()}, namespace)
            except NotFound:
                pass  # it grew old and was removed: begin anew
            else:
                self._remember(key, name, count + 1)
                return
        name = f"{involved['name']}.{os.urandom(8).hex()}"
        body = self._body(name, namespace, involved, type, reason, message)
        await self._client.send("POST", EVENTS.path(namespace), body)
        self._remember(key, name, 1)

    def _body(
        self, name: str, namespace: str, involved: dict[str, str], type: EventType, reason: str, message: str
    ) -> dict[str, Any]:
        time = now()
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        return {
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": type, "reason": reason, "message": message,
            "source": source, "reportingComponent": self._component, "reportingInstance": self._host,
            "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        }  # fmt: skip

    def _remember(self, key: tuple[str, ...], name: str, count: int) -> None:
        self._written[key] = (name, count)
        self._written.move_to_end(key)
        if len(self._written) > MAX_REMEMBERED:
            self._written.popitem(last=False)

    def _allowed(self, uid: str) -> bool:
        """Take a token from the object's bucket, if there is one."""
        time = asyncio.get_running_loop().time()
        tokens, since = self._buckets.get(uid, (float(BURST), time))
        tokens = min(float(BURST), tokens + (time - since) / SECONDS_PER_EVENT)
        allowed = tokens >= 1
        self._buckets[uid] = (tokens - 1 if allowed else tokens, time)
        self._buckets.move_to_end(uid)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed


def object_reference(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return the ObjectReference of an object; a reference is returned as it is."""
    if "metadata" not in obj:
        return {field: str(value) for field, value in obj.items() if value}
    metadata = obj["metadata"]
    reference = {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        **{field: metadata.get(field, "") for field in ("namespace", "name", "uid", "resourceVersion")},
    }
    return {field: value for field, value in reference.items() if value}
