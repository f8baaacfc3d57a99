"""The plugins a profile has unless it says otherwise, in the order they are asked, with their weights.

Source: https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins
"""

from collections.abc import Callable, Mapping

from scheduler.framework.plugin import Plugin
from scheduler.framework.profile import Profile
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.default_preemption import DefaultPreemption
from scheduler.plugins.image_locality import ImageLocality
from scheduler.plugins.inter_pod_affinity import InterPodAffinity
from scheduler.plugins.node_affinity import NodeAffinity, NodeAffinityNames
from scheduler.plugins.node_name import NodeName
from scheduler.plugins.node_ports import NodePorts
from scheduler.plugins.node_resources_fit import NodeResourcesFit
from scheduler.plugins.node_unschedulable import NodeUnschedulable
from scheduler.plugins.pod_topology_spread import PodTopologySpread
from scheduler.plugins.priority_sort import PrioritySort
from scheduler.plugins.scheduling_gates import SchedulingGates
from scheduler.plugins.taint_toleration import TaintToleration
from scheduler.pods import DEFAULT_SCHEDULER

Factory = Callable[[], Plugin]

DEFAULT_PLUGINS: tuple[Factory, ...] = (
    SchedulingGates, PrioritySort, NodeUnschedulable, NodeName, TaintToleration, NodeAffinityNames, NodeAffinity,
    NodePorts, NodeResourcesFit, PodTopologySpread, InterPodAffinity, DefaultPreemption, BalancedAllocation,
    ImageLocality,
)  # fmt: skip
WEIGHTS: Mapping[str, int] = {
    "TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "PodTopologySpread": 2, "InterPodAffinity": 2,
    "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1,
}  # fmt: skip


def default_profile(name: str = DEFAULT_SCHEDULER) -> Profile:
    """Return the profile of a scheduler that nobody configured."""
    return Profile([make() for make in DEFAULT_PLUGINS], WEIGHTS, name=name)
