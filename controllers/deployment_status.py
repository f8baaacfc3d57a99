"""What a Deployment's status says: the counts and the conditions Available, Progressing and ReplicaFailure. Pure.

`kubectl rollout status` reads exactly these.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from controllers import conditions
from controllers.conditions import Conditions
from controllers.rollout import actual, available, max_unavailable, wanted
from controllers.views import Deployment, ReplicaSet
from machinery.api.meta import parse_time

COMPLETE = "NewReplicaSetAvailable"
UPDATED = "ReplicaSetUpdated"
CREATED = "NewReplicaSetCreated"
FOUND = "FoundNewReplicaSet"
CREATE_FAILED = "ReplicaSetCreateError"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"
NO_DEADLINE = 2**31 - 1
"""A progressDeadlineSeconds of this size means none."""

_COUNTS = (
    "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "terminatingReplicas",
)  # fmt: skip


def condition(kind: str, status: str, reason: str, message: str, *, at: datetime) -> dict[str, Any]:
    """Return a condition as Deployments have them, with a time of update besides that of transition."""
    time = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": time, "lastTransitionTime": time,
    }  # fmt: skip


def has_deadline(deployment: Deployment) -> bool:
    """Say whether progress is watched at all."""
    return deployment.spec.progressDeadlineSeconds not in (None, NO_DEADLINE)


def counts(deployment: Deployment, new: ReplicaSet | None, sets: Sequence[ReplicaSet]) -> dict[str, int]:
    """Return the numbers of the status."""
    return {
        "replicas": actual(sets),
        "updatedReplicas": new.status.replicas if new is not None else 0,
        "readyReplicas": sum(rs.status.readyReplicas for rs in sets),
        "availableReplicas": available(sets),
        "unavailableReplicas": max(0, wanted(sets) - available(sets)),
        "terminatingReplicas": sum(rs.status.terminatingReplicas or 0 for rs in sets),
    }


def present(deployment: Deployment) -> dict[str, Any]:
    """Return the status as it is, in the form `status_of` gives the one to be."""
    return {
        **{field: getattr(deployment.status, field) for field in _COUNTS},
        "observedGeneration": deployment.status.observedGeneration,
        "conditions": list(deployment.status.conditions),
    }


def status_of(
    deployment: Deployment,
    new: ReplicaSet | None,
    sets: Sequence[ReplicaSet],
    known: Conditions,
    *,
    rolling_out: bool,
    at: datetime,
) -> dict[str, Any]:
    """Return the status to be.

    Args:
        deployment: the deployment with the status that was.
        new: the set of the present template, if there is one yet.
        sets: all its sets, `new` among them.
        known: its conditions, with what this step already added.
        rolling_out: whether progress is judged; not while paused or being resized.
        at: the present time.
    """
    numbers = counts(deployment, new, sets)
    found = conditions.with_condition(known, _availability(deployment, numbers["availableReplicas"], at))
    if rolling_out:
        found = _with_progress(deployment, new, numbers, found, at)
        found = _with_failure(new, sets, found)
    return {**numbers, "observedGeneration": deployment.metadata.generation, "conditions": list(found)}


def _availability(deployment: Deployment, available_replicas: int, at: datetime) -> dict[str, Any]:
    if available_replicas >= deployment.spec.replicas - max_unavailable(deployment):
        message = "Deployment has minimum availability."
        return condition("Available", "True", "MinimumReplicasAvailable", message, at=at)
    message = "Deployment does not have minimum availability."
    return condition("Available", "False", "MinimumReplicasUnavailable", message, at=at)


def is_complete(deployment: Deployment, numbers: dict[str, int]) -> bool:
    """Say whether all pods are of the present template and available, and no others are left."""
    replicas = deployment.spec.replicas
    return numbers["updatedReplicas"] == numbers["replicas"] == numbers["availableReplicas"] == replicas


def _is_progressing(deployment: Deployment, numbers: dict[str, int]) -> bool:
    before = deployment.status
    return (
        numbers["updatedReplicas"] > before.updatedReplicas
        or numbers["replicas"] - numbers["updatedReplicas"] < before.replicas - before.updatedReplicas
        or numbers["readyReplicas"] > before.readyReplicas
        or numbers["availableReplicas"] > before.availableReplicas
    )


def _with_progress(
    deployment: Deployment, new: ReplicaSet | None, numbers: dict[str, int], known: Conditions, at: datetime
) -> Conditions:
    if not has_deadline(deployment):
        return conditions.without(known, "Progressing")
    current = conditions.find(known, "Progressing")
    if numbers["replicas"] == numbers["updatedReplicas"] and current is not None and current["reason"] == COMPLETE:
        return known
    subject = f'ReplicaSet "{new.metadata.name}"' if new is not None else f'Deployment "{deployment.metadata.name}"'
    if is_complete(deployment, numbers):
        message = f"{subject} has successfully progressed."
        return conditions.with_condition(known, condition("Progressing", "True", COMPLETE, message, at=at))
    if _is_progressing(deployment, numbers):
        update = condition("Progressing", "True", UPDATED, f"{subject} is progressing.", at=at)
        if current is not None and current["status"] == "True":
            update["lastTransitionTime"] = current["lastTransitionTime"]
        # Replaced even if nothing but its time changed: the deadline counts from the last sign of progress.
        return (*conditions.without(known, "Progressing"), update)
    if has_timed_out(deployment, current, at=at):
        message = f"{subject} has timed out progressing."
        return conditions.with_condition(known, condition("Progressing", "False", TIMED_OUT, message, at=at))
    return known


def has_timed_out(deployment: Deployment, current: Any, *, at: datetime) -> bool:
    """Say whether the last sign of progress is longer ago than `progressDeadlineSeconds`."""
    if current is None or current["reason"] == COMPLETE:
        return False
    if current["reason"] == TIMED_OUT:
        return True
    left = seconds_left(deployment, current, at=at)
    return left is not None and left < 0


def seconds_left(deployment: Deployment, current: Any, *, at: datetime) -> float | None:
    """Return the time left for progress; None when none is awaited."""
    deadline = deployment.spec.progressDeadlineSeconds
    if deadline is None or deadline == NO_DEADLINE or current is None or current["reason"] in (COMPLETE, TIMED_OUT):
        return None
    since = parse_time(current.get("lastUpdateTime") or current["lastTransitionTime"])
    return deadline - (at - since).total_seconds()


def _with_failure(new: ReplicaSet | None, sets: Sequence[ReplicaSet], known: Conditions) -> Conditions:
    """Show the new set's ReplicaFailure, else any other set's."""
    ordered = [*([new] if new is not None else []), *sets]
    failures = (conditions.find(rs.status.conditions, "ReplicaFailure") for rs in ordered)
    failure = next((found for found in failures if found is not None), None)
    if failure is None:
        return conditions.without(known, "ReplicaFailure")
    shown = {**failure, "lastUpdateTime": failure["lastTransitionTime"]}
    return conditions.with_condition(known, shown)


def with_pause(deployment: Deployment, known: Conditions, *, at: datetime) -> Conditions:
    """Show whether the rollout is paused, so that time spent paused does not count against the deadline."""
    current = conditions.find(known, "Progressing")
    if not has_deadline(deployment) or (current is not None and current["reason"] == TIMED_OUT):
        return known
    was_paused = current is not None and current["reason"] == PAUSED
    if deployment.spec.paused and not was_paused:
        new = condition("Progressing", "Unknown", PAUSED, "Deployment is paused", at=at)
    elif was_paused and not deployment.spec.paused:
        new = condition("Progressing", "Unknown", RESUMED, "Deployment is resumed", at=at)
    else:
        return known
    return conditions.with_condition(known, new)
