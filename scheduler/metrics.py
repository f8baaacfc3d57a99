"""What the scheduler counts, under kube-scheduler's names.

The numbers are kept plainly, and handed to prometheus_client when somebody reads them: loading it costs 2 MB, and its
locks 1 µs for each of a placement's steps.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any


class Numbers:
    """One number for each combination of labels: a counter, or a gauge."""

    def __init__(self, name: str, told: str, labels: Sequence[str] = (), *, is_gauge: bool = False) -> None:
        self.name, self.told, self.labels, self.is_gauge = name, told, tuple(labels), is_gauge
        self.values: dict[tuple[str, ...], float] = defaultdict(float)

    def add(self, *labels: str, number: float = 1) -> None:
        """Count, under these labels' values."""
        self.values[labels] += number

    def set(self, number: float, *labels: str) -> None:
        """Tell a new number."""
        self.values[labels] = number

    def family(self, core: Any) -> Any:
        """Return it as prometheus_client.core wants it."""
        make = core.GaugeMetricFamily if self.is_gauge else core.CounterMetricFamily
        family = make(self.name, self.told, labels=self.labels)
        for labels, number in (self.values or {(): 0.0} if not self.labels else self.values).items():
            family.add_metric(labels, number)
        return family


class Histogram:
    """How often what was observed was at most each bound, and their sum."""

    def __init__(self, name: str, told: str, bounds: Sequence[float]) -> None:
        self.name, self.told, self.bounds = name, told, tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, number: float) -> None:
        """Take one observation."""
        self.counts[bisect.bisect_left(self.bounds, number)] += 1
        self.sum += number

    def family(self, core: Any) -> Any:
        """Return it as prometheus_client.core wants it."""
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        buckets = list(zip(bounds, itertools.accumulate(self.counts), strict=True))
        return core.HistogramMetricFamily(self.name, self.told, buckets=buckets, sum_value=self.sum)


ATTEMPTS = Numbers("scheduler_schedule_attempts", "Attempts to place pods, by result.", ["result", "profile"])
DURATION = Histogram(
    "scheduler_scheduling_algorithm_duration_seconds", "Time to choose a node, in seconds.",
    (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
)  # fmt: skip
PENDING = Numbers("scheduler_pending_pods", "Pods that wait for a node.", ["queue"], is_gauge=True)
EVENTS_DROPPED = Numbers("scheduler_events_dropped", "Events that found no room to wait.")
PREEMPTION_ATTEMPTS = Numbers("scheduler_preemption_attempts", "Attempts to preempt.")
PREEMPTION_VICTIMS = Histogram(
    "scheduler_preemption_victims", "Pods that were preempted at a time.", (1, 2, 4, 8, 16, 32, 64)
)
_ALL = (ATTEMPTS, DURATION, PENDING, EVENTS_DROPPED, PREEMPTION_ATTEMPTS, PREEMPTION_VICTIMS)


class _Collector:
    def collect(self) -> Iterator[Any]:
        """Called by prometheus_client."""
        from prometheus_client import core

        return (one.family(core) for one in _ALL)


def text() -> tuple[str, bytes]:
    """Return all metrics in Prometheus' text form, after its content type."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry()
    registry.register(_Collector())
    return CONTENT_TYPE_LATEST, generate_latest(registry)
