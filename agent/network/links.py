"""The ways to the pods of other nodes: plain routes to those on the same link, VXLAN to the rest; or WireGuard to all.

What should be there is computed from the Nodes (plan, pure); what is there is read from the kernel; the difference is
made. So it is repaired when someone removes a route, and nothing of others' is touched: our routes bear a protocol
number of their own. Nobody needs to be told anything for VXLAN: the addresses of a node's end of the tunnel follow from
the range of its pods.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.network import wireguard
from agent.network.views import Node
from machinery.client.informer import Informer

log = logging.getLogger(__name__)

ROUTE_PROTOCOL = 87
_VXLAN_PORT, _VXLAN_ID = 4789, 87
_OVERHEAD_BYTES = {4: 50, 6: 70}  # of VXLAN, by the version of the addresses between nodes
_CHECK_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_GATHER_SECONDS = 0.05
_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x40 | 0x400  # links, IPv4 routes, IPv6 routes
_PERMANENT = 0x80  # a neighbour that was entered by hand
_ONLINK = 4
_SELF = 2  # the device's own table


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One node at the far end of the tunnel."""

    address: str  # of its end, inside
    hardware: str
    node: str  # where packets are sent to


@dataclass(frozen=True, slots=True)
class Plan:
    """What the kernel should have: destination to next hop, and the far ends of the tunnel."""

    routes: Mapping[str, str] = field(default_factory=dict)
    tunnels: Mapping[str, Tunnel] = field(default_factory=dict)  # by destination
    peers: Mapping[str, wireguard.Peer] = field(default_factory=dict)  # by node


@dataclass(frozen=True, slots=True)
class Me:
    """This node: its name, address, the ranges of its pods, and the tunnel's name."""

    name: str
    address: str
    pod_cidrs: tuple[str, ...]
    device: str
    mode: str = "auto"  # auto, direct, vxlan or wireguard
    key: str = ""  # WireGuard's private one


def tunnel_end(pod_cidr: str) -> tuple[str, str]:
    """Return inner address and hardware address of the tunnel's end on the node of these pods."""
    network = ipaddress.ip_network(pod_cidr)
    address = network.network_address
    return str(address), "0e:57:" + ":".join(f"{byte:02x}" for byte in address.packed[:8][-4:])


def make_plan(nodes: Iterable[Node], me: Me, is_on_link: Callable[[str], bool]) -> Plan:
    """Return the ways to all other nodes' pods; nodes without address or range are left out for now."""
    if me.mode == "wireguard":
        return Plan(peers=_peers(nodes, me))
    routes: dict[str, str] = {}
    tunnels: dict[str, Tunnel] = {}
    mine = [ipaddress.ip_network(one) for one in me.pod_cidrs]
    for node in nodes:
        if node.metadata.name == me.name:
            continue
        for cidr in node.pod_cidrs:
            network = ipaddress.ip_network(cidr)
            address = node.address(network.version)
            if (
                not address
                or address == me.address
                or any(network.overlaps(one) for one in mine if _same(one, network))
            ):
                continue
            if me.mode == "direct" or (me.mode == "auto" and is_on_link(address)):
                routes[cidr] = address
            else:
                end, hardware = tunnel_end(cidr)
                tunnels[cidr] = Tunnel(end, hardware, address)
    return Plan(routes, tunnels)


def _peers(nodes: Iterable[Node], me: Me) -> dict[str, wireguard.Peer]:
    """Return the nodes that tell a key, without ranges that are ours."""
    mine, found = [ipaddress.ip_network(one) for one in me.pod_cidrs], {}
    for node in nodes:
        key = node.metadata.annotations.get(wireguard.KEY_ANNOTATION, "")
        address = node.address(6 if ":" in me.address else 4)
        cidrs = [
            cidr for cidr in node.pod_cidrs
            if not any(_same(one, net) and one.overlaps(net) for net in [ipaddress.ip_network(cidr)] for one in mine)
        ]  # fmt: skip
        if node.metadata.name != me.name and key and address and cidrs:
            found[node.metadata.name] = wireguard.Peer(key, address, tuple(cidrs))
    return found


def faults(nodes: Iterable[Node], me: Me) -> dict[str, str]:
    """Return what is wrong between the nodes, reason to message, for which no way can be made."""
    found: dict[str, str] = {}
    mine = [ipaddress.ip_network(one) for one in me.pod_cidrs]
    for node in nodes:
        name = node.metadata.name
        if name == me.name:
            continue
        if me.address in [one.address for one in node.status.addresses if one.type == "InternalIP"]:
            found["DuplicateNodeAddress"] = (
                f"node {name} has this node's address {me.address}: its pods are not reached"
            )
        for cidr in map(ipaddress.ip_network, node.pod_cidrs):
            own = next((one for one in mine if _same(one, cidr) and one.overlaps(cidr)), None)
            if own is not None:
                text = f"the range {cidr} of node {name} overlaps this node's {own}: its pods are not reached"
                found["OverlappingPodCIDR"] = text
    return found


def _same(one: Any, other: Any) -> bool:
    return bool(one.version == other.version)


async def say_nothing(wrong: Mapping[str, str]) -> None:
    """Tell nobody."""


class Links:
    """Keeps the ways to other nodes in step with the Nodes, and with what others do to them."""

    def __init__(
        self, me: Me, nodes: Informer[Node], tell: Callable[[Mapping[str, str]], Awaitable[None]] = say_nothing
    ) -> None:
        """Args: `tell` reports all that is wrong, reason to message, each time that changes."""
        self._me = me
        self._tell = tell
        self._told: dict[str, str] = {}
        self._nodes = nodes
        self._changed = asyncio.Event()
        nodes.add_handler(lambda _old, _new: self._changed.set())

    async def run(self) -> None:
        """Work until cancelled."""
        await self._nodes.synced()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as news:
            news.setblocking(False)
            news.bind((0, _GROUPS))
            loop.add_reader(news, self._heard, news)
            try:
                while True:
                    self._changed.clear()
                    await self._settle()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_CHECK_SECONDS):
                            await self._changed.wait()
                    await asyncio.sleep(_GATHER_SECONDS)
            finally:
                loop.remove_reader(news)

    def _heard(self, news: socket.socket) -> None:
        """The kernel tells that links or routes changed; which, is looked at anew."""
        with contextlib.suppress(BlockingIOError, OSError):
            while news.recv(1 << 16):
                pass
        self._changed.set()

    async def _settle(self) -> None:
        nodes = self._nodes.list()
        if len(nodes) < 2 and not await asyncio.to_thread(_tunnel_is_there, self._me.device):
            return  # alone: nothing to load or look at
        wrong = faults(nodes, self._me)
        try:
            changed = await asyncio.to_thread(settle, nodes, self._me)
        except OSError as error:
            log.error("the ways to other nodes were not set: %s", error)
            await self._report(wrong | {"NodeNetworkFailed": f"the ways to other nodes were not set: {error}"})
            await asyncio.sleep(_RETRY_SECONDS)
            self._changed.set()
        else:
            await self._report(wrong)
            if changed:
                log.info("ways to other nodes: %s", ", ".join(changed))

    async def _report(self, wrong: dict[str, str]) -> None:
        """Tell of what is wrong where that has changed."""
        if wrong != self._told:
            self._told = wrong
            await self._tell(wrong)


def _tunnel_is_there(device: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.if_nametoindex(device))
    return False


def settle(nodes: Iterable[Node], me: Me) -> list[str]:
    """Make the kernel have what it should; returns what was done. Raises: OSError."""
    # Ten megabytes that a node without others does not need.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as kernel:
            plan = make_plan(nodes, me, lambda address: _is_on_link(kernel, address))
            if me.mode == "wireguard":
                return _settle_encrypted(kernel, me, plan.peers)
            device, done = _settle_tunnel(kernel, me, plan.tunnels)
            wanted: dict[str, tuple[str, int]] = {cidr: (hop, 0) for cidr, hop in plan.routes.items()}
            wanted |= {cidr: (one.address, device) for cidr, one in plan.tunnels.items()}
            return done + _settle_routes(kernel, wanted)
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error


def _settle_encrypted(kernel: Any, me: Me, peers: Mapping[str, wireguard.Peer]) -> list[str]:
    """Make the WireGuard device, its peers and the routes through it."""
    device, is_new = wireguard.settle_device(kernel, me.device, tunnel_end(me.pod_cidrs[0])[0])
    wireguard.tell(me.device, wireguard.configuration(me.key, peers))
    if room := min((_mtu(kernel, one.node) for one in peers.values()), default=0):
        kernel.link("set", index=device, mtu=room - wireguard.OVERHEAD_BYTES)
    wanted = {cidr: ("", device) for one in peers.values() for cidr in one.cidrs}
    return ([f"{me.device} made"] if is_new else []) + _settle_routes(kernel, wanted)


def _is_on_link(kernel: Any, address: str) -> bool:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        found = next(iter(kernel.route("get", dst=address)))
    except (NetlinkError, StopIteration):
        return False
    return found.get_attr("RTA_GATEWAY") is None


def _settle_routes(kernel: Any, wanted: Mapping[str, tuple[str, int]]) -> list[str]:
    """Make our routes be these: destination to next hop, and to the device where it is the tunnel, else 0."""
    present: dict[str, tuple[str, int]] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for one in kernel.get_routes(family=family, proto=ROUTE_PROTOCOL):
            destination = f"{one.get_attr('RTA_DST')}/{one['dst_len']}"
            present[destination] = (one.get_attr("RTA_GATEWAY") or "", one.get_attr("RTA_OIF") or 0)
    done = []
    for destination, (hop, device) in wanted.items():
        is_hop, through = present.get(destination, ("", 0))
        if is_hop == hop and device in (0, through):
            continue
        more: dict[str, Any] = {"oif": device} if device else {}
        if hop:
            more |= {"gateway": hop, **({"flags": _ONLINK} if device else {})}
        kernel.route("replace", dst=destination, proto=ROUTE_PROTOCOL, **more)
        done.append(f"{destination} via {hop}" if hop else f"{destination} encrypted")
    for destination in present.keys() - wanted.keys():
        with contextlib.suppress(OSError):
            kernel.route("del", dst=destination, proto=ROUTE_PROTOCOL)
        done.append(f"{destination} removed")
    return done


def _settle_tunnel(kernel: Any, me: Me, tunnels: Mapping[str, Tunnel]) -> tuple[int, list[str]]:
    """Make the tunnel and its far ends, or remove it when none is needed; returns the device, 0 for none."""
    found = kernel.link_lookup(ifname=me.device)
    if not tunnels:
        if found:
            kernel.link("del", index=found[0])
        return 0, [f"{me.device} removed"] if found else []
    end, hardware = tunnel_end(me.pod_cidrs[0])
    if not found:
        kernel.link(
            "add", ifname=me.device, kind="vxlan", vxlan_id=_VXLAN_ID, vxlan_port=_VXLAN_PORT, vxlan_learning=False,
            vxlan_local=me.address, address=hardware,
        )  # fmt: skip
    device: int = kernel.link_lookup(ifname=me.device)[0]
    longest = min(_room(kernel, one.node) for one in tunnels.values())
    kernel.link("set", index=device, state="up", **({"mtu": longest} if longest else {}))
    kernel.addr("replace", index=device, address=end, prefixlen=32 if "." in end else 128)
    _settle_far_ends(kernel, device, tunnels.values())
    return device, [] if found else [f"{me.device} made"]


def _room(kernel: Any, node: str) -> int:
    """Return how long packets in the tunnel to a node may be, so that none is cut in pieces; 0 when unknown."""
    mtu = _mtu(kernel, node)
    return mtu - _OVERHEAD_BYTES[6 if ":" in node else 4] if mtu else 0


def _mtu(kernel: Any, node: str) -> int:
    """Return how long packets to a node may be, 0 when unknown."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        link = next(iter(kernel.route("get", dst=node))).get_attr("RTA_OIF")
        return int(kernel.get_links(link)[0].get_attr("IFLA_MTU"))
    except (NetlinkError, StopIteration, IndexError):
        return 0


def _settle_far_ends(kernel: Any, device: int, tunnels: Iterable[Tunnel]) -> None:
    """Enter where each far end is: its hardware address, and the node behind that."""
    wanted = {one.hardware: one for one in tunnels}
    for one in kernel.get_neighbours(family=socket.AF_BRIDGE, ifindex=device):
        hardware = one.get_attr("NDA_LLADDR")
        if hardware not in wanted or wanted[hardware].node != one.get_attr("NDA_DST"):
            with contextlib.suppress(OSError):
                kernel.fdb("del", ifindex=device, lladdr=hardware, dst=one.get_attr("NDA_DST"), flags=_SELF)
    for one in wanted.values():
        kernel.fdb("replace", ifindex=device, lladdr=one.hardware, dst=one.node, flags=_SELF, state=_PERMANENT)
        family = socket.AF_INET6 if ":" in one.address else socket.AF_INET
        kernel.neigh(
            "replace", family=family, dst=one.address, lladdr=one.hardware, ifindex=device, state=_PERMANENT
        )  # fmt: skip
