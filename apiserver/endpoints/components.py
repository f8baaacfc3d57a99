"""ComponentStatus: how store, scheduler and controllers are, looked up when somebody asks; nothing of it is stored.

Upstream asks ports on the server's own machine. Here scheduler and controllers listen nowhere: they are well while they
renew the lease they work under.
"""

from datetime import UTC, datetime, timedelta

import orjson
from aiohttp import web

from apiserver.endpoints.health import Health
from apiserver.endpoints.reading import Selection, list_response, object_response, wanted
from apiserver.registry.kind import Object
from apiserver.request import Call
from apiserver.storage.object_storage import not_found
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery.api.meta import parse_time
from machinery.api.resources import LEASES

_LEASES = {"controller-manager": "kube-system/kube-controller-manager", "scheduler": "kube-system/kube-scheduler"}
_STORE = "etcd-0"


class Components:
    """Answers for componentstatuses."""

    def __init__(self, cache: WatchCache, health: Health) -> None:
        self._cache = cache
        self._health = health

    async def handle(self, call: Call) -> web.Response:
        """Answer get and list. Raises: NotFound for an unknown component."""
        if call.info.verb == "get":
            key = call.known.key("", call.info.name)
            if call.info.name not in (*_LEASES, _STORE):
                raise not_found(call.known.resource, key)
            return object_response(call, _entry(key, await self._problem(call.info.name)))
        want, selection = wanted(call), Selection(call.known, call.query)
        names = sorted((*_LEASES, _STORE))
        entries = [_entry(call.known.key("", name), await self._problem(name)) for name in names]
        return list_response(call, [entry for entry in entries if selection.matches(entry)], b"{}", want)

    async def _problem(self, name: str) -> str:
        """Return what is wrong with a component; empty while it is well."""
        if name == _STORE:
            return await self._health.store_problem()
        lease = self._cache.collection(LEASES.group_resource).get(f"/registry/{LEASES.group_resource}/{_LEASES[name]}")
        spec = lease.object()["spec"] if lease is not None else {}
        if not spec.get("holderIdentity") or "renewTime" not in spec:
            return "nobody holds its lease"
        if datetime.now(UTC) > parse_time(spec["renewTime"]) + timedelta(seconds=spec.get("leaseDurationSeconds", 0)):
            return f"its lease was not renewed since {spec['renewTime']}"
        return ""


def _entry(key: str, problem: str) -> Entry:
    name = key.rpartition("/")[2]
    condition: Object = {"type": "Healthy", "status": "False" if problem else "True"}
    condition |= {"error": problem} if problem else {"message": "ok"}
    body = {"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]}
    return Entry(key, b"", 0).shown_as(orjson.dumps(body))
