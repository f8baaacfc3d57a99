"""Pods of higher priority are tried first.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
"""

from scheduler.framework.plugin import Plugin
from scheduler.pods import Pod
from scheduler.queue import by_priority


class PrioritySort(Plugin):
    """Orders the queue by priority."""

    name = "PrioritySort"

    def sort_key(self, pod: Pod) -> int:
        """See Plugin."""
        return by_priority(pod)
