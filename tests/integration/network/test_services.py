"""Services in the kernel: real packets through the rules, from pods, from the node and from outside.

Behaviour: https://kubernetes.io/docs/reference/networking/virtual-ips/
"""

import socket
import struct
import time

import pytest

from agent.network.conntrack import delete_flows
from agent.network.nft import read_affinity
from agent.network.proxy import _Change, _staleness
from agent.network.routes import Affinity, Backend, Frontend, Route
from tests.integration.network.conftest import IPS, Node
from tests.support.netlab import exchange

VIP = "10.96.0.9"


def backends(*names: str) -> tuple[Backend, ...]:
    return tuple(Backend(IPS[name], 8080) for name in names)


def service(*names: str, protocol: str = "tcp", address: str = VIP, port: int = 80, **more: object) -> Route:
    return Route(Frontend(address, protocol, port), backends(*names), has_any=bool(names), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_all_endpoints_answer_pods_the_node_and_outside(node: Node, udp: bool) -> None:
    node.set("s", service("a", "b", protocol="udp" if udp else "tcp"))
    for client in (node.pods["c"], node.host, node.outside):
        assert client.who(VIP, 80, udp=udp, tries=24) == {"a", "b"}, client.label


def test_pods_see_the_address_of_the_pod_that_asks(node: Node) -> None:
    node.set("s", service("a"))
    assert node.pods["c"].ask(VIP, 80) == f"a {IPS['c']}"
    assert node.pods["c"].ask(IPS["a"], 8080) == f"a {IPS['c']}"


def test_a_pod_reaches_itself_through_its_service(node: Node) -> None:
    node.set("s", service("a"))
    assert node.pods["a"].ask(VIP, 80) == "a 10.244.0.1"
    node.set("s", service("a", protocol="udp"))
    assert node.pods["a"].who(VIP, 80, udp=True) == {"a"}


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_node_ports_answer_at_every_address_of_the_node(node: Node, udp: bool) -> None:
    node.set("s", service("a", address="", port=30080, protocol="udp" if udp else "tcp"))
    assert node.outside.who("192.0.2.1", 30080, udp=udp) == {"a"}
    for address in ("192.0.2.1", "127.0.0.1", "10.244.0.1"):
        assert node.host.who(address, 30080, udp=udp) == {"a"}, address
    assert node.pods["b"].who("192.0.2.1", 30080, udp=udp) == {"a"}
    assert node.pods["a"].who("192.0.2.1", 30080, udp=udp) == {"a"}


def test_nobody_outside_reaches_loopback(node: Node) -> None:
    node.outside.ip("route replace 127.0.5.0/24 via 192.0.2.1")
    node.set("s", service("a", address="", port=30080))
    assert node.outside.ask("127.0.5.1", 30080) == "lost"


def test_a_service_without_endpoints_refuses(node: Node) -> None:
    node.set("s", service(), service(address="", port=30080), service(protocol="udp"))
    for client in (node.pods["a"], node.host, node.outside):
        assert client.ask(VIP, 80) == "refused", client.label
        # The kernel sends itself no ICMP error for what it would have sent to itself.
        assert client.ask(VIP, 80, udp=True) == ("lost" if client is node.host else "refused"), client.label
        assert client.ask("192.0.2.1", 30080) == "refused", client.label
        assert client.ask(VIP, 81) == "refused", client.label  # no such port
    node.set("s", service("b"))
    assert node.pods["a"].who(VIP, 80) == {"b"}


def test_several_ports_and_protocols_of_one_address_are_apart(node: Node) -> None:
    node.set("s", service("a"), service("b", protocol="udp"), service("c", port=81))
    pod = node.pods["a"]
    assert (pod.who(VIP, 80), pod.who(VIP, 80, udp=True), pod.who(VIP, 81)) == ({"a"}, {"b"}, {"c"})


def test_traffic_policy_local_keeps_the_client_s_address_and_the_node(node: Node) -> None:
    external = "198.51.100.7"
    local = {"outside": backends("a")}
    node.set("s", service("a", "b", address=external, **local), service("a", "b", address="", port=30080, **local))
    assert {node.outside.ask(external, 80) for _ in range(16)} == {"a 192.0.2.9"}
    assert {node.outside.ask("192.0.2.1", 30080) for _ in range(16)} == {"a 192.0.2.9"}
    # Clients in the cluster are given all endpoints.
    assert node.pods["c"].who(external, 80, tries=24) == {"a", "b"}
    assert node.host.who("192.0.2.1", 30080, tries=24) == {"a", "b"}
    node.set("s", service("b", address=external, outside=()))
    assert node.outside.ask(external, 80) == "lost"  # a load balancer must go to another node
    assert node.pods["c"].who(external, 80) == {"b"}


def test_an_external_address_and_its_allowed_sources(node: Node) -> None:
    external = "198.51.100.8"
    node.set("s", service("a", address=external, sources=("192.0.2.0/30", "10.244.0.6/32")))
    assert node.outside.ask(external, 80) == "lost"
    assert node.pods["b"].who(external, 80) == {"a"}
    assert node.pods["c"].ask(external, 80) == "lost"
    node.set("s", service("a", address=external, sources=("192.0.2.8/30",)))
    assert node.outside.who(external, 80) == {"a"}


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_client_stays_with_its_endpoint_for_the_time_given(node: Node, udp: bool) -> None:
    protocol = "udp" if udp else "tcp"

    def affine(*names: str) -> tuple[Route, Route]:
        affinity = Affinity("default/s:", 1)
        return (
            service(*names, protocol=protocol, affinity=affinity),
            service(*names, protocol=protocol, address="", port=30080, affinity=affinity),
        )

    node.set("s", *affine("a", "b", "c"))
    for client in (node.pods["a"], node.host, node.outside):
        assert len(client.who(VIP, 80, udp=udp, tries=12)) == 1, client.label
        assert len(client.who("192.0.2.1", 30080, udp=udp, tries=12)) == 1, client.label
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline:  # after its time a client may be given another
        seen |= node.pods["a"].who(VIP, 80, udp=udp)
        time.sleep(1.1)
    assert len(seen) > 1
    node.set("s", service("a", "b", protocol=protocol))
    assert node.pods["a"].who(VIP, 80, udp=udp, tries=24) == {"a", "b"}  # switched off


async def test_clients_are_remembered_over_a_restart(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.set("s", service("a", "b", "c", affinity=Affinity("default/s:", 100)))
    (before,) = node.outside.who(VIP, 80, tries=5)
    monkeypatch.setattr("agent.network.nft._run", lambda arguments, given="": _run_on(node, arguments, given))
    remembered = await read_affinity(node.table.site.table)
    assert remembered[0].target == f"{IPS[before]} . 8080"
    node.host.nft(node.table.whole(remembered))
    assert node.outside.who(VIP, 80, tries=12) == {before}


def _run_on(node: Node, arguments: list[str], given: str) -> object:
    import subprocess

    argv = ["nsenter", f"--net=/run/netns/{node.host.name}", "nft", *arguments]
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=False)


def test_a_udp_client_leaves_an_endpoint_that_is_gone(node: Node) -> None:
    old = (service("a", protocol="udp"), service("a", protocol="udp", address="", port=30080))
    new = (service("b", protocol="udp"), service("b", protocol="udp", address="", port=30080))
    node.set("s", *old)
    targets = ((node.pods["c"], VIP, 80), (node.outside, "192.0.2.1", 30080))
    clients = []
    for machine, address, port in targets:
        client = machine.open(socket.SOCK_DGRAM)
        client.connect((address, port))
        assert exchange(client).startswith("a ")
        clients.append(client)
    node.set("s", *new)
    assert [exchange(client).split()[0] for client in clients] == ["a", "a"]  # the kernel goes on as it began
    stale = _staleness([_Change(old, new)])
    assert stale is not None
    with node.host.inside():
        assert delete_flows(4, stale) >= 2
    for client in clients:
        assert exchange(client).startswith("b ")
        client.close()


def test_a_udp_client_that_was_early_is_taken_up(node: Node) -> None:
    node.set("s", service("a", protocol="udp", address="", port=30090))
    node.set("s")
    client = node.outside.open(socket.SOCK_DGRAM)
    client.connect(("192.0.2.1", 30090))
    with pytest.raises((ConnectionRefusedError, TimeoutError)):
        exchange(client)
    after = (service("a", protocol="udp", address="", port=30090),)
    node.set("s", *after)
    stale = _staleness([_Change((), after)])
    assert stale is not None
    with node.host.inside():
        delete_flows(4, stale)
    assert exchange(client).startswith("a ")
    client.close()


def test_established_connections_outlive_a_restart_and_the_change_of_endpoints(node: Node) -> None:
    node.set("s", service("a"))
    client = node.pods["c"].open(socket.SOCK_STREAM)
    client.connect((VIP, 80))
    assert exchange(client).startswith("a ")
    node.start_over()
    assert exchange(client).startswith("a ")
    node.set("s", service("b"))
    assert exchange(client).startswith("a ")
    client.close()


def test_sctp_is_sent_on_to_the_endpoint(node: Node) -> None:
    """The kernel here speaks no SCTP: a handshake's first packet is made by hand and caught at the pod."""
    node.set("s", service("a", protocol="sctp"))
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)  # INIT
    packet = struct.pack(">HHII", 4000, 80, 0, 0) + chunk
    packet = packet[:8] + struct.pack("<I", _crc32c(packet)) + packet[12:]
    with node.pods["a"].inside():
        catcher = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
    catcher.settimeout(2)
    with node.pods["c"].inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
    sender.sendto(packet, (VIP, 0))
    caught = catcher.recv(1000)[20:]
    assert struct.unpack(">HH", caught[:4]) == (4000, 8080)
    for one in (catcher, sender):
        one.close()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_a_host_port_is_a_pod_s_at_its_own_address_and_protocol(node: Node) -> None:
    node.set("pod:a", Route(Frontend("127.0.0.1", "tcp", 5432), backends("a")))
    node.set("pod:b", Route(Frontend("192.0.2.1", "tcp", 5432), backends("b")))
    node.set("pod:c", Route(Frontend("192.0.2.1", "udp", 5432), backends("c")))
    assert node.host.who("127.0.0.1", 5432) == {"a"}
    assert node.host.who("192.0.2.1", 5432) == {"b"}
    assert node.outside.who("192.0.2.1", 5432) == {"b"}
    assert node.outside.who("192.0.2.1", 5432, udp=True) == {"c"}
    node.set("pod:b")
    assert node.outside.ask("192.0.2.1", 5432) == "refused"


def test_who_asks_second_for_an_address_is_given_it_when_the_first_lets_go(node: Node) -> None:
    node.set("s", service("a"))
    node.set("t", service("b"))
    assert node.pods["c"].who(VIP, 80, tries=8) == {"a"}
    node.set("s")
    assert node.pods["c"].who(VIP, 80, tries=8) == {"b"}
