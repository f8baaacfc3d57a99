"""The names and addresses by which this machine and the API server on it are reached."""

import ipaddress
import socket


def host_names() -> list[str]:
    """Return the names and addresses by which clients on this machine reach a server."""
    return ["localhost", "127.0.0.1", "::1", socket.gethostname()]


def server_hosts(bind_address: str, advertise: str, service_cidr: str) -> list[str]:
    """Return the names and addresses the API server's certificate speaks for."""
    first = str(ipaddress.ip_network(service_cidr.partition(",")[0])[1])
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return list(dict.fromkeys([*host_names(), *names, first, bind_address, advertise]))


def node_address() -> str:
    """Return this machine's address on its default route; loopback when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which address would be used
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
