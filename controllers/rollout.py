"""How a Deployment's ReplicaSets are sized, step by step. Pure: views in, sizes out.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#strategy
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from controllers.views import Deployment, Pod, ReplicaSet

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_NOT_INHERITED = frozenset((REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, LAST_APPLIED,
                            "deprecated.deployment.rollback.to"))  # fmt: skip
_HASH_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_DEFAULT_FENCE = "25%"


class Resize(NamedTuple):
    """A ReplicaSet and the number of replicas it is to have."""

    rs: ReplicaSet
    replicas: int


# ---- templates and revisions


def template_hash(template: dict[str, Any], collisions: int) -> str:
    """Return the pod-template-hash: FNV-1a over the canonical JSON, in letters that spell no words."""
    value = 0x811C9DC5
    for byte in orjson.dumps([template, collisions], option=orjson.OPT_SORT_KEYS):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(_HASH_LETTERS[ord(digit) % len(_HASH_LETTERS)] for digit in str(value))


def same_template(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Say whether two templates make the same pods, whatever hash label they bear."""
    return _without_hash(ours) == _without_hash(theirs)


def _without_hash(template: dict[str, Any]) -> dict[str, Any]:
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    kept = {key: value for key, value in metadata.items() if value not in (None, {}, [])}  # null is absent
    return {**template, "metadata": {**kept, "labels": labels}}


def find_new(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """Return the oldest set with the deployment's template: the one the others give way to."""
    template = deployment.spec.template
    return next((rs for rs in oldest_first(sets) if same_template(rs.spec.template, template)), None)


def oldest_first(sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """Sort by age, then name."""
    return sorted(sets, key=lambda rs: (rs.metadata.creationTimestamp, rs.metadata.name))


def revision_of(rs: ReplicaSet) -> int:
    """Return a set's revision; 0 when it has none that is a number."""
    text = rs.metadata.annotations.get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def next_revision(old: Iterable[ReplicaSet]) -> int:
    """Return the revision of the set that is newer than all these."""
    return max(map(revision_of, old), default=0) + 1


def inherited_annotations(deployment: Deployment) -> dict[str, str]:
    """Return the annotations a deployment hands on to its sets."""
    return {key: value for key, value in deployment.metadata.annotations.items() if key not in _NOT_INHERITED}


def revision_annotations(rs: ReplicaSet, revision: int) -> dict[str, str]:
    """Return the annotations that give an existing set its new revision; none when it has one as high."""
    present = revision_of(rs)
    if present >= revision:
        return {}
    changed = {REVISION: str(revision)}
    if present:
        history = rs.metadata.annotations.get(REVISION_HISTORY, "")
        changed[REVISION_HISTORY] = f"{history},{present}" if history else str(present)
    return changed


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """Return the annotations that tell a later, proportional, resize what the size was meant for."""
    replicas = deployment.spec.replicas
    return {DESIRED_REPLICAS: str(replicas), MAX_REPLICAS: str(replicas + max_surge(deployment))}


# ---- how far the number may stray


def max_surge(deployment: Deployment) -> int:
    """Return how many pods there may be above the number asked for."""
    return _fences(deployment)[0] if _is_rolling(deployment) else 0


def max_unavailable(deployment: Deployment) -> int:
    """Return how many pods of the number asked for may be missing."""
    replicas = deployment.spec.replicas
    return min(_fences(deployment)[1], replicas) if _is_rolling(deployment) else 0


def _is_rolling(deployment: Deployment) -> bool:
    return deployment.spec.strategy.type == "RollingUpdate"


def _fences(deployment: Deployment) -> tuple[int, int]:
    rolling = deployment.spec.strategy.rollingUpdate
    surge = _DEFAULT_FENCE if rolling is None or rolling.maxSurge is None else rolling.maxSurge
    unavailable = _DEFAULT_FENCE if rolling is None or rolling.maxUnavailable is None else rolling.maxUnavailable
    replicas = deployment.spec.replicas
    found = scaled(surge, replicas, up=True), scaled(unavailable, replicas, up=False)
    # Both zero would stand still; two percentages may round to that.
    return (0, 1) if found == (0, 0) else found


def scaled(value: int | str, total: int, *, up: bool) -> int:
    """Return a number as it is, or a percentage of `total` rounded up or down."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * total
    return -(-share // 100) if up else share // 100


# ---- sums


def wanted(sets: Iterable[ReplicaSet]) -> int:
    """Return how many pods these sets are to have."""
    return sum(rs.spec.replicas for rs in sets)


def actual(sets: Iterable[ReplicaSet]) -> int:
    """Return how many pods these sets have."""
    return sum(rs.status.replicas for rs in sets)


def available(sets: Iterable[ReplicaSet]) -> int:
    """Return how many pods of these sets are available."""
    return sum(rs.status.availableReplicas for rs in sets)


# ---- steps


def new_size(deployment: Deployment, new_replicas: int, others: int) -> int:
    """Return the next size of the new set, that now has `new_replicas` beside `others` of the old ones."""
    replicas = deployment.spec.replicas
    if not _is_rolling(deployment) or new_replicas >= replicas:
        return replicas
    room = replicas + max_surge(deployment) - new_replicas - others
    return new_replicas + max(0, min(room, replicas - new_replicas))


def rolling_step(deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]) -> list[Resize]:
    """Return the next resizes of a rolling update: first the new set grows into its room, then the old ones shrink."""
    size = new_size(deployment, new.spec.replicas, wanted(old))
    if size != new.spec.replicas:
        return [Resize(new, size)]
    return _shrink_old(deployment, new, old)


def _shrink_old(deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]) -> list[Resize]:
    everything = [*old, new]
    least = deployment.spec.replicas - max_unavailable(deployment)
    new_unavailable = new.spec.replicas - new.status.availableReplicas
    may_go = wanted(everything) - least - new_unavailable
    if not wanted(old) or may_go <= 0:
        return []
    sizes = {rs.metadata.name: rs.spec.replicas for rs in old}
    by_age = oldest_first(old)
    # Pods that do not serve go first: nobody misses them, and they may never come up.
    for rs in by_age:
        going = max(0, min(may_go, rs.spec.replicas - rs.status.availableReplicas))
        sizes[rs.metadata.name] -= going
        may_go -= going
    spare = available(everything) - least
    for rs in by_age:
        going = max(0, min(spare, sizes[rs.metadata.name]))
        sizes[rs.metadata.name] -= going
        spare -= going
    return _changes(by_age, sizes)


def recreate_step(
    deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet], old_pods: Iterable[Pod]
) -> list[Resize] | None:
    """Return the next resizes of a Recreate: old sets to nothing; then, when their pods are gone, the new one up.

    Returns: None while it must wait: for the old pods to end, or for the new set to be made.
    """
    shrunk = [Resize(rs, 0) for rs in old if rs.spec.replicas]
    if shrunk:
        return shrunk
    if not may_create(old, old_pods) or new is None:
        return None
    return [Resize(new, deployment.spec.replicas)] if new.spec.replicas != deployment.spec.replicas else []


def may_create(old: Iterable[ReplicaSet], old_pods: Iterable[Pod]) -> bool:
    """Say whether the last old pod of a Recreate is gone, or at least at its end."""
    return not actual(old) and all(pod.is_terminal for pod in old_pods)


def is_resized(deployment: Deployment, sets: Iterable[ReplicaSet]) -> bool:
    """Say whether `spec.replicas` changed since the sets got their sizes."""
    desired = (rs.metadata.annotations.get(DESIRED_REPLICAS, "") for rs in sets if rs.spec.replicas > 0)
    return any(text.isdecimal() and int(text) != deployment.spec.replicas for text in desired)


def resize_step(deployment: Deployment, new: ReplicaSet | None, old: Sequence[ReplicaSet]) -> list[Resize]:
    """Return the sizes after a change of `spec.replicas` alone; in the middle of a rollout the sets keep their shares.

    A set whose size stays is in the list too: its annotations must learn the new number.
    """
    replicas = deployment.spec.replicas
    everything = [*old, *([new] if new is not None else [])]
    active = [rs for rs in everything if rs.spec.replicas > 0]
    if len(active) <= 1:
        only = active[0] if active else new or (max(old, key=revision_of) if old else None)
        return [] if only is None else [Resize(only, replicas)]
    if new is not None and _is_saturated(deployment, new):
        return [Resize(rs, 0) for rs in old if rs.spec.replicas]
    if not _is_rolling(deployment):
        return []
    return _in_proportion(deployment, active)


def _is_saturated(deployment: Deployment, rs: ReplicaSet) -> bool:
    replicas = deployment.spec.replicas
    desired = rs.metadata.annotations.get(DESIRED_REPLICAS)
    return rs.spec.replicas == rs.status.availableReplicas == replicas and desired == str(replicas)


def _in_proportion(deployment: Deployment, active: Sequence[ReplicaSet]) -> list[Resize]:
    replicas = deployment.spec.replicas
    allowed = replicas + max_surge(deployment) if replicas > 0 else 0
    to_add = allowed - wanted(active)
    # Larger sets first; of equal ones the newest grows first and the oldest shrinks first.
    by_age = oldest_first(active)
    if to_add > 0:
        by_age.reverse()
    by_size = sorted(by_age, key=lambda rs: -rs.spec.replicas)
    sizes, added = {}, 0
    for rs in by_size:
        share = _share(deployment, rs, to_add - added) if to_add else 0
        sizes[rs.metadata.name] = rs.spec.replicas + share
        added += share
    first = by_size[0].metadata.name
    sizes[first] = max(0, sizes[first] + to_add - added)  # what rounding left over
    return [Resize(rs, sizes[rs.metadata.name]) for rs in by_size]


def _share(deployment: Deployment, rs: ReplicaSet, left: int) -> int:
    """Return how much of the change falls to one set, at most what is `left` of it."""
    if not left or not rs.spec.replicas:
        return 0
    if not deployment.spec.replicas:
        share = -rs.spec.replicas
    else:
        before = rs.metadata.annotations.get(MAX_REPLICAS, "")
        base = int(before) if before.isdecimal() and int(before) else deployment.status.replicas or rs.spec.replicas
        share = _rounded(rs.spec.replicas * (deployment.spec.replicas + max_surge(deployment)) / base)
        share -= rs.spec.replicas
    return max(0, min(share, left)) if left > 0 else min(0, max(share, left))


def _rounded(value: float) -> int:
    """Round half up, as upstream does; Python's own rounds half to even."""
    return math.floor(value + 0.5)


def _changes(sets: Iterable[ReplicaSet], sizes: dict[str, int]) -> list[Resize]:
    found = (Resize(rs, sizes[rs.metadata.name]) for rs in sets)
    return [resize for resize in found if resize.replicas != resize.rs.spec.replicas]


def surplus_history(deployment: Deployment, old: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """Return the old sets beyond `revisionHistoryLimit` that can go, lowest revision first."""
    limit = deployment.spec.revisionHistoryLimit
    if limit is None:
        return []
    alive = sorted((rs for rs in old if rs.metadata.deletionTimestamp is None), key=revision_of)
    return [
        rs
        for rs in alive[: max(0, len(alive) - limit)]
        # An unseen change may yet bring pods: leave those for later.
        if not rs.status.replicas and not rs.spec.replicas and rs.metadata.generation <= rs.status.observedGeneration
    ]
