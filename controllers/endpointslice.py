"""EndpointSlices: the addresses behind a Service, at most a hundred to a slice.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from controllers.informers import InformerFactory
from controllers.ownership import owner_reference
from controllers.reconciler import DONE, Controller, Result
from controllers.service_backends import (
    HEADLESS_LABEL,
    Backend,
    Port,
    ServiceTrigger,
    address_of,
    backends,
    hostname_of,
    is_headless,
)
from controllers.views import EndpointSlice, Node, Service
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from machinery.client.rest import Client
from machinery.errors import NotFound

MAX_ENDPOINTS = 100
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class Slice(NamedTuple):
    """The contents of one slice."""

    address_type: str
    ports: list[dict[str, Any]]
    endpoints: list[dict[str, Any]]


class Plan(NamedTuple):
    """What is to be written so that the slices say what they should."""

    create: list[Slice]
    update: list[tuple[EndpointSlice, Slice]]
    delete: list[EndpointSlice]


class EndpointSliceController(Controller):
    """Keeps the slices of each Service that has a selector."""

    name = "endpointslice"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._slices = informers.informer(ENDPOINT_SLICES, EndpointSlice)
        self._slices.add_index("service", _service_of)
        self._nodes = informers.informer(NODES, Node)
        # Slices we made that the cache has not shown yet, by service: acting without them would make them twice.
        self._unseen: dict[ObjectKey, set[str]] = {}
        trigger = ServiceTrigger(informers, self.queue)
        self._services, self._pods = trigger.services, trigger.pods
        self._slices.add_handler(self._slice_changed)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for found in (old, new):
            if found is not None and found.metadata.labels.get(MANAGED_BY) == MANAGER:
                key = ObjectKey(found.metadata.namespace, found.metadata.labels.get(SERVICE_LABEL, ""))
                self._unseen.get(key, set()).discard(found.metadata.uid)
                self.queue.add(key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Write the slices that should be there; those of a Service that is gone are the garbage collector's."""
        service = self._services.get(key)
        if service is None:
            self._unseen.pop(key, None)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName" or self._unseen.get(key):
            return DONE
        present = self._slices.by_index("service", f"{key.namespace}/{key.name}")
        wanted = slices_of(service, backends(service, self._pods.list(key.namespace)), self._zone_of)
        await self._carry_out(service, plan(wanted, present, labels_of(service)))
        return DONE

    def _zone_of(self, node_name: str) -> str:
        node = self._nodes.get(ObjectKey("", node_name))
        return node.metadata.labels.get(ZONE, "") if node is not None else ""

    async def _carry_out(self, service: Service, steps: Plan) -> None:
        # New before old: an address in two slices is in order for a moment, one in none is an outage.
        for contents in steps.create:
            await self._create(service, contents)
        await asyncio.gather(*(self._update(service, old, contents) for old, contents in steps.update))
        for old in steps.delete:
            with contextlib.suppress(NotFound):
                await self._client.delete(ENDPOINT_SLICES, old.metadata.name, old.metadata.namespace)

    async def _create(self, service: Service, contents: Slice) -> None:
        key = service.metadata.key
        body = {
            "apiVersion": ENDPOINT_SLICES.api_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": {
                "generateName": f"{key.name}-",
                "namespace": key.namespace,
                "labels": labels_of(service),
                "annotations": {TRIGGER_TIME: now()},
                "ownerReferences": [owner_reference(SERVICES, service.metadata)],
            },
            "addressType": contents.address_type,
            "endpoints": contents.endpoints,
            "ports": contents.ports,
        }
        unseen = self._unseen.setdefault(key, set())
        created = await self._client.create(ENDPOINT_SLICES, body, key.namespace)
        metadata = created["metadata"]
        if self._slices.get(ObjectKey(key.namespace, metadata["name"])) is None:
            unseen.add(metadata["uid"])

    async def _update(self, service: Service, old: EndpointSlice, contents: Slice) -> None:
        labels = {**dict.fromkeys(old.metadata.labels), **labels_of(service)}
        patch = {
            "metadata": {
                "resourceVersion": old.metadata.resourceVersion,
                "labels": labels,
                "annotations": {TRIGGER_TIME: now()},
            },
            "endpoints": contents.endpoints,
            "ports": contents.ports,
        }
        await self._client.patch(ENDPOINT_SLICES, old.metadata.name, patch, old.metadata.namespace)


def _service_of(found: EndpointSlice) -> list[str]:
    labels = found.metadata.labels
    return [f"{found.metadata.namespace}/{labels[SERVICE_LABEL]}"] if labels.get(MANAGED_BY) == MANAGER else []


def labels_of(service: Service) -> dict[str, str]:
    """Return the labels of a Service's slices."""
    labels = {**service.metadata.labels, SERVICE_LABEL: service.metadata.name, MANAGED_BY: MANAGER}
    labels.pop(HEADLESS_LABEL, None)
    return {**labels, HEADLESS_LABEL: ""} if is_headless(service) else labels


def slices_of(service: Service, found: Sequence[Backend], zone_of: Any) -> list[Slice]:
    """Return the contents of all slices a Service should have, in a stable order.

    Args:
        service: the Service.
        found: the pods behind it.
        zone_of: gives a node's zone, or the empty string.
    """
    slices: list[Slice] = []
    for family in service.spec.ipFamilies or ("IPv4",):
        groups: dict[tuple[Port, ...], list[dict[str, Any]]] = {}
        for backend in found:
            address = address_of(backend.pod, int(family[-1]))
            if address is not None:
                groups.setdefault(backend.ports, []).append(_endpoint(service, backend, address, zone_of))
        # A Service nobody stands behind has one empty slice: it says "nobody", where none would say "not known yet".
        for ports, endpoints in sorted(groups.items(), key=lambda item: str(item[0])) or [((), [])]:
            listed = _ports(ports)
            chunks = [endpoints[at : at + MAX_ENDPOINTS] for at in range(0, len(endpoints), MAX_ENDPOINTS)]
            slices += [Slice(family, listed, chunk) for chunk in chunks or [[]]]
    return slices


def _ports(ports: Iterable[Port]) -> list[dict[str, Any]]:
    return [
        {
            "name": port.name,
            "port": port.port,
            "protocol": port.protocol,
            **({"appProtocol": port.app_protocol} if port.app_protocol else {}),
        }
        for port in ports
    ]


def _endpoint(service: Service, backend: Backend, address: str, zone_of: Any) -> dict[str, Any]:
    pod = backend.pod
    endpoint: dict[str, Any] = {
        "addresses": [address],
        "conditions": {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
        },
    }
    if pod.spec.nodeName:
        endpoint["nodeName"] = pod.spec.nodeName
        if zone := zone_of(pod.spec.nodeName):
            endpoint["zone"] = zone
    if hostname := hostname_of(service, pod):
        endpoint["hostname"] = hostname
    return endpoint


def plan(wanted: Sequence[Slice], present: Sequence[EndpointSlice], labels: dict[str, str]) -> Plan:
    """Match the slices there are with those there should be, so that few are written.

    A slice that holds many of the endpoints of a wanted one becomes it; the type of a slice can't change.
    """
    steps = Plan([], [], [])
    left = [found for found in present if found.metadata.deletionTimestamp is None]
    for contents in wanted:
        same_type = [found for found in left if found.addressType == contents.address_type]
        if not same_type:
            steps.create.append(contents)
            continue
        names = _targets(contents.endpoints)
        best = max(same_type, key=lambda found: (_holds(found, contents), len(names & _targets(found.endpoints))))
        left.remove(best)
        if not _holds(best, contents) or best.metadata.labels != labels:
            steps.update.append((best, contents))
    steps.delete.extend(left)
    return steps


def _holds(found: EndpointSlice, contents: Slice) -> bool:
    return list(found.endpoints) == contents.endpoints and list(found.ports or ()) == contents.ports


def _targets(endpoints: Iterable[dict[str, Any]]) -> set[str]:
    return {(endpoint.get("targetRef") or {}).get("uid", "") for endpoint in endpoints}
