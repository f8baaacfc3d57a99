"""Follows kinds of objects for a page, all in one stream: a browser opens but six connections to a server.

Each line of the stream is a JSON object:
    {"kind": "pods", "type": "LIST", "items": [...]}       all there is; whatever was known before is void
    {"kind": "pods", "type": "SET", "object": {...}}       new or changed
    {"kind": "pods", "type": "GONE", "object": {...}}      deleted
    {"kind": "pods", "type": "ERROR", "code": 403, "message": "..."}   not followed any more
    {"type": "DOWN", "message": "..."}, {"type": "BEAT"}   the server can't be reached; nothing has happened
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from machinery.api.meta import Resource
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Expired, Gone

KINDS = {
    one.plural: one
    for one in (
        Resource("", "v1", "pods", "Pod"), Resource("", "v1", "events", "Event"),
        Resource("", "v1", "nodes", "Node", namespaced=False),
        Resource("", "v1", "namespaces", "Namespace", namespaced=False),
        Resource("", "v1", "services", "Service"),
        Resource("apps", "v1", "deployments", "Deployment"), Resource("apps", "v1", "statefulsets", "StatefulSet"),
        Resource("apps", "v1", "daemonsets", "DaemonSet"), Resource("apps", "v1", "replicasets", "ReplicaSet"),
        Resource("batch", "v1", "jobs", "Job"), Resource("batch", "v1", "cronjobs", "CronJob"),
    )
}  # fmt: skip
"""What a page may follow. There are no Secrets here and no ConfigMaps: no page shows them."""
_RETRY_SECONDS = 2.0
_BEAT_SECONDS = 20.0
_QUEUED = 1000
_UNSHOWN = ("managedFields", "annotations")
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a page follows: kinds, in one namespace or ("") all, and of pods and events only those of one pod."""

    kinds: tuple[str, ...]
    namespace: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)  # field selectors by kind


async def lines(client: Client, wanted: Wanted) -> AsyncGenerator[bytes]:
    """Yield lines for ever, several in a piece when much happens. A slow reader holds the watches up, not memory."""
    queue: asyncio.Queue[Line] = asyncio.Queue(_QUEUED)
    tasks = [asyncio.create_task(_follow(client, KINDS[kind], wanted, queue)) for kind in wanted.kinds]
    try:
        while True:
            yield await _piece(queue)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _piece(queue: asyncio.Queue[Line]) -> bytes:
    try:
        async with asyncio.timeout(_BEAT_SECONDS):
            found = [await queue.get()]
    except TimeoutError:
        return b'{"type":"BEAT"}\n'
    with contextlib.suppress(asyncio.QueueEmpty):
        while True:
            found.append(queue.get_nowait())
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in found)


async def _follow(client: Client, resource: Resource, wanted: Wanted, queue: asyncio.Queue[Line]) -> None:
    kind = resource.plural
    while True:
        try:
            await _list_and_watch(client, resource, wanted, queue)
        except (Expired, Gone):
            continue
        except APIError as error:
            if error.code < 500:
                await queue.put({"kind": kind, "type": "ERROR", "code": error.code, "message": str(error)})
                return
            await queue.put({"type": "DOWN", "message": str(error)})
        except (ConnectionFailed, OSError) as error:
            await queue.put({"type": "DOWN", "message": str(error)})
        await asyncio.sleep(_RETRY_SECONDS)


async def _list_and_watch(client: Client, resource: Resource, wanted: Wanted, queue: asyncio.Queue[Line]) -> None:
    kind, selector = resource.plural, wanted.fields.get(resource.plural, "")
    namespace = wanted.namespace if resource.namespaced else ""
    listed = await client.list(resource, namespace, field_selector=selector)
    items = await asyncio.to_thread(_shown_all, listed["items"])
    await queue.put({"kind": kind, "type": "LIST", "items": items})
    version = listed["metadata"]["resourceVersion"]
    while True:
        events = client.watch(resource, namespace, resource_version=version, field_selector=selector)
        async with contextlib.aclosing(events):
            async for event in events:
                obj = event.decode()
                version = obj["metadata"]["resourceVersion"]
                if event.type != "BOOKMARK":
                    happened = "GONE" if event.type == "DELETED" else "SET"
                    await queue.put({"kind": kind, "type": happened, "object": shown(obj)})


def _shown_all(items: Sequence[Line]) -> list[Line]:
    return [shown(one) for one in items]


def shown(obj: Line) -> Line:
    """Return an object without what no page shows and what makes most of its size."""
    metadata = {name: value for name, value in obj["metadata"].items() if name not in _UNSHOWN}
    found = {**obj, "metadata": metadata}
    if "images" in (obj.get("status") or {}):
        found["status"] = {name: value for name, value in obj["status"].items() if name != "images"}
    return found
