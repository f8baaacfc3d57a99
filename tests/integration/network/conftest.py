"""One node in a network namespace: pods behind its bridge, a client outside, and the rules under test."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from agent.network.conntrack import UDP, delete_flows
from agent.network.routes import Route
from agent.network.table import IPV4, Site, Table
from tests.support.netlab import Lab, Machine

BRIDGE = "pods0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Namespaces and rules need root and the tools; CI has both."""
    missing = [tool for tool in ("nft", "ip", "nsenter") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        for item in items:
            if "network" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=f"needs root and {', '.join(missing) or 'nothing else'}"))


@dataclass
class Node:
    """A node 192.0.2.1 with pods a (10.244.0.5), b (.6), c (.7), and a machine outside, 192.0.2.9."""

    host: Machine
    pods: dict[str, Machine]
    outside: Machine
    table: Table = field(
        default_factory=lambda: Table(Site(IPV4, "10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/16", BRIDGE))
    )

    def set(self, owner: str, *routes: Route) -> None:
        """Change an owner's routes, as the agent does: only the difference goes to the kernel."""
        self.table.change(owner, routes)
        if text := self.table.take_changes():
            self.host.nft(text)

    def start_over(self) -> None:
        self.host.nft(self.table.whole())

    def clear(self) -> None:
        """Forget all routes, and the flows that went by them."""
        self.table = Table(self.table.site)
        self.host.nft(self.table.whole())
        with self.host.inside():
            delete_flows(4, lambda flow: flow.protocol == UDP)


IPS = {"a": "10.244.0.5", "b": "10.244.0.6", "c": "10.244.0.7"}


@pytest.fixture(scope="session")
def built() -> Iterator[Node]:
    lab = Lab()
    try:
        host, outside = lab.machine("host"), lab.machine("outside")
        lab.link(host, "eth0", outside, "eth0")
        host.ip("address add 192.0.2.1/24 dev eth0")
        outside.ip("address add 192.0.2.9/24 dev eth0")
        for route in ("10.96.0.0/16", "10.244.0.0/16", "198.51.100.0/24"):
            outside.ip(f"route add {route} via 192.0.2.1")
        host.ip(f"link add {BRIDGE} type bridge")
        host.ip(f"link set {BRIDGE} up")
        host.ip(f"address add 10.244.0.1/24 dev {BRIDGE}")
        host.ip("route add 10.96.0.0/16 dev lo src 192.0.2.1")
        host.ip("route add 198.51.100.0/24 dev lo src 192.0.2.1")
        for name in ("ip_forward", "conf/all/route_localnet"):
            host.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv4/{name}")
        for name in ("all", BRIDGE):
            host.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{name}/send_redirects")
        pods = {name: lab.pod(host, name, BRIDGE, ip, "10.244.0.1") for name, ip in IPS.items()}
        for pod in (*pods.values(), host):
            pod.serve(8080)
        yield Node(host, pods, outside)
    finally:
        lab.close()


@pytest.fixture
def node(built: Node) -> Node:
    built.clear()
    return built


def to(*names: str) -> Sequence[str]:
    return [IPS[name] for name in names]
