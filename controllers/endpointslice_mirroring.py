"""EndpointSlices of Endpoints that users write by hand, for Services without a selector.

Source: https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring
"""

import ipaddress
from typing import Any

from controllers.informers import InformerFactory
from controllers.ownership import owner_reference, reference
from controllers.reconciler import DONE, Controller, Result
from controllers.slice_plan import Plan, Slice, SliceWriter, plan
from controllers.views import Endpoints, EndpointSlice, Service
from machinery.api.meta import ObjectKey
from machinery.api.resources import ENDPOINT_SLICES, ENDPOINTS, SERVICES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client

MANAGER = "endpointslicemirroring-controller.k8s.io"
MAX_ADDRESSES = 1000
"""The most addresses of one subset that are mirrored."""
_MAX_ENDPOINTS = 1000
_INDEX = "mirrored"
_MANAGED_BY, _SERVICE = "endpointslice.kubernetes.io/managed-by", "kubernetes.io/service-name"
_SKIP, _LEADER = "endpointslice.kubernetes.io/skip-mirror", "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = frozenset(
    ("kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time")
)


class EndpointSliceMirroringController(Controller[ObjectKey]):
    """Keeps the mirrors. Keys are those of Endpoints, which are those of their Services."""

    name = "endpointslice-mirroring"

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._endpoints = informers.informer(ENDPOINTS, Endpoints)
        self._services = informers.informer(SERVICES, Service)
        self._slices = informers.informer(ENDPOINT_SLICES, EndpointSlice)
        self._slices.add_index(_INDEX, lambda found: [str(key)] if (key := _mirrored(found)) else [])
        self._writer = SliceWriter(client, self._slices)
        self._endpoints.add_handler(self._changed)
        self._services.add_handler(self._changed)
        self._slices.add_handler(self._slice_changed)

    def _changed(self, old: Endpoints | Service | None, new: Endpoints | Service | None) -> None:
        changed = new or old
        if changed is not None:
            self.queue.add(changed.metadata.key)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for found in (old, new):
            if found is not None and (key := _mirrored(found)) is not None:
                self._writer.seen(key, found)
                self.queue.add(key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Write the slices that should be there, and remove those that no longer should."""
        endpoints, service = self._endpoints.get(key), self._services.get(key)
        present = self._slices.by_index(_INDEX, str(key))
        if endpoints is None or service is None or service.spec.selector or not _is_mirrored(endpoints):
            self._writer.forget(key)
            await self._writer.carry_out(key, Plan([], [], list(present)), {}, {}, {})
            return DONE
        if self._writer.is_behind(key):
            return DONE
        labels = {**endpoints.metadata.labels, _SERVICE: key.name, _MANAGED_BY: MANAGER}
        annotations = {name: text for name, text in endpoints.metadata.annotations.items() if name not in _NOT_COPIED}
        steps = plan(slices_of(endpoints), present, labels)
        owner = owner_reference(ENDPOINTS, endpoints.metadata)
        if steps.create or steps.update or steps.delete:
            for reason, message in left_out(endpoints):
                await self._recorder.event(reference(ENDPOINTS, endpoints.metadata), "Warning", reason, message)
        await self._writer.carry_out(key, steps, labels, owner, annotations)
        return DONE


def _mirrored(found: EndpointSlice) -> ObjectKey | None:
    labels = found.metadata.labels
    if labels.get(_MANAGED_BY) != MANAGER:
        return None
    return ObjectKey(found.metadata.namespace, labels.get(_SERVICE, ""))


def _is_mirrored(endpoints: Endpoints) -> bool:
    metadata = endpoints.metadata
    return metadata.labels.get(_SKIP) != "true" and _LEADER not in metadata.annotations


def slices_of(endpoints: Endpoints) -> list[Slice]:
    """Return the slices that say what these Endpoints say."""
    found: dict[tuple[str, str], Slice] = {}
    for subset in endpoints.subsets:
        ports = [{"name": "", **port} for port in subset.get("ports") or ()]
        for address, ready in _addresses(subset):
            family = _family(address["ip"])
            contents = found.setdefault((family, str(ports)), Slice(family, ports, []))
            contents.endpoints.append(_endpoint(address, ready=ready))
    return [
        Slice(one.address_type, one.ports, one.endpoints[at : at + _MAX_ENDPOINTS])
        for one in found.values()
        for at in range(0, len(one.endpoints), _MAX_ENDPOINTS)
    ]


def left_out(endpoints: Endpoints) -> list[tuple[str, str]]:
    """Return what of these Endpoints is not mirrored, as the reasons and messages of events."""
    given = [
        [one.get("ip", "") for field in ("addresses", "notReadyAddresses") for one in subset.get(field) or ()]
        for subset in endpoints.subsets
    ]
    wrong = sum(not _family(text) for addresses in given for text in addresses)
    beyond = sum(max(sum(bool(_family(text)) for text in addresses) - MAX_ADDRESSES, 0) for addresses in given)
    found = []
    if wrong:
        found.append(("InvalidIPAddress", f"Skipped {wrong} invalid IP addresses when mirroring to EndpointSlices"))
    if beyond:
        message = (
            f"A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. "
            f"{beyond} addresses were skipped"
        )
        found.append(("TooManyAddressesToMirror", message))
    return found


def _addresses(subset: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    found = [(address, True) for address in subset.get("addresses") or ()]
    found += [(address, False) for address in subset.get("notReadyAddresses") or ()]
    return [one for one in found if _family(one[0].get("ip", ""))][:MAX_ADDRESSES]


def _family(text: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(text).version}"
    except ValueError:
        return ""


def _endpoint(address: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    for field in ("hostname", "nodeName", "targetRef"):
        if address.get(field):
            endpoint[field] = address[field]
    return endpoint
