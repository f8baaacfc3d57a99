"""What objects use of a namespace's quota, and which quotas they fall under.

Source: https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from machinery.api.meta import Resource
from machinery.api.quantity import parse_quantity

Object = Mapping[str, Any]
Usage = dict[str, Decimal]

# Objects counted under a name of their own, besides count/<plural>.<group>.
_COUNTED = frozenset(
    {"configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"}
)
_PLAIN = ("cpu", "memory", "ephemeral-storage")
_POD_SCOPES = frozenset(
    {"BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating"}
)


def sum_requests(spec: Object, field: str) -> Usage:
    """Return what a pod's spec asks for in all: `field` is "requests" or "limits".

    Containers run together; init containers one after another, beside the sidecars started before them.
    """
    running: Counter[str] = Counter()
    for container in spec.get("containers") or ():
        running.update(_amounts(container, field))
    sidecars: Counter[str] = Counter()
    peak: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or ():
        own = _amounts(container, field)
        if container.get("restartPolicy") == "Always":
            sidecars.update(own)
            own = {}
        for name in {*own, *sidecars}:
            peak[name] = max(peak.get(name, Decimal()), own.get(name, Decimal()) + sidecars[name])
    running.update(sidecars)
    total = {name: max(Decimal(running[name]), peak.get(name, Decimal())) for name in {*running, *peak}}
    if field == "requests" or total:
        for name, value in (spec.get("overhead") or {}).items():
            if field == "requests" or name in total:
                total[name] = total.get(name, Decimal()) + parse_quantity(value)
    return total


def _amounts(container: Object, field: str) -> Usage:
    given = (container.get("resources") or {}).get(field) or {}
    return {name: parse_quantity(value) for name, value in given.items()}


def usage_of(resource: Resource, obj: Object) -> Usage:
    """Return what an object uses, by the names quotas limit."""
    one = Decimal(1)
    used: Usage = {f"count/{resource.group_resource}": one}
    if resource.group == "" and resource.plural in _COUNTED and resource.plural != "pods":
        used[resource.plural] = one
    if resource.group == "" and resource.plural == "pods":
        used |= _pod_usage(obj)
    elif resource.group == "" and resource.plural == "services":
        used |= _service_usage(obj["spec"])
    elif resource.group == "" and resource.plural == "persistentvolumeclaims":
        used |= _claim_usage(obj)
    return used


def _pod_usage(pod: Object) -> Usage:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    used: Usage = {"pods": Decimal(1)}
    for name, value in sum_requests(pod["spec"], "requests").items():
        used[f"requests.{name}"] = value
        if name in _PLAIN or name.startswith("hugepages-"):
            used[name] = value
    for name, value in sum_requests(pod["spec"], "limits").items():
        if name in _PLAIN:
            used[f"limits.{name}"] = value
    return used


def _service_usage(spec: Object) -> Usage:
    kind, ports = spec.get("type", "ClusterIP"), Decimal(len(spec.get("ports") or ()))
    if kind == "NodePort":
        return {"services.nodeports": ports}
    if kind == "LoadBalancer":
        given = ports if spec.get("allocateLoadBalancerNodePorts", True) else Decimal()
        return {"services.loadbalancers": Decimal(1), "services.nodeports": given}
    return {}


def _claim_usage(claim: Object) -> Usage:
    storage = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
    size = parse_quantity(storage) if storage is not None else Decimal()
    used: Usage = {"requests.storage": size}
    if name := claim["spec"].get("storageClassName"):
        used[f"{name}.storageclass.storage.k8s.io/requests.storage"] = size
        used[f"{name}.storageclass.storage.k8s.io/persistentvolumeclaims"] = Decimal(1)
    return used


def falls_under(quota_spec: Object, resource: Resource, obj: Object) -> bool:
    """Whether a quota's scopes take an object; scopes are about pods, so others fall under none that has any."""
    selector = (quota_spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    rules = [{"scopeName": scope, "operator": "Exists"} for scope in quota_spec.get("scopes") or ()]
    rules += list(selector)
    if not rules:
        return True
    if resource.group_resource != "pods":
        return False
    return all(rule["scopeName"] in _POD_SCOPES and _scope_takes(rule, obj) for rule in rules)


def _scope_takes(rule: Object, pod: Object) -> bool:
    spec = pod["spec"]
    match rule["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return _is_best_effort(pod)
        case "NotBestEffort":
            return not _is_best_effort(pod)
        case "PriorityClass":
            return _priority_taken(rule, spec.get("priorityClassName", ""))
        case _:
            return _crosses_namespaces(spec)


def _is_best_effort(pod: Object) -> bool:
    return bool((pod.get("status") or {}).get("qosClass", "BestEffort") == "BestEffort")


def _priority_taken(rule: Object, name: str) -> bool:
    values = rule.get("values") or ()
    match rule.get("operator", "Exists"):
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "DoesNotExist":
            return not name
        case _:
            return bool(name)


def _crosses_namespaces(spec: Object) -> bool:
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        terms += [one["podAffinityTerm"] for one in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False


def resource_names(hard: Iterable[str]) -> set[str]:
    """Return the group resources ("pods", "jobs.batch") whose objects a quota with these limits counts."""
    found = set()
    for name in hard:
        if name.startswith("count/"):
            found.add(name.removeprefix("count/"))
        elif name in _COUNTED:
            found.add(name)
        elif name.startswith("services."):
            found.add("services")
        elif name == "requests.storage" or ".storageclass.storage.k8s.io/" in name:
            found.add("persistentvolumeclaims")
        else:
            found.add("pods")
    return found
