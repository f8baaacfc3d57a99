"""Network policies in the kernel: who may reach whom, for all pairs, against the words of the API reference.

Reference: https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

import ipaddress
import socket
from collections.abc import Set
from typing import Any

import msgspec
import pytest

from agent.network.policies import Local, Rules, World, changes, compile_policies, local_of, whole
from agent.network.policy_views import Namespace, NetworkPolicy, Pod
from machinery.api.selectors import from_label_selector
from tests.integration.network.conftest import BRIDGE, IPS, Node
from tests.support.netlab import exchange

PATIENCE, IMPATIENCE = 5.0, 0.08  # seconds for an answer that should come, and for one that should not
TABLE = f"inet {BRIDGE}-policy"
PORTS = (8080, 8081)
NAMESPACES = {"x": {"ns": "x", "team": "one"}, "y": {"ns": "y"}}
# name -> namespace, labels
PODS = {"a": ("x", {"pod": "a"}), "b": ("x", {"pod": "b"}), "c": ("y", {"pod": "c"})}


def policy(name: str, namespace: str = "x", **spec: Any) -> NetworkPolicy:
    metadata = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    return msgspec.convert({"metadata": metadata, "spec": {"podSelector": {}, **spec}}, NetworkPolicy)


def pod(name: str, namespace: str, labels: dict[str, str], ip: str) -> Pod:
    ports = [{"name": "web", "containerPort": 8080}, {"name": "other", "containerPort": 8081, "protocol": "TCP"}]
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": "n", "containers": [{"ports": ports}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        },
        Pod,
    )


@pytest.fixture(scope="module")
def served(built: Node) -> Node:
    for one in built.pods.values():
        one.serve(8081)
    built.outside.serve(8080)
    built.outside.serve(8081)
    return built


@pytest.fixture
def node(served: Node) -> Node:
    served.clear()
    return served


def rules_of(*policies: NetworkPolicy) -> Rules:
    namespaces = [
        msgspec.convert({"metadata": {"name": n, "labels": labels}}, Namespace) for n, labels in NAMESPACES.items()
    ]
    pods = [pod(name, *about, IPS[name]) for name, about in PODS.items()]
    here = [local_of(one, one.ips) for one in pods]
    return compile_policies(policies, World(namespaces, pods, []), here)


def enforce(node: Node, *policies: NetworkPolicy) -> Rules:
    rules = rules_of(*policies)
    node.host.nft(whole(TABLE, rules))
    return rules


def seen(node: Node, expected: Set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    """Who reaches whom, at which port; those who are expected to may take their time on a busy machine."""
    machines = {**node.pods, "outside": node.outside}
    addresses = {**IPS, "outside": "192.0.2.9"}
    return {
        (client, server, port)
        for client, machine in machines.items() for server, address in addresses.items() for port in PORTS
        if client != server
        and reaches(machine, address, port, PATIENCE if (client, server, port) in expected else IMPATIENCE)
    }  # fmt: skip


def reaches(machine: Any, address: str, port: int, seconds: float) -> bool:
    with machine.open(socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        try:
            client.connect((address, port))
            exchange(client)
        except OSError:
            return False
        return True


def allowed(*policies: NetworkPolicy) -> set[tuple[str, str, int]]:
    """The same by the reference: both ends must allow it, and an end nobody isolates does."""
    ends = [*PODS, "outside"]
    return {
        (client, server, port)
        for client in ends for server in ends for port in PORTS
        if client != server
        and _end_allows(policies, "Egress", client, server, port)
        and _end_allows(policies, "Ingress", server, client, port)
    }  # fmt: skip


def _end_allows(policies: tuple[NetworkPolicy, ...], direction: str, end: str, other: str, port: int) -> bool:
    if end not in PODS:
        return True
    namespace, labels = PODS[end]
    mine = [
        one for one in policies
        if one.metadata.namespace == namespace and one.spec.isolates(direction)
        and from_label_selector(one.spec.podSelector).matches(labels)
    ]  # fmt: skip
    if not mine:
        return True
    return any(
        _peer_matches(one, rule.get("from" if direction == "Ingress" else "to"), other) and _port_matches(rule, port)
        for one in mine
        for rule in one.spec.rules(direction)
    )


def _peer_matches(one: NetworkPolicy, peers: list[dict[str, Any]] | None, other: str) -> bool:
    return not peers or any(_matches(one.metadata.namespace, peer, other) for peer in peers)


def _matches(namespace: str, peer: dict[str, Any], other: str) -> bool:
    if block := peer.get("ipBlock"):
        address = ipaddress.ip_address({**IPS, "outside": "192.0.2.9"}[other])
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(one) for one in block.get("except") or ())
    if other not in PODS:
        return False
    of_other, labels = PODS[other]
    if (of_namespace := peer.get("namespaceSelector")) is None:
        if of_other != namespace:
            return False
    elif not from_label_selector(of_namespace).matches(NAMESPACES[of_other]):
        return False
    return from_label_selector(peer.get("podSelector") or {}).matches(labels)


def _port_matches(rule: dict[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    if not ports:
        return True
    named = {"web": 8080, "other": 8081}
    for one in ports:
        first = named.get(one.get("port"), one.get("port"))
        if one.get("protocol", "TCP") == "TCP" and (first is None or first <= port <= one.get("endPort", first)):
            return True
    return False


A, C = {"podSelector": {"matchLabels": {"pod": "a"}}}, {"podSelector": {"matchLabels": {"pod": "c"}}}
IN_Y, IN_X = {"namespaceSelector": {"matchLabels": {"ns": "y"}}}, {"namespaceSelector": {"matchLabels": {"ns": "x"}}}
BOTH = ["Ingress", "Egress"]
CASES = {
    "deny all ingress": (policy("p"),),
    "deny all both ways": (policy("p", policyTypes=BOTH),),
    "deny all egress": (policy("p", policyTypes=["Egress"]),),
    "allow all ingress": (policy("p", ingress=[{}]),),
    "one pod of the namespace": (policy("p", ingress=[{"from": [A]}]),),
    "another namespace": (policy("p", ingress=[{"from": [IN_Y]}]),),
    "a pod of another namespace": (policy("p", ingress=[{"from": [{**IN_Y, **C}]}]),),
    "a pod here, or another namespace": (policy("p", ingress=[{"from": [A, IN_Y]}]),),
    "all namespaces": (policy("p", ingress=[{"from": [{"namespaceSelector": {}}]}]),),
    "one port": (policy("p", ingress=[{"ports": [{"port": 8080}]}]),),
    "a named port": (policy("p", ingress=[{"ports": [{"port": "other"}]}]),),
    "a range of ports": (policy("p", ingress=[{"from": [IN_Y], "ports": [{"port": 8000, "endPort": 8080}]}]),),
    "another protocol": (policy("p", ingress=[{"ports": [{"protocol": "UDP", "port": 8080}]}]),),
    "an address block": (policy("p", ingress=[{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]),),
    "a block but for some": (
        policy("p", ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.8/29", "10.244.0.6/32"]}}]}]),
    ),
    "egress to a pod's port": (
        policy("p", policyTypes=["Egress"], egress=[{"to": [{**IN_Y, **C}], "ports": [{"port": 8081}]}]),
    ),
    "egress to a named port": (policy("p", policyTypes=["Egress"], egress=[{"to": [IN_Y], "ports": [{"port": "web"}]}]),),
    "egress to a block": (
        policy("p", policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "192.0.2.9/32"}}]}]),
    ),
    "policies add up": (
        policy("p"), policy("q", ingress=[{"from": [A], "ports": [{"port": 8080}]}]),
        policy("r", ingress=[{"from": [IN_Y], "ports": [{"port": 8081}]}]),
    ),
    "both ends must allow": (
        policy("p", policyTypes=["Egress"], egress=[{"to": [IN_Y]}]),
        policy("q", "y", ingress=[{"from": [{**IN_X, **A}]}]),
    ),
    "an expression": (
        policy("p", podSelector={"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["b"]}]}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("policies", CASES.values(), ids=CASES.keys())
def test_all_pairs_reach_each_other_as_the_reference_says(node: Node, policies: tuple[NetworkPolicy, ...]) -> None:
    enforce(node, *policies)
    expected = allowed(*policies)
    assert seen(node, expected) == expected


def test_the_node_reaches_its_pods_and_pods_themselves(node: Node) -> None:
    from tests.integration.network.test_services import service

    node.set("s", service("a"))
    enforce(node, policy("p", policyTypes=BOTH))
    assert node.host.who(IPS["a"], 8080) == {"a"}
    assert node.pods["a"].who("10.96.0.9", 80) == {"a"}
    assert node.pods["a"].who("10.244.0.1", 8080) == {"host"}  # its node is always reached


def test_a_policy_is_about_the_endpoint_and_not_the_service(node: Node) -> None:
    from tests.integration.network.test_services import service

    node.set("s", service("a"))
    enforce(node, policy("p", ingress=[{"from": [A], "ports": [{"port": 8080}]}]))
    assert node.pods["b"].ask("10.96.0.9", 80) == "lost"
    enforce(
        node,
        policy("p", ingress=[{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 8080}]}]),
    )
    assert node.pods["b"].who("10.96.0.9", 80) == {"a"}


def test_connections_that_are_there_go_on(node: Node) -> None:
    enforce(node)
    client = node.pods["b"].open(socket.SOCK_STREAM)
    client.connect((IPS["a"], 8080))
    assert exchange(client).startswith("a ")
    enforce(node, policy("p"))
    assert exchange(client).startswith("a ")
    client.close()
    assert node.pods["b"].ask(IPS["a"], 8080) == "lost"


def test_pods_that_come_and_go_change_elements_only(node: Node) -> None:
    one = policy("p", ingress=[{"from": [IN_Y]}])
    before = enforce(node, one)
    namespaces = [
        msgspec.convert({"metadata": {"name": n, "labels": labels}}, Namespace) for n, labels in NAMESPACES.items()
    ]
    moved = {"a": "x", "b": "y", "c": "x"}
    pods = [pod(name, moved[name], PODS[name][1], ip) for name, ip in IPS.items()]
    here = [local_of(pod_, pod_.ips) for pod_ in pods]
    after = compile_policies([one], World(namespaces, pods, []), here)
    text = changes(TABLE, before, after)
    assert text
    assert "chain" not in text
    node.host.nft(text)
    assert reaches(node.pods["b"], IPS["a"], 8080, PATIENCE)  # b is in y by now, c in x
    assert not reaches(node.pods["c"], IPS["a"], 8080, IMPATIENCE)
    assert reaches(node.pods["a"], IPS["b"], 8080, PATIENCE)


def test_cluster_dns_may_be_named_as_if_it_were_a_pod() -> None:
    dns = Local("kube-system", "kube-dns-n", {"k8s-app": "kube-dns"}, ("10.244.9.1",), (("dns", "UDP", 53),))
    namespace = msgspec.convert({"metadata": {"name": "kube-system", "labels": {}}}, Namespace)
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    one = policy("p", policyTypes=["Egress"], egress=[{"to": [peer], "ports": [{"protocol": "UDP", "port": 53}]}])
    here = [Local("x", "a", {}, (IPS["a"],), ())]
    rules = compile_policies([one], World([namespace], [], [dns, *here]), here)
    assert any("10.244.9.1" in elements for elements in rules.elements.values())


@pytest.fixture(autouse=True)
def no_policy_is_left(node: Node) -> Any:
    yield
    node.host.run("nft", "delete", "table", *TABLE.split(), check=False)
