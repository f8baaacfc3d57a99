"""The seam between the scheduling cycle and its rules.

A plugin is pure: given the table and a pod it answers with a mask (which nodes it lets through), a reason for each node
it does not, and scores. A mask may be kept for other pods of the same shape when it depends on nodes alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from scheduler.table import Floats, Mask, NodeTable

Object = Mapping[str, Any]
MAX_SCORE = 100.0


@dataclass(slots=True)
class Cycle:
    """One pod being placed: what several plugins read."""

    pod: Object
    requests: Mapping[str, float]
    namespace_labels: Callable[[str], Mapping[str, str]] = lambda _: {}
    services: Callable[[], list[Object]] = list
    memo: dict[str, Any] = field(default_factory=dict)


class Plugin(Protocol):
    """One rule."""

    name: str
    weight: float
    of_nodes_alone: bool  # its answers depend on the pod's spec and on nodes, not on other pods

    def filter(self, cycle: Cycle, table: NodeTable) -> Mask | None:
        """Return which nodes pass; None when all do."""

    def reasons(self, cycle: Cycle, table: NodeTable, index: int) -> list[str]:
        """Return in users' words why a node does not pass."""

    def score(self, cycle: Cycle, table: NodeTable) -> Floats | None:
        """Return how well each node suits, 0 to 100; None when it is all one."""
