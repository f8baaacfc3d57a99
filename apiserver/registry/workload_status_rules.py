"""Rules of what may be told of a workload's pods: numbers that can be true of one and the same set of them.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from collections.abc import Callable, Iterator, Sequence

from apiserver.registry import templates
from apiserver.registry.kind import Object, invalid
from machinery.errors import Cause

REPLICATED = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


def counted(
    numbers: Sequence[str], within: Sequence[str] = (), ready: str = "status.readyReplicas"
) -> Callable[[Object, Object], list[Cause]]:
    """Return the rules of a status of these numbers, some of which count pods within `replicas`.

    Args:
        numbers: none of them may be below zero.
        within: those no greater than `replicas`.
        ready: how the number is called that those available may not exceed.
    """

    def causes(new: Object, old: Object) -> list[Cause]:
        return list(_causes(new.get("status") or {}, old.get("status") or {}, numbers, within, ready))

    return causes


def _causes(
    status: Object, before: Object, numbers: Sequence[str], within: Sequence[str], ready: str
) -> Iterator[Cause]:
    yield from templates.non_negative(status, *numbers, "observedGeneration", "collisionCount", path="status")
    for field in within:
        if (status.get(field) or 0) > (status.get("replicas") or 0):
            yield invalid(f"status.{field}", status[field], "cannot be greater than status.replicas")
    if within and (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
        yield invalid("status.availableReplicas", status["availableReplicas"], f"cannot be greater than {ready}")
    if (status.get("collisionCount") or 0) < (before.get("collisionCount") or 0):
        yield invalid("status.collisionCount", status.get("collisionCount") or 0, "cannot be decremented")
