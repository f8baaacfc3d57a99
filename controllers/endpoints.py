"""Endpoints: the addresses behind a Service in the old form, for clients that have not gone over to EndpointSlices.

Source: https://kubernetes.io/docs/concepts/services-networking/service/#endpoints
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.service_backends import (
    HEADLESS_LABEL,
    Backend,
    ServiceTrigger,
    addresses,
    backends,
    hostname_of,
    is_headless,
)
from controllers.views import Endpoints, Service
from machinery.api.meta import ObjectKey, now
from machinery.api.resources import ENDPOINTS
from machinery.client.rest import Client
from machinery.errors import NotFound

MAX_ADDRESSES = 1000
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class EndpointsController(Controller):
    """Keeps the Endpoints of each Service that has a selector."""

    name = "endpoints"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._endpoints = informers.informer(ENDPOINTS, Endpoints)
        trigger = ServiceTrigger(informers, self.queue)
        self._services, self._pods = trigger.services, trigger.pods
        self._endpoints.add_handler(self._endpoints_changed)

    def _endpoints_changed(self, old: Endpoints | None, new: Endpoints | None) -> None:
        changed = new or old
        # Ours only: those of Services without selector are written by hand.
        if changed is not None and changed.metadata.labels.get(MANAGED_BY) == MANAGER:
            self.queue.add(changed.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Write the addresses that should be there, or remove those of a Service that is gone."""
        service, present = self._services.get(key), self._endpoints.get(key)
        if service is None:
            if present is not None and present.metadata.labels.get(MANAGED_BY) == MANAGER:
                with contextlib.suppress(NotFound):
                    await self._client.delete(ENDPOINTS, key.name, key.namespace)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName":
            return DONE
        found = backends(service, self._pods.list(key.namespace))
        await self._write(service, present, subsets_of(service, found), over=len(found) > MAX_ADDRESSES)
        return DONE

    async def _write(
        self, service: Service, present: Endpoints | None, subsets: list[dict[str, Any]], *, over: bool
    ) -> None:
        labels = labels_of(service)
        annotations = {OVER_CAPACITY: "truncated"} if over else {}
        key = service.metadata.key
        if present is None:
            metadata = {"name": key.name, "namespace": key.namespace, "labels": labels}
            metadata["annotations"] = {**annotations, TRIGGER_TIME: service.metadata.creationTimestamp or now()}
            body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
            await self._client.create(ENDPOINTS, body, key.namespace)
            return
        was_over = OVER_CAPACITY in present.metadata.annotations
        if list(present.subsets) == subsets and present.metadata.labels == labels and was_over == over:
            return
        dropped = dict.fromkeys(present.metadata.labels)  # null removes
        patch = {
            "metadata": {
                "resourceVersion": present.metadata.resourceVersion,
                "labels": {**dropped, **labels},
                "annotations": {OVER_CAPACITY: None, TRIGGER_TIME: now(), **annotations},
            },
            "subsets": subsets or None,
        }
        await self._client.patch(ENDPOINTS, key.name, patch, key.namespace)


def labels_of(service: Service) -> dict[str, str]:
    """Return the labels of a Service's Endpoints: its own, who manages them, and whether it is headless."""
    labels = {**service.metadata.labels, MANAGED_BY: MANAGER}
    labels.pop(HEADLESS_LABEL, None)
    return {**labels, HEADLESS_LABEL: ""} if is_headless(service) else labels


def subsets_of(service: Service, found: Sequence[Backend]) -> list[dict[str, Any]]:
    """Return the subsets: addresses with the same ports together, ready ones apart from those that are not.

    Terminating pods are left out, unless addresses are published whatever their state.
    """
    grouped: dict[Any, dict[str, list[Any]]] = {}
    for backend in found[:MAX_ADDRESSES]:
        if backend.terminating and not service.spec.publishNotReadyAddresses:
            continue
        if service.spec.ports and not backend.ports:
            continue  # none of the ports is known to this pod
        kind = "addresses" if backend.ready else "notReadyAddresses"
        subset = grouped.setdefault(backend.ports, {})
        subset.setdefault(kind, []).append(_address(service, backend))
    return [{**subset, **_ports(ports)} for ports, subset in sorted(grouped.items(), key=lambda item: str(item[0]))]


def _ports(ports: Sequence[Any]) -> dict[str, Any]:
    listed = [
        {
            **({"name": port.name} if port.name else {}),
            "port": port.port,
            "protocol": port.protocol,
            **({"appProtocol": port.app_protocol} if port.app_protocol else {}),
        }
        for port in ports
    ]
    return {"ports": listed} if listed else {}


def _address(service: Service, backend: Backend) -> dict[str, Any]:
    pod = backend.pod
    address: dict[str, Any] = {"ip": addresses(pod)[0]}
    if hostname := hostname_of(service, pod):
        address["hostname"] = hostname
    if pod.spec.nodeName:
        address["nodeName"] = pod.spec.nodeName
    metadata = pod.metadata
    address["targetRef"] = {
        "kind": "Pod", "namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid,
    }  # fmt: skip
    return address
