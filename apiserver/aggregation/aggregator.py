"""Follows APIServices: says which are available, and sends requests to the servers behind them.

Every group version this server answers for itself has an APIService too, kept by this module.
Source: https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web

from apiserver.aggregation.backend import Backend, BackendClient, Unavailable
from apiserver.aggregation.priorities import group_priority, version_priority
from apiserver.auth.request_header import EXTRA, GROUP, UID, USER, headers_of
from apiserver.endpoints.proxy import hand_back, join, request_headers
from apiserver.registry.apiregistration import KIND
from apiserver.registry.catalog import Catalog, version_rank
from apiserver.registry.kind import Object
from apiserver.registry.rest import Rest, WriteOptions
from apiserver.request import Call
from machinery import errors
from machinery.api import meta
from machinery.api.resources import API_SERVICES

log = logging.getLogger(__name__)

_MANAGED = "kube-aggregator.kubernetes.io/automanaged"
_SOON_SECONDS, _LATER_SECONDS = 1.0, 10.0
_LOCAL = ("True", "Local", "Local APIServices are always available")


class BuiltIn(Protocol):
    """Something in this process that answers for a group version as a server behind an APIService would."""

    backend: Backend

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request below the group version."""


class Aggregator:
    """The extension API servers there are."""

    def __init__(
        self, rest: Rest, catalog: Catalog, client: BackendClient, built_in: Mapping[str, BuiltIn] | None = None
    ) -> None:
        """Args: `built_in` are by APIService names the groups that this process answers for until another does."""
        self._rest = rest
        self._catalog = catalog
        self._client = client
        self._collection = rest.storage.cache.collection(API_SERVICES.group_resource)
        self._built_in = built_in or {}
        self._listed = -1
        self.backends: dict[tuple[str, str], Backend] = {}
        self.changes = 0  # grows when what the backends tell of themselves changes

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()

    def find(self, call: Call) -> Backend | None:
        """Return who answers a request in our place, if anyone."""
        if not self._refreshed():
            return None
        info = call.info
        if info.is_resource:
            backend = self.backends.get((info.group, info.version))
        else:
            parts = info.path.split("/")
            backend = self.backends.get((parts[2], parts[3])) if len(parts) >= 4 and parts[1] == "apis" else None
        return None if backend is None or self._is_defined(backend) else backend

    def _is_defined(self, backend: Backend) -> bool:
        """Whether users defined kinds of a group version that would else be answered for here."""
        return backend.name in self._built_in and bool(self._catalog.kinds(*backend.group_version))

    def _refreshed(self) -> dict[tuple[str, str], Backend]:
        """Return the backends as the APIServices in the cache name them."""
        if self._listed != self._collection.generation:
            self._listed = self._collection.generation
            known = {one.name: one for one in self.backends.values()}
            found = {one.backend.group_version: one.backend for one in self._built_in.values()}
            for entry in self._collection.entries(""):
                if b'"service":{' not in entry.value:
                    continue
                obj = entry.object()
                spec = obj["spec"]
                backend = known.get(entry.name)
                if backend is None or backend.spec != spec:
                    backend = Backend(entry.name, spec, entry.revision)
                    self.changes += 1
                backend.available = _condition(obj).get("status") == "True"
                found[backend.group_version] = backend
            if found.keys() != self.backends.keys():
                self.changes += 1
            self.backends = found
        return self.backends

    # ---- requests

    async def handle(self, call: Call, backend: Backend) -> web.StreamResponse:
        """Let a backend answer. Raises: ServiceUnavailable."""
        http = call.http
        if (built_in := self._built_in.get(backend.name)) is not None and built_in.backend is backend:
            return await built_in.handle(call)
        if not backend.available:
            raise errors.ServiceUnavailable("service unavailable")
        headers = request_headers(call)
        for name in [one for one in headers if one.lower().startswith("x-remote-")]:
            del headers[name]
        for name, value in headers_of(call.user):
            headers.add(name, value)
        try:
            url = self._client.url(backend, http.raw_path)
        except Unavailable as error:
            raise errors.ServiceUnavailable(f"service unavailable: {error}") from error
        options: dict[str, Any] = {
            "ssl": self._client.tls(backend),
            "server_hostname": self._client.server_name(backend),
        }
        session = self._client.client()
        try:
            if "websocket" in http.headers.get("Upgrade", "").lower():
                return await _websocket(call, session, url, headers, options)
            body = http.content if http.body_exists else None
            async with session.request(
                http.method, url, headers=headers, data=body, allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"), **options,
            ) as answer:  # fmt: skip
                return await hand_back(call, answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.ServiceUnavailable(f"error trying to reach service: {error}") from error

    # ---- what is told of them

    def groups(self) -> Iterator[tuple[str, list[Backend]]]:
        """Yield the groups that backends alone answer for, each with its versions, the preferred first."""
        found: dict[str, list[Backend]] = {}
        for (group, _), backend in self._refreshed().items():
            found.setdefault(group, []).append(backend)
        own = set(self._catalog.groups())
        for group in sorted(found, key=lambda one: (-_group_priority(found[one]), one)):
            if group not in own:
                yield group, sorted(found[group], key=_version_order)

    def openapi_v3(self, path: str) -> bytes | None:
        """Return the document of a backend ("apis/GROUP/VERSION"); None when no backend answers for it."""
        parts = path.split("/")
        backend = self._refreshed().get((parts[1], parts[2])) if len(parts) == 3 and parts[0] == "apis" else None
        return backend.openapi_v3 or None if backend is not None else None

    # ---- the controller

    async def run(self) -> None:
        """Keep conditions, and the APIServices of what this server answers for itself, until cancelled."""
        await self._rest.storage.cache.ready.wait()
        while True:
            with self._collection.watch("", after=None) as watcher:
                while not watcher.overrun:
                    soon = False
                    try:
                        await self._keep_local()
                        soon = await self._look_at_all()
                    except errors.APIError as error:
                        log.warning("API services: %s", error)
                        soon = True
                    await watcher.wait(_SOON_SECONDS if soon else _LATER_SECONDS)
                    watcher.take()

    async def _look_at_all(self) -> bool:
        """Ask each backend how it is. Return whether one is to be asked again soon."""
        backends = [one for one in self._refreshed().values() if "service" in one.spec]
        if not backends:
            return False
        results = await asyncio.gather(*(self._look_at(one) for one in backends))
        return not all(results)

    async def _look_at(self, backend: Backend) -> bool:
        before = backend.resources, backend.openapi_v3
        was_available = backend.available
        try:
            await self._client.look(backend)
            if not was_available or not backend.openapi_v2:
                await self._client.read_documents(backend)
            condition = ("True", "Passed", "all checks passed")
        except Unavailable as error:
            condition = ("False", error.reason, str(error))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            condition = ("False", "FailedDiscoveryCheck", f"its answer can't be read: {error!r}")
        if (backend.resources, backend.openapi_v3) != before:
            self.changes += 1
        with contextlib.suppress(errors.NotFound, errors.Conflict):
            await self._set_condition(backend.name, condition)
        return condition[0] == "True"

    async def _set_condition(self, name: str, wanted: tuple[str, str, str]) -> None:
        entry = self._collection.get(KIND.key("", name))
        if entry is not None and _told(_condition(entry.object())) == wanted:
            return

        def changed(obj: Object) -> Object:
            before = _condition(obj)
            status, reason, message = wanted
            since = before["lastTransitionTime"] if before.get("status") == status else meta.now()
            condition = {"type": "Available", "status": status, "reason": reason, "message": message}
            condition["lastTransitionTime"] = since
            present = (obj.get("status") or {}).get("conditions") or ()
            kept = [condition if one["type"] == "Available" else one for one in present]
            return {**obj, "status": {"conditions": kept if before else [*kept, condition]}}

        await self._rest.replace(KIND, "", name, changed, WriteOptions())

    async def _keep_local(self) -> None:
        """Write an APIService for each group version served here, and remove those of definitions that went."""
        wanted = {one["metadata"]["name"]: one for one in self._local()}
        present = {entry.name: entry for entry in self._collection.entries("")}
        for name, obj in wanted.items():
            if name not in present:
                with contextlib.suppress(errors.AlreadyExists):
                    await self._rest.create(KIND, "", orjson.loads(orjson.dumps(obj)), WriteOptions())
            if name not in present or _told(_condition(present[name].object())) != _LOCAL:
                if name in present and b'"service":{' in present[name].value:
                    continue  # somebody put another server in our place
                with contextlib.suppress(errors.NotFound):
                    await self._set_condition(name, _LOCAL)
        for name, entry in present.items():
            labels = entry.object()["metadata"].get("labels") or {}
            if name not in wanted and labels.get(_MANAGED) == "true":
                with contextlib.suppress(errors.NotFound):
                    await self._rest.delete(KIND, "", name, {}, dry_run=False)

    def _local(self) -> Iterator[Object]:
        for backend in [one.backend for one in self._built_in.values() if not self._is_defined(one.backend)]:
            yield {"metadata": {"name": backend.name, "labels": {_MANAGED: "onstart"}}, "spec": dict(backend.spec)}
        for group in self._catalog.groups():
            versions = self._catalog.versions(group)
            for index, version in enumerate(versions):
                custom = all(kind.user_defined for kind in self._catalog.kinds(group, version))
                yield {
                    "metadata": {"name": f"{version}.{group}", "labels": {_MANAGED: "true" if custom else "onstart"}},
                    "spec": {
                        "group": group, "version": version,
                        "groupPriorityMinimum": group_priority(group, custom=custom),
                        "versionPriority": version_priority(index, len(versions), custom=custom),
                    },
                }  # fmt: skip


async def _websocket(
    call: Call, session: aiohttp.ClientSession, url: Any, headers: Any, options: dict[str, Any]
) -> web.StreamResponse:
    offered = [one.strip() for one in call.http.headers.get("Sec-WebSocket-Protocol", "").split(",") if one.strip()]
    kept = [(name, value) for name, value in headers.items() if not name.lower().startswith("sec-websocket")]
    async with session.ws_connect(url, headers=kept, protocols=offered, **options) as there:
        here = web.WebSocketResponse(protocols=[there.protocol] if there.protocol else ())
        await here.prepare(call.http)
        await join(here, there)
        return here


def _condition(service: Object) -> dict[str, Any]:
    conditions: Iterable[dict[str, Any]] = (service.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Available"), {})


def _told(condition: dict[str, Any]) -> tuple[str, str, str]:
    return condition.get("status", ""), condition.get("reason", ""), condition.get("message", "")


def _group_priority(backends: list[Backend]) -> int:
    return max(int(one.spec["groupPriorityMinimum"]) for one in backends)


def _version_order(backend: Backend) -> Any:
    return -int(backend.spec["versionPriority"]), version_rank(backend.spec["version"])


# What this server looks for in the headers of proxies; extension API servers read it in kube-system.
HEADERS = {"username": [USER], "uid": [UID], "group": [GROUP], "extra": [EXTRA]}
