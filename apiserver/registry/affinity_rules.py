"""What a pod may say of the nodes and pods it wants to be near to, or far from.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#affinity-and-anti-affinity
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required
from machinery.errors import Cause

_WANTED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


def affinity_causes(affinity: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a pod's affinity."""
    yield from _node_causes(affinity.get("nodeAffinity") or {}, f"{path}.nodeAffinity")
    for kind in ("podAffinity", "podAntiAffinity"):
        part, at = affinity.get(kind) or {}, f"{path}.{kind}"
        for index, term in enumerate(part.get(_WANTED) or ()):
            yield from _pod_term_causes(term, f"{at}.{_WANTED}[{index}]")
        for index, term in enumerate(part.get(_PREFERRED) or ()):
            place = f"{at}.{_PREFERRED}[{index}]"
            yield from _weight_causes(term, place)
            yield from _pod_term_causes(term.get("podAffinityTerm") or {}, f"{place}.podAffinityTerm")


def _node_causes(affinity: Object, path: str) -> Iterator[Cause]:
    if (selector := affinity.get(_WANTED)) is not None:
        yield from node_selector_causes(selector, f"{path}.{_WANTED}")
    for index, term in enumerate(affinity.get(_PREFERRED) or ()):
        at = f"{path}.{_PREFERRED}[{index}]"
        yield from _weight_causes(term, at)
        yield from _node_term_causes(term.get("preference") or {}, f"{at}.preference")


def node_selector_causes(selector: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a selector of nodes."""
    for index, term in enumerate(selector.get("nodeSelectorTerms") or ()):
        yield from _node_term_causes(term, f"{path}.nodeSelectorTerms[{index}]")


def _node_term_causes(term: Object, path: str) -> Iterator[Cause]:
    for index, one in enumerate(term.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        yield from _requirement_causes(one, at)
        if (key := one.get("key")) and (wrong := names.qualified_name(key)):
            yield invalid(f"{at}.key", key, wrong)
    for index, one in enumerate(term.get("matchFields") or ()):
        at = f"{path}.matchFields[{index}]"
        if one.get("operator") not in ("In", "NotIn"):
            yield invalid(f"{at}.operator", one.get("operator", ""), "not a valid selector operator")
        elif len(one.get("values") or ()) != 1:
            why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield required(f"{at}.values", why)
        if one.get("key") != "metadata.name":
            yield invalid(f"{at}.key", one.get("key", ""), "not a valid field selector key")


def _requirement_causes(one: Object, path: str) -> Iterator[Cause]:
    values = one.get("values") or ()
    match one.get("operator"):
        case "In" | "NotIn":
            if not values:
                yield required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if values:
                yield forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        case "Gt" | "Lt":
            if len(values) != 1:
                yield required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        case other:
            yield invalid(f"{path}.operator", other or "", "not a valid selector operator")


def label_selector_causes(selector: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a label selector."""
    yield from names.label_causes(selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for index, one in enumerate(selector.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        if one.get("operator") in ("Gt", "Lt"):  # those are for nodes alone
            yield invalid(f"{at}.operator", one["operator"], "not a valid selector operator")
        else:
            yield from _requirement_causes(one, at)
        if wrong := names.qualified_name(one.get("key", "")):
            yield invalid(f"{at}.key", one.get("key", ""), wrong)


def _weight_causes(term: Object, path: str) -> Iterator[Cause]:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        yield invalid(f"{path}.weight", weight, "must be in the range 1-100")


def _pod_term_causes(term: Object, path: str) -> Iterator[Cause]:
    key = term.get("topologyKey", "")
    if key and (wrong := names.qualified_name(key)):
        yield invalid(f"{path}.topologyKey", key, wrong)
    for field in ("labelSelector", "namespaceSelector"):
        if selector := term.get(field):
            yield from label_selector_causes(selector, f"{path}.{field}")
    for index, namespace in enumerate(term.get("namespaces") or ()):
        if wrong := names.dns_label(namespace):
            yield invalid(f"{path}.namespaces[{index}]", namespace, wrong)
