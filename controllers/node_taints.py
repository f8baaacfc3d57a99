"""Which taints a Node's conditions call for, and how long pods stand them. Pure.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from controllers.views import Node, Toleration, condition_of
from machinery.api.meta import parse_time

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""Set by people on a machine that is off: what ran there certainly does not any more."""
NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"


class TaintId(NamedTuple):
    """What makes a taint the same taint."""

    key: str
    effect: str


AWAY = frozenset((TaintId(NOT_READY, NO_EXECUTE), TaintId(UNREACHABLE, NO_EXECUTE)))
"""The taints that drive pods from a node that is away."""
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_AWAY = {"False": NOT_READY, "Unknown": UNREACHABLE}
_OURS = frozenset(
    [(key, NO_SCHEDULE) for key in (NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values())]
    + [(NOT_READY, NO_EXECUTE), (UNREACHABLE, NO_EXECUTE)]
)


def ready_status(node: Node) -> str:
    """Return the status of the Ready condition: "True", "False", "Unknown", or "" where there is none."""
    ready = condition_of(node.status.conditions, "Ready")
    return ready.status if ready is not None else ""


def wanted_taints(node: Node, *, all_away: bool) -> set[TaintId]:
    """Return which of the taints we keep the node should have.

    Args:
        node: the node.
        all_away: no node at all is ready. Then it is more likely us who are cut off: nobody is evicted.
    """
    ready = ready_status(node)
    wanted = {TaintId(key, NO_SCHEDULE) for kind, key in _PRESSURES.items() if _is_true(node, kind)}
    if node.spec.unschedulable:
        wanted.add(TaintId(UNSCHEDULABLE, NO_SCHEDULE))
    if ready in _AWAY:
        wanted.add(TaintId(_AWAY[ready], NO_SCHEDULE))
        if not all_away:
            wanted.add(TaintId(_AWAY[ready], NO_EXECUTE))
    elif not ready:
        # It has never reported: what it was registered with stays.
        wanted |= {_id(taint) for taint in node.spec.taints if taint["key"] == NOT_READY}
    return wanted


def _is_true(node: Node, kind: str) -> bool:
    found = condition_of(node.status.conditions, kind)
    return found is not None and found.status == "True"


def _id(taint: dict[str, Any]) -> TaintId:
    return TaintId(taint["key"], taint.get("effect", ""))


def taints_after(node: Node, wanted: set[TaintId], *, time: str) -> list[dict[str, Any]]:
    """Return all taints of the node once ours are as wanted; those of others, and their order, stay."""
    kept = [taint for taint in node.spec.taints if _id(taint) not in _OURS or _id(taint) in wanted]
    missing = sorted(wanted - {_id(taint) for taint in kept})
    return [*kept, *({"key": key, "effect": effect, "timeAdded": time} for key, effect in missing)]


def evicting_taints(node: Node) -> list[dict[str, Any]]:
    """Return the NoExecute taints."""
    return [taint for taint in node.spec.taints if taint.get("effect") == NO_EXECUTE]


def tolerates(toleration: Toleration, taint: dict[str, Any]) -> bool:
    """Say whether a toleration matches a taint."""
    if toleration.effect and toleration.effect != taint.get("effect"):
        return False
    if toleration.key and toleration.key != taint["key"]:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.get("value", "")


def evict_at(taints: Sequence[dict[str, Any]], tolerations: Iterable[Toleration], *, seen_at: float) -> float | None:
    """Return when a pod must leave a node, in seconds since the epoch; None: never.

    Args:
        taints: the node's NoExecute taints.
        tolerations: the pod's.
        seen_at: when we first saw the pod under these taints; counts for taints that do not say since when they are.
    """
    listed = list(tolerations)
    leaves = []
    for taint in taints:
        since = parse_time(taint["timeAdded"]).timestamp() if taint.get("timeAdded") else seen_at
        match = next((toleration for toleration in listed if tolerates(toleration, taint)), None)
        if match is None:
            return since
        if match.tolerationSeconds is not None:
            leaves.append(since + max(0, match.tolerationSeconds))
    return min(leaves, default=None)
