"""What a DaemonSet does next: where its pods shall be, which to make and delete. Pure.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controllers.apps_views import DaemonSet
from controllers.pod_control import pod_of_template
from controllers.replicaset import available_at
from controllers.revisions import HASH_LABEL
from controllers.rollout import scaled
from controllers.views import Node, Pod
from machinery.api.placement import daemon_tolerations, pod_selects_node, untolerated
from machinery.api.resources import DAEMON_SETS

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@dataclass(slots=True)
class Plan:
    """One step: the nodes to make a pod on, and the pods to delete."""

    create: list[str] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    """Those that ended and are to be made anew: deleted, too, but not too often."""
    wait_seconds: float | None = None


def should_run(daemon_set: DaemonSet, node: Node) -> tuple[bool, bool]:
    """Return whether a node shall get the set's pod, and whether one that is there may stay."""
    template = daemon_set.spec.template
    if not pod_selects_node(template.get("spec") or {}, node.metadata.name, node.metadata.labels):
        return False, False
    tolerations = daemon_tolerations(template.get("spec") or {})
    if untolerated(node.spec.taints, tolerations, ("NoExecute",)) is not None:
        return False, False
    return untolerated(node.spec.taints, tolerations, ("NoSchedule",)) is None, True


def node_of(pod: Pod) -> str:
    """Return the node a pod is on, or meant for."""
    if pod.spec.nodeName:
        return pod.spec.nodeName
    affinity = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    for term in (affinity or {}).get("nodeSelectorTerms") or ():
        for rule in term.get("matchFields") or ():
            if rule["key"] == "metadata.name" and rule["operator"] == "In" and rule.get("values"):
                return str(rule["values"][0])
    return ""


def pod_for(daemon_set: DaemonSet, node: str, digest: str) -> dict[str, Any]:
    """Return the pod for a node: bound by affinity, so that the scheduler still checks what fits."""
    template = daemon_set.spec.template
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: digest}
    body = pod_of_template(DAEMON_SETS, daemon_set.metadata, template, labels=labels)
    spec = body["spec"] = copy.deepcopy(body["spec"])
    spec["tolerations"] = daemon_tolerations(template.get("spec") or {})
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    here = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    given: list[dict[str, Any]] = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    affinity[_REQUIRED] = {"nodeSelectorTerms": [{**term, "matchFields": here} for term in given]}
    return body


def by_node(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Return pods by the node they are on or meant for; those that have ended and are going count no more."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.is_terminal and pod.metadata.deletionTimestamp is not None:
            continue
        if name := node_of(pod):
            found.setdefault(name, []).append(pod)
    return found


def plan(daemon_set: DaemonSet, nodes: Sequence[Node], pods: Iterable[Pod], digest: str, *, at: datetime) -> Plan:
    """Return the next step. `digest` is the hash of the newest revision."""
    step, placed = Plan(), by_node(pods)
    known = {node.metadata.name for node in nodes}
    for node in nodes:
        here = placed.get(node.metadata.name, [])
        run, keep = should_run(daemon_set, node)
        if run or keep:
            _on_node(daemon_set, step, node.metadata.name, here, digest, run=run, at=at)
        else:
            step.delete += [pod for pod in here if pod.metadata.deletionTimestamp is None]
    for name, lost in placed.items():
        if name not in known:  # a pod that waits for a node that is gone will wait for ever
            step.delete += [pod for pod in lost if not pod.spec.nodeName and pod.metadata.deletionTimestamp is None]
    if daemon_set.spec.updateStrategy.type == "RollingUpdate":
        _update(daemon_set, step, nodes, placed, digest, at=at)
    return step


def _on_node(
    daemon_set: DaemonSet, step: Plan, node: str, here: Sequence[Pod], digest: str, *, run: bool, at: datetime
) -> None:  # fmt: skip
    """Bring the pods of one node to the one that shall be there, and a second while it takes over."""
    live = []
    for pod in here:
        if pod.metadata.deletionTimestamp is not None:
            continue
        if pod.is_terminal:
            step.ended.append(pod)
        else:
            live.append(pod)
    surge = _surge(daemon_set, 1) > 0
    if run and not (live if surge else here):
        step.create.append(node)
    if len(live) < 2:
        return
    live.sort(key=_age)
    new = [pod for pod in live if pod.metadata.labels.get(HASH_LABEL) == digest]
    old = [pod for pod in live if pod not in new]
    if not surge:
        step.delete += live[1:]
        return
    step.delete += new[1:] + old[1:]
    # Two may stand beside each other only while the old one serves and the new one does not yet.
    if new and old and (not old[0].is_ready or _is_available(daemon_set, new[0], step, at=at)):
        step.delete.append(old[0])


def _age(pod: Pod) -> tuple[bool, str, str]:
    """Return the sort key of pods of one node: those that were scheduled first, the oldest first."""
    return not pod.spec.nodeName, pod.metadata.creationTimestamp, pod.metadata.name


def _surge(daemon_set: DaemonSet, count: int) -> int:
    rolling = daemon_set.spec.updateStrategy.rollingUpdate
    if daemon_set.spec.updateStrategy.type != "RollingUpdate" or rolling is None or rolling.maxSurge is None:
        return 0
    return scaled(rolling.maxSurge, count, up=True)


def _update(
    daemon_set: DaemonSet, step: Plan, nodes: Sequence[Node], placed: Mapping[str, Sequence[Pod]], digest: str, *,
    at: datetime,
) -> None:  # fmt: skip
    """Replace pods of an older revision, no more at once than the strategy allows."""
    wanted = [node.metadata.name for node in nodes if should_run(daemon_set, node)[0]]
    surge, most = _surge(daemon_set, len(wanted)), _most_unavailable(daemon_set, len(wanted))
    going = {id(pod) for pod in (*step.delete, *step.ended)}
    unavailable, surging = 0, 0
    sick: list[Pod] = []
    well: list[Pod] = []
    for name in wanted:
        live = [pod for pod in placed.get(name, ()) if pod.metadata.deletionTimestamp is None and id(pod) not in going]
        old = [pod for pod in live if pod.metadata.labels.get(HASH_LABEL) != digest]
        surging += len(old) > 0 and len(live) > len(old)
        available = [pod for pod in live if _is_available(daemon_set, pod, step, at=at)]
        unavailable += not available
        if len(live) > len(old):
            if old and any(pod in available for pod in live if pod not in old):
                step.delete += old
        elif old:
            (well if old[0] in available else sick).append(old[0])
    if surge:
        step.create += [node_of(pod) for pod in (*sick, *well)][: max(surge - surging, 0)]
        return
    step.delete += sick
    step.delete += well[: max(most - unavailable, 0)]


def _most_unavailable(daemon_set: DaemonSet, count: int) -> int:
    rolling = daemon_set.spec.updateStrategy.rollingUpdate
    value = 1 if rolling is None or rolling.maxUnavailable is None else rolling.maxUnavailable
    return scaled(value, count, up=True)


def _is_available(daemon_set: DaemonSet, pod: Pod, step: Plan, *, at: datetime) -> bool:
    wait = available_at(pod, daemon_set.spec.minReadySeconds, at=at)
    if wait:
        step.wait_seconds = min(wait, step.wait_seconds or wait)
    return wait == 0


def status_of(
    daemon_set: DaemonSet, nodes: Iterable[Node], pods: Iterable[Pod], digest: str, *, at: datetime
) -> dict[str, Any]:
    """Return the status of a set with these pods."""
    placed = by_node(pods)
    counts = dict.fromkeys(
        ("desiredNumberScheduled", "currentNumberScheduled", "numberMisscheduled", "numberReady", "numberAvailable",
         "updatedNumberScheduled"), 0,
    )  # fmt: skip
    for node in nodes:
        run, _ = should_run(daemon_set, node)
        here = placed.get(node.metadata.name, [])
        if not run:
            counts["numberMisscheduled"] += bool(here)
            continue
        counts["desiredNumberScheduled"] += 1
        if not here:
            continue
        counts["currentNumberScheduled"] += 1
        first = min(here, key=_age)
        if first.is_ready:
            counts["numberReady"] += 1
            counts["numberAvailable"] += available_at(first, daemon_set.spec.minReadySeconds, at=at) == 0
        counts["updatedNumberScheduled"] += first.metadata.labels.get(HASH_LABEL) == digest
    counts["numberUnavailable"] = counts["desiredNumberScheduled"] - counts["numberAvailable"]
    return {"observedGeneration": daemon_set.metadata.generation, **counts}
