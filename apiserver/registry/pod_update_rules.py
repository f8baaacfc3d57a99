"""What of a pod may change once it is there.

Source: https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry.kind import Object, forbidden, invalid
from machinery.errors import Cause

_MAX_SECONDS = 2**31 - 1
_FIXED_SPEC = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_GROUPS = ("initContainers", "containers")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod_update_causes(new: Object, old: Object) -> list[Cause]:
    """Return what changed of a pod's spec that may not."""
    after, before = new["spec"], old["spec"]
    for group in _GROUPS:
        if len(after.get(group) or ()) != len(before.get(group) or ()):
            return [forbidden(f"spec.{group}", "pod updates may not add or remove containers")]
    if wrong := list(_deadline_causes(after.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))):
        return wrong
    causes = [*_toleration_causes(after, before), *_gate_causes(after, before)]
    if _fixed(after, after, before) != _fixed(before, after, before):
        causes.append(forbidden("spec", _FIXED_SPEC))
    return causes


def _deadline_causes(after: int | None, before: int | None) -> Iterator[Cause]:
    path = "spec.activeDeadlineSeconds"
    if after is None:
        if before is not None:
            yield invalid(path, None, "must not update from a positive integer to nil value")
    elif not 0 <= after <= _MAX_SECONDS:
        yield invalid(path, after, f"must be between 0 and {_MAX_SECONDS}, inclusive")
    elif before is not None and after > before:
        yield invalid(path, after, "must be less than or equal to previous value")


def _toleration_causes(after: Object, before: Object) -> Iterator[Cause]:
    """Yield a cause when a toleration went; how long it holds may change."""

    def lasting(toleration: Object) -> Object:
        return {field: value for field, value in toleration.items() if field != "tolerationSeconds"}

    kept = [lasting(one) for one in after.get("tolerations") or ()]
    if any(lasting(one) not in kept for one in before.get("tolerations") or ()):
        yield forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")


def _gate_causes(after: Object, before: Object) -> Iterator[Cause]:
    known = {one["name"] for one in before.get("schedulingGates") or ()}
    for gate in after.get("schedulingGates") or ():
        if gate["name"] not in known:
            why = f"only deletion is allowed, but found new scheduling gate '{gate['name']}'"
            yield forbidden("spec.schedulingGates", why)


def _fixed(spec: Object, after: Object, before: Object) -> Object:
    """Return what of a spec has to be the same in both; some of it only where the change is one that is not allowed."""
    loose = {"activeDeadlineSeconds", "tolerations", "schedulingGates", *_GROUPS}
    if before.get("terminationGracePeriodSeconds", 0) < 0 and after.get("terminationGracePeriodSeconds") == 1:
        loose.add("terminationGracePeriodSeconds")
    if before.get("schedulingGates"):  # until it may be scheduled, where it may go can be narrowed
        if (before.get("nodeSelector") or {}).items() <= (after.get("nodeSelector") or {}).items():
            loose.add("nodeSelector")
        if _narrows(after.get("affinity") or {}, before.get("affinity") or {}):
            loose.add("affinity")
    fixed = {field: value for field, value in spec.items() if field not in loose}
    for group in _GROUPS:
        containers = spec.get(group) or ()
        fixed[group] = [{field: value for field, value in one.items() if field != "image"} for one in containers]
    return fixed


def _narrows(after: Object, before: Object) -> bool:
    """Whether an affinity leaves at most the nodes that the one before left; about pods it says the same."""

    def of_pods(affinity: Object) -> Object:
        return {kind: value for kind, value in affinity.items() if kind != "nodeAffinity"}

    if of_pods(after) != of_pods(before):
        return False
    asked, had = (
        ((one.get("nodeAffinity") or {}).get(_REQUIRED) or {}).get("nodeSelectorTerms") or [] for one in (after, before)
    )
    if not had:
        return True
    return len(asked) == len(had) and all(map(_is_narrower, asked, had))


def _is_narrower(asked: Object, had: Object) -> bool:
    def kept(field: str) -> bool:
        wanted: list[Any] = asked.get(field) or []
        return all(one in wanted for one in had.get(field) or ())

    return kept("matchExpressions") and kept("matchFields")
