"""Which pods go first when there are too many. Pure.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-down-a-replicaset
"""

import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from controllers.views import Pod
from machinery.api.meta import parse_time

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASES = {"Pending": 0, "": 0, "Unknown": 1, "Running": 2}
_LATEST = datetime.max.replace(tzinfo=UTC)


def pods_to_delete(pods: Iterable[Pod], related: Iterable[Pod], count: int, *, at: datetime) -> list[Pod]:
    """Choose `count` of a ReplicaSet's active pods, those whose loss costs least first.

    Args:
        pods: the active pods.
        related: the active pods of all ReplicaSets of the same owner: nodes that hold many of them give first.
        count: how many, at most all.
        at: the present time.
    """
    crowd = Counter(pod.spec.nodeName for pod in related)
    return sorted(pods, key=lambda pod: _deletion_rank(pod, crowd[pod.spec.nodeName], at))[:count]


def _deletion_rank(pod: Pod, neighbours: int, at: datetime) -> tuple[Any, ...]:
    """Return the sort key: each part decides only between pods that are equal in all before it."""
    return (
        bool(pod.spec.nodeName),
        _PHASES.get(pod.status.phase, 2),
        pod.is_ready,
        deletion_cost(pod),
        -neighbours,
        _age_class(_ready_since(pod), at),
        -max((status.restartCount for status in pod.status.containerStatuses), default=0),
        _age_class(pod.metadata.creationTimestamp, at),
        pod.metadata.uid,
    )


def deletion_cost(pod: Pod) -> int:
    """Return what the user says the pod's deletion costs; what is no number counts as 0."""
    try:
        return int(pod.metadata.annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _ready_since(pod: Pod) -> str:
    ready = pod.ready_condition
    return (ready.lastTransitionTime or "") if ready is not None and ready.status == "True" else ""


def _age_class(time: str, at: datetime) -> int:
    """Return an age in powers of two: pods of about the same age are equal, so that not always the newest goes."""
    seconds = (at - parse_time(time)).total_seconds() if time else 0.0
    return int(math.log2(seconds)) if seconds >= 1 else -1
