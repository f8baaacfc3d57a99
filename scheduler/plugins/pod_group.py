"""Pods that are of use only together: none is bound before enough of them have a place.

A pod says so by two annotations (scheduler.pods.GROUP, GROUP_MIN): the group's name, and how many of it are enough.
Its pods are not tried before so many are there, and hold their places until so many have one; when that takes too long,
all give theirs back.
"""

from scheduler.framework.plugin import Cycle, Handle, Plugin, Rejected
from scheduler.pods import Pod
from scheduler.table import Node

PATIENCE_SECONDS = 30.0


class PodGroup(Plugin):
    """Keeps a group's pods together in time."""

    name = "PodGroup"

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Args: how long pods hold their places for the others."""
        self._patience_seconds = patience_seconds
        self._handle: Handle | None = None

    def attach(self, handle: Handle) -> None:
        """See Plugin."""
        self._handle = handle

    def pre_enqueue(self, pod: Pod) -> str:
        """See Plugin."""
        if not pod.group or self._handle is None:
            return ""
        known = len(self._handle.group(pod))
        return (
            f"waiting for pod group {pod.group}: {known} of {pod.group_min} are there" if known < pod.group_min else ""
        )

    def permit(self, cycle: Cycle, node: Node) -> float:
        """See Plugin."""
        pod = cycle.pod
        if not pod.group or self._handle is None:
            return 0.0
        members = self._handle.group(pod)
        placed = [uid for uid, has_place in members.items() if has_place]
        if len(placed) < pod.group_min:
            return self._patience_seconds
        for uid in placed:
            self._handle.allow(uid)
        return 0.0

    def unreserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        pod = cycle.pod
        if not pod.group or self._handle is None:
            return
        for uid in self._handle.group(pod):
            if uid != pod.uid:
                self._handle.reject(uid, Rejected(f"pod group {pod.group} did not find {pod.group_min} places"))
