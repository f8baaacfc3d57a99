"""Follows FlowSchemas and PriorityLevelConfigurations: classifies requests, shares the seats out, writes conditions.

Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from apiserver.auth.user import User
from apiserver.flowcontrol.level import Level, Limits
from apiserver.flowcontrol.matching import distinguisher, matches
from apiserver.metrics import REGISTRY
from apiserver.registry.catalog import Catalog
from apiserver.registry.kind import Object
from apiserver.registry.rest import Rest, WriteOptions
from apiserver.request import RequestInfo
from machinery import errors
from machinery.api import meta
from machinery.api.resources import FLOW_SCHEMAS, PRIORITY_LEVELS

log = logging.getLogger(__name__)

# Upstream's defaults for requests in flight, 400 that read and 200 that write, taken together.
TOTAL_SEATS = 600
_MOST_KNOWN = 10_000
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Class:
    """Where a request belongs: its schema, its level, and its flow within that."""

    schema_uid: str
    level: Level
    flow: str
    exempt: bool
    headers: Mapping[str, str]  # what an answer tells of it


def _class(schema_uid: str, level: Level, flow: str) -> Class:
    headers = {"X-Kubernetes-PF-FlowSchema-UID": schema_uid, "X-Kubernetes-PF-PriorityLevel-UID": level.uid}
    return Class(schema_uid, level, flow, level.limits.exempt, headers)


class FlowControl:
    """The levels and schemas there are."""

    def __init__(self, rest: Rest, catalog: Catalog, *, total_seats: int = TOTAL_SEATS) -> None:
        cache = rest.storage.cache
        self._rest = rest
        self._catalog = catalog
        self._total = total_seats
        self._schemas_collection = cache.collection(FLOW_SCHEMAS.group_resource)
        self._levels_collection = cache.collection(PRIORITY_LEVELS.group_resource)
        self._generation: tuple[int, int] = (-1, -1)
        self._known: dict[tuple[Any, ...], Class] = {}
        self._schemas: list[Object] = []
        self._last_resort = _class("", Level("exempt", "", Limits(exempt=True), self._may_borrow), "")
        self.levels: dict[str, Level] = {}

    def classify(self, user: User, info: RequestInfo) -> Class:
        """Return where a request belongs."""
        generation = (self._schemas_collection.generation, self._levels_collection.generation)
        if generation != self._generation:
            self._read(generation)
        key = (
            user.name, user.groups, info.verb, info.group, info.resource, info.subresource, info.namespace,
            "" if info.is_resource else info.path,
        )  # fmt: skip
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._first(user, info)
        return found

    def _first(self, user: User, info: RequestInfo) -> Class:
        for schema in self._schemas:
            level = self.levels.get(schema["spec"]["priorityLevelConfiguration"]["name"])
            if level is not None and matches(schema, user, info):
                flow = f"{schema['metadata']['name']}/{distinguisher(schema, user, info)}"
                return _class(schema["metadata"]["uid"], level, flow)
        return self._last_resort  # the objects of the beginning are being written

    def _read(self, generation: tuple[int, int]) -> None:
        self._generation = generation
        self._known.clear()
        found: dict[str, Level] = {}
        for entry in self._levels_collection.entries(""):
            obj = entry.object()
            limits, uid = _limits(obj["spec"]), obj["metadata"]["uid"]
            known = self.levels.get(entry.name)
            if known is None or known.uid != uid or known.limits != limits:
                old, known = known, Level(entry.name, uid, limits, self._may_borrow)
                if old is not None:
                    known.rejected, known.dispatched = old.rejected, old.dispatched
            found[entry.name] = known
        self.levels = found
        shares = sum(one.limits.shares for one in found.values()) or 1
        for level in found.values():
            level.seats = math.ceil(self._total * level.limits.shares / shares)
            level.serve()
        schemas = [entry.object() for entry in self._schemas_collection.entries("")]
        self._schemas = sorted(
            schemas, key=lambda one: (one["spec"].get("matchingPrecedence", 1000), one["metadata"]["name"])
        )

    def _may_borrow(self, level: Level) -> bool:
        """Whether others leave seats that they lend."""
        others = [one for one in self.levels.values() if one is not level and not one.limits.exempt]
        lent = sum(max(0, one.in_use - one.seats) for one in self.levels.values())
        return lent < sum(min(one.lendable, max(0, one.seats - one.in_use)) for one in others)

    # ---- conditions

    async def run(self) -> None:
        """Keep the conditions of schemas until cancelled."""
        await self._rest.storage.cache.ready.wait()
        while True:
            with (
                self._schemas_collection.watch("", after=None) as schemas,
                self._levels_collection.watch("", after=None) as levels,
            ):
                while not (schemas.overrun or levels.overrun):
                    try:
                        await self._write_conditions()
                    except errors.APIError as error:
                        log.warning("flow schemas: %s", error)
                        await asyncio.sleep(_RETRY_SECONDS)
                    waits = [asyncio.ensure_future(one.wait(3600)) for one in (schemas, levels)]
                    try:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for wait in waits:
                            wait.cancel()
                        await asyncio.gather(*waits, return_exceptions=True)
                    schemas.take()
                    levels.take()

    async def _write_conditions(self) -> None:
        kind = self._catalog.find(FLOW_SCHEMAS.group, FLOW_SCHEMAS.version, FLOW_SCHEMAS.plural)
        if kind is None:
            raise LookupError("flowschemas")
        levels = {entry.name for entry in self._levels_collection.entries("")}
        for entry in self._schemas_collection.entries(""):
            schema = entry.object()
            name = schema["spec"]["priorityLevelConfiguration"]["name"]
            wanted = _condition(schema["metadata"]["name"], name, found=name in levels)
            present = _dangling(schema)
            if all(present.get(field) == value for field, value in wanted.items()):
                continue

            def changed(obj: Object, wanted: dict[str, str] = wanted) -> Object:
                before = _dangling(obj)
                since = before.get("lastTransitionTime") if before.get("status") == wanted["status"] else None
                conditions = [
                    one for one in (obj.get("status") or {}).get("conditions") or () if one["type"] != "Dangling"
                ]
                condition = {**wanted, "lastTransitionTime": since or meta.now()}
                return {**obj, "status": {**(obj.get("status") or {}), "conditions": [*conditions, condition]}}

            with contextlib.suppress(errors.NotFound):
                await self._rest.replace(kind, "", entry.name, changed, WriteOptions())


def _limits(spec: Object) -> Limits:
    if spec["type"] == "Exempt":
        exempt = spec.get("exempt") or {}
        return Limits(True, exempt.get("nominalConcurrencyShares", 0), exempt.get("lendablePercent", 0))
    limited = spec["limited"]
    limits = Limits(
        False, limited.get("nominalConcurrencyShares", 30), limited.get("lendablePercent", 0),
        limited.get("borrowingLimitPercent"),
    )  # fmt: skip
    response = limited.get("limitResponse") or {}
    if response.get("type") == "Queue":
        queuing = response.get("queuing") or {}
        limits.queues = queuing.get("queues", 64)
        limits.hand_size, limits.queue_length = queuing.get("handSize", 8), queuing.get("queueLengthLimit", 50)
    return limits


def _dangling(schema: Object) -> dict[str, Any]:
    conditions = (schema.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Dangling"), {})


def _condition(schema: str, level: str, *, found: bool) -> dict[str, str]:
    if found:
        told = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" and it exists'
        return {"type": "Dangling", "status": "False", "reason": "Found", "message": told}
    told = (
        f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" but there is no such object'
    )
    return {"type": "Dangling", "status": "True", "reason": "NotFound", "message": told}


class FlowMetrics:
    """What levels count, read when metrics are asked for."""

    def __init__(self, control: FlowControl) -> None:
        self._control = control

    def register(self) -> None:
        """Be asked from now on."""
        REGISTRY.register(self)

    def unregister(self) -> None:
        """Be asked no more."""
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(self)

    def describe(self) -> list[Any]:
        """Say nothing of what there is before it is there."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics."""
        prefix, labels = "apiserver_flowcontrol_", ["priority_level"]
        gauges = {
            "nominal_limit_seats": ("Seats of a level.", lambda level: level.seats),
            "current_executing_seats": ("Seats in use.", lambda level: level.in_use),
            "current_inqueue_requests": ("Requests that wait.", lambda level: level.waiting),
        }
        for name, (told, read) in gauges.items():
            family = GaugeMetricFamily(prefix + name, told, labels=labels)
            for level in self._control.levels.values():
                family.add_metric([level.name], read(level))
            yield family
        for name, told, attribute in (
            ("dispatched_requests", "Requests that got a seat.", "dispatched"),
            ("rejected_requests", "Requests that were refused.", "rejected"),
        ):
            counter = CounterMetricFamily(prefix + name, told, labels=labels)
            for level in self._control.levels.values():
                counter.add_metric([level.name], getattr(level, attribute))
            yield counter
