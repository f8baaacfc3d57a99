"""Evictions: deletions of pods that a disruption budget may refuse.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
"""

from apiserver.registry.catalog import Catalog
from apiserver.registry.kind import Kind, Object
from apiserver.registry.rest import Rest, WriteOptions
from machinery import errors
from machinery.api import meta, selectors
from machinery.api.resources import POD_DISRUPTION_BUDGETS
from machinery.errors import Cause

_TRIES = 20
_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
_RETRY_SECONDS = 10


async def evict(rest: Rest, catalog: Catalog, kind: Kind, namespace: str, name: str, eviction: Object) -> None:
    """Delete a pod unless its budget says no. `kind` is that of pods.

    Raises: NotFound, Conflict (preconditions), TooManyRequests (the budget), InternalError (several budgets).
    """
    options = eviction.get("deleteOptions") or {}
    dry_run = bool(options.get("dryRun"))
    for _ in range(_TRIES):
        pod = (await rest.storage.get(kind.resource, kind.key(namespace, name))).object()
        if not _needs_no_budget(pod):
            budget = _budget_of(rest, namespace, pod)
            if budget is not None and _asks_budget(pod, budget):
                budget_kind = catalog.find(
                    POD_DISRUPTION_BUDGETS.group, POD_DISRUPTION_BUDGETS.version, POD_DISRUPTION_BUDGETS.plural
                )
                if budget_kind is None:
                    raise LookupError("poddisruptionbudgets")
                try:
                    await _take(rest, budget_kind, namespace, budget["metadata"]["name"], name, dry_run=dry_run)
                except errors.NotFound:
                    continue  # the budget went in between: look again
        if not dry_run and not pod["metadata"].get("deletionTimestamp"):
            options = await _mark(rest, kind, namespace, name, options)
        await rest.delete(kind, namespace, name, options, dry_run=dry_run)
        return
    raise errors.TooManyRequests(_REFUSED, retry_after_seconds=_RETRY_SECONDS)


async def _mark(rest: Rest, kind: Kind, namespace: str, name: str, options: Object) -> Object:
    """Note in a pod that it is evicted, as the failure policies of Jobs look for it; returns the options to delete by.

    Raises: NotFound; Conflict when a precondition does not hold.
    """
    condition = {
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": None, "lastTransitionTime": meta.now(),
    }  # fmt: skip
    preconditions = options.get("preconditions") or {}
    version = preconditions.get("resourceVersion")

    def marked(pod: Object) -> Object:
        if version and pod["metadata"].get("resourceVersion") != version:
            why = f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record"
            raise errors.Conflict(f'Operation cannot be fulfilled on pods "{name}": Precondition failed: {why}')
        status = pod.setdefault("status", {})
        kept = [one for one in status.get("conditions") or () if one.get("type") != condition["type"]]
        status["conditions"] = [*kept, condition]
        return pod

    entry = await rest.replace(
        kind, namespace, name, marked, WriteOptions(), expected_uid=preconditions.get("uid") or ""
    )
    if not version:
        return options
    written = entry.object()["metadata"]["resourceVersion"]
    return {**options, "preconditions": {**preconditions, "resourceVersion": written}}


def _needs_no_budget(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _budget_of(rest: Rest, namespace: str, pod: Object) -> Object | None:
    group_resource = POD_DISRUPTION_BUDGETS.group_resource
    labels = pod["metadata"].get("labels") or {}
    found = []
    for entry in rest.storage.cache.collection(group_resource).entries(f"/registry/{group_resource}/{namespace}/"):
        budget = entry.object()
        selector = (budget.get("spec") or {}).get("selector")
        if selector is not None and selectors.from_label_selector(selector).matches(labels):
            found.append(budget)
    if len(found) > 1:
        raise errors.InternalError(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    return found[0] if found else None


def _asks_budget(pod: Object, budget: Object) -> bool:
    """Whether the budget has to be asked: a pod that is not ready may go where the budget says so or is healthy."""
    if _is_ready(pod):
        return True
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return False
    status = budget.get("status") or {}
    return not (status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0)


async def _take(rest: Rest, kind: Kind, namespace: str, budget: str, pod: str, *, dry_run: bool) -> None:
    """Take one disruption from a budget and note the pod in it. Raises: TooManyRequests when none is left."""

    def taken(obj: Object) -> Object:
        status = obj.setdefault("status", {})
        if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
            why = f"The disruption budget {budget} is still being processed by the server."
            raise _refused("DisruptionBudget", why)
        allowed = status.get("disruptionsAllowed", 0)
        if allowed < 0:
            raise errors.Forbidden(f'poddisruptionbudgets "{budget}" is forbidden: pdb disruptions allowed is negative')
        if allowed == 0:
            needs, has = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
            why = f"The disruption budget {budget} needs {needs} healthy pods and has {has} currently"
            raise _refused("DisruptionBudget", why)
        status["disruptionsAllowed"] = allowed - 1
        status.setdefault("disruptedPods", {})[pod] = meta.now()
        if allowed == 1:
            _set_disallowed(obj, status)
        return obj

    await rest.replace(kind, namespace, budget, taken, WriteOptions(dry_run=dry_run))


def _set_disallowed(obj: Object, status: Object) -> None:
    kept = [one for one in status.get("conditions") or () if one["type"] != "DisruptionAllowed"]
    condition = {
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "lastTransitionTime": meta.now(), "observedGeneration": obj["metadata"].get("generation", 0),
    }  # fmt: skip
    status["conditions"] = [*kept, condition]


def _refused(reason: str, why: str) -> errors.TooManyRequests:
    return errors.TooManyRequests(_REFUSED, causes=[Cause(reason, why, "")])
