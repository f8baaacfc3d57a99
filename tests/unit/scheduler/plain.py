"""The rules as plainly as they can be put: one node and one pod at a time, over the JSON of the objects.

Slow and obviously right; what the scheduler answers with arrays is compared with these.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from machinery.api.placement import pod_selects_node, tolerates, untolerated
from machinery.api.quantity import cpu_millis, to_bytes

Object = Mapping[str, Any]
HARD = ("NoSchedule", "NoExecute")


class World:
    """Nodes, the pods on each, and the labels of namespaces."""

    def __init__(self, nodes: Sequence[Object], pods: Mapping[str, Sequence[Object]], namespaces: Any) -> None:
        self.nodes = nodes
        self.pods = pods
        self.namespaces = namespaces

    def on(self, node: Object) -> Sequence[Object]:
        return self.pods.get(node["metadata"]["name"], ())


def labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def selects(selector: Object | None, given: Mapping[str, str]) -> bool:
    if selector is None:
        return False
    if any(given.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or ():
        value, values = given.get(rule["key"]), rule.get("values") or ()
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[rule["operator"]]
        if not holds:
            return False
    return True


# ---- one node by itself


def requests(pod: Object, *, scored: bool = False) -> dict[str, int]:
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        asked = (container.get("resources") or {}).get("requests") or {}
        found = {name: cpu_millis(text) if name == "cpu" else to_bytes(text) for name, text in asked.items()}
        if scored:
            found = {"cpu": 100, "memory": 200 * 1024 * 1024, **found}
        for name, number in found.items():
            total[name] = total.get(name, 0) + number
    return total


def room(node: Object) -> dict[str, int]:
    given = node["status"]["allocatable"]
    return {name: cpu_millis(text) if name == "cpu" else to_bytes(text) for name, text in given.items()}


def used(world: World, node: Object, *, scored: bool = False) -> dict[str, int]:
    total: dict[str, int] = {}
    for pod in world.on(node):
        for name, number in requests(pod, scored=scored).items():
            total[name] = total.get(name, 0) + number
    return total


def fit(world: World, pod: Object, node: Object) -> list[str]:
    holds, taken, found = room(node), used(world, node), []
    if len(world.on(node)) + 1 > holds.get("pods", 0):
        found.append("Too many pods")
    for name, number in requests(pod).items():
        if number > 0 and number > holds.get(name, 0) - taken.get(name, 0):
            found.append(f"Insufficient {name}")
    return found


def host_ports(pod: Object) -> list[tuple[str, str, int]]:
    return [
        (port.get("hostIP") or "0.0.0.0", port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def ports_free(world: World, pod: Object, node: Object) -> bool:
    for ip, protocol, number in host_ports(pod):
        for other in world.on(node):
            for their_ip, their_protocol, their_number in host_ports(other):
                if (protocol, number) != (their_protocol, their_number):
                    continue
                if ip == their_ip or "0.0.0.0" in (ip, their_ip):
                    return False
    return True


def taints_tolerated(pod: Object, node: Object) -> bool:
    taints = node["spec"].get("taints") or ()
    return untolerated(taints, pod["spec"].get("tolerations") or (), HARD) is None


def schedulable(pod: Object, node: Object) -> bool:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    tolerated = any(tolerates(one, taint) for one in pod["spec"].get("tolerations") or ())
    return tolerated or not node["spec"].get("unschedulable")


def selected(pod: Object, node: Object) -> bool:
    return pod_selects_node(pod["spec"], node["metadata"]["name"], labels(node))


# ---- one node among others


def spread(world: World, pod: Object, node: Object) -> bool | str:
    constraints = pod["spec"].get("topologySpreadConstraints") or ()
    hard = [one for one in constraints if one["whenUnsatisfiable"] == "DoNotSchedule"]
    for constraint in hard:
        key = constraint["topologyKey"]
        if key not in labels(node):
            return "missing"
        counts: dict[str, int] = {}
        for other in world.nodes:
            if any(one["topologyKey"] not in labels(other) for one in hard) or not included(constraint, pod, other):
                continue
            domain = labels(other)[key]
            counts[domain] = counts.get(domain, 0) + matching(world, constraint, pod, other)
        least = min(counts.values(), default=0)
        if len(counts) < constraint.get("minDomains", 1):
            least = 0
        own = selects(spread_selector(constraint, pod), labels(pod))
        if counts.get(labels(node)[key], 0) + int(own) - least > constraint["maxSkew"]:
            return False
    return True


def included(constraint: Object, pod: Object, node: Object) -> bool:
    if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and not selected(pod, node):
        return False
    return constraint.get("nodeTaintsPolicy", "Ignore") != "Honor" or taints_tolerated(pod, node)


def spread_selector(constraint: Object, pod: Object) -> Object | None:
    selector = constraint.get("labelSelector")
    if selector is None:
        return None
    more = [
        {"key": key, "operator": "In", "values": [labels(pod)[key]]}
        for key in constraint.get("matchLabelKeys") or ()
        if key in labels(pod)
    ]
    return {**selector, "matchExpressions": [*(selector.get("matchExpressions") or ()), *more]}


def matching(world: World, constraint: Object, pod: Object, node: Object) -> int:
    selector = spread_selector(constraint, pod)
    return sum(
        other["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and not other["metadata"].get("deletionTimestamp")
        and selects(selector, labels(other))
        for other in world.on(node)
    )


def is_meant(world: World, term: Object, owner: Object, other: Object) -> bool:
    """Whether `owner`'s term is about `other`."""
    namespace = other["metadata"]["namespace"]
    named, selector = term.get("namespaces") or (), term.get("namespaceSelector")
    if not named and selector is None:
        named = (owner["metadata"]["namespace"],)
    if namespace not in named and not selects(selector, world.namespaces.get(namespace, {})):
        return False
    return selects(term.get("labelSelector"), labels(other))


def terms(pod: Object, kind: str, when: str = "required") -> list[Any]:
    affinity = (pod["spec"].get("affinity") or {}).get(kind) or {}
    return affinity.get(f"{when}DuringSchedulingIgnoredDuringExecution") or []


def same_domain(term: Object, node: Object, other: Object) -> bool:
    key = term["topologyKey"]
    return key in labels(node) and labels(node)[key] == labels(other).get(key)


def affinity(world: World, pod: Object, node: Object) -> str:
    """Return which rule rejects a node; nothing when none does."""
    near = terms(pod, "podAffinity")

    def all_meant(other: Object) -> bool:
        return all(is_meant(world, term, pod, other) for term in near)

    if near:
        if any(term["topologyKey"] not in labels(node) for term in near):
            return "affinity"
        met = all(
            any(
                same_domain(term, node, other) and any(all_meant(there) for there in world.on(other))
                for other in world.nodes
            )
            for term in near
        )
        anywhere = any(
            term["topologyKey"] in labels(other) and any(all_meant(there) for there in world.on(other))
            for term in near
            for other in world.nodes
        )
        if not met and (anywhere or not all_meant(pod)):
            return "affinity"
    for other in world.nodes:
        for there in world.on(other):
            for term in terms(pod, "podAntiAffinity"):
                if same_domain(term, node, other) and is_meant(world, term, pod, there):
                    return "anti-affinity"
    for other in world.nodes:
        for there in world.on(other):
            for term in terms(there, "podAntiAffinity"):
                if same_domain(term, node, other) and is_meant(world, term, there, pod):
                    return "existing"
    return ""


# ---- scores


def least_allocated(world: World, pod: Object, node: Object) -> int:
    holds, taken, asked = room(node), used(world, node, scored=True), requests(pod, scored=True)
    found = []
    for name in ("cpu", "memory"):
        if not holds.get(name, 0):
            continue
        total = taken.get(name, 0) + asked[name]
        found.append(0 if total > holds[name] else (holds[name] - total) * 100 // holds[name])
    return sum(found) // len(found) if found else 0


def balanced(world: World, pod: Object, node: Object) -> int:
    holds, taken, asked = room(node), used(world, node), requests(pod)
    if not any(asked.get(name) for name in ("cpu", "memory")):
        return 0
    parts = [
        min((taken.get(name, 0) + asked.get(name, 0)) / holds[name], 1.0)
        for name in ("cpu", "memory")
        if holds.get(name, 0)
    ]
    deviation = abs((parts[0] - parts[1]) / 2) if len(parts) == 2 else 0.0
    return int((1 - deviation) * 100.0)


def preferred_nodes(pod: Object, node: Object) -> int:
    total = 0
    for one in terms(pod, "nodeAffinity", "preferred"):
        wanted = {"nodeSelectorTerms": [one["preference"]]}
        spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": wanted}}}
        total += one["weight"] * pod_selects_node(spec, node["metadata"]["name"], labels(node))
    return total


def avoided_taints(pod: Object, node: Object) -> int:
    tolerations = pod["spec"].get("tolerations") or ()
    return sum(
        taint["effect"] == "PreferNoSchedule" and not any(tolerates(one, taint) for one in tolerations)
        for taint in node["spec"].get("taints") or ()
    )


def affinity_score(world: World, pod: Object, node: Object) -> int:
    total = 0
    for other in world.nodes:
        for there in world.on(other):
            for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
                for one in terms(pod, kind, "preferred"):
                    term = one["podAffinityTerm"]
                    if same_domain(term, node, other) and is_meant(world, term, pod, there):
                        total += sign * one["weight"]
                for one in terms(there, kind, "preferred"):
                    term = one["podAffinityTerm"]
                    if same_domain(term, node, other) and is_meant(world, term, there, pod):
                        total += sign * one["weight"]
            for term in terms(there, "podAffinity"):
                if same_domain(term, node, other) and is_meant(world, term, there, pod):
                    total += 1
    return total


def spread_scores(world: World, pod: Object, passed: Sequence[Object]) -> list[int]:
    constraints = pod["spec"].get("topologySpreadConstraints") or ()
    soft = [one for one in constraints if one["whenUnsatisfiable"] == "ScheduleAnyway"]

    def ignored(node: Object) -> bool:
        return any(one["topologyKey"] not in labels(node) for one in soft)

    raw: list[int | None] = []
    for node in passed:
        if ignored(node):
            raw.append(None)
            continue
        score = 0.0
        for one in soft:
            key = one["topologyKey"]
            counted = [other for other in passed if not ignored(other)]
            if key == "kubernetes.io/hostname":
                size, count = len(counted), matching(world, one, pod, node)
            else:
                size = len({labels(other)[key] for other in counted})
                count = sum(
                    matching(world, one, pod, other)
                    for other in world.nodes
                    if not ignored(other) and same_domain(one, node, other) and included(one, pod, other)
                )
            score += count * math.log(size + 2) + (one["maxSkew"] - 1)
        raw.append(math.floor(score + 0.5))
    known = [one for one in raw if one is not None]
    most, least = max(known, default=0), min(known, default=0)
    return [0 if one is None else 100 if most == 0 else 100 * (most + least - one) // most for one in raw]
