"""How an object goes: its time of deletion, grace period, and the finalizers that hold it.

Sources: https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/,
https://kubernetes.io/docs/concepts/architecture/garbage-collection/#cascading-deletion
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from apiserver.registry.kind import Kind, Object
from machinery.api import meta

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def may_go(obj: Object) -> bool:
    """Whether an object marked for deletion may be removed now."""
    metadata = obj["metadata"]
    if metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds"):
        return False
    is_namespace = (obj["kind"], obj["apiVersion"]) == ("Namespace", "v1")
    return not (is_namespace and (obj.get("spec") or {}).get("finalizers"))


def mark_deleted(kind: Kind, obj: Object, options: Mapping[str, Any]) -> Object:
    """Return the object as a delete request leaves it: deletion time, grace period, finalizers of the propagation."""
    metadata = obj["metadata"]
    _set_propagation(metadata, options)
    kind.prepare_delete(obj)
    grace = _grace_seconds(kind, obj, options)
    if metadata.get("deletionTimestamp"):
        if grace < metadata.get("deletionGracePeriodSeconds", 0):  # it may only be cut short
            at = meta.parse_time(metadata["deletionTimestamp"])
            at -= timedelta(seconds=metadata["deletionGracePeriodSeconds"] - grace)
            metadata["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata["deletionGracePeriodSeconds"] = grace
        return obj
    at = datetime.now(UTC) + timedelta(seconds=grace)
    metadata["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata["deletionGracePeriodSeconds"] = grace
    if metadata.get("generation"):
        metadata["generation"] += 1
    if kind.built_in_kind == "Namespace":
        obj.setdefault("status", {})["phase"] = "Terminating"
    return obj


def _grace_seconds(kind: Kind, obj: Object, options: Mapping[str, Any]) -> int:
    if kind.built_in_kind != "Pod":
        return 0
    spec, status = obj["spec"], obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0  # no agent runs it: nothing to wait for
    asked = options.get("gracePeriodSeconds")
    return max(int(spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked), 0)


def _set_propagation(metadata: Object, options: Mapping[str, Any]) -> None:
    policy = options.get("propagationPolicy")
    if options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    if policy is None:
        return
    finalizers = [one for one in metadata.get("finalizers") or () if one not in (FOREGROUND, ORPHAN)]
    if policy == "Foreground":
        finalizers.append(FOREGROUND)
    elif policy == "Orphan":
        finalizers.append(ORPHAN)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
