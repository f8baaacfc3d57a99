"""metrics.k8s.io: what nodes and pods use now, asked of the agents when somebody wants to know.

Upstream leaves this group to an add-on, metrics-server. It is answered here until somebody registers one: an APIService
for the group goes first. Nothing is sampled while nobody asks.
Source: https://github.com/kubernetes/metrics/blob/master/pkg/apis/metrics/v1beta1/types.go
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from apiserver.agent_address import agent_authority
from apiserver.aggregation.backend import Backend
from apiserver.endpoints.reading import respond
from apiserver.registry.kind import Object
from apiserver.request import Call
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api import selectors
from machinery.api.resources import NODES, PODS

log = logging.getLogger(__name__)

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
_API_VERSION = f"{GROUP}/{VERSION}"
# Answers of an agent are good for as long; metrics-server looks every 15 s.
_FRESH_SECONDS = 10.0
# An agent that was not asked for a while knows no rates yet: it is asked again after this.
_RATE_SECONDS = 1.2
_AGENT_SECONDS = 5.0
_AT_ONCE = 32
_WINDOW = "10s"


def _resource(plural: str, kind: str, *, namespaced: bool) -> dict[str, Any]:
    return {
        "resource": plural, "responseKind": {"group": GROUP, "version": VERSION, "kind": kind},
        "scope": "Namespaced" if namespaced else "Cluster", "singularResource": "", "verbs": ["get", "list"],
    }  # fmt: skip


class ResourceMetrics:
    """Answers for the group, as a server behind an APIService would."""

    def __init__(self, cache: WatchCache, tls: ssl.SSLContext) -> None:
        """Args: `tls` carries the certificate this server shows to agents."""
        self._cache = cache
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._known: dict[str, tuple[float, Object]] = {}  # node: (when, summary)
        self.backend = Backend(
            f"{VERSION}.{GROUP}",
            {"group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100}, 0,
            available=True,
            resources=[
                _resource("nodes", "NodeMetrics", namespaced=False), _resource("pods", "PodMetrics", namespaced=True),
            ],
        )  # fmt: skip

    async def close(self) -> None:
        """End connections to agents."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request below the group. Raises: NotFound, MethodNotAllowed, BadRequest."""
        info = call.info
        if not info.is_resource or not info.resource:
            return respond(orjson.dumps(self._listed()))
        if info.resource not in ("nodes", "pods") or info.subresource:
            raise errors.NotFound("the server could not find the requested resource")
        if info.verb not in ("get", "list"):
            raise errors.MethodNotAllowed("the server does not allow this method on the requested resource")
        if info.resource == "nodes":
            return await self._nodes(call)
        return await self._pods(call)

    def _listed(self) -> Object:
        resources = [
            {
                "name": one["resource"], "singularName": "", "namespaced": one["scope"] == "Namespaced",
                "kind": one["responseKind"]["kind"], "verbs": one["verbs"],
            }
            for one in self.backend.resources
        ]  # fmt: skip
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": _API_VERSION, "resources": resources}

    async def _nodes(self, call: Call) -> web.Response:
        entries = _chosen(call, self._cache.collection(NODES.group_resource).entries("/registry/nodes/"))
        summaries = await self._summaries([entry.name for entry in entries])
        items = [
            {**_head("NodeMetrics", entry, summaries[entry.name]["node"]), "usage": usage}
            for entry in entries
            if entry.name in summaries and (usage := _usage(summaries[entry.name]["node"]))
        ]
        return _answer(call, "NodeMetrics", items)

    async def _pods(self, call: Call) -> web.Response:
        namespace = call.info.namespace
        prefix = f"/registry/pods/{namespace}/" if namespace else "/registry/pods/"
        entries = _chosen(call, self._cache.collection(PODS.group_resource).entries(prefix))
        places = {entry.key: str(entry.object()["spec"].get("nodeName", "")) for entry in entries}
        summaries = await self._summaries(sorted(set(places.values()) - {""}))
        used = {
            (pod["podRef"]["namespace"], pod["podRef"]["name"]): pod
            for summary in summaries.values()
            for pod in summary["pods"]
        }
        items = []
        for entry in entries:
            pod = used.get((entry.namespace, entry.name))
            if pod is None or not _usage(pod):
                continue
            containers = [{"name": one["name"], "usage": _usage(one)} for one in pod["containers"]]
            items.append({**_head("PodMetrics", entry, pod), "containers": containers})
        return _answer(call, "PodMetrics", items)

    async def _summaries(self, nodes: Iterable[str]) -> Mapping[str, Object]:
        """Return what the agents of these nodes tell; those that can't be reached are left out."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def read(name: str) -> tuple[str, Object | None]:
            async with limit:
                return name, await self._summary(name)

        found = await asyncio.gather(*(read(name) for name in nodes))
        return {name: summary for name, summary in found if summary is not None}

    async def _summary(self, name: str) -> Object | None:
        at, known = self._known.get(name, (0.0, {}))
        if time.monotonic() - at < _FRESH_SECONDS:
            return known
        address = self._address(name)
        if address is None:
            return None
        try:
            summary = await self._ask(address)
            if not _has_rates(summary):
                await asyncio.sleep(_RATE_SECONDS)
                summary = await self._ask(address)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.info("the agent of %s tells nothing: %s", name, error)
            return None
        self._known[name] = (time.monotonic(), summary)
        return summary

    def _address(self, name: str) -> str | None:
        entry = self._cache.collection(NODES.group_resource).get(f"/registry/nodes/{name}")
        try:
            return agent_authority(entry.object()) if entry is not None else None
        except errors.InternalError:
            return None

    async def _ask(self, address: str) -> Object:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls), timeout=aiohttp.ClientTimeout(total=_AGENT_SECONDS)
            )
        async with self._session.get(f"https://{address}/stats/summary") as answer:
            answer.raise_for_status()
            return orjson.loads(await answer.read())


def _has_rates(summary: Object) -> bool:
    used = [summary["node"], *(one for pod in summary["pods"] for one in pod["containers"])]
    return all("usageNanoCores" in (one.get("cpu") or {}) for one in used)


def _usage(used: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what is used as quantities; empty while there is no rate yet."""
    cpu, memory = used.get("cpu") or {}, used.get("memory") or {}
    if "usageNanoCores" not in cpu or "workingSetBytes" not in memory:
        return {}
    return {"cpu": f"{cpu['usageNanoCores']}n", "memory": f"{memory['workingSetBytes'] // 1024}Ki"}


def _head(kind: str, entry: Entry, used: Mapping[str, Any]) -> Object:
    obj = entry.object()["metadata"]
    metadata = {"name": entry.name, "creationTimestamp": used["cpu"]["time"]}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    if obj.get("labels"):
        metadata["labels"] = obj["labels"]
    return {
        "kind": kind, "apiVersion": _API_VERSION, "metadata": metadata, "timestamp": used["cpu"]["time"],
        "window": _WINDOW,
    }  # fmt: skip


def _chosen(call: Call, entries: Iterable[Entry]) -> list[Entry]:
    """Return the objects that a request asks for by name and by labels."""
    try:
        labels = selectors.parse_label_selector(call.query.get("labelSelector", ""))
        fields = selectors.parse_field_selector(call.query.get("fieldSelector", ""))
    except ValueError as error:
        raise errors.BadRequest(f"unable to parse requirement: {error}") from error
    return list(_matching(call.info.name, labels, fields, entries))


def _matching(name: str, labels: Any, fields: Any, entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        where = {"metadata.name": entry.name, "metadata.namespace": entry.namespace}
        if (not name or entry.name == name) and labels.matches(entry.labels()) and fields.matches(where):
            yield entry


def _answer(call: Call, kind: str, items: list[Object]) -> web.Response:
    if call.info.verb == "get":
        if not items:
            what = f"{call.info.resource}.{GROUP}"
            raise errors.NotFound(
                f'{what} "{call.info.name}" not found', group=GROUP, kind=call.info.resource, name=call.info.name
            )
        return respond(orjson.dumps(items[0]))
    body = {"kind": f"{kind}List", "apiVersion": _API_VERSION, "metadata": {}, "items": items}
    return respond(orjson.dumps(body))
