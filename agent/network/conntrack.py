"""Ends connections the kernel remembers: UDP flows that still go to an endpoint that is gone, or to none.

A flow of UDP has no end, so a client that goes on sending stays with its first endpoint for ever. A few netlink
messages are all that is needed: listing flows raw is ten times faster than with a library, and tables are large.
Protocol: linux/include/uapi/linux/netfilter/nfnetlink_conntrack.h
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x0101, 0x0102  # subsystem ctnetlink, message
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_IP, _PROTOCOL = 1, 2  # within a tuple
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # IPv4, IPv6, within _IP
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # within _PROTOCOL
_BUFFER_BYTES = 1 << 18
UDP = 17


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection: what the client asked for, and who answers."""

    protocol: int
    address: str
    port: int
    answers_from: str
    answers_port: int
    raw: bytes  # the original direction, as the kernel names it


def delete_flows(version: int, is_stale: Callable[[Flow], bool]) -> int:
    """Delete the flows that are stale and return how many. Raises: OSError when the kernel will not list them."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as channel:
        channel.bind((0, 0))
        stale = [flow for flow in _flows(channel, family) if is_stale(flow)]
        for flow in stale:
            _send(channel, _DELETE, _REQUEST | _ACK, family, flow.raw)
            with contextlib.suppress(FileNotFoundError):  # it ended by itself
                for _ in _answers(channel):
                    pass
    return len(stale)


def _send(channel: socket.socket, kind: int, flags: int, family: int, body: bytes = b"") -> None:
    payload = struct.pack("=BBH", family, 0, 0) + body
    channel.send(struct.pack("=IHHII", 16 + len(payload), kind, flags, 0, 0) + payload)


def _answers(channel: socket.socket) -> Iterator[bytes]:
    """Yield the messages that answer a request. Raises: OSError for a refusal."""
    while True:
        data = channel.recv(_BUFFER_BYTES)
        at = 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, at + 16)[0]
                if code:
                    raise OSError(code, "netlink")
                return
            yield data[at + 20 : at + length]
            at += (length + 3) & ~3


def _flows(channel: socket.socket, family: int) -> Iterator[Flow]:
    _send(channel, _GET, _REQUEST | _DUMP, family)
    for message in _answers(channel):
        parts = dict(_attributes(message))
        protocol, _, address, _, port = _tuple(parts[_TUPLE_ORIGINAL])
        _, answers_from, _, answers_port, _ = _tuple(parts[_TUPLE_REPLY])
        original = parts[_TUPLE_ORIGINAL]
        raw = struct.pack("=HH", 4 + len(original), _TUPLE_ORIGINAL | 0x8000) + original
        yield Flow(protocol, address, port, answers_from, answers_port, raw)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _tuple(data: bytes) -> tuple[int, str, str, int, int]:
    """Protocol, source and destination address, source and destination port (0 where there is none)."""
    parts = dict(_attributes(data))
    addresses, about = dict(_attributes(parts[_IP])), dict(_attributes(parts[_PROTOCOL]))

    def address(kinds: tuple[int, int]) -> str:
        if kinds[0] in addresses:
            return socket.inet_ntop(socket.AF_INET, addresses[kinds[0]])
        return socket.inet_ntop(socket.AF_INET6, addresses[kinds[1]])

    def port(kind: int) -> int:
        return int.from_bytes(about.get(kind, b""), "big")

    return about[_NUMBER][0], address(_SOURCES), address(_DESTINATIONS), port(_SOURCE_PORT), port(_DESTINATION_PORT)
