"""IPAddresses say which Service has which address; ServiceCIDRs say from where addresses come, and whether they may go.

The API server gives addresses out and keeps track by the Services themselves. Here they are shown as objects, as
clients of level v1.33 and above look for them.
Source: https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
"""

import contextlib
import ipaddress
from collections.abc import Iterable

from controllers import conditions
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import JSON, ObjectMeta, Service, View
from machinery.api.meta import ObjectKey
from machinery.api.resources import IP_ADDRESSES, SERVICE_CIDRS, SERVICES
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound

MANAGED_BY, FAMILY = "ipaddress.kubernetes.io/managed-by", "ipaddress.kubernetes.io/ip-family"
MANAGER = "ipallocator.k8s.io"
FINALIZER = "networking.k8s.io/service-cidr-finalizer"
DEFAULT_NAME = "kubernetes"
_HOLD_SECONDS = 10.0


class AddressSpec(View, frozen=True):
    """Whose an address is."""

    parentRef: JSON | None = None


class Address(View, frozen=True):
    """An IPAddress; its name is the address."""

    metadata: ObjectMeta
    spec: AddressSpec = AddressSpec()


class RangeSpec(View, frozen=True):
    """From where addresses come."""

    cidrs: tuple[str, ...] = ()


class RangeStatus(View, frozen=True):
    """Whether addresses come from there."""

    conditions: tuple[JSON, ...] = ()


class Range(View, frozen=True):
    """A ServiceCIDR."""

    metadata: ObjectMeta
    spec: RangeSpec = RangeSpec()
    status: RangeStatus = RangeStatus()


class ServiceAddressController(Controller[str]):
    """Keeps the IPAddresses of Services. Keys are addresses."""

    name = "service-addresses"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._services = informers.informer(SERVICES, Service)
        self._addresses = informers.informer(IP_ADDRESSES, Address)
        self._services.add_index("address", addresses_of)
        self._services.add_handler(self._service_changed)
        self._addresses.add_handler(self._address_changed)

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        for service in (old, new):
            for address in addresses_of(service) if service is not None else ():
                self.queue.add(address)

    def _address_changed(self, old: Address | None, new: Address | None) -> None:
        changed = new or old
        if changed is not None:
            self.queue.add(changed.metadata.name)

    async def reconcile(self, key: str) -> Result:
        """Make the object of an address in use, remove that of one that is free again."""
        holder = next(iter(self._services.by_index("address", key)), None)
        present = self._addresses.get(ObjectKey("", key))
        ours = present is not None and present.metadata.labels.get(MANAGED_BY) == MANAGER
        if holder is None:
            if present is not None and ours:
                await self._delete(present)
            return DONE
        wanted = {
            "group": "", "resource": SERVICES.plural, "namespace": holder.metadata.namespace,
            "name": holder.metadata.name,
        }  # fmt: skip
        if present is None:
            labels = {MANAGED_BY: MANAGER, FAMILY: f"IPv{ipaddress.ip_address(key).version}"}
            body = {"metadata": {"name": key, "labels": labels}, "spec": {"parentRef": wanted}}
            with contextlib.suppress(AlreadyExists):
                await self._client.create(IP_ADDRESSES, body)
        elif ours and _named(present.spec.parentRef) != _named(wanted):
            await self._delete(present)  # whose it is can't be changed: the next look makes it anew
        return DONE

    async def _delete(self, present: Address) -> None:
        options = {"preconditions": {"uid": present.metadata.uid}}
        with contextlib.suppress(NotFound):
            await self._client.delete(IP_ADDRESSES, present.metadata.name, options=options)


def addresses_of(service: Service) -> list[str]:
    """Return the cluster addresses of a Service."""
    found = service.spec.clusterIPs or ((service.spec.clusterIP,) if service.spec.clusterIP else ())
    return [address for address in found if address and address != "None"]


def _named(parent: JSON | None) -> tuple[object, ...]:
    parent = parent or {}
    return tuple(parent.get(field) or "" for field in ("group", "resource", "namespace", "name"))


class ServiceRangeController(Controller[ObjectKey]):
    """Keeps the status and the finalizer of ServiceCIDRs."""

    name = "service-cidr"

    def __init__(self, client: Client, informers: InformerFactory, *, cidrs: Iterable[str]) -> None:
        """Args: `cidrs` are what the API server was started with; the range `kubernetes` shows them."""
        super().__init__()
        self._client = client
        self._cidrs = tuple(cidrs)
        self._ranges = informers.informer(SERVICE_CIDRS, Range)
        self._addresses = informers.informer(IP_ADDRESSES, Address)
        self._ranges.add_handler(self._range_changed)

    async def run(self) -> None:
        """Show the range the server was started with, then work."""
        self.queue.add(ObjectKey("", DEFAULT_NAME))
        await super().run()

    def _range_changed(self, old: Range | None, new: Range | None) -> None:
        for changed in (old, new):
            if changed is not None:
                self.queue.add(changed.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring one range in order."""
        found = self._ranges.get(key)
        if found is None:
            if key.name == DEFAULT_NAME and self._cidrs:
                body = {"metadata": {"name": DEFAULT_NAME}, "spec": {"cidrs": list(self._cidrs)}}
                with contextlib.suppress(AlreadyExists):
                    await self._client.create(SERVICE_CIDRS, body)
            return DONE
        if found.metadata.deletionTimestamp is None:
            await self._offer(found)
            return DONE
        return await self._withdraw(found)

    async def _offer(self, found: Range) -> None:
        metadata = found.metadata
        if FINALIZER not in metadata.finalizers:
            patch = {"metadata": {"resourceVersion": metadata.resourceVersion,
                                  "finalizers": [*metadata.finalizers, FINALIZER]}}  # fmt: skip
            await self._client.patch(SERVICE_CIDRS, metadata.name, patch)
            return
        ready = conditions.find(found.status.conditions, "Ready")
        if ready is None or ready["status"] != "True":
            await self._tell(found, "True", "", "Kubernetes Service CIDR is ready")

    async def _withdraw(self, found: Range) -> Result:
        metadata = found.metadata
        if FINALIZER not in metadata.finalizers:
            return DONE
        if self._is_needed(found):
            message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new"
            await self._tell(found, "False", "Terminating", f"{message} ServiceCIDR")
            return Result(requeue_after=_HOLD_SECONDS)
        kept = [one for one in metadata.finalizers if one != FINALIZER]
        patch = {"metadata": {"resourceVersion": metadata.resourceVersion, "finalizers": kept or None}}
        with contextlib.suppress(NotFound):
            await self._client.patch(SERVICE_CIDRS, metadata.name, patch)
        return DONE

    def _is_needed(self, found: Range) -> bool:
        """Whether an address lies in this range and in no other that stays."""
        others = [
            ipaddress.ip_network(cidr) for other in self._ranges.list()
            if other.metadata.deletionTimestamp is None for cidr in other.spec.cidrs
        ]  # fmt: skip
        ours = [ipaddress.ip_network(cidr) for cidr in found.spec.cidrs]
        for held in self._addresses.list():
            address = ipaddress.ip_address(held.metadata.name)
            if any(address in one for one in ours) and not any(address in one for one in others):
                return True
        return False

    async def _tell(self, found: Range, status: str, reason: str, message: str) -> None:
        condition = conditions.made("Ready", status, reason, message)
        known = conditions.with_condition(found.status.conditions, condition)
        if list(known) == list(found.status.conditions):
            return
        patch = {"metadata": {"uid": found.metadata.uid}, "status": {"conditions": list(known)}}
        with contextlib.suppress(NotFound):
            await self._client.patch(SERVICE_CIDRS, found.metadata.name, patch, subresource="status")
