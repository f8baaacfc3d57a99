"""Network policies as one nftables table: who may reach this node's pods, and whom they may reach; pure.

Each rule of a policy is a chain's line over sets: pods by their addresses, address ranges without their exceptions,
ports. Pods that come and go change elements of sets; only other policies change rules. Pods to whom the same policies
apply share a chain, and a map leads from a pod's address to it. What enters a pod and what leaves it is judged apart,
since both ends of a connection may be pods of this node.
Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import hashlib
import ipaddress
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.network.policy_views import Namespace, NetworkPolicy, Pod
from machinery.api.selectors import from_label_selector

INGRESS, EGRESS = "Ingress", "Egress"
_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
Sets = dict[str, set[str]]


@dataclass(frozen=True, slots=True)
class Local:
    """A pod of this node, by what the runtime knows: its addresses are there before the API shows them."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


@dataclass
class Rules:
    """The table: chains as text, and the elements of sets and maps, by name."""

    chains: list[str] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)  # of each set or map: its declaration
    elements: Sets = field(default_factory=lambda: defaultdict(set))


class World:
    """All pods and namespaces, as selectors see them."""

    def __init__(self, namespaces: Iterable[Namespace], pods: Iterable[Pod], extra: Sequence[Local]) -> None:
        """Args: `extra` are pods known otherwise: this node's, and what stands in for a pod."""
        self._labels = {one.metadata.name: one.metadata.labels for one in namespaces}
        self._pods: dict[str, dict[str, Local]] = defaultdict(dict)
        for pod in pods:
            self._add(local_of(pod, pod.ips))
        for one in extra:
            self._add(one)
        self._found: dict[str, list[Local]] = {}

    def _add(self, pod: Local) -> None:
        if pod.ips:
            self._pods[pod.namespace][pod.name] = pod

    def peers(self, namespace: str, peer: Mapping[str, Any]) -> list[Local]:
        """Return the pods a peer means, seen from a policy's namespace."""
        key = json.dumps([namespace, peer], sort_keys=True)
        if key not in self._found:
            self._found[key] = list(self._select(namespace, peer))
        return self._found[key]

    def _select(self, namespace: str, peer: Mapping[str, Any]) -> Iterator[Local]:
        if peer.get("namespaceSelector") is None:
            names: Iterable[str] = (namespace,)
        else:
            of_namespace = from_label_selector(peer["namespaceSelector"])
            names = [name for name, labels in self._labels.items() if of_namespace.matches(labels)]
        of_pod = from_label_selector(peer.get("podSelector") or {})
        for name in names:
            for pod in self._pods.get(name, {}).values():
                if of_pod.matches(pod.labels):
                    yield pod


def local_of(pod: Pod, ips: Sequence[str]) -> Local:
    """Return a pod as rules see it."""
    metadata = pod.metadata
    ports = tuple((port.name, port.protocol, port.containerPort) for port in pod.ports() if port.name)
    return Local(metadata.namespace, metadata.name, metadata.labels, tuple(ips), ports)


def compile_policies(policies: Sequence[NetworkPolicy], world: World, here: Sequence[Local]) -> Rules:
    """Return the rules for this node's pods."""
    rules = _empty()
    by_namespace: dict[str, list[NetworkPolicy]] = defaultdict(list)
    for policy in sorted(policies, key=lambda one: (one.metadata.namespace, one.metadata.name)):
        by_namespace[policy.metadata.namespace].append(policy)
    for direction in (INGRESS, EGRESS):
        subjects: dict[str, list[Local]] = defaultdict(list)
        for pod in here:
            applied = [one for one in by_namespace[pod.namespace] if _applies(one, pod, direction)]
            if applied:
                _isolate(rules, pod, direction, applied)
            for policy in applied:
                subjects[policy.metadata.uid].append(pod)
        for policy in policies:
            if policy.metadata.uid in subjects:
                _policy(rules, policy, direction, world, subjects[policy.metadata.uid])
    return rules


def _empty() -> Rules:
    """What is there without any policy: the maps of pods that one applies to."""
    rules = Rules()
    for _, family, address in _FAMILIES:
        for direction in (INGRESS, EGRESS):
            name = _isolated(direction, family)
            rules.kinds[name] = f"map {name} {{ type {address} : verdict; }}"
        rules.kinds[f"self-{family}"] = f"set self-{family} {{ type {address} . {address}; }}"
    return rules


def _applies(policy: NetworkPolicy, pod: Local, direction: str) -> bool:
    return policy.spec.isolates(direction) and from_label_selector(policy.spec.podSelector).matches(pod.labels)


def _isolated(direction: str, family: str) -> str:
    return f"{direction.lower()}-{family}"


def _chain_of(policy: NetworkPolicy, direction: str) -> str:
    identity = policy.metadata.uid or f"{policy.metadata.namespace}/{policy.metadata.name}"
    return f"p{hashlib.sha256(identity.encode()).hexdigest()[:12]}-{direction.lower()}"


def _isolate(rules: Rules, pod: Local, direction: str, applied: Sequence[NetworkPolicy]) -> None:
    """Lead a pod's packets to the chain that asks all its policies, and drops what none allows."""
    names = [_chain_of(policy, direction) for policy in applied]
    chain = f"{direction.lower()}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
    body = "\n".join([f"  chain {chain} {{", *(f"    jump {name}" for name in names), "    drop", "  }"])
    if body not in rules.chains:
        rules.chains.append(body)
    for ip in pod.ips:
        family = "ip6" if ":" in ip else "ip"
        rules.elements[_isolated(direction, family)].add(f"{ip} : goto {chain}")
        rules.elements[f"self-{family}"].add(f"{ip} . {ip}")


def _policy(rules: Rules, policy: NetworkPolicy, direction: str, world: World, subjects: Sequence[Local]) -> None:
    chain = _chain_of(policy, direction)
    body = [f"  chain {chain} {{"]
    for number, rule in enumerate(policy.spec.rules(direction)):
        peers = rule.get("from" if direction == INGRESS else "to")
        body += _Rule(rules, f"{chain}-{number}", policy.metadata.namespace, direction).lines(
            peers or (), rule.get("ports") or (), world, subjects
        )
    rules.chains.insert(0, "\n".join([*body, "  }"]))  # before those that jump to it


@dataclass
class _Rule:
    """One rule of a policy on its way to lines and sets."""

    rules: Rules
    name: str
    namespace: str
    direction: str

    def lines(
        self, peers: Sequence[Mapping[str, Any]], ports: Sequence[Mapping[str, Any]], world: World,
        subjects: Sequence[Local],
    ) -> Iterator[str]:  # fmt: skip
        chosen = [pod for peer in peers if not peer.get("ipBlock") for pod in world.peers(self.namespace, peer)]
        blocks = [peer["ipBlock"] for peer in peers if peer.get("ipBlock")]
        # The pods whose ports are named: those that are reached.
        reached = subjects if self.direction == INGRESS else chosen or (() if peers else _everyone(world))
        for version, family, address in _FAMILIES:
            sources = list(self._peers(version, family, address, chosen, blocks)) if peers else [""]
            checks = list(self._ports(version, family, address, ports, reached)) if ports else [""]
            for source in sources:
                for check in checks:
                    whose = "" if source or "daddr" in check else f"meta nfproto ipv{version} "
                    yield f"    {whose}{source}{check}accept"

    def _peers(
        self, version: int, family: str, address: str, chosen: Sequence[Local], blocks: Sequence[Mapping[str, Any]]
    ) -> Iterator[str]:
        side = "saddr" if self.direction == INGRESS else "daddr"
        pods = f"{self.name}-pods-{family}"
        self._set(pods, address, [ip for pod in chosen for ip in pod.ips if (":" in ip) == (version == 6)])
        yield f"{family} {side} @{pods} "
        ranges = block_ranges(blocks, version)
        if ranges:
            name = f"{self.name}-blocks-{family}"
            self._set(name, address, ranges, interval=True)
            yield f"{family} {side} @{name} "

    def _ports(
        self, version: int, family: str, address: str, ports: Sequence[Mapping[str, Any]], reached: Iterable[Local]
    ) -> Iterator[str]:
        numbered = [port for port in ports if not isinstance(port.get("port"), str)]
        named = [port for port in ports if isinstance(port.get("port"), str)]
        if numbered:
            name = f"{self.name}-ports"
            self._set(name, "inet_proto . inet_service", list(_port_elements(numbered)), interval=True)
            yield f"meta l4proto . th dport @{name} "
        if named:
            name = f"{self.name}-named-{family}"
            elements = [
                f"{ip} . {_PROTOCOLS[protocol]} . {number}"
                for pod in reached for ip in pod.ips if (":" in ip) == (version == 6)
                for port_name, protocol, number in pod.ports
                if any(one["port"] == port_name and one.get("protocol", "TCP") == protocol for one in named)
            ]  # fmt: skip
            self._set(name, f"{address} . inet_proto . inet_service", elements)
            yield f"{family} daddr . meta l4proto . th dport @{name} "

    def _set(self, name: str, kind: str, elements: Iterable[str], *, interval: bool = False) -> None:
        flags = " flags interval;" if interval else ""
        self.rules.kinds[name] = f"set {name} {{ type {kind};{flags} }}"
        self.rules.elements[name] |= set(elements)


def _everyone(world: World) -> list[Local]:
    return world.peers("", {"namespaceSelector": {}})


def _port_elements(ports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ports as elements that don't overlap: a set of ranges takes no others."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for port in ports:
        protocol = _PROTOCOLS[port.get("protocol") or "TCP"]
        first = port.get("port")
        spans[protocol].append((first, port.get("endPort") or first) if first else (0, 65535))
    for protocol, found in spans.items():
        merged: list[tuple[int, int]] = []
        for first, last in sorted(found):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        for first, last in merged:
            yield f"{protocol} . {first}" if first == last else f"{protocol} . {first}-{last}"


def block_ranges(blocks: Iterable[Mapping[str, Any]], version: int) -> list[str]:
    """Return address ranges less their exceptions, without overlaps."""
    left: list[Any] = []
    for block in blocks:
        network = ipaddress.ip_network(block["cidr"], strict=False)
        if network.version == version:
            left += _without(network, [ipaddress.ip_network(one, strict=False) for one in block.get("except") or ()])
    return [str(one) for one in ipaddress.collapse_addresses(left)]


def _without(network: Any, exceptions: Sequence[Any]) -> list[Any]:
    left = [network]
    for exception in exceptions:
        if exception.version != network.version:
            continue
        parts: list[Any] = []
        for one in left:
            if one.subnet_of(exception):
                continue
            parts += one.address_exclude(exception) if exception.subnet_of(one) else [one]
        left = parts
    return left


def whole(table: str, rules: Rules) -> str:
    """Return a transaction that puts the rules in the place of whatever is there. Args: `table` with its family."""
    lines = [f"add table {table}", f"delete table {table}", f"table {table} {{"]
    lines += [f"  {kind}" for kind in rules.kinds.values()]
    lines += rules.chains
    for direction, side, priority in ((EGRESS, "saddr", "filter - 6"), (INGRESS, "daddr", "filter - 5")):
        lines += [
            f"  chain {direction.lower()} {{", f"    type filter hook forward priority {priority}; policy accept;",
            "    ct state established,related accept",
            *(f"    {family} saddr . {family} daddr @self-{family} accept" for _, family, _ in _FAMILIES),
            *(f"    {family} {side} vmap @{_isolated(direction, family)}" for _, family, _ in _FAMILIES), "  }",
        ]  # fmt: skip
    lines.append("}")
    lines += _elements("add", table, rules.elements)
    return "\n".join(lines) + "\n"


def changes(table: str, before: Rules, after: Rules) -> str | None:
    """Return a transaction from one state to another, None when it takes other rules and not only other elements."""
    if before.chains != after.chains or before.kinds != after.kinds:
        return None
    gone = {name: before.elements[name] - after.elements[name] for name in before.elements}
    new = {name: after.elements[name] - before.elements[name] for name in after.elements}
    lines = [*_elements("delete", table, gone), *_elements("add", table, new)]
    return "\n".join(lines) + "\n" if lines else ""


def _elements(verb: str, table: str, elements: Mapping[str, set[str]]) -> Iterator[str]:
    for name, found in elements.items():
        if found:
            shown = sorted(one.partition(" : ")[0] if verb == "delete" else one for one in found)
            yield f"{verb} element {table} {name} {{ {', '.join(shown)} }}"
