"""Pods of several nodes reach each other: by routes on one link, by VXLAN across a router; and it is repaired."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agent.network import wireguard
from agent.network.links import Me, settle
from agent.network.views import Node, NodeAddress, NodeMetadata, NodeSpec, NodeStatus
from tests.support.netlab import Lab, Machine, exchange

ADDRESSES = ["192.0.2.1", "192.0.2.2", "198.51.100.3"]


@dataclass
class Site:
    """Nodes 0 and 1 on one link, node 2 behind a router; a pod on each."""

    hosts: list[Machine]
    pods: list[Machine]
    nodes: list[Node]

    def settle(self, index: int, nodes: list[Node] | None = None, mode: str = "auto") -> list[str]:
        with self.hosts[index].inside():
            me = Me(f"n{index}", ADDRESSES[index], (f"10.244.{index}.0/24",), "pods0-vx", mode)
            return settle(self.nodes if nodes is None else nodes, me)


@pytest.fixture
def site() -> Iterator[Site]:
    lab = Lab()
    try:
        switch, router = lab.machine("switch"), lab.machine("router")
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        hosts = [lab.machine(f"h{n}") for n in range(3)]
        for number, machine in enumerate((*hosts[:2], router)):
            lab.link(machine, "eth0", switch, f"p{number}")
            switch.ip(f"link set p{number} master br0")
        lab.link(hosts[2], "eth0", router, "eth1")
        router.ip("address add 192.0.2.254/24 dev eth0")
        router.ip("address add 198.51.100.254/24 dev eth1")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        pods, nodes = [], []
        for number, host in enumerate(hosts):
            host.ip(f"address add {ADDRESSES[number]}/24 dev eth0")
            host.ip(f"route add default via {ADDRESSES[number].rpartition('.')[0]}.254")
            host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            host.ip("link add pods0 type bridge")
            host.ip("link set pods0 up")
            host.ip(f"address add 10.244.{number}.1/24 dev pods0")
            pods.append(lab.pod(host, f"a{number}", "pods0", f"10.244.{number}.5", f"10.244.{number}.1"))
            pods[-1].serve(8080)
            addresses = [NodeAddress("InternalIP", ADDRESSES[number])]
            nodes.append(
                Node(
                    NodeMetadata(f"n{number}"), NodeSpec("", [f"10.244.{number}.0/24"]), NodeStatus(addresses=addresses)
                )
            )
        yield Site(hosts, pods, nodes)
    finally:
        lab.close()


def test_every_pod_reaches_every_pod_under_its_own_address(site: Site) -> None:
    for number in range(3):
        assert site.settle(number)
        assert site.settle(number) == []  # nothing is left to do
    answers = {(one, other): site.pods[one].ask(f"10.244.{other}.5", 8080) for one in range(3) for other in range(3)}
    assert answers == {(one, other): f"a{other} 10.244.{one}.5" for one in range(3) for other in range(3)}
    assert site.hosts[0].ask("10.244.2.5", 8080) == "a2 10.244.0.0"  # the tunnel's own address
    assert site.hosts[0].ask("10.244.1.5", 8080) == "a1 192.0.2.1"


def test_what_others_remove_is_put_back_and_what_is_over_is_taken_away(site: Site) -> None:
    for number in range(3):
        site.settle(number)
    host = site.hosts[0]
    host.ip("route add 203.0.113.0/24 via 192.0.2.254")  # not ours
    host.ip("route delete 10.244.1.0/24")
    host.ip("link delete pods0-vx")
    assert len(site.settle(0)) == 3
    assert site.pods[0].ask("10.244.1.5", 8080).startswith("a1")
    assert site.pods[0].ask("10.244.2.5", 8080).startswith("a2")
    assert site.settle(0, site.nodes[:2]) == ["pods0-vx removed"]
    assert site.settle(0, site.nodes[:1]) == ["10.244.1.0/24 removed"]
    routes = host.ip("route")
    assert "203.0.113.0/24" in routes
    assert "10.244.1.0" not in routes


def test_a_connection_outlives_the_change_of_other_nodes(site: Site) -> None:
    for number in range(3):
        site.settle(number)
    client = site.pods[0].open(socket.SOCK_STREAM)
    client.connect(("10.244.2.5", 8080))
    assert exchange(client).startswith("a2")
    site.settle(0, [site.nodes[0], site.nodes[2]])
    site.settle(0)
    assert exchange(client).startswith("a2")
    client.close()


def test_the_tunnel_may_be_asked_for_on_one_link_too(site: Site) -> None:
    for number in range(2):
        site.settle(number, mode="vxlan")
    assert site.pods[0].ask("10.244.1.5", 8080) == "a1 10.244.0.5"
    assert "10.244.1.0 dev pods0-vx" in site.hosts[0].ip("route get 10.244.1.5 from 10.244.0.5 iif pods0").replace(
        "via ", ""
    )


@pytest.mark.skipif(not shutil.which("wg"), reason="needs wireguard-tools")
def test_all_between_nodes_may_be_encrypted(site: Site, tmp_path: Path) -> None:
    keys = [wireguard.key_pair(tmp_path / str(number)) for number in range(3)]
    assert keys[0] == wireguard.key_pair(tmp_path / "0")  # it is kept
    nodes = [
        msgspec.structs.replace(one, metadata=NodeMetadata(one.metadata.name, {}, {wireguard.KEY_ANNOTATION: public}))
        for one, (_, public) in zip(site.nodes, keys, strict=True)
    ]
    try:
        for number, (host, (private, _)) in enumerate(zip(site.hosts, keys, strict=True)):
            me = Me(f"n{number}", ADDRESSES[number], (f"10.244.{number}.0/24",), f"{host.name[4:10]}{number}-wg",
                    "wireguard", private)  # fmt: skip
            with host.inside():
                assert len(settle(nodes, me)) == 3
                assert settle(nodes, me) == []
        answers = {
            (one, other): site.pods[one].ask(f"10.244.{other}.5", 8080) for one in range(3) for other in range(3)
        }
        assert answers == {(one, other): f"a{other} 10.244.{one}.5" for one in range(3) for other in range(3)}
        assert site.hosts[0].ask("10.244.2.5", 8080) == "a2 10.244.0.0"
        assert " mtu 1420 " in site.hosts[0].ip(f"link show {site.hosts[0].name[4:10]}0-wg")
        nothing = msgspec.structs.replace(nodes[1], metadata=NodeMetadata("n1"))
        with site.hosts[0].inside():  # one that tells no key is not sent to in clear
            me = Me("n0", ADDRESSES[0], ("10.244.0.0/24",), f"{site.hosts[0].name[4:10]}0-wg", "wireguard", keys[0][0])
            assert settle([nodes[0], nothing, nodes[2]], me) == ["10.244.1.0/24 removed"]
    finally:
        for number, host in enumerate(site.hosts):
            host.run("ip", "link", "delete", f"{host.name[4:10]}{number}-wg", check=False)
