"""What the scheduler tells of itself over HTTP: health, metrics, its queue, and why a pod is where it is.

Only GET, only whole answers: an HTTP server of a few lines instead of a framework that every idle cluster would carry.
On loopback it speaks plain HTTP; on any other address only TLS, and only to clients of the cluster's CA.

    /healthz /livez /readyz      "ok"
    /metrics                     in Prometheus' text form
    /debug/queue                 the pods that wait, in JSON
    /debug/why/NAMESPACE/POD     as `wherry why -o json`, from what the scheduler itself knows
"""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from machinery.api.meta import ObjectKey
from scheduler import metrics
from scheduler.explain import explain
from scheduler.scheduler import Scheduler

_TIMEOUT_SECONDS = 10.0
_MAX_HEAD_BYTES = 16 * 1024
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
Answer = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """Where to listen; port 0 is nowhere."""

    address: str = "127.0.0.1"
    port: int = 0
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Return the context to serve with. Raises: ValueError when the address asks for TLS and there is none."""
        if not self.cert_file:
            if not ipaddress.ip_address(self.address).is_loopback:
                raise ValueError(f"{self.address} is not loopback: a certificate, a key and a client CA are needed")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file or None)
        context.load_verify_locations(self.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class StatusServer:
    """Answers for a scheduler; for none, while another one leads."""

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.ready = False

    @contextlib.asynccontextmanager
    async def serving(self, options: StatusOptions) -> AsyncIterator[int]:
        """Listen while the block lasts; yields the port. With port 0 nothing is opened. Raises: OSError, ValueError."""
        if not options.port:
            yield 0
            return
        server = await asyncio.start_server(
            self._handle, options.address, options.port, ssl=options.tls(), limit=_MAX_HEAD_BYTES
        )
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head)
                writer.write(
                    f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asked has gone, was too slow, or spoke no HTTP
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> Answer:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            return 400, _TEXT, b"bad request\n"
        if words[0] != "GET":
            return 405, _TEXT, b"method not allowed\n"
        path = words[1].partition("?")[0]
        if path in ("/healthz", "/livez"):
            return 200, _TEXT, b"ok"
        if path == "/readyz":
            return (200, _TEXT, b"ok") if self.ready else (503, _TEXT, b"not all objects were listed yet")
        if path == "/metrics":
            return 200, *metrics.text()
        return self._debug(path.strip("/").split("/"))

    def _debug(self, parts: list[str]) -> Answer:
        if parts[:1] != ["debug"]:
            return 404, _TEXT, b"not found\n"
        scheduler = self.scheduler
        if scheduler is None:
            return 503, _TEXT, b"another scheduler leads\n"
        match parts[1:]:
            case ["queue"]:
                return 200, _JSON, orjson.dumps(_queue(scheduler))
            case ["why", namespace, name]:
                return _why(scheduler, ObjectKey(namespace, name))
        return 404, _TEXT, b"not found\n"


def _queue(scheduler: Scheduler) -> list[dict[str, Any]]:
    found = []
    for pod in scheduler.queue.pods():
        entry = scheduler.queue.get(pod.key)
        if entry is not None:
            found.append(
                {"pod": str(pod.key), "state": str(entry.state), "attempts": entry.attempts,
                 "priority": pod.priority, "rejectedBy": sorted(entry.plugins), "message": pod.condition}
            )  # fmt: skip
    return found


def _why(scheduler: Scheduler, key: ObjectKey) -> Answer:
    pod = scheduler.find(key)
    chooser = scheduler.choosers.get(pod.scheduler) if pod is not None else None
    if pod is None or chooser is None:
        return 404, _TEXT, f'pods "{key.name}" not found\n'.encode()
    return 200, _JSON, orjson.dumps(explain(chooser, scheduler.table, pod))
