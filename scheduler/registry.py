"""Plugins by name, and how each is made of the arguments a configuration gives it.

Other people's plugins come from Python entry points of the group `wherry.scheduler_plugins`: the entry's name is the
plugin's, and what it loads is called with the plugin's arguments (a mapping) and returns a `Plugin`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scheduler.durations import duration_seconds
from scheduler.framework.plugin import Plugin
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.default_preemption import DefaultPreemption
from scheduler.plugins.dynamic_resources import BINDING_TIMEOUT_SECONDS, DynamicResources
from scheduler.plugins.image_locality import ImageLocality
from scheduler.plugins.inter_pod_affinity import InterPodAffinity
from scheduler.plugins.node_affinity import NodeAffinity, NodeAffinityNames
from scheduler.plugins.node_declared_features import NodeDeclaredFeatures
from scheduler.plugins.node_name import NodeName
from scheduler.plugins.node_ports import NodePorts
from scheduler.plugins.node_resources_fit import NodeResourcesFit
from scheduler.plugins.node_unschedulable import NodeUnschedulable
from scheduler.plugins.node_volume_limits import NodeVolumeLimits
from scheduler.plugins.pod_group import PATIENCE_SECONDS, PodGroup
from scheduler.plugins.pod_topology_spread import SYSTEM_DEFAULTS, PodTopologySpread
from scheduler.plugins.priority_sort import PrioritySort
from scheduler.plugins.scheduling_gates import SchedulingGates
from scheduler.plugins.taint_toleration import TaintToleration
from scheduler.plugins.volume_binding import TIMEOUT_SECONDS, VolumeBinding
from scheduler.plugins.volume_restrictions import VolumeRestrictions
from scheduler.plugins.volume_zone import VolumeZone
from scheduler.terms import read_constraints

ENTRY_POINTS = "wherry.scheduler_plugins"
Args = Mapping[str, Any]
Factory = Callable[[Args], Plugin | Sequence[Plugin]]


class UnknownPlugin(ValueError):
    """Nobody offers a plugin of this name."""


def _fit(args: Args) -> Plugin:
    strategy = args.get("scoringStrategy") or {}
    shape = (strategy.get("requestedToCapacityRatio") or {}).get("shape") or ()
    given = {"resources": strategy["resources"]} if strategy.get("resources") else {}
    return NodeResourcesFit(
        strategy.get("type") or "LeastAllocated",
        shape=shape,
        ignored=args.get("ignoredResources") or (),
        ignored_groups=args.get("ignoredResourceGroups") or (),
        **given,
    )


def _balanced(args: Args) -> Plugin:
    return BalancedAllocation(args["resources"]) if args.get("resources") else BalancedAllocation()


def _inter_pod_affinity(args: Args) -> Plugin:
    weight = args.get("hardPodAffinityWeight")
    ignore = bool(args.get("ignorePreferredTermsOfExistingPods"))
    return InterPodAffinity(1 if weight is None else int(weight), ignore_preferred_of_existing=ignore)


def _node_affinity(args: Args) -> Sequence[Plugin]:
    return (NodeAffinityNames(), NodeAffinity(args.get("addedAffinity")))


def _spread(args: Args) -> Plugin:
    if args.get("defaultingType", "System") == "List" or args.get("defaultConstraints"):
        given = [{**one, "labelSelector": {}} for one in args.get("defaultConstraints") or ()]
        return PodTopologySpread(read_constraints(given, {}), system=False)
    return PodTopologySpread(SYSTEM_DEFAULTS)


def _preemption(args: Args) -> Plugin:
    return DefaultPreemption(
        int(args.get("minCandidateNodesPercentage", 10)), int(args.get("minCandidateNodesAbsolute", 100))
    )


def _dynamic_resources(args: Args) -> Plugin:
    given = args.get("bindingTimeout")
    return DynamicResources(duration_seconds(given) if given else BINDING_TIMEOUT_SECONDS)


BUILT_IN: Mapping[str, Factory] = {
    "SchedulingGates": lambda _: SchedulingGates(),
    "PodGroup": lambda args: PodGroup(float(args.get("patienceSeconds") or PATIENCE_SECONDS)),
    "PrioritySort": lambda _: PrioritySort(),
    "NodeUnschedulable": lambda _: NodeUnschedulable(),
    "NodeName": lambda _: NodeName(),
    "TaintToleration": lambda _: TaintToleration(),
    "NodeAffinity": _node_affinity,
    "NodePorts": lambda _: NodePorts(),
    "NodeResourcesFit": _fit,
    "VolumeRestrictions": lambda _: VolumeRestrictions(),
    "NodeVolumeLimits": lambda _: NodeVolumeLimits(),
    "VolumeBinding": lambda args: VolumeBinding(float(args.get("bindTimeoutSeconds") or TIMEOUT_SECONDS)),
    "VolumeZone": lambda _: VolumeZone(),
    "DynamicResources": _dynamic_resources,
    "PodTopologySpread": _spread,
    "InterPodAffinity": _inter_pod_affinity,
    "DefaultPreemption": _preemption,
    "NodeResourcesBalancedAllocation": _balanced,
    "ImageLocality": lambda _: ImageLocality(),
    "NodeDeclaredFeatures": lambda _: NodeDeclaredFeatures(),
}
"""In the order they are asked. Source: https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins"""

WEIGHTS: Mapping[str, int] = {
    "TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "PodTopologySpread": 2, "InterPodAffinity": 2,
    "DynamicResources": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1,
}  # fmt: skip

# What upstream has as a plugin and we do in one way only: naming it is no mistake.
ALWAYS_THERE = frozenset(("DefaultBinder",))


def make(name: str, args: Args) -> Iterable[Plugin]:
    """Return the plugin of a name (some are several objects). Raises: UnknownPlugin."""
    factory = BUILT_IN.get(name)
    if factory is None:
        from importlib.metadata import entry_points  # loads a good part of the standard library

        found = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
        if found is None:
            raise UnknownPlugin(f'no plugin named "{name}"')
        factory = found.load()
    made = factory(args)
    return (made,) if isinstance(made, Plugin) else made
