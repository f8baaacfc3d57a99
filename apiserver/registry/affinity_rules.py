"""What a pod may say of the nodes and pods it wants to be near to, or far from.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#affinity-and-anti-affinity
"""

from collections.abc import Iterator, Sequence

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, required, unsupported
from machinery.errors import Cause

_WANTED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)

_ACTIONS = ("DoNotSchedule", "ScheduleAnyway")
_POLICIES = ("Honor", "Ignore")


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
    if not selector.get("nodeSelectorTerms"):
        yield required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for index, term in enumerate(selector.get("nodeSelectorTerms") or ()):
        yield from _node_term_causes(term, f"{path}.nodeSelectorTerms[{index}]", is_required=True)


def _node_term_causes(term: Object, path: str, *, is_required: bool = False) -> Iterator[Cause]:
    for index, one in enumerate(term.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        yield from _requirement_causes(one, at)
        if (key := one.get("key")) and (wrong := names.qualified_name(key)):
            yield invalid(f"{at}.key", key, wrong)
        if is_required:  # what is only preferred may be nonsense
            yield from _value_causes(one, at)
    for index, one in enumerate(term.get("matchFields") or ()):
        at = f"{path}.matchFields[{index}]"
        if one.get("operator") not in ("In", "NotIn"):
            yield invalid(f"{at}.operator", one.get("operator", ""), "not a valid selector operator")
        elif len(one.get("values") or ()) != 1:
            why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield required(f"{at}.values", why)
        if one.get("key") != "metadata.name":
            yield invalid(f"{at}.key", one.get("key", ""), "not a valid field selector key")
            continue
        for position, value in enumerate(one.get("values") or ()):
            if wrong := names.dns_subdomain(value):
                yield invalid(f"{at}.values[{position}]", value, wrong)


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
        yield from _value_causes(one, at)


def _value_causes(one: Object, path: str) -> Iterator[Cause]:
    for index, value in enumerate(one.get("values") or ()):
        if wrong := names.label_value(value):
            yield invalid(f"{path}.values[{index}]", value, wrong)


def _weight_causes(term: Object, path: str) -> Iterator[Cause]:
    weight = term.get("weight", 0)
    if not 1 <= weight <= 100:
        yield invalid(f"{path}.weight", weight, "must be in the range 1-100")


def _pod_term_causes(term: Object, path: str) -> Iterator[Cause]:
    for field in ("labelSelector", "namespaceSelector"):
        if selector := term.get(field):
            yield from label_selector_causes(selector, f"{path}.{field}")
    for namespace in term.get("namespaces") or ():
        if wrong := names.dns_label(namespace):
            yield invalid(f"{path}.namespace", namespace, wrong)
    yield from _label_key_causes(term, path)
    if not (key := term.get("topologyKey", "")):
        yield required(f"{path}.topologyKey", "can not be empty")
    if wrong := names.qualified_name(key):
        yield invalid(f"{path}.topologyKey", key, wrong)


def _label_key_causes(term: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with labels whose value a pod shares with others, or differs from them by."""
    same, other, selector = (term.get(field) for field in ("matchLabelKeys", "mismatchLabelKeys", "labelSelector"))
    for field, keys in (("matchLabelKeys", same), ("mismatchLabelKeys", other)):
        if keys and selector is None:
            yield forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set")
            continue
        for index, key in enumerate(keys or ()):
            if wrong := names.qualified_name(key):
                yield invalid(f"{path}.{field}[{index}]", key, wrong)
    for index, key in enumerate(same or ()):
        if _times(selector or {}, key) > 1:  # once it was put there for its sake
            yield invalid(f"{path}[{index}]", key, "exists in both matchLabelKeys and labelSelector")
        if key in (other or ()):
            why = "exists in both matchLabelKeys and mismatchLabelKeys"
            yield invalid(f"{path}.matchLabelKeys[{index}]", key, why)


def _times(selector: Object, key: str) -> int:
    """Return how often a label selector speaks of a label."""
    expressions = selector.get("matchExpressions") or ()
    return (key in (selector.get("matchLabels") or {})) + sum(one.get("key") == key for one in expressions)


def spread_causes(spreads: Sequence[Object], path: str, *, is_pod: bool) -> Iterator[Cause]:
    """Yield what is wrong with how pods are spread. Args: `is_pod` says that this is no template."""
    for index, spread in enumerate(spreads):
        at, action, topology = (
            f"{path}[{index}]",
            spread.get("whenUnsatisfiable") or "",
            spread.get("topologyKey") or "",
        )
        if spread.get("maxSkew", 0) <= 0:
            yield invalid(f"{at}.maxSkew", spread.get("maxSkew", 0), "must be greater than zero")
        if not topology:
            yield required(f"{at}.topologyKey", "can not be empty")
        if action not in _ACTIONS:
            yield unsupported(f"{at}.whenUnsatisfiable", action, _ACTIONS)
        if any(
            (topology, action) == (one.get("topologyKey"), one.get("whenUnsatisfiable")) for one in spreads[index + 1 :]
        ):
            yield duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", f"{{{topology}, {action}}}")
        fewest = spread.get("minDomains")
        if fewest is not None and fewest <= 0:
            yield invalid(f"{at}.minDomains", fewest, "must be greater than zero")
        if fewest is not None and action != "DoNotSchedule":
            why = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
            yield invalid(f"{at}.minDomains", fewest, why)
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if (policy := spread.get(field)) is not None and policy not in _POLICIES:
                yield unsupported(f"{at}.{field}", policy, _POLICIES)
        yield from _spread_key_causes(spread, at, most=1 if is_pod else 0)
        yield from label_selector_causes(spread.get("labelSelector") or {}, f"{at}.labelSelector")


def _spread_key_causes(spread: Object, path: str, *, most: int) -> Iterator[Cause]:
    """Args: `most` is how often the selector may speak of a key: once where the server put it there for its sake."""
    keys, selector = spread.get("matchLabelKeys") or (), spread.get("labelSelector")
    if keys and selector is None:
        yield forbidden(f"{path}.matchLabelKeys", "must not be specified when labelSelector is not set")
    for index, key in enumerate(keys):
        if wrong := names.qualified_name(key):
            yield invalid(f"{path}.matchLabelKeys[{index}]", key, wrong)
        if _times(selector or {}, key) > most:
            yield invalid(f"{path}.matchLabelKeys[{index}]", key, "exists in both matchLabelKeys and labelSelector")
