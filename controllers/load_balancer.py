"""Load balancers without a cloud: the nodes' own addresses, or addresses of a range, are what a Service is reached at.

At the nodes' addresses two Services can't have the same port, and none can have one that the cluster itself needs.
Agents route what is written in the status; they announce addresses of a range too.
Source: https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer
"""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from controllers.informers import InformerFactory
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Node, Service
from machinery.api.meta import ObjectKey
from machinery.api.resources import NODES, SERVICES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import NotFound

AT_NODES = "nodes"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
_SSH, _API = 22, 6443
_RETRY_SECONDS = 15.0


class NoPlace(Exception):
    """A Service can't be given an address; the message says why."""


class LoadBalancerController(Controller[ObjectKey]):
    """Fills in the status of Services of type LoadBalancer that name no class."""

    name = "service-load-balancer"
    workers = 1  # addresses are given out one after the other

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder, *, where: str) -> None:
        """Args: `where` is "nodes", or a range of addresses. Raises: ValueError when it is neither."""
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._pool = None if where == AT_NODES else ipaddress.ip_network(where)
        self._services = informers.informer(SERVICES, Service)
        self._nodes = informers.informer(NODES, Node)
        self._ready: tuple[str, ...] = ()
        self._services.add_handler(self._service_changed)
        self._nodes.add_handler(self._node_changed)

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)
        elif old is not None and old.status.loadBalancer.ingress:
            self._all_again()  # its place is free

    def _node_changed(self, _: Node | None, __: Node | None) -> None:
        ready = tuple(self._node_addresses())
        if ready != self._ready:
            self._ready = ready
            self._all_again()

    def _all_again(self) -> None:
        for service in self._services.list():
            if _is_ours(service):
                self.queue.add(service.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Give one Service its addresses, or take them back when it is no load balancer any more."""
        service = self._services.get(key)
        if service is None or service.metadata.deletionTimestamp is not None or service.spec.loadBalancerClass:
            return DONE
        present = [dict(one) for one in service.status.loadBalancer.ingress]
        if not _is_ours(service):
            if present:
                await self._write(service, [])
            return DONE
        try:
            wanted = [{"ip": address, "ipMode": "VIP"} for address in self._addresses(service)]
        except NoPlace as error:
            text = f"Error syncing load balancer: {error}"
            await self._recorder.event(reference(SERVICES, service.metadata), "Warning", "SyncLoadBalancerFailed", text)
            return Result(requeue_after=_RETRY_SECONDS)
        if [one.get("ip") for one in present] != [one["ip"] for one in wanted]:
            involved = reference(SERVICES, service.metadata)
            await self._recorder.event(involved, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
            await self._write(service, wanted)
            await self._recorder.event(involved, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")
        return DONE

    async def _write(self, service: Service, ingress: list[dict[str, Any]]) -> None:
        key = service.metadata.key
        patch = {
            "metadata": {"resourceVersion": service.metadata.resourceVersion},
            "status": {"loadBalancer": {"ingress": ingress or None}},
        }
        try:
            await self._client.patch(SERVICES, key.name, patch, key.namespace, subresource="status")
        except NotFound:
            return

    # ---- addresses

    def _addresses(self, service: Service) -> Sequence[str]:
        others = [
            one for one in self._services.list()
            if _is_ours(one) and one.metadata.key != service.metadata.key and one.status.loadBalancer.ingress
        ]  # fmt: skip
        if self._pool is not None:
            return [self._from_pool(service, others)]
        self._check_ports(service, others)
        families = {int(one[-1]) for one in service.spec.ipFamilies} or {4}
        found = [one for one in self._node_addresses() if ipaddress.ip_address(one).version in families]
        if not found:
            raise NoPlace("there are no available nodes for LoadBalancer")
        return found

    def _from_pool(self, service: Service, others: Sequence[Service]) -> str:
        assert self._pool is not None  # noqa: S101 - the caller's condition
        taken = {row.get("ip") for one in others for row in one.status.loadBalancer.ingress}
        mine = [row.get("ip") for row in service.status.loadBalancer.ingress]
        asked = service.spec.loadBalancerIP
        for address in filter(None, (asked, *([] if asked else mine))):
            if ipaddress.ip_address(address) in self._pool and address not in taken:
                return str(address)
            if address == asked:
                raise NoPlace(f"{asked} is not in {self._pool}, or another service has it")
        for candidate in self._pool.hosts():
            if str(candidate) not in taken:
                return str(candidate)
        raise NoPlace(f"all addresses of {self._pool} are taken")

    def _check_ports(self, service: Service, others: Sequence[Service]) -> None:
        """Raises: NoPlace when a port at the nodes is another's."""
        taken = {(port.protocol, port.port): one.metadata.key for one in others for port in one.spec.ports}
        needed = {_SSH, _API, *self._agent_ports()}
        for port in service.spec.ports:
            if port.protocol == "TCP" and port.port in needed:
                raise NoPlace(f"port {port.port} of the nodes is the cluster's own")
            if (port.protocol, port.port) in taken:
                holder = taken[port.protocol, port.port]
                raise NoPlace(f"port {port.port} of the nodes is the service {holder.namespace}/{holder.name}'s")

    def _agent_ports(self) -> Iterator[int]:
        for node in self._nodes.list():
            yield ((node.status.daemonEndpoints or {}).get("kubeletEndpoint") or {}).get("Port", 10250)

    def _node_addresses(self) -> list[str]:
        found = []
        for node in self._nodes.list():
            ready = any(one.type == "Ready" and one.status == "True" for one in node.status.conditions)
            if ready and EXCLUDED not in node.metadata.labels:
                found += [one["address"] for one in node.status.addresses if one.get("type") == "InternalIP"]
        return sorted(found)


def _is_ours(service: Service) -> bool:
    return service.spec.type == "LoadBalancer" and not service.spec.loadBalancerClass
