"""Each node gets a range of its own for its pods, out of the cluster's.

Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/ (node-ipam)
"""

import ipaddress
from collections.abc import Iterable

from controllers.informers import InformerFactory
from controllers.ownership import reference
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Node
from machinery.api.meta import ObjectKey
from machinery.api.resources import NODES
from machinery.client.events import EventRecorder
from machinery.client.rest import Client
from machinery.errors import NotFound

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NODE_BITS = {4: 24, 6: 64}
"""The size of a node's range, as upstream's node-cidr-mask-size."""


class NodeIPAMController(Controller[ObjectKey]):
    """Writes `podCIDR` where it is missing; what an agent registered with is left as it is."""

    name = "node-ipam"
    workers = 1  # ranges are given out one after the other

    def __init__(
        self, client: Client, informers: InformerFactory, recorder: EventRecorder, *, cluster_cidrs: Iterable[str]
    ) -> None:
        super().__init__()
        self._client = client
        self._recorder = recorder
        self._ranges: list[Network] = [ipaddress.ip_network(text) for text in cluster_cidrs]
        self._given: dict[str, tuple[str, ...]] = {}  # node -> what we wrote and the cache may not show yet
        self._nodes = informers.informer(NODES, Node)
        self._nodes.add_handler(self._node_changed)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is not None and not new.spec.podCIDRs:
            self.queue.add(new.metadata.key)
        elif new is None and old is not None:
            self._given.pop(old.metadata.name, None)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Give one node its ranges."""
        node = self._nodes.get(key)
        if node is None or node.spec.podCIDRs or not self._ranges:
            return DONE
        taken = [ipaddress.ip_network(text) for other in self._nodes.list() for text in other.spec.podCIDRs]
        taken += [ipaddress.ip_network(text) for name, held in self._given.items() if name != key.name for text in held]
        chosen = [free_range(one, taken) for one in self._ranges]
        found = tuple(str(one) for one in chosen if one is not None)
        if len(found) < len(self._ranges):
            message = f"Node {key.name} status is now: CIDRNotAvailable"
            await self._recorder.event(reference(NODES, node.metadata), "Normal", "CIDRNotAvailable", message)
            return Result(requeue_after=30.0)
        self._given[key.name] = found
        patch = {
            "metadata": {"resourceVersion": node.metadata.resourceVersion},
            "spec": {"podCIDR": found[0], "podCIDRs": list(found)},
        }
        try:
            await self._client.patch(NODES, key.name, patch)
        except NotFound:
            return DONE
        return DONE


def free_range(whole: Network, taken: Iterable[Network]) -> Network | None:
    """Return the first part of a node's size that overlaps nothing that is taken; None when all are."""
    bits = max(NODE_BITS[whole.version], whole.prefixlen)
    used = sorted((one for one in taken if one.version == whole.version), key=lambda one: int(one.network_address))
    busy = {int(one.network_address) >> (one.max_prefixlen - bits) for one in used if one.prefixlen >= bits}
    wide = [one for one in used if one.prefixlen < bits]
    for candidate in whole.subnets(new_prefix=bits):
        number = int(candidate.network_address) >> (candidate.max_prefixlen - bits)
        if number not in busy and not any(_overlap(candidate, one) for one in wide):
            return candidate
    return None


def _overlap(one: Network, other: Network) -> bool:
    first, last = int(other.network_address), int(other.broadcast_address)
    return first <= int(one.broadcast_address) and int(one.network_address) <= last
