"""EndpointSlices: the addresses behind a Service, at most a hundred to a slice.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from collections.abc import Iterable, Sequence
from typing import Any

from controllers import topology_hints
from controllers.informers import NODE_INDEX, InformerFactory, index_by_node
from controllers.ownership import owner_reference, reference
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
from machinery.client.events import EventRecorder
from machinery.client.rest import Client

MAX_ENDPOINTS = 100
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class EndpointSliceController(Controller[ObjectKey]):
    """Keeps the slices of each Service that has a selector."""

    name = "endpointslice"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        # What was told of the hints of each Service that asks for them, by type of address.
        self._hinted: dict[ObjectKey, dict[str, str]] = {}
        self._shares: dict[str, float] | None = None
        self._slices = informers.informer(ENDPOINT_SLICES, EndpointSlice)
        self._slices.add_index("service", _service_of)
        self._nodes = informers.informer(NODES, Node)
        self._writer = SliceWriter(client, self._slices)
        trigger = ServiceTrigger(informers, self.queue)
        self._services, self._pods = trigger.services, trigger.pods
        index_by_node(self._pods)
        self._trigger = trigger
        self._slices.add_handler(self._slice_changed)
        self._nodes.add_handler(self._node_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        """Wake the Services that go by the nodes' sizes, and those of pods whose node has just come or gone."""
        if old is None or new is None or topology_hints.essence(old) != topology_hints.essence(new):
            self._shares = None
            for key in self._hinted:
                self.queue.add(key)
        changed = new or old
        if (old is None or new is None) and changed is not None:
            for pod in self._pods.by_index(NODE_INDEX, changed.metadata.name):
                self._trigger.add_services_of(pod)

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
            self._hinted.pop(key, None)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName" or self._writer.is_behind(key):
            return DONE
        present = self._slices.by_index("service", f"{key.namespace}/{key.name}")
        found = backends(service, self._pods.list(key.namespace))
        wanted = slices_of(service, [one for one in found if self._is_placed(service, one)], self._zone_of)
        await self._hint(service, wanted)
        steps = plan(wanted, present, labels_of(service))
        owner = owner_reference(SERVICES, service.metadata)
        await self._writer.carry_out(key, steps, labels_of(service), owner, {TRIGGER_TIME: now()})
        return DONE

    def _is_placed(self, service: Service, backend: Backend) -> bool:
        """Whether a pod's node is there: behind one that is gone nobody answers."""
        node = backend.pod.spec.nodeName
        return not node or service.spec.publishNotReadyAddresses or self._nodes.get(ObjectKey("", node)) is not None

    async def _hint(self, service: Service, slices: Sequence[Slice]) -> None:
        """Add hints by zone where the Service asks for them, and tell when that begins and ends."""
        key, asked = service.metadata.key, topology_hints.is_asked(service)
        if not asked and key not in self._hinted:
            return
        known = self._hinted.pop(key, {})
        told: dict[str, str] = {}
        if self._shares is None:
            self._shares = topology_hints.zone_shares(self._nodes.list())
        for family in dict.fromkeys(one.address_type for one in slices):
            endpoints = [endpoint for one in slices if one.address_type == family for endpoint in one.endpoints]
            told[family] = "Topology Aware Hints has been disabled"
            if asked:
                told[family] = topology_hints.add_hints(endpoints, self._shares)
            if known.get(family) != told[family]:
                await self._tell(service, f"{told[family]}, addressType: {family}")
        if asked:
            self._hinted[key] = told

    async def _tell(self, service: Service, message: str) -> None:
        involved = reference(SERVICES, service.metadata)
        if message.startswith(topology_hints.ENABLED):
            await self._recorder.event(involved, "Normal", "TopologyAwareHintsEnabled", message)
        else:
            await self._recorder.event(involved, "Warning", "TopologyAwareHintsDisabled", message)

    def _zone_of(self, node_name: str) -> str:
        node = self._nodes.get(ObjectKey("", node_name))
        return node.metadata.labels.get(topology_hints.ZONE, "") if node is not None else ""


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
    if backend.ready and not topology_hints.is_asked(service) and (hints := _hints(service, endpoint)):
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
