"""What load balancers ask a node: whether it has endpoints of a service whose traffic must stay on the node.

Each service with externalTrafficPolicy Local has a port for it, healthCheckNodePort. Form of the answer:
https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/
"""

import functools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from machinery.probe_server import Answer, ProbeServer

log = logging.getLogger(__name__)


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
        self._servers: dict[int, ProbeServer] = {}

    async def update(self, checks: Mapping[int, Check]) -> None:
        """Take the checks, by port, in the place of those before."""
        self._checks = dict(checks)
        for port in [port for port in self._servers if port not in checks]:
            self._servers.pop(port).close()
        for port in [port for port in checks if port not in self._servers]:
            server = ProbeServer(functools.partial(self._answer, port))
            try:
                await server.listen(None, port)
            except OSError as error:
                log.warning("the health check port %s of %s is not served: %s", port, checks[port].name, error)
            else:
                self._servers[port] = server

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers.values():
            server.close()

    def _answer(self, port: int, _: str) -> Answer:
        check = self._checks.get(port)
        count, healthy = (check.local_endpoints if check else 0), self._is_healthy()
        whose = {"namespace": check.namespace, "name": check.name} if check else {}
        body = json.dumps({"service": whose, "localEndpoints": count, "serviceProxyHealthy": healthy})
        return Answer(200 if count and healthy else 503, body, {"X-Load-Balancing-Endpoint-Weight": str(count)})
