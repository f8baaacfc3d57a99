"""The conditions of a pod: how far it is, and whether it may be sent traffic; pure.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.pod_state import Pod, Seen, sidecars

Status = dict[str, Any]
Why = tuple[str, str]  # reason and message


def make_conditions(
    pod: Pod, seen: Seen, phase: str, init: Sequence[Status], main: Sequence[Status], now: float
) -> list[Status]:
    """Return the conditions an agent answers for; those that did not change keep their times."""
    lasting = {spec["name"] for spec in sidecars(pod)}
    init_left = [one["name"] for one in init if not (one["started"] if one["name"] in lasting else one["ready"])]
    serving = [one for one in init if one["name"] in lasting] + list(main)
    not_ready = [one["name"] for one in serving if not one["ready"]]
    ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "")
    has_begun = any(one.get("containerID") for one in main)
    initialized = not init_left or phase == "Succeeded" or has_begun
    why_init: Why = ("ContainersNotInitialized", f"containers with incomplete status: [{' '.join(init_left)}]")
    if initialized:
        why_init = ("PodCompleted", "") if phase == "Succeeded" else ("", "")
    why_ready: Why = ("ContainersNotReady", f"containers with unready status: [{' '.join(not_ready)}]")
    if ended:
        why_ready = (ended, "")
    containers_ready = not not_ready and not ended
    gates_open, why_gate = _gates(pod)
    wanted: list[tuple[str, bool, Why]] = [
        ("PodReadyToStartContainers", seen.sandbox_ready, ("", "")),
        ("Initialized", initialized, why_init),
        ("Ready", containers_ready and gates_open, why_ready if not containers_ready else why_gate),
        ("ContainersReady", containers_ready, why_ready if not containers_ready else ("", "")),
        ("PodScheduled", True, ("", "")),
    ]
    old = {one["type"]: one for one in (pod.get("status") or {}).get("conditions") or ()}
    generation = pod["metadata"].get("generation")
    return [make_condition(kind, value, why, old.get(kind), now, generation) for kind, value, why in wanted]


def _gates(pod: Pod) -> tuple[bool, Why]:
    """Return whether all readiness gates are open, and what is told when not."""
    have = {one["type"]: one["status"] for one in (pod.get("status") or {}).get("conditions") or ()}
    said = []
    for gate in pod["spec"].get("readinessGates") or ():
        name = gate["conditionType"]
        if name not in have:
            said.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif have[name] != "True":
            said.append(f'the status of pod readiness gate "{name}" is not "True", but {have[name]}')
    return (False, ("ReadinessGatesNotReady", ", ".join(said))) if said else (True, ("", ""))


def make_condition(
    kind: str, value: bool, why: Why, old: Mapping[str, Any] | None, now: float, generation: int | None
) -> Status:
    """Return one condition; the time of its last change stays with the status."""
    status = "True" if value else "False"
    same = old is not None and old.get("status") == status
    at = old.get("lastTransitionTime") if same and old is not None else None
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found: Status = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": at or shown}
    reason, message = why
    if reason:
        found["reason"] = reason
        if message:
            found["message"] = message
    if generation:
        found["observedGeneration"] = generation
    return found
