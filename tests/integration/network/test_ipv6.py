"""The same rules for IPv6: services, node ports, affinity, policies."""

import subprocess
import time
from collections.abc import Iterator

import msgspec
import pytest

from agent.network.nft import read_affinity
from agent.network.policies import World, compile_policies, local_of, whole
from agent.network.policy_views import NetworkPolicy, Pod
from agent.network.routes import Affinity, Backend, Frontend, Route
from agent.network.table import IPV6, Site, Table
from tests.support.netlab import Lab, Machine

VIP = "fd00:96::9"
NODE, OUTSIDE = "2001:db8::1", "2001:db8::9"
SITE = Site(IPV6, "fd00:244::/56", "fd00:244::/64", "fd00:96::/112", "pods0")


class Six:
    """A node with pods a and b, and a machine outside."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.outside = lab.machine("host"), lab.machine("outside")
        lab.link(self.host, "eth0", self.outside, "eth0")
        self.host.ip(f"-6 address add {NODE}/64 dev eth0 nodad")
        self.outside.ip(f"-6 address add {OUTSIDE}/64 dev eth0 nodad")
        for route in ("fd00:96::/112", "fd00:244::/56"):
            self.outside.ip(f"-6 route add {route} via {NODE}")
        self.host.ip("link add pods0 type bridge")
        self.host.ip("link set pods0 up")
        self.host.ip("-6 address add fd00:244::1/64 dev pods0 nodad")
        self.host.ip("-6 route add fd00:96::/112 dev lo")
        self.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        self.ips = {"a": "fd00:244::5", "b": "fd00:244::6"}
        self.pods: dict[str, Machine] = {
            name: lab.pod(self.host, name, "pods0", ip, "fd00:244::1") for name, ip in self.ips.items()
        }
        for pod in self.pods.values():
            pod.serve(8080, ipv6=True)

    def set(self, *routes: Route) -> None:
        table = Table(SITE)
        table.change("s", routes)
        self.host.nft(table.whole())


@pytest.fixture(scope="module")
def six() -> Iterator[Six]:
    lab = Lab()
    try:
        yield Six(lab)
    finally:
        lab.close()


def service(*ips: str, address: str = VIP, port: int = 80, affinity: Affinity | None = None) -> Route:
    backends = tuple(Backend(ip, 8080) for ip in ips)
    return Route(Frontend(address, "tcp", port), backends, has_any=bool(ips), affinity=affinity)


def test_services_and_node_ports_answer(six: Six) -> None:
    a, b = six.ips.values()
    six.set(service(a, b), service(a, address="", port=30080))
    for client in (six.pods["a"], six.host, six.outside):
        assert client.who(VIP, 80, tries=24) == {"a", "b"}, client.label
    assert six.outside.who(NODE, 30080) == {"a"}
    assert six.pods["b"].ask(six.ips["a"], 8080) == f"a {six.ips['b']}"


def test_refusal_hairpin_and_affinity(six: Six) -> None:
    six.set(service())
    assert six.pods["a"].ask(VIP, 80) == "refused"
    assert six.outside.ask(VIP, 80) == "refused"
    six.set(service(six.ips["a"]))
    assert six.pods["a"].who(VIP, 80) == {"a"}
    six.set(service(*six.ips.values(), affinity=Affinity("x", 100)))
    assert len(six.outside.who(VIP, 80, tries=12)) == 1


def affine(*ips: str, seconds: int) -> tuple[Route, Route]:
    affinity = Affinity("default/s:", seconds)
    return (service(*ips, affinity=affinity), service(*ips, address="", port=30080, affinity=affinity))


def test_a_client_stays_with_its_endpoint_for_the_time_given(six: Six) -> None:
    a, b = six.ips.values()
    six.set(*affine(a, b, seconds=1))
    for client in (six.pods["a"], six.host, six.outside):
        answered = client.who(VIP, 80, tries=8)
        assert len(answered) == 1, client.label
        if client is six.outside:  # by whatever way it comes
            assert client.who(NODE, 30080, tries=8) == answered
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline:
        seen |= six.outside.who(VIP, 80)
        time.sleep(1.1)
    assert seen == {"a", "b"}


async def test_clients_are_remembered_over_a_restart_and_while_endpoints_come(
    six: Six, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = six.ips.values()
    table = Table(SITE)
    table.change("s", affine(a, b, seconds=100))
    six.host.nft(table.whole())
    (before,) = six.outside.who(VIP, 80, tries=5)
    monkeypatch.setattr("agent.network.nft._run", lambda arguments, given="": _run_on(six, arguments, given))
    remembered = await read_affinity(SITE.table)
    number, targets = table.memory("default/s:", [Backend(six.ips[before], 8080)])
    assert [(one.number, {one.target}) for one in remembered] == [(number, targets)]
    assert await read_affinity(SITE.table, [number + 1]) == []
    again = Table(SITE)
    again.change("s", affine(a, b, seconds=100))
    six.host.nft(again.whole(remembered))
    assert six.outside.who(VIP, 80, tries=8) == {before}
    again.change("s", affine(a, b, "fd00:244::7", seconds=200))
    six.host.nft(again.take_changes())
    assert six.outside.who(VIP, 80, tries=8) == {before}
    again.change("s", ())
    six.host.nft(again.take_changes())


def _run_on(six: Six, arguments: list[str], given: str) -> object:
    argv = ["nsenter", f"--net=/run/netns/{six.host.name}", "nft", *arguments]
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=False)


def test_policies_hold(six: Six) -> None:
    six.set(service(six.ips["a"]))
    pods = [
        msgspec.convert(
            {"metadata": {"name": n, "namespace": "x"}, "status": {"podIPs": [{"ip": ip}]}}, Pod
        )
        for n, ip in six.ips.items()
    ]  # fmt: skip
    here = [local_of(pod, pod.ips) for pod in pods]
    block = {"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}
    policy = msgspec.convert(
        {"metadata": {"name": "p", "namespace": "x", "uid": "u"}, "spec": {"ingress": [block]}}, NetworkPolicy
    )
    rules = compile_policies([policy], World([], pods, []), here)
    six.host.nft(whole("inet pods0-policy", rules))
    assert six.pods["b"].ask(six.ips["a"], 8080) == "lost"
    assert six.outside.who(six.ips["a"], 8080) == {"a"}
    six.host.run("nft", "delete", "table", "inet", "pods0-policy")
