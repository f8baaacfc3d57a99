"""A query's way: prepared answers first, then the cluster's names, then the world outside.

Answers are kept as bytes under the bytes of their query, so the same query again costs a look-up and two system calls;
any change of a Service or its endpoints throws them all away.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from clusterdns import wire, zone
from clusterdns.forward import Forwarder, Kept, NoAnswer
from clusterdns.zone import Found, Zone

log = logging.getLogger(__name__)

_Address = tuple[str, int]

_MAX_PREPARED = 20_000
_BATCH = 128  # queries read at once before others have their turn
_MAX_FORWARDED = 1000  # at once; more are refused
_IDLE_SECONDS = 10.0
_MAX_CONNECTIONS = 500
_RECEIVE_BUFFER_BYTES = 4 << 20
# Level and option that let us bind an address before the link that has it is there.
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
_STREAM_BYTES = 65535


@dataclass(slots=True)
class _Rotating:
    """An answer in several orders; each query is given the next."""

    orders: list[bytes]
    at: int = 0

    def take(self) -> bytes:
        self.at = (self.at + 1) % len(self.orders)
        return self.orders[self.at]


@dataclass(slots=True)
class Counts:
    """What was served since the start."""

    udp: int = 0
    tcp: int = 0
    prepared: int = 0
    failed: int = 0


class Server:
    """Serves DNS over UDP and TCP."""

    def __init__(self, names: Zone, forwarder: Forwarder) -> None:
        self._zone = names
        self._forwarder = forwarder
        self._prepared: dict[bytes, bytes | _Rotating] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._streams: list[asyncio.Server] = []
        self._connections = 0
        self.counts = Counts()

    def forget(self) -> None:
        """Something changed in the cluster: prepare answers anew."""
        self._prepared.clear()

    async def listen(self, address: str, port: int) -> int:
        """Serve at an address, which may not be there yet; returns the port, another one if it is taken.

        Raises: OSError.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
        for one in (udp, tcp):
            one.setblocking(False)
            one.setsockopt(*_FREEBIND[family], 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(one is tcp))
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        try:
            udp.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            log.warning("port %s of %s is taken: serving at another", port, address)
            udp.bind((address, 0))
        port = udp.getsockname()[1]
        tcp.bind((address, port))
        asyncio.get_running_loop().add_reader(udp, self._read, udp)
        self._sockets.append(udp)
        self._streams.append(await asyncio.start_server(self._stream, sock=tcp))
        return port

    async def close(self) -> None:
        """Stop serving."""
        for udp in self._sockets:
            asyncio.get_running_loop().remove_reader(udp)
            udp.close()
        for stream in self._streams:
            stream.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- UDP

    def _read(self, udp: socket.socket) -> None:
        receive, send, prepared, served = udp.recvfrom, udp.sendto, self._prepared, 0
        for _ in range(_BATCH):
            try:
                data, client = receive(4096)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error of an earlier answer
            self.counts.udp += 1
            entry = prepared.get(data[2:])
            if entry is None:
                self._unprepared(udp, data, client)
                continue
            served += 1
            with contextlib.suppress(OSError):  # the client is gone, or the queue is full: it asks again
                send(data[:2] + (entry if type(entry) is bytes else entry.take()), client)  # type: ignore[union-attr]
        self.counts.prepared += served

    def _unprepared(self, udp: socket.socket, data: bytes, client: _Address) -> None:
        try:
            query = wire.parse(data)
        except wire.BadQuery as error:
            if error.code is not None:
                self._send(udp, wire.refusal(data, error.code), client)
            return
        key = _key(query, data)
        if query.has_options and (entry := self._prepared.get(key)) is not None:
            self._send(udp, data[:2] + (entry if type(entry) is bytes else entry.take()), client)  # type: ignore[union-attr]
            return
        found = self._zone.find(query.labels, query.type)
        if found is not None and not _leads_on(found, query.type):
            orders = wire.answers(query, found, self._zone.domain, limit=query.udp_bytes)
            self._prepare(key, orders)
            self._send(udp, orders[0], client)
        elif found is None and (kept := self._forwarder.find(query, stream=False)) is not None:
            self._send(udp, data[:2] + wire.truncated(data[:2] + kept.take(), query.udp_bytes)[2:], client)
        elif len(self._tasks) >= _MAX_FORWARDED:
            self._send(udp, wire.refusal(data, zone.SERVFAIL), client)
        else:
            task = asyncio.create_task(self._answer_later(udp, query, data, client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _prepare(self, key: bytes, orders: list[bytes]) -> None:
        if len(self._prepared) >= _MAX_PREPARED:
            self._prepared.clear()
        bodies = [order[2:] for order in orders]
        self._prepared[key] = bodies[0] if len(bodies) == 1 else _Rotating(bodies)

    async def _answer_later(self, udp: socket.socket, query: wire.Query, data: bytes, client: _Address) -> None:
        answer = await self._answer(query, data, stream=False)
        self._send(udp, wire.truncated(answer, query.udp_bytes), client)

    def _send(self, udp: socket.socket, answer: bytes, client: _Address) -> None:
        with contextlib.suppress(OSError):
            udp.sendto(answer, client)

    # ---- TCP

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections += 1
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                while True:
                    async with asyncio.timeout(_IDLE_SECONDS):
                        length = int.from_bytes(await reader.readexactly(2), "big")
                        data = await reader.readexactly(length)
                    self.counts.tcp += 1
                    answer = await self._answer_stream(data)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_stream(self, data: bytes) -> bytes:
        try:
            return await self._answer(wire.parse(data), data, stream=True)
        except wire.BadQuery as error:
            if error.code is None:
                raise ConnectionError from error
            return wire.refusal(data, error.code)

    # ---- both

    async def _answer(self, query: wire.Query, data: bytes, *, stream: bool) -> bytes:
        found = self._zone.find(query.labels, query.type)
        limit = _STREAM_BYTES if stream else query.udp_bytes
        try:
            if found is None:
                kept = self._forwarder.find(query, stream=stream)
                kept = kept or await self._forwarder.ask(query, data, stream=stream)
                return data[:2] + kept.take()
            if _leads_on(found, query.type):
                found = Found(found.code, (*found.records, *await self._follow(found, query)))
        except NoAnswer:
            self.counts.failed += 1
            return wire.refusal(data, zone.SERVFAIL)
        return wire.answers(query, found, self._zone.domain, limit=limit)[0]

    async def _follow(self, found: Found, query: wire.Query) -> Sequence[zone.Record]:
        """Return the addresses that an alias leads to: stub resolvers don't ask for them themselves."""
        from dnslib import DNSRecord

        target = str(found.records[0].data)
        labels = target.rstrip(".").lower().split(".")
        inside = self._zone.find(labels, query.type)
        if inside is not None:
            return [zone.Record(one.name or target, one.type, one.data) for one in inside.records]
        asked = bytes(DNSRecord.question(target, {zone.A: "A", zone.AAAA: "AAAA"}[query.type]).pack())
        parsed = wire.parse(asked)
        kept: Kept | None = self._forwarder.find(parsed, stream=False)
        with contextlib.suppress(NoAnswer):
            kept = kept or await self._forwarder.ask(parsed, asked, stream=False)
        if kept is None:
            return []
        answer = DNSRecord.parse(b"\0\0" + kept.take())
        return [
            zone.Record(str(one.rname), one.rtype, str(one.rdata))
            for one in answer.rr if one.rtype in (query.type, zone.CNAME)
        ]  # fmt: skip


def _key(query: wire.Query, data: bytes) -> bytes:
    """What an answer is prepared under: the query's bytes; without options, which are new in each query."""
    if not query.has_options:
        return data[2:]
    return b"options" + data[2 : query.end] + query.udp_bytes.to_bytes(2, "big")


def _leads_on(found: Found, kind: int) -> bool:
    """Whether the answer is an alias, and its target's addresses are wanted."""
    return bool(found.records) and found.records[0].type == zone.CNAME and kind in (zone.A, zone.AAAA)
