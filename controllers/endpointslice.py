"""EndpointSlices: the addresses behind a Service, at most a hundred to a slice.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from collections.abc import Iterable, Sequence
from typing import Any

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
from controllers.slice_plan import Slice, SliceWriter, plan
from controllers.views import EndpointSlice, Node, Service
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from machinery.client.rest import Client

MAX_ENDPOINTS = 100
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class EndpointSliceController(Controller[ObjectKey]):
    """Keeps the slices of each Service that has a selector."""

    name = "endpointslice"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._slices = informers.informer(ENDPOINT_SLICES, EndpointSlice)
        self._slices.add_index("service", _service_of)
        self._nodes = informers.informer(NODES, Node)
        self._writer = SliceWriter(client, self._slices)
        trigger = ServiceTrigger(informers, self.queue)
        self._services, self._pods = trigger.services, trigger.pods
        self._slices.add_handler(self._slice_changed)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for found in (old, new):
            if found is not None and found.metadata.labels.get(MANAGED_BY) == MANAGER:
                key = ObjectKey(found.metadata.namespace, found.metadata.labels.get(SERVICE_LABEL, ""))
                self._writer.seen(key, found)
                self.queue.add(key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Write the slices that should be there; those of a Service that is gone are the garbage collector's."""
        service = self._services.get(key)
        if service is None:
            self._writer.forget(key)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName" or self._writer.is_behind(key):
            return DONE
        present = self._slices.by_index("service", f"{key.namespace}/{key.name}")
        wanted = slices_of(service, backends(service, self._pods.list(key.namespace)), self._zone_of)
        steps = plan(wanted, present, labels_of(service))
        owner = owner_reference(SERVICES, service.metadata)
        await self._writer.carry_out(key, steps, labels_of(service), owner, {TRIGGER_TIME: now()})
        return DONE

    def _zone_of(self, node_name: str) -> str:
        node = self._nodes.get(ObjectKey("", node_name))
        return node.metadata.labels.get(ZONE, "") if node is not None else ""


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
    if backend.ready and (hints := _hints(service, endpoint)):
        endpoint["hints"] = hints
    return endpoint


def _hints(service: Service, endpoint: dict[str, Any]) -> dict[str, Any]:
    """Return for whose traffic an endpoint is meant, where the Service prefers what is near.

    Source: https://kubernetes.io/docs/concepts/services-networking/service/#traffic-distribution
    """
    preference, hints = service.spec.trafficDistribution, {}
    if preference in ("PreferClose", "PreferSameZone", "PreferSameNode") and endpoint.get("zone"):
        hints["forZones"] = [{"name": endpoint["zone"]}]
    if preference == "PreferSameNode" and endpoint.get("nodeName"):
        hints["forNodes"] = [{"name": endpoint["nodeName"]}]
    return hints
