"""What a StatefulSet does next: which pods to make and delete, in which order. Pure.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#deployment-and-scaling-guarantees
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controllers.apps_views import StatefulSet
from controllers.replicaset import available_at
from controllers.revisions import HASH_LABEL
from controllers.rollout import scaled
from controllers.views import Pod


@dataclass(slots=True)
class Plan:
    """One step: pods to delete, ordinals to make; and how long until time alone changes something."""

    create: list[int] = field(default_factory=list)
    delete: list[Pod] = field(default_factory=list)
    wait_seconds: float | None = None


def ordinal_of(stateful_set: StatefulSet, pod: Pod) -> int | None:
    """Return a pod's number, None when its name is none of the set's."""
    parent, _, number = pod.metadata.name.rpartition("-")
    return int(number) if parent == stateful_set.metadata.name and number.isdigit() else None


def first_ordinal(stateful_set: StatefulSet) -> int:
    """Return the number of the first pod."""
    return stateful_set.spec.ordinals.start if stateful_set.spec.ordinals else 0


def is_healthy(pod: Pod) -> bool:
    """Whether a pod runs, is ready and stays."""
    return pod.status.phase == "Running" and pod.is_ready and pod.metadata.deletionTimestamp is None


def revision_of(pod: Pod) -> str:
    """Return the name of the revision a pod was made from."""
    return pod.metadata.labels.get(HASH_LABEL, "")


def follows_current(stateful_set: StatefulSet, ordinal: int) -> bool:
    """Whether a pod made now keeps to the current revision instead of the update's."""
    strategy, first = stateful_set.spec.updateStrategy, first_ordinal(stateful_set)
    if strategy.rollingUpdate is not None:
        return ordinal < first + strategy.rollingUpdate.partition
    # With OnDelete it is the user's deletion that asks for the newest template.
    return strategy.type == "RollingUpdate" and ordinal < first + stateful_set.status.currentReplicas


def plan(stateful_set: StatefulSet, pods: Iterable[Pod], update: str, *, at: datetime) -> Plan:
    """Return the next step. `update` is the name of the revision that pods shall come to."""
    first, spec = first_ordinal(stateful_set), stateful_set.spec
    wanted = range(first, first + spec.replicas)
    by_ordinal: dict[int, Pod] = {}
    condemned: list[tuple[int, Pod]] = []
    for pod in pods:
        number = ordinal_of(stateful_set, pod)
        if number is None:
            continue
        if number in wanted:
            by_ordinal[number] = pod
        else:
            condemned.append((number, pod))
    condemned.sort(key=lambda one: -one[0])
    step = Plan()
    ordered = spec.podManagementPolicy != "Parallel"
    if not _fill(stateful_set, step, wanted, by_ordinal, ordered=ordered, at=at):
        return step
    if not _shrink(stateful_set, step, [pod for _, pod in condemned], by_ordinal, ordered=ordered, at=at):
        return step
    if spec.updateStrategy.type == "RollingUpdate" and not (step.create or step.delete):
        _update(stateful_set, step, [by_ordinal[n] for n in wanted if n in by_ordinal], update, at=at)
    return step


def _fill(
    stateful_set: StatefulSet, step: Plan, wanted: range, have: dict[int, Pod], *, ordered: bool, at: datetime
) -> bool:
    """Make what is missing, in order. Return whether the pods that shall be are all in their place."""
    for number in wanted:
        pod = have.get(number)
        if pod is None:
            step.create.append(number)
        elif pod.is_terminal and pod.metadata.deletionTimestamp is None:
            step.delete.append(pod)
        elif not ordered or _is_available(stateful_set, pod, step, at=at):
            continue
        if ordered:
            return False
    return True


def _is_available(stateful_set: StatefulSet, pod: Pod, step: Plan, *, at: datetime) -> bool:
    """Whether a pod is healthy and has been ready long enough; notes in the step when it will be."""
    if not is_healthy(pod):
        return False
    wait = available_at(pod, stateful_set.spec.minReadySeconds, at=at)
    if wait:
        step.wait_seconds = min(wait, step.wait_seconds or wait)
    return wait == 0


def _shrink(
    stateful_set: StatefulSet, step: Plan, condemned: Sequence[Pod], have: dict[int, Pod], *, ordered: bool,
    at: datetime,
) -> bool:  # fmt: skip
    """Delete what is too much, the highest first. Return whether none is left."""
    if not ordered:
        step.delete += [pod for pod in condemned if pod.metadata.deletionTimestamp is None]
        return True
    sick = [pod for pod in [*have.values(), *reversed(condemned)] if not is_healthy(pod)]
    for pod in condemned:
        if pod.metadata.deletionTimestamp is not None:
            return False  # it has to be gone before the next goes
        if not _is_available(stateful_set, pod, step, at=at) and sick and pod is not sick[0]:
            return False  # another is not well: wait for it
        step.delete.append(pod)
        return False
    return True


def _update(stateful_set: StatefulSet, step: Plan, have: Sequence[Pod], update: str, *, at: datetime) -> None:
    """Delete pods of an older revision, the highest first, as many at once as may be unavailable."""
    rolling = stateful_set.spec.updateStrategy.rollingUpdate
    first = first_ordinal(stateful_set) + (rolling.partition if rolling else 0)
    candidates = [pod for pod in reversed(have) if (ordinal_of(stateful_set, pod) or 0) >= first]
    most = 1
    if rolling is not None and rolling.maxUnavailable is not None:
        most = max(1, scaled(rolling.maxUnavailable, stateful_set.spec.replicas, up=True))
    if most == 1:
        _update_one(stateful_set, step, candidates, update, at=at)
        return
    unavailable = sum(not _is_available(stateful_set, pod, step, at=at) for pod in have)
    unavailable += stateful_set.spec.replicas - len(have)
    for pod in candidates:
        if revision_of(pod) == update or pod.metadata.deletionTimestamp is not None:
            continue
        serves = _is_available(stateful_set, pod, step, at=at)
        if serves and unavailable >= most:
            return
        step.delete.append(pod)
        unavailable += serves


def _update_one(
    stateful_set: StatefulSet, step: Plan, candidates: Iterable[Pod], update: str, *, at: datetime
) -> None:  # fmt: skip
    """Delete the highest pod of an older revision, once all above it serve; those below it are not asked."""
    for pod in candidates:
        if revision_of(pod) != update and pod.metadata.deletionTimestamp is None:
            step.delete.append(pod)
            return
        if not _is_available(stateful_set, pod, step, at=at):
            return


def status_of(
    stateful_set: StatefulSet, pods: Sequence[Pod], current: str, update: str, *, at: datetime
) -> dict[str, Any]:
    """Return the status of a set with these pods.

    `current` and `update` are the names of those revisions, `at` is the present time.
    """
    live = [pod for pod in pods if not pod.is_terminal or pod.metadata.deletionTimestamp is None]
    kept = [pod for pod in live if pod.metadata.deletionTimestamp is None]
    ready = sum(pod.status.phase == "Running" and pod.is_ready for pod in live)
    status: dict[str, Any] = {
        "observedGeneration": stateful_set.metadata.generation, "replicas": len(live), "readyReplicas": ready,
        "availableReplicas": sum(
            pod.status.phase == "Running" and available_at(pod, stateful_set.spec.minReadySeconds, at=at) == 0
            for pod in live
        ),
        "currentReplicas": sum(revision_of(pod) == current for pod in kept),
        "updatedReplicas": sum(revision_of(pod) == update for pod in kept),
        "currentRevision": current, "updateRevision": update,
    }  # fmt: skip
    if stateful_set.spec.updateStrategy.type == "RollingUpdate" and (
        status["updatedReplicas"] == status["replicas"] == status["readyReplicas"] == stateful_set.spec.replicas
    ):
        status["currentReplicas"], status["currentRevision"] = status["updatedReplicas"], update
    return status
