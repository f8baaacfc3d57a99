"""Questions about the world outside: sent to the upstream servers, their answers kept as long as these allow.

Each question leaves from a port and with a number of its own, drawn at random, so that no answer is forged blindly.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterdns import wire

log = logging.getLogger(__name__)

Server = tuple[str, int]
_TIMEOUT_SECONDS = 2.0
_MAX_KEPT = 10_000
_MAX_TTL_SECONDS, _MAX_NEGATIVE_SECONDS = 3600, 30  # CoreDNS keeps answers 3600 s at most; kubeadm sets 30 for all
_FAILURE_SECONDS = 5
_RESOLV_CHECK_SECONDS = 5.0


class NoAnswer(Exception):
    """No upstream server answered."""


@dataclass(slots=True)
class Kept:
    """An answer of an upstream server, without its number; `take` gives it with what is left of its times to live."""

    message: bytes  # from the flags on
    times: tuple[tuple[int, int], ...]  # where each time to live stands, and its seconds
    stored_at: float
    expires_at: float

    def take(self) -> bytes:
        """Return the message from the flags on, as old as it is now."""
        age = int(time.monotonic() - self.stored_at)
        if age < 1:
            return self.message
        aged = bytearray(self.message)
        for at, seconds in self.times:
            struct.pack_into(">I", aged, at, max(seconds - age, 0))
        return bytes(aged)


def keep(message: bytes, now: float) -> Kept:
    """Return an answer as it is kept."""
    try:
        times = tuple((at - 2, seconds) for at, seconds in wire.times_to_live(message))
    except (IndexError, struct.error):
        times = ()
    least = min((seconds for _, seconds in times), default=_FAILURE_SECONDS)
    code, count = message[3] & 0xF, struct.unpack_from(">H", message, 6)[0]
    most = _MAX_TTL_SECONDS if code == 0 and count else _MAX_NEGATIVE_SECONDS
    seconds = 0 if code not in (0, 3) or wire.is_truncated(message) else min(least, most)
    return Kept(message[2:], times, now, now + seconds)


@dataclass
class Upstreams:
    """Which servers are asked: those given, or those of resolv.conf; others for domains that have their own.

    Attributes:
        given: servers for everything; empty for those of `resolv_conf`.
        stubs: servers by domain, in lower case without the last dot.
        avoid: addresses that are this server's own.
    """

    given: Sequence[Server] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")
    avoid: frozenset[str] = frozenset()
    stubs: Mapping[str, Sequence[Server]] = field(default_factory=dict)
    _read: tuple[Server, ...] = ()
    _looked_at: float = float("-inf")

    def servers(self, labels: Sequence[str]) -> Sequence[Server]:
        """Return whom to ask about a name; the most specific stub domain wins."""
        for at in range(len(labels) if self.stubs else 0):
            if found := self.stubs.get(".".join(labels[at:])):
                return found
        if self.given:
            return self.given
        if time.monotonic() - self._looked_at > _RESOLV_CHECK_SECONDS:
            self._read, self._looked_at = self._nameservers(), time.monotonic()
        return self._read

    def _nameservers(self) -> tuple[Server, ...]:
        with contextlib.suppress(OSError):
            lines = (line.split() for line in self.resolv_conf.read_text().splitlines())
            found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
            return tuple((address, 53) for address in found if address not in self.avoid)
        return ()


class Forwarder:
    """Asks upstream servers and keeps what they say."""

    def __init__(self, upstreams: Upstreams) -> None:
        self.upstreams = upstreams
        self.asked = 0
        self._kept: OrderedDict[tuple[object, ...], Kept] = OrderedDict()
        self._asking: dict[tuple[object, ...], asyncio.Task[bytes]] = {}

    def forget(self) -> None:
        """Forget all answers: the servers changed."""
        self._kept.clear()

    def find(self, query: wire.Query, *, stream: bool) -> Kept | None:
        """Return a kept answer that is not too old."""
        kept = self._kept.get(_key(query, stream=stream))
        return kept if kept is not None and time.monotonic() < kept.expires_at else None

    async def ask(self, query: wire.Query, data: bytes, *, stream: bool) -> Kept:
        """Return an answer. Args: `stream` asks over TCP, for answers of any length. Raises: NoAnswer."""
        key = _key(query, stream=stream)
        task = self._asking.get(key)
        if task is None:  # who asks the same meanwhile waits for the same answer
            task = self._asking[key] = asyncio.create_task(self._ask(query, data, stream=stream))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        kept = keep(await asyncio.shield(task), time.monotonic())
        self._kept[key] = kept
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return kept

    async def _ask(self, query: wire.Query, data: bytes, *, stream: bool) -> bytes:
        servers = list(self.upstreams.servers(query.labels))
        random.shuffle(servers)  # spreads questions, guards nothing
        self.asked += 1
        for server in servers * (2 if len(servers) == 1 else 1):
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    number = secrets.token_bytes(2)
                    sent = number + data[2:]
                    answer = await (_over_tcp if stream else _over_udp)(server, sent)
                    if answer[:2] == number and answer[12 : query.end].lower() == data[12 : query.end].lower():
                        return answer
        raise NoAnswer


def _key(query: wire.Query, *, stream: bool) -> tuple[object, ...]:
    return (query.spelled, query.type, query.edns, query.udp_bytes, stream)


async def _over_tcp(server: Server, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(sent).to_bytes(2, "big") + sent)
        length = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(length)
    finally:
        writer.close()


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, number: bytes) -> None:
        self._number = number
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        if data[:2] == self._number and not self.future.done():
            self.future.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def _over_udp(server: Server, sent: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Answer(sent[:2]), remote_addr=server)
    try:
        transport.sendto(sent)
        return await protocol.future
    finally:
        transport.close()
