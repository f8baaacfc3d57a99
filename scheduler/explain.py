"""Why a pod is where it is, or nowhere: which rule took how many nodes away, how the best ones scored, what would help.

Pure, over a table: the scheduler's debugging endpoint answers with it, `wherry why` works it out from what it lists.
A pod that runs is judged as if it were to be placed now, among the pods that are there now.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from machinery.api.placement import tolerates
from scheduler.devices.extended import classes_by_resource
from scheduler.devices.matching import matches
from scheduler.devices.pools import Device, PoolReader, taken_by_claims
from scheduler.framework.plugin import Codes, Cycle, NodePlugin, Rejected
from scheduler.nodeselect import labels_mask, required_mask
from scheduler.pods import Pod
from scheduler.schedule_one import Chooser
from scheduler.table import ALL, Mask, NodeTable

BEST, NAMED = 5, 5
"""How many nodes are shown with their scores, and how many are named with a reason."""


def explain(chooser: Chooser, table: NodeTable, pod: Pod) -> dict[str, Any]:
    """Return the answer as plain data, ready for JSON; the table is left as it was."""
    node = pod.node
    counted = table.remove_pod(node, pod.uid) if node else None
    pod.node = ""
    try:
        return {"pod": str(pod.key), "node": node, "profile": chooser.profile.name, **_judge(chooser, table, pod, node)}
    finally:
        pod.node = node
        if counted is not None:
            table.put_pod(counted, node)


def _judge(chooser: Chooser, table: NodeTable, pod: Pod, node: str) -> dict[str, Any]:
    cycle = chooser.cycle(pod)
    found: dict[str, Any] = {"nodes": table.count, "waits": chooser.profile.gated(pod)}
    try:
        for first in chooser.profile.pre_filters:
            first.pre_filter(cycle)
        judged = list(_judgements(chooser, cycle))
    except Rejected as error:
        return {**found, "fits": 0, "message": f"0/{table.count} nodes are available: {error}.", "rejected": []}
    passed = table.alive.copy()
    rejected = []
    for name, codes, say in judged:
        out = passed & (codes != 0)
        for code in np.unique(codes[out]).tolist():
            rows = np.flatnonzero(out & (codes == code))
            text = ", ".join(reason.text for reason in say(code))
            names = table.names(rows[:NAMED].tolist())
            rejected.append({"plugin": name, "reason": text, "count": len(rows), "nodes": names})
        passed &= ~out
    rows = np.flatnonzero(passed)
    diagnosis = "" if len(rows) else str(chooser.diagnose(cycle))
    changes = _changes(cycle, judged, node) if not len(rows) or (node and not _is_among(table, node, passed)) else []
    best = _best(chooser, cycle, rows, node)
    return {**found, "fits": len(rows), "message": diagnosis, "rejected": rejected, "best": best, "changes": changes}


def _is_among(table: NodeTable, node: str, passed: Mask) -> bool:
    return node in table.by_name and bool(passed[table.by_name[node].row])


def _judgements(chooser: Chooser, cycle: Cycle) -> Any:
    """Yield each filter's name, its codes over all rows, and what puts them in words."""
    needs, table = cycle.needs, cycle.table
    for plugin in chooser.profile.filters:
        if isinstance(plugin, NodePlugin):
            codes, say = plugin.filter(needs, table, ALL), partial(plugin.explain, needs, table)
        else:
            codes, say = plugin.filter(cycle), partial(plugin.explain, cycle)
        if codes is not None:
            yield plugin.name, codes, say


def _best(chooser: Chooser, cycle: Cycle, rows: Any, node: str) -> list[dict[str, Any]]:
    """Return the nodes of the highest scores, each with what every plugin gave it; the pod's own node among them."""
    if not len(rows):
        return []
    table, parts = cycle.table, {}
    for plugin, weight in chooser.profile.node_scorers:
        found = plugin.score(cycle.needs, table, ALL)
        if found is not None:
            parts[plugin.name] = weight * plugin.normalize(found[rows])
    for scorer, weight in chooser.profile.cluster_scorers:
        scores = scorer.score(cycle, rows)
        if scores is not None:
            parts[scorer.name] = weight * scores
    total = sum(parts.values(), np.zeros(len(rows), dtype=np.int64))
    order = np.argsort(-total, kind="stable")
    shown = order[:BEST].tolist()
    own = [at for at, row in enumerate(rows.tolist()) if table.nodes[row].name == node]
    places = {int(at): place for place, at in enumerate(order.tolist(), 1)}
    return [
        {
            "node": table.nodes[int(rows[at])].name, "place": places[at], "total": int(total[at]),
            "scores": {name: int(values[at]) for name, values in parts.items()},
        }
        for at in [*shown, *(one for one in own if one not in shown)]
    ]  # fmt: skip


# ---- what would help


def _changes(cycle: Cycle, judged: list[tuple[str, Codes, Callable[[int], Any]]], node: str) -> list[str]:
    """Return, for nodes that one rule alone keeps away, what change of the pod or the node would let it in."""
    table = cycle.table
    failures = np.zeros(table.size, dtype=np.int64)
    for _, codes, _say in judged:
        failures += codes != 0
    near = table.alive & (failures == 1)
    found: list[str] = []
    for name, codes, _say in judged:
        rows = np.flatnonzero(near & (codes != 0))
        if len(rows) and name in _ADVICE:
            found += _ADVICE[name](cycle, rows.tolist())
    return found


def _more_room(cycle: Cycle, rows: list[int]) -> list[str]:
    """The node where least is missing."""
    table, asked = cycle.table, {**cycle.needs.requests, "pods": 1}

    def missing(row: int) -> dict[str, int]:
        found = {}
        for name, number in asked.items():
            holds = int(table.allocatable(name)[row])
            free = holds - int(table.requested(name)[row])
            if number > free and (holds or name not in table.device_resources):
                found[name] = number - free
        return found

    def part(row: int) -> float:
        return sum(number / max(asked[name], 1) for name, number in missing(row).items())

    best = min(rows, key=part)
    texts = [_quantity(name, number) for name, number in missing(best).items()]
    return [f"needs {' and '.join(texts)} on {table.nodes[best].name}"] if texts else []


def _quantity(resource: str, number: int) -> str:
    if resource == "cpu":
        return f"{number}m more cpu"
    if resource in ("memory", "ephemeral-storage"):
        return f"{-(-number // 2**20)}Mi more {resource}"
    return f"{number} more {resource}"


def _tolerations(cycle: Cycle, rows: list[int]) -> list[str]:
    counts: dict[tuple[str, str, str], int] = {}
    table = cycle.table
    for row in rows:
        for taint in table.taint_sets[int(table.taints[row])]:
            if taint["effect"] != "PreferNoSchedule" and not any(tolerates(o, taint) for o in cycle.needs.tolerations):
                key = (taint["key"], taint["value"], taint["effect"])
                counts[key] = counts.get(key, 0) + 1
    return [
        f"tolerate taint {key}{f'={value}' if value else ''}:{effect} ({_nodes(number)})"
        for (key, value, effect), number in sorted(counts.items(), key=lambda pair: -pair[1])
    ]


def _selection(cycle: Cycle, rows: list[int]) -> list[str]:
    table, needs = cycle.table, cycle.needs
    found = []
    others = required_mask(table, {}, needs.affinity)
    for key, value in needs.node_selector.items():
        rest = {name: wanted for name, wanted in needs.node_selector.items() if name != key}
        open_to = labels_mask(table, rest) if others is None else labels_mask(table, rest) & others
        number = sum(bool(open_to[row]) for row in rows)
        if number:
            found.append(f"drop nodeSelector {key}={value}, or label a node with it ({_nodes(number)})")
    if others is not None:
        number = int(np.count_nonzero(labels_mask(table, needs.node_selector)[rows] & ~others[rows]))
        if number:
            found.append(f"relax the required node affinity ({_nodes(number)})")
    return found


def _uncordon(cycle: Cycle, rows: list[int]) -> list[str]:
    return [f"uncordon {', '.join(cycle.table.names(rows[:NAMED]))}{' …' if len(rows) > NAMED else ''}"]


def _ports(cycle: Cycle, rows: list[int]) -> list[str]:
    numbers = ", ".join(str(number) for _, _, number in cycle.needs.ports)
    return [f"use another host port than {numbers} ({_nodes(len(rows))})"]


def _spreading(cycle: Cycle, rows: list[int]) -> list[str]:
    keys = sorted({one.topology_key for one in cycle.pod.shape.constraints if one.hard})
    return [f"raise maxSkew, or say ScheduleAnyway, for {', '.join(keys)} ({_nodes(len(rows))})"]


def _pod_affinity(cycle: Cycle, rows: list[int]) -> list[str]:
    return [f"relax the affinity between pods ({_nodes(len(rows))})"]


def _devices(cycle: Cycle, rows: list[int]) -> list[str]:
    """How many devices of each class are asked for, and how many of them there are and are free."""
    cluster = cycle.cluster
    pools, taken = PoolReader().pools(cluster.device_slices()), taken_by_claims(cluster)
    found = []
    for name, number in _wanted_devices(cycle).items():
        device_class = cluster.device_class(name)
        if device_class is None:
            continue
        rules = [one["cel"]["expression"] for one in (device_class.get("spec") or {}).get("selectors") or ()]
        known = [one for pool in pools for one in pool.devices if all(_is_match(one, rule) for rule in rules)]
        free = sum(one.is_shared or not taken.has(one.key) for one in known)
        found.append(f"asks for {number} of class {name} ({free} of {len(known)} in the cluster are free)")
    return found


def _is_match(device: Device, expression: str) -> bool:
    try:
        return matches(device, expression)
    except ValueError:
        return False


def _wanted_devices(cycle: Cycle) -> dict[str, int]:
    """Return by class how many devices a pod's claims ask for that have none yet, by their first choice."""
    pod, cluster, found = cycle.pod, cycle.cluster, Counter[str]()
    for _, name in pod.claims:
        claim = cluster.device_claim(pod.key.namespace, name) or {"spec": {}}
        if (claim.get("status") or {}).get("allocation"):
            continue
        for request in (claim["spec"].get("devices") or {}).get("requests") or ():
            wish = request.get("exactly") or request["firstAvailable"][0]
            found[wish["deviceClassName"]] += int(wish.get("count") or 1)
    classes = classes_by_resource(cluster.device_classes()) if cycle.needs.devices else {}
    for ask in cycle.needs.devices:
        for resource, number, _ in ask.wants:
            if resource in classes:
                found[classes[resource]["metadata"]["name"]] += number
    return dict(found)


def _nodes(number: int) -> str:
    return f"{number} node{'' if number == 1 else 's'}"


_ADVICE: Mapping[str, Callable[[Cycle, list[int]], list[str]]] = {
    "NodeResourcesFit": _more_room,
    "TaintToleration": _tolerations,
    "NodeAffinity": _selection,
    "NodeUnschedulable": _uncordon,
    "NodePorts": _ports,
    "PodTopologySpread": _spreading,
    "InterPodAffinity": _pod_affinity,
    "DynamicResources": _devices,
}
