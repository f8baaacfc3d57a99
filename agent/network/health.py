"""What load balancers ask a node: whether it has endpoints of a service whose traffic must stay on the node.

Each service with externalTrafficPolicy Local has a port for it, healthCheckNodePort. Form of the answer:
https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """The port of one service and what is told there."""

    namespace: str
    name: str
    port: int
    local_endpoints: int


class HealthPorts:
    """Listens on the ports of all checks."""

    def __init__(self, is_healthy: Callable[[], bool]) -> None:
        """Args: `is_healthy` says whether the rules of this node are up to date."""
        self._is_healthy = is_healthy
        self._checks: dict[int, Check] = {}
        self._servers: dict[int, asyncio.Server] = {}

    async def update(self, checks: Mapping[int, Check]) -> None:
        """Take the checks, by port, in the place of those before."""
        self._checks = dict(checks)
        for port in [port for port in self._servers if port not in checks]:
            self._servers.pop(port).close()
        for port in [port for port in checks if port not in self._servers]:
            try:
                self._servers[port] = await asyncio.start_server(self._handler(port), None, port, reuse_address=True)
            except OSError as error:
                log.warning("the health check port %s of %s is not served: %s", port, checks[port].name, error)

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers.values():
            server.close()

    def _handler(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(port))
                    await writer.drain()
            writer.close()

        return handle

    def _answer(self, port: int) -> bytes:
        check = self._checks.get(port)
        count, healthy = (check.local_endpoints if check else 0), self._is_healthy()
        whose = {"namespace": check.namespace, "name": check.name} if check else {}
        body = json.dumps({"service": whose, "localEndpoints": count, "serviceProxyHealthy": healthy}).encode()
        status = "200 OK" if count and healthy else "503 Service Unavailable"
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
            f"X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body
