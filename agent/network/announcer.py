"""Answers for load balancers' addresses of a range on this node's link: one node at a time for each address.

All nodes choose the same one without asking each other: the ready node whose name and the address have the highest
hash together. It takes the address on its link, so that the kernel answers ARP or NDP for it, and tells the neighbours;
when the node is lost, another takes it over. Where traffic must stay on the node, only nodes with endpoints are
candidates.
"""

import asyncio
import hashlib
import ipaddress
import json
import logging
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.config import AgentConfig
from agent.network.routes import balancer_addresses, local_count
from agent.network.views import Node
from machinery.client.informer import Informer

log = logging.getLogger(__name__)

Object = dict[str, Any]
_GATHER_SECONDS = 0.05
_CHECK_SECONDS = 15.0
_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD
_OVERRIDE = 0x20000000


def chosen(address: str, nodes: Iterable[str]) -> str:
    """Return the node that answers for an address, "" when there is none."""
    return max(nodes, key=lambda name: hashlib.sha256(f"{name}/{address}".encode()).digest(), default="")


class Announcer:
    """Takes and leaves addresses as Services and nodes change."""

    def __init__(
        self, config: AgentConfig, services: Informer[Object], slices: Informer[Object], nodes: Informer[Node]
    ) -> None:
        """Args: `slices` has the index "service"."""
        self._node = config.node_name
        self._node_ip = config.node_ip
        self._range = ipaddress.ip_network(config.load_balancer)
        self._services = services
        self._slices = slices
        self._nodes = nodes
        self._changed = asyncio.Event()
        for informer in (services, slices, nodes):
            informer.add_handler(lambda _old, _new: self._changed.set())

    async def run(self) -> None:
        """Announce until cancelled; what is left then is taken over by the next start, or goes with `wherry reset`."""
        for informer in (self._services, self._slices, self._nodes):
            await informer.synced()
        while True:
            self._changed.clear()
            try:
                await asyncio.to_thread(settle, set(self._mine()), self._node_ip, self._range)
            except OSError as error:
                log.error("load balancers' addresses are not announced: %s", error)
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_GATHER_SECONDS)

    def _mine(self) -> Iterator[str]:
        ready = [node.metadata.name for node in self._nodes.list() if node.is_ready]
        for service in self._services.list():
            metadata, candidates = service["metadata"], ready
            if service["spec"].get("externalTrafficPolicy") == "Local":
                slices = self._slices.by_index("service", f"{metadata['namespace']}/{metadata['name']}")
                candidates = [name for name in ready if local_count(slices, name)]
            for address in balancer_addresses(service):
                if ipaddress.ip_address(address) in self._range and chosen(address, candidates) == self._node:
                    yield address


def leave(whole: Any) -> None:
    """Give up all addresses of a range, on whatever link."""
    rows = json.loads(subprocess.run(["ip", "-j", "address"], check=True, capture_output=True).stdout)
    for link in rows:
        for one in link.get("addr_info", ()):
            if "local" in one and _is_in(one, whole):
                _ip("delete", one["local"], link)


def settle(wanted: set[str], node_ip: str, whole: Any) -> list[str]:
    """Have exactly these addresses of a range on the link that has the node's own. Returns what was taken.

    Raises: OSError when no link has the node's address.
    """
    rows = json.loads(subprocess.run(["ip", "-j", "address"], check=True, capture_output=True).stdout)
    link = next((row for row in rows if any(node_ip == one.get("local") for one in row.get("addr_info", ()))), None)
    if link is None:
        raise OSError(f"no link has the address {node_ip}")
    present = {one["local"] for one in link["addr_info"] if _is_in(one, whole)}
    for address in present - wanted:
        _ip("delete", address, link)
    for address in wanted - present:
        _ip("replace", address, link)
        tell_neighbours(link["ifname"], link["address"], address)
    return sorted(wanted - present)


def _is_in(row: Mapping[str, Any], whole: Any) -> bool:
    return row.get("prefixlen") in (32, 128) and ipaddress.ip_address(row["local"]) in whole


def _ip(verb: str, address: str, link: Mapping[str, Any]) -> None:
    bits = 128 if ":" in address else 32
    argv = ["ip", "address", verb, f"{address}/{bits}", "dev", link["ifname"]]
    # Nobody else has it: it need not be tried out for a second before it is used.
    argv += ["nodad"] if verb == "replace" and ":" in address else []
    subprocess.run(argv, check=False, capture_output=True)


def tell_neighbours(link: str, hardware: str, address: str) -> None:
    """Say unasked where an address is now: who knows it at another node forgets that one."""
    mac = bytes.fromhex(hardware.replace(":", ""))
    kind, frame = (_ETH_IPV6, _advertisement(mac, address)) if ":" in address else (_ETH_ARP, _reply(mac, address))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
        channel.bind((link, kind))
        channel.send(frame)


def _reply(mac: bytes, address: str) -> bytes:
    """A gratuitous ARP to everybody. Source: RFC 5227, 3."""
    ip = socket.inet_aton(address)
    arp = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + mac + ip + b"\xff" * 6 + ip
    return b"\xff" * 6 + mac + struct.pack(">H", _ETH_ARP) + arp


def _advertisement(mac: bytes, address: str) -> bytes:
    """An unsolicited neighbour advertisement to all nodes, that overrides what they know. Source: RFC 4861, 7.2.6."""
    ip, everybody = socket.inet_pton(socket.AF_INET6, address), socket.inet_pton(socket.AF_INET6, "ff02::1")
    told = struct.pack(">I", _OVERRIDE) + ip + struct.pack(">BB", 2, 1) + mac  # the option says the link's address
    length = 4 + len(told)
    pseudo = ip + everybody + struct.pack(">II", length, socket.IPPROTO_ICMPV6)
    head = struct.pack(">BB", 136, 0)
    checksum = _checksum(pseudo + head + b"\0\0" + told)
    packet = struct.pack(">IHBB", 6 << 28, length, socket.IPPROTO_ICMPV6, 255) + ip + everybody
    frame = b"\x33\x33\0\0\0\1" + mac + struct.pack(">H", _ETH_IPV6) + packet
    return frame + head + struct.pack(">H", checksum) + told


def _checksum(data: bytes) -> int:
    """The Internet's checksum of an even number of bytes; RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
