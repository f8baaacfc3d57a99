"""What a NodePool's nodes should be like. Pure: nothing here talks to the cluster.

What the pool gave a node is noted on it, so that labels and taints of others are left alone and ours can be taken back.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from machinery.api.meta import Resource

NODE_POOLS = Resource("wherry.dev", "v1alpha1", "nodepools", "NodePool", namespaced=False)
LABEL = "wherry.dev/node-pool"
"""On each node of a pool; simulated nodes are those of this label."""
CAPACITY = "wherry.dev/simulated-capacity"
"""Annotation: what the node has, as JSON."""
GIVEN = "wherry.dev/node-pool-gave"
"""Annotation: the labels and taints that the pool gave the node, as JSON."""
Object = dict[str, Any]


def number_of(pool: str, node: Mapping[str, Any]) -> int:
    """Return a node's number in its pool, -1 for a node that has none."""
    text = node["metadata"]["name"].removeprefix(f"{pool}-")
    return int(text) if text.isdigit() else -1


def node_of(pool: Mapping[str, Any], number: int) -> Object:
    """Return a new node of a pool."""
    spec, name = pool["spec"], pool["metadata"]["name"]
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": f"{name}-{number}", "labels": {**(spec.get("labels") or {}), LABEL: name},
            "annotations": _annotations(spec),
        },
        "spec": {"taints": list(spec.get("taints") or ())},
    }  # fmt: skip


def change_of(pool: Mapping[str, Any], node: Mapping[str, Any]) -> Object:
    """Return the merge patch that brings a node to what its pool says now; empty when it is so already."""
    spec, meta = pool["spec"], node["metadata"]
    wanted, present = _annotations(spec), meta.get("annotations") or {}
    if all(present.get(name) == value for name, value in wanted.items()):
        return {}
    before = json.loads(present.get(GIVEN) or "{}")
    labels: Object = dict.fromkeys(before.get("labels") or ()) | dict(spec.get("labels") or {})
    ours = {(one["key"], one["effect"]) for one in before.get("taints") or ()}
    wanted_taints = list(spec.get("taints") or ())
    ours |= {(one["key"], one["effect"]) for one in wanted_taints}
    others = [one for one in node["spec"].get("taints") or () if (one["key"], one["effect"]) not in ours]
    return {"metadata": {"labels": labels, "annotations": wanted}, "spec": {"taints": others + wanted_taints}}


def _annotations(spec: Mapping[str, Any]) -> dict[str, str]:
    given = {"labels": spec.get("labels") or {}, "taints": spec.get("taints") or []}
    return {CAPACITY: json.dumps(spec.get("capacity") or {}, sort_keys=True), GIVEN: json.dumps(given, sort_keys=True)}


def surplus(pool: Mapping[str, Any], nodes: Sequence[Object]) -> list[Object]:
    """Return the nodes that are too many: those of the highest numbers, all when the pool is to go."""
    name = pool["metadata"]["name"]
    wanted = 0 if pool["metadata"].get("deletionTimestamp") else pool["spec"]["replicas"]
    return [node for node in nodes if not 0 <= number_of(name, node) < wanted]


def missing(pool: Mapping[str, Any], nodes: Sequence[Object]) -> list[int]:
    """Return the numbers that have no node yet."""
    if pool["metadata"].get("deletionTimestamp"):
        return []
    there = {number_of(pool["metadata"]["name"], node) for node in nodes}
    return [number for number in range(pool["spec"]["replicas"]) if number not in there]


def must_leave(pod: Mapping[str, Any]) -> bool:
    """Whether a node waits for a pod before it goes; not for daemons, mirrors, and what has ended."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    meta = pod["metadata"]
    if "kubernetes.io/config.mirror" in (meta.get("annotations") or {}):
        return False
    return all(one["kind"] != "DaemonSet" for one in meta.get("ownerReferences") or () if one.get("controller"))


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether a node says that it is ready."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def standing(pool: Mapping[str, Any], nodes: Sequence[Object], draining: Mapping[str, int]) -> tuple[str, str, str]:
    """Return the condition Ready: status, reason, message. `draining` says how many pods each node waits for."""
    wanted, ready = pool["spec"]["replicas"], sum(map(is_ready, nodes))
    if draining:
        told = ", ".join(f"{name} ({count} pods)" for name, count in sorted(draining.items()))
        return "False", "Draining", f"waiting for pods to leave: {told}"
    if ready == len(nodes) == wanted:
        return "True", "AllReady", f"{ready} of {wanted} nodes are ready"
    return "False", "NodesNotReady", f"{ready} of {wanted} nodes are ready"
