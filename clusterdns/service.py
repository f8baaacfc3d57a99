"""Makes this server known: the Service kube-dns at the well-known address, and a slice that leads to where we listen.

An administrator who gives the Service a selector has put another server in our place: then it is left alone.
"""

import asyncio
import logging
from typing import Any

from clusterdns.views import EndpointSlice, Service
from machinery.api.meta import ObjectKey
from machinery.api.resources import ENDPOINT_SLICES, SERVICES
from machinery.client.informer import Informer
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import APIError, NotFound

log = logging.getLogger(__name__)

NAMESPACE, NAME = "kube-system", "kube-dns"
_LABELS = {
    "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
}  # fmt: skip
_RETRY_SECONDS = 0.2
_MANAGER = {"fieldManager": "wherry-dns", "force": "true"}


class Publisher:
    """Keeps the Service and our slice as they should be."""

    def __init__(
        self, client: Client, services: Informer[Service], slices: Informer[EndpointSlice], cluster_address: str,
        node: str,
    ) -> None:  # fmt: skip
        self._client = client
        self._services = services
        self._slices = slices
        self._cluster_address = cluster_address
        self._slice_name = f"{NAME}-{node}"
        self._changed = asyncio.Event()
        services.add_handler(self._note)
        slices.add_handler(self._note)

    def _note(self, old: Service | EndpointSlice | None, new: Service | EndpointSlice | None) -> None:
        changed = new or old
        if changed is not None and changed.metadata.namespace == NAMESPACE:
            self._changed.set()

    async def run(self, address: str, port: int) -> None:
        """Publish `address` and `port` until cancelled."""
        await self._services.synced()
        await self._slices.synced()
        while True:
            self._changed.clear()
            try:
                await self._publish(address, port)
                await self._changed.wait()
            except (APIError, ConnectionFailed) as error:
                log.info("the service %s is not published yet: %s", NAME, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _publish(self, address: str, port: int) -> None:
        service = self._services.get(ObjectKey(NAMESPACE, NAME))
        if service is not None and service.spec.selector:
            if self._slices.get(ObjectKey(NAMESPACE, self._slice_name)) is not None:
                try:
                    await self._client.delete(ENDPOINT_SLICES, self._slice_name, NAMESPACE)
                except NotFound:
                    return
            return
        if service is None:
            await self._apply(SERVICES, self._service())
        if not self._leads_here(address, port):
            await self._apply(ENDPOINT_SLICES, self._slice(address, port))

    def _leads_here(self, address: str, port: int) -> bool:
        present = self._slices.get(ObjectKey(NAMESPACE, self._slice_name))
        return present is not None and (
            [one.addresses for one in present.endpoints or ()] == [[address]]
            and {one.port for one in present.ports or ()} == {port}
        )

    async def _apply(self, resource: Any, obj: dict[str, Any]) -> None:
        name = obj["metadata"]["name"]
        await self._client.patch(resource, name, obj, NAMESPACE, type=PatchType.APPLY, params=_MANAGER)

    def _service(self) -> dict[str, Any]:
        ports = [
            {"name": name, "port": 53, "protocol": protocol, "targetPort": 53}
            for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
        ]
        metadata = {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS}
        spec = {"clusterIP": self._cluster_address, "type": "ClusterIP", "ports": ports}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    def _slice(self, address: str, port: int) -> dict[str, Any]:
        labels = {"kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "wherry-dns"}
        return {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": self._slice_name, "namespace": NAMESPACE, "labels": {**labels, "k8s-app": NAME}},
            "addressType": "IPv6" if ":" in address else "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [
                {"name": "dns", "port": port, "protocol": "UDP"}, {"name": "dns-tcp", "port": port, "protocol": "TCP"},
            ],
        }  # fmt: skip
