"""A pod with gates waits until somebody takes them away.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-scheduling-readiness/
"""

from scheduler.framework.plugin import Plugin
from scheduler.pods import Pod


class SchedulingGates(Plugin):
    """Keeps pods with gates out of the queue."""

    name = "SchedulingGates"

    def pre_enqueue(self, pod: Pod) -> str:
        """See Plugin."""
        return f"waiting for scheduling gates: [{' '.join(pod.gates)}]" if pod.gates else ""
