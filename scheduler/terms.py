"""What a pod asks about other pods, read once for each shape: affinity terms and spread constraints.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from machinery.api.selectors import NOTHING, LabelSelector, Operator, Requirement, SelectorError, from_label_selector

Object = Mapping[str, Any]
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class PodSelector:
    """Which pods are meant: some namespaces (by name, or by their labels), and a selector of labels."""

    namespaces: frozenset[str]
    namespace_selector: LabelSelector
    labels: LabelSelector

    def matches(self, namespace: str, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
        """Say whether a pod is meant, by its namespace, its labels and its namespace's labels."""
        if namespace not in self.namespaces and not self.namespace_selector.matches(namespace_labels):
            return False
        return self.labels.matches(labels)


@dataclass(frozen=True, slots=True)
class AffinityTerm:
    """Near to (or away from) such pods, by nodes that share the value of a label; preferred ones have a weight."""

    topology_key: str
    pods: PodSelector
    weight: int = 0


@dataclass(frozen=True, slots=True)
class AffinityTerms:
    """A pod's affinity to other pods."""

    required: tuple[AffinityTerm, ...] = ()
    preferred: tuple[AffinityTerm, ...] = ()
    anti_required: tuple[AffinityTerm, ...] = ()
    anti_preferred: tuple[AffinityTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class SpreadConstraint:
    """How unlike the numbers of such pods may be over the values of a label."""

    topology_key: str
    max_skew: int
    hard: bool
    selector: LabelSelector
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


def read_affinity(affinity: Object, namespace: str, labels: Mapping[str, str]) -> AffinityTerms | None:
    """Return the terms of a pod's `affinity` about other pods; None when there are none."""
    near, away = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    found = AffinityTerms(
        tuple(_term(one, namespace, labels) for one in near.get(_REQUIRED) or ()),
        tuple(_weighted(one, namespace, labels) for one in near.get(_PREFERRED) or ()),
        tuple(_term(one, namespace, labels) for one in away.get(_REQUIRED) or ()),
        tuple(_weighted(one, namespace, labels) for one in away.get(_PREFERRED) or ()),
    )
    return found if found != AffinityTerms() else None


def _weighted(one: Object, namespace: str, labels: Mapping[str, str]) -> AffinityTerm:
    return _term(one.get("podAffinityTerm") or {}, namespace, labels, int(one.get("weight") or 0))


def _term(term: Object, namespace: str, labels: Mapping[str, str], weight: int = 0) -> AffinityTerm:
    named = frozenset(term.get("namespaces") or ())
    selector = term.get("namespaceSelector")
    if not named and selector is None:
        named = frozenset((namespace,))
    meant = _with_own_labels(_selector(term.get("labelSelector")), term, labels)
    return AffinityTerm(term.get("topologyKey", ""), PodSelector(named, _selector(selector), meant), weight)


def read_constraints(given: Iterable[Object], labels: Mapping[str, str]) -> tuple[SpreadConstraint, ...]:
    """Return a pod's spread constraints, in its order."""
    return tuple(
        SpreadConstraint(
            topology_key=one.get("topologyKey", ""),
            max_skew=int(one.get("maxSkew") or 1),
            hard=one.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
            selector=_with_own_labels(_selector(one.get("labelSelector")), one, labels),
            min_domains=int(one.get("minDomains") or 1),
            honor_affinity=one.get("nodeAffinityPolicy", "Honor") == "Honor",
            honor_taints=one.get("nodeTaintsPolicy", "Ignore") == "Honor",
        )
        for one in given
    )


def _with_own_labels(selector: LabelSelector, term: Object, labels: Mapping[str, str]) -> LabelSelector:
    """Add what `matchLabelKeys` (and `mismatchLabelKeys`) say: the pod's own value of a label, or any but it."""
    if selector.selects_nothing:
        return selector
    more = [(key, Operator.IN) for key in term.get("matchLabelKeys") or ()]
    more += [(key, Operator.NOT_IN) for key in term.get("mismatchLabelKeys") or ()]
    added = tuple(Requirement(key, how, frozenset((labels[key],))) for key, how in more if key in labels)
    missing = tuple(one for one in added if one not in selector.requirements)
    return LabelSelector((*selector.requirements, *missing)) if missing else selector


def _selector(given: Object | None) -> LabelSelector:
    try:
        return from_label_selector(given)
    except SelectorError:
        return NOTHING  # validation keeps such objects out; one that came all the same selects no pod
