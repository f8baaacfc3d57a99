"""What of a node's settings may change while its agent runs; the parts that go by them read them anew each time.

Defaults are the kubelet's of v1.36, but for the disk that must be free: developers' disks are fuller than servers'.
Source: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from machinery.api.quantity import to_bytes

_MIB = 1024**2
DEFAULT_EVICTION = {
    "memory.available": "100Mi", "nodefs.available": "5%", "nodefs.inodesFree": "5%", "pid.available": "10%",
}  # fmt: skip


@dataclass(slots=True)
class Settings:
    """The settings in force; one object for the whole agent.

    Attributes:
        reserved: resources kept from pods, for the system and the node's own daemons.
        eviction_hard: how much must be left of what, as an amount or a share of all: `memory.available` and its like.
        image_gc_high, image_gc_low: per cent of the disk; above the one images go, until it is below the other.
        image_min_age, image_max_age: seconds an unused image is kept at least, and at most; 0 for no such end.
        log_max_bytes, log_max_files: when a container's log is put aside, and how many are kept.
        status_seconds, report_seconds, lease_seconds: how often the node is looked at, is told of though nothing
            changed, and how long its lease holds.
        shutdown_by_priority: instead of the two groups, from the least priority on: (priority, seconds).
        unsafe_sysctls: allowed beside the safe ones; a name, or a prefix that ends in `*`.
        pids_limit: processes a pod may have; 0 for any number.
        max_pulls: images pulled at the same time; 0 for any number.
        max_backoff_seconds: the longest wait before a container is started again.
    """

    max_pods: int = 110
    reserved: dict[str, str] = field(default_factory=dict)
    eviction_hard: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_EVICTION))
    image_gc_high: int = 85
    image_gc_low: int = 80
    image_min_age: float = 120.0
    image_max_age: float = 0.0
    log_max_bytes: int = 10 * _MIB
    log_max_files: int = 5
    log_look_seconds: float = 10.0
    status_seconds: float = 10.0
    report_seconds: float = 300.0
    lease_seconds: int = 40
    shutdown_seconds: float = 30.0
    shutdown_critical_seconds: float = 10.0
    shutdown_by_priority: tuple[tuple[int, float], ...] = ()
    unsafe_sysctls: tuple[str, ...] = ()
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    pids_limit: int = 0
    max_pulls: int = 0
    max_backoff_seconds: float = 300.0

    def take(self, other: "Settings") -> list[str]:
        """Take all over from another; returns the names of what changed."""
        changed = [one.name for one in fields(self) if getattr(self, one.name) != getattr(other, one.name)]
        for name in changed:
            setattr(self, name, getattr(other, name))
        return changed

    def threshold(self, signal: str, total: int) -> int:
        """Return how much of `total` must be left; 0 where nothing is asked."""
        text = self.eviction_hard.get(signal, "0")
        return int(total * float(text[:-1]) / 100) if text.endswith("%") else to_bytes(text)

    def allows_sysctl(self, name: str) -> bool:
        """Whether an administrator allowed a sysctl that is not safe by itself."""
        return any(
            name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in self.unsafe_sysctls
        )  # fmt: skip


def plain(settings: Settings) -> Mapping[str, Any]:
    """Return all of them by name."""
    return {one.name: getattr(settings, one.name) for one in fields(settings)}
