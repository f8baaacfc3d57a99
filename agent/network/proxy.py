"""Keeps the rules of table.py in the kernel in step with Services, EndpointSlices and the host ports of pods."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config import AgentConfig
from agent.network import nft
from agent.network.conntrack import UDP, Flow, delete_flows
from agent.network.health import Check, HealthPorts
from agent.network.host import make_bridge, prepare_host, sites_of
from agent.network.links import say_nothing
from agent.network.routes import (
    SERVICE_LABEL,
    Backend,
    Frontend,
    Place,
    Route,
    host_port_routes,
    local_count,
    routes_of,
)
from agent.network.table import Site, Table
from agent.network.views import Node
from agent.pod_manager import PodManager
from machinery.api.meta import ObjectKey
from machinery.client.informer import Informer

log = logging.getLogger(__name__)

Object = dict[str, Any]
_RETRY_SECONDS = 1.0
# Changes that come close together are written together.
_GATHER_SECONDS = 0.01
# Rules that others removed are put back within this time.
_CHECK_SECONDS = 15.0
ZONE = "topology.kubernetes.io/zone"


def by_service(one: Object) -> list[str]:
    """Index of EndpointSlices: the Service they belong to."""
    owner = (one["metadata"].get("labels") or {}).get(SERVICE_LABEL)
    return [f"{one['metadata']['namespace']}/{owner}"] if owner else []


@dataclass(frozen=True, slots=True)
class _Change:
    """What the routes of one owner were and are."""

    before: tuple[Route, ...]
    after: tuple[Route, ...]


class ServiceProxy:
    """Routes services on this node."""

    def __init__(
        self, config: AgentConfig, services: Informer[Object], slices: Informer[Object], nodes: Informer[Node],
        pods: PodManager, tell: Callable[[Mapping[str, str]], Awaitable[None]] = say_nothing,
    ) -> None:  # fmt: skip
        """Args: `nodes` needs to show this node only; `tell` reports all that is wrong, reason to message."""
        self._tell = tell
        self._config = config
        self._services = services
        self._slices = slices
        self._nodes = nodes
        self._pods = pods
        self._tables = [Table(site) for site in sites_of(config)]
        self._health = HealthPorts(lambda: self._is_written)
        self._checks: dict[str, Check] = {}
        self._is_written = False
        self._place = Place(config.node_name)
        self._changed = asyncio.Event()
        self._dirty: set[str] = set()
        self._pod_owners: set[str] = set()
        slices.add_index("service", by_service)
        services.add_handler(self._service_changed)
        slices.add_handler(self._slice_changed)
        nodes.add_handler(self._node_changed)

    def note(self) -> None:
        """A pod of this node came or went."""
        self._changed.set()

    # ---- what changed

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        changed = new or old
        if changed is not None:
            self._touch(f"{changed['metadata']['namespace']}/{changed['metadata']['name']}")

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        for one in (old, new):
            for owner in by_service(one) if one is not None else ():
                self._touch(owner)

    def _node_changed(self, _: Node | None, new: Node | None) -> None:
        if new is None or new.metadata.name != self._config.node_name:
            return
        place = Place(self._config.node_name, new.metadata.labels.get(ZONE, ""))
        if place != self._place:
            self._place = place
            for service in self._services.list():
                self._service_changed(None, service)

    def _touch(self, owner: str) -> None:
        self._dirty.add(owner)
        self._changed.set()

    # ---- towards the kernel

    async def run(self) -> None:
        """Write rules for ever."""
        await asyncio.to_thread(prepare_host, self._config.service_cidr, self._config.node_ip)
        await asyncio.to_thread(make_bridge, self._config.bridge, self._config.pod_cidr)
        for informer in (self._services, self._slices, self._nodes):
            await informer.synced()
        whole = True
        try:
            while True:
                try:
                    await self._write(whole=whole)
                    self._is_written, whole = True, False
                    await self._tell({})
                    whole = await self._wait()
                except nft.RulesRefused as error:
                    log.error("the service rules were not written: %s", error)
                    self._is_written = False
                    if whole:  # a change that is refused is written as a whole next, and that may do
                        await self._tell({"ServiceRulesRefused": f"the rules of services were not written: {error}"})
                    await asyncio.sleep(_RETRY_SECONDS if whole else 0)
                    whole = True
        finally:
            self._health.close()

    async def _wait(self) -> bool:
        """Wait until something changed; returns True when the rules are gone and must be written anew."""
        while not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._changed.wait()
                    break
            for table in self._tables:
                if not await nft.chain_is_there(table.site.table, "prerouting"):
                    log.warning("the table %s is gone: writing it anew", table.site.table)
                    return True
        await asyncio.sleep(_GATHER_SECONDS)
        return False

    async def _write(self, *, whole: bool) -> None:
        self._changed.clear()
        dirty, self._dirty = self._dirty, set()
        pods = self._host_ports()
        for table in self._tables:
            changes = [self._change(table, owner) for owner in dirty]
            changes += [self._change_pod(table, owner, ips) for owner, ips in pods.items()]
            text = table.whole(await nft.read_affinity(table.site.table)) if whole else table.take_changes()
            if text:
                await nft.apply(text)
            await self._end_flows(table, [one for one in changes if one.before != one.after])
        await self._tell_health(dirty)

    def _change(self, table: Table, owner: str) -> _Change:
        namespace, _, name = owner.partition("/")
        service = self._services.get(ObjectKey(namespace, name))
        slices = self._slices.by_index("service", owner)
        routes = routes_of(service, slices, self._place, table.site.family.version) if service is not None else []
        before = table.routes(owner)
        table.change(owner, routes)
        return _Change(before, table.routes(owner))

    def _host_ports(self) -> dict[str, tuple[Object, list[str]]]:
        """The pods of this node that have, or had, host ports; with their addresses."""
        found: dict[str, tuple[Object, list[str]]] = {owner: ({"spec": {}}, []) for owner in self._pod_owners}
        for runtime in self._pods.runtimes():
            ips = pod_ips(runtime)
            if any(True for ip in ips[:1] for _ in host_port_routes(runtime.pod, ip)):
                found[f"pod:{runtime.uid}"] = (dict(runtime.pod), ips)
        self._pod_owners = {owner for owner, (_, ips) in found.items() if ips}
        return found

    def _change_pod(self, table: Table, owner: str, about: tuple[Object, list[str]]) -> _Change:
        pod, ips = about
        mine = [ip for ip in ips if (":" in ip) == (table.site.family.version == 6)]
        before = table.routes(owner)
        table.change(owner, [route for ip in mine[:1] for route in host_port_routes(pod, ip)])
        return _Change(before, table.routes(owner))

    # ---- what else depends on it

    async def _end_flows(self, table: Table, changes: Iterable[_Change]) -> None:
        """Make UDP clients, and clients bound to an endpoint, leave endpoints that are gone."""
        changes = list(changes)
        if lost := _lost_affinities(table, changes):
            await _forget_clients(table.site, lost)
        stale = _staleness(changes)
        if stale is not None:
            try:
                ended = await asyncio.to_thread(delete_flows, table.site.family.version, stale)
            except OSError as error:
                log.warning("flows to endpoints that are gone were not ended: %s", error)
            else:
                log.debug("%d flows ended", ended)

    async def _tell_health(self, owners: Iterable[str]) -> None:
        for owner in owners:
            namespace, _, name = owner.partition("/")
            service = self._services.get(ObjectKey(namespace, name))
            port = service["spec"].get("healthCheckNodePort") if service is not None else None
            if port and service is not None and service["spec"].get("externalTrafficPolicy") == "Local":
                count = local_count(self._slices.by_index("service", owner), self._place.node)
                self._checks[owner] = Check(namespace, name, port, count)
            else:
                self._checks.pop(owner, None)
        await self._health.update({check.port: check for check in self._checks.values()})


def pod_ips(runtime: Any) -> list[str]:
    """Return the addresses of a pod that runs here; one that has ended tells its own still, which others may have."""
    if not runtime.seen.ip:
        return []
    return list(runtime.seen.ips) or [runtime.seen.ip]


def _targets(routes: Iterable[Route]) -> dict[Frontend, set[Backend]]:
    return {route.frontend: {*route.backends, *(route.outside or ())} for route in routes}


def _staleness(changes: Iterable[_Change]) -> Callable[[Flow], bool] | None:
    """Return what tells a stale UDP flow, None when none can be."""
    current: dict[tuple[str, int], set[tuple[str, int]]] = {}
    gone: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for change in changes:
        before, after = _targets(change.before), _targets(change.after)
        for frontend in before.keys() | after.keys():
            old, new = before.get(frontend, set()), after.get(frontend, set())
            if frontend.protocol == "udp" and old != new:
                key = (frontend.address, frontend.port)
                current[key] = {(one.ip, one.port) for one in new}
                gone[key] = {(one.ip, one.port) for one in old - new}
    if not current:
        return None

    def is_stale(flow: Flow) -> bool:
        if flow.protocol != UDP:
            return False
        answers = (flow.answers_from, flow.answers_port)
        if (key := (flow.address, flow.port)) in current:
            return answers not in current[key]
        if (node_port := ("", flow.port)) in current:
            was_never_sent_on = flow.answers_from == flow.address and bool(current[node_port])
            return answers in gone[node_port] or was_never_sent_on
        return False

    return is_stale


def _lost_affinities(table: Table, changes: Iterable[_Change]) -> dict[int, set[str]]:
    """Return the endpoints that are gone, by the numbers of the services that clients may be bound to them by."""
    lost: dict[int, set[str]] = {}
    for change in changes:
        after = _targets(change.after)
        for route in change.before:
            if route.affinity is not None:
                gone = {*route.backends, *(route.outside or ())} - after.get(route.frontend, set())
                if gone:
                    number, targets = table.memory(route.affinity.name, gone)
                    lost.setdefault(number, set()).update(targets)
    return lost


async def _forget_clients(site: Site, lost: Mapping[int, set[str]]) -> None:
    for one in await nft.read_affinity(site.table, lost.keys()):
        if one.target in lost[one.number]:
            with contextlib.suppress(nft.RulesRefused):  # each by itself: one that ran out must not keep the others
                await nft.apply(f"delete element {site.table} {one.container} {{ {one.key} }}\n")
