"""May a pod be on a node: node selectors, node affinity, taints. Over plain JSON values.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

JSON = Mapping[str, Any]


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _requirement_met(rule: JSON, values: Mapping[str, str]) -> bool:
    key, wanted = rule["key"], rule.get("values") or ()
    has, value = key in values, values.get(key)
    match rule["operator"]:
        case "In":
            return has and value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return has
        case "DoesNotExist":
            return not has
        case "Gt" | "Lt":
            ours, theirs = _number(value), _number(wanted[0] if wanted else None)
            if ours is None or theirs is None:
                return False
            return ours > theirs if rule["operator"] == "Gt" else ours < theirs
        case _:
            return False


def node_selector_matches(selector: JSON, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a NodeSelector takes a node: any of its terms, all parts of one; an empty term takes none."""
    for term in selector.get("nodeSelectorTerms") or ():
        expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
        if not expressions and not fields:
            continue
        if all(_requirement_met(rule, labels) for rule in expressions) and all(
            _requirement_met(rule, {"metadata.name": name}) for rule in fields
        ):
            return True
    return False


def pod_selects_node(spec: JSON, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a pod's spec takes a node by nodeSelector and required node affinity."""
    selector = spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or node_selector_matches(required, name, labels)


def tolerates(toleration: JSON, taint: JSON) -> bool:
    """Whether a toleration puts up with a taint."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    value = taint.get("value") or ""
    if operator in ("Gt", "Lt"):
        ours, theirs = _number(value), _number(toleration.get("value"))
        return ours is not None and theirs is not None and (ours > theirs if operator == "Gt" else ours < theirs)
    return bool(toleration.get("key")) and (toleration.get("value") or "") == value


def untolerated(taints: Iterable[JSON], tolerations: Sequence[JSON], effects: Iterable[str]) -> JSON | None:
    """Return the first taint of these effects that no toleration puts up with, if any."""
    counted = set(effects)
    for taint in taints:
        if taint["effect"] in counted and not any(tolerates(one, taint) for one in tolerations):
            return taint
    return None


# What a node may suffer from, and daemons stay or come all the same.
_DAEMONS_STAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_DAEMONS_COME = (
    "node.kubernetes.io/disk-pressure", "node.kubernetes.io/memory-pressure", "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
)  # fmt: skip
_WITHOUT_NETWORK = ("node.kubernetes.io/network-unavailable",)


def daemon_tolerations(spec: JSON) -> list[JSON]:
    """Return the tolerations of a DaemonSet's pod: those of its template's spec, and those that daemons have."""
    found = list(spec.get("tolerations") or ())
    come = _DAEMONS_COME + (_WITHOUT_NETWORK if spec.get("hostNetwork") else ())
    added = [
        {"key": key, "operator": "Exists", "effect": effect}
        for effect, keys in (("NoExecute", _DAEMONS_STAY), ("NoSchedule", come))
        for key in keys
    ]
    return found + [one for one in added if one not in found]
