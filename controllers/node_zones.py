"""How fast pods are driven from nodes that are away, zone by zone. Pure, but for its memory of who was driven when.

Where most of a zone is away it is more likely the network than the nodes: then slowly, or not at all.
Source: https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction
"""

import math
from dataclasses import dataclass, field

from controllers.views import Node

REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"
_FEW = 2
"""So many nodes away are never called a disruption of their zone."""


@dataclass(frozen=True, slots=True)
class EvictionRates:
    """Nodes a second whose pods are driven away; the defaults are kube-controller-manager's."""

    normal: float = 0.1
    disrupted: float = 0.01
    large_zone: int = 50
    """A zone of at most so many nodes stands still while it is disrupted."""
    unhealthy_share: float = 0.55
    """A zone of whose nodes at least so many are away is disrupted."""


def zone_of(node: Node) -> str:
    """Return a node's region and zone as one key."""
    labels = node.metadata.labels
    return f"{labels.get(REGION, '')}:\x00:{labels.get(ZONE, '')}"


@dataclass(slots=True)
class _Zone:
    ready: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    next_at: float = -math.inf

    def is_disrupted(self, unhealthy_share: float) -> bool:
        return len(self.away) > _FEW and len(self.away) >= unhealthy_share * (len(self.away) + len(self.ready))


class Zones:
    """Knows of each zone who is ready, and says when the next node's pods may be driven away."""

    def __init__(self, rates: EvictionRates) -> None:
        self._rates = rates
        self._zones: dict[str, _Zone] = {}
        self._zone_of: dict[str, str] = {}

    @property
    def any_ready(self) -> bool:
        """Whether at least one node is ready."""
        return any(zone.ready for zone in self._zones.values())

    def note(self, name: str, zone: str, *, ready: bool) -> None:
        """Note where a node is and whether it is ready."""
        if self._zone_of.get(name) != zone:
            self.forget(name)
        self._zone_of[name] = zone
        found = self._zones.setdefault(zone, _Zone())
        (found.away if ready else found.ready).discard(name)
        (found.ready if ready else found.away).add(name)

    def forget(self, name: str) -> None:
        """Drop a node that is gone."""
        zone = self._zones.get(self._zone_of.pop(name, ""))
        if zone is not None:
            zone.ready.discard(name)
            zone.away.discard(name)

    def rate(self, zone: str) -> float:
        """Return how many nodes a second may be emptied in a zone.

        A zone that is away as a whole is emptied as fast as any while another has ready nodes; where none has, it is
        more likely us who are cut off, and nobody is driven from anywhere.
        """
        found = self._zones.get(zone, _Zone())
        if not self.any_ready:
            return 0.0
        if not found.ready or not found.is_disrupted(self._rates.unhealthy_share):
            return self._rates.normal
        size = len(found.ready) + len(found.away)
        return self._rates.disrupted if size > self._rates.large_zone else 0.0

    def wait_seconds(self, name: str, *, at: float) -> float:
        """Return how long a node's pods may stay still: 0 takes the turn, infinity is until the zone is better."""
        zone = self._zone_of.get(name, "")
        rate, found = self.rate(zone), self._zones.setdefault(zone, _Zone())
        if rate <= 0:
            return math.inf
        if at < found.next_at:
            return found.next_at - at
        found.next_at = at + 1 / rate
        return 0.0
