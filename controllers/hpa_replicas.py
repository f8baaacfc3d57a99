"""How many replicas a metric calls for. Pure.

Pods that are not up yet, or of which nothing is known, are counted so that they never make the change larger.
Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from controllers.views import Pod
from machinery.api.meta import parse_time

INITIALIZATION_SECONDS = 300.0
"""So long after its start a pod's CPU usage counts only when it is ready: it may be busy starting."""
READINESS_SECONDS = 30.0
"""A pod that was never ready so long after its start is taken as not yet up, rather than broken."""


class Sample(NamedTuple):
    """What one pod uses: a value in thousandths, and over which time it was measured."""

    value: int
    at: datetime
    window_seconds: float


class Unknown(ValueError):
    """The metric says nothing; the message says why."""


class Tolerances(NamedTuple):
    """How far a ratio may be from 1 and nothing happens: below, and above."""

    down: float
    up: float

    def hold(self, ratio: float) -> bool:
        """Whether a ratio is near enough to 1."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(slots=True)
class Groups:
    """Pods by what is known of them, by name."""

    ready: set[str] = field(default_factory=set)
    unready: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)


def group(pods: Iterable[Pod], samples: Mapping[str, Sample], *, cpu: bool, at: datetime) -> Groups:
    """Sort pods; `cpu` is whether it is CPU that was measured."""
    found = Groups()
    for pod in pods:
        name = pod.metadata.name
        if pod.metadata.deletionTimestamp is not None or pod.status.phase == "Failed":
            found.ignored.add(name)
        elif pod.status.phase == "Pending":
            found.unready.add(name)
        elif name not in samples:
            found.missing.add(name)
        elif cpu and _is_starting(pod, samples[name], at=at):
            found.unready.add(name)
        else:
            found.ready.add(name)
    return found


def _is_starting(pod: Pod, sample: Sample, *, at: datetime) -> bool:
    ready = pod.ready_condition
    if ready is None or not pod.status.startTime or not ready.lastTransitionTime:
        return True
    started, changed = parse_time(pod.status.startTime), parse_time(ready.lastTransitionTime)
    if at - started < timedelta(seconds=INITIALIZATION_SECONDS):
        return ready.status == "False" or sample.at < changed + timedelta(seconds=sample.window_seconds)
    return ready.status == "False" and changed - started < timedelta(seconds=READINESS_SECONDS)


class Outcome(NamedTuple):
    """How many replicas a metric calls for, and the present figures as the status shows them."""

    replicas: int
    average_utilization: int | None
    average_value: int  # in thousandths


def by_utilization(
    pods: list[Pod], samples: Mapping[str, Sample], requests: Mapping[str, int], current: int, target: int, *,
    cpu: bool, tolerances: Tolerances, at: datetime,
) -> Outcome:  # fmt: skip
    """Return what usage calls for, as a percentage of what pods requested. Raises: Unknown.

    Args:
        pods: the pods of the target.
        samples: what they use, by name.
        requests: what they asked for in thousandths, by name; of all of them.
        current: the present number of replicas.
        target: the percentage wanted.
        cpu: whether it is CPU.
        tolerances: how far off is near enough.
        at: the present time.
    """
    groups = group(pods, samples, cpu=cpu, at=at)
    used = {name: sample.value for name, sample in samples.items() if name in groups.ready}
    utilization = _utilization(used, requests)
    average = sum(used.values()) // len(used)
    fallback = max(100, target)
    replicas = _replicas(
        used, groups, current, utilization / target, tolerances,
        stand_in=lambda name: requests[name] * fallback // 100,
        ratio_of=lambda values: _utilization(values, requests) / target,
    )  # fmt: skip
    return Outcome(replicas, utilization, average)


def _utilization(used: Mapping[str, int], requests: Mapping[str, int]) -> int:
    asked = sum(requests[name] for name in used if name in requests)
    if not used:
        raise Unknown("did not receive metrics for targeted pods (pods might be unready)")
    if not asked:
        raise Unknown("no metrics returned matched known pods")
    return sum(used.values()) * 100 // asked


def by_value(
    pods: list[Pod], samples: Mapping[str, Sample], current: int, target: int, *, cpu: bool, tolerances: Tolerances,
    at: datetime,
) -> Outcome:  # fmt: skip
    """Return what the mean value of the pods calls for; `target` in thousandths. Raises: Unknown."""
    groups = group(pods, samples, cpu=cpu, at=at)
    used = {name: sample.value for name, sample in samples.items() if name in groups.ready}
    if not used:
        raise Unknown("did not receive metrics for targeted pods (pods might be unready)")
    average = sum(used.values()) // len(used)
    replicas = _replicas(
        used, groups, current, average / target, tolerances,
        stand_in=lambda _: target,
        ratio_of=lambda values: sum(values.values()) / len(values) / target,
    )  # fmt: skip
    return Outcome(replicas, None, average)


def _replicas(
    used: dict[str, int], groups: Groups, current: int, ratio: float, tolerances: Tolerances, *,
    stand_in: Callable[[str], int], ratio_of: Callable[[Mapping[str, int]], float],
) -> int:  # fmt: skip
    """Return the number a ratio calls for, once pods that are unknown or not up are counted in."""
    grows_with_unready = bool(groups.unready) and ratio > 1.0
    if not grows_with_unready and not groups.missing:
        return current if tolerances.hold(ratio) else math.ceil(ratio * len(groups.ready))
    values = dict(used)
    for name in groups.missing:
        if ratio < 1.0:
            values[name] = stand_in(name)
        elif ratio > 1.0:
            values[name] = 0
    if grows_with_unready:
        values |= dict.fromkeys(groups.unready, 0)
    renewed = ratio_of(values)
    turned = (ratio < 1.0 < renewed) or (renewed < 1.0 < ratio)
    if tolerances.hold(renewed) or turned:
        return current
    replicas = math.ceil(renewed * len(values))
    if (renewed < 1.0 and replicas > current) or (renewed > 1.0 and replicas < current):
        return current
    return replicas


def by_total(total: int, target: int, current: int, ready: int, *, average: bool, tolerances: Tolerances) -> int:
    """Return what one value for the whole target calls for, in thousandths.

    Args:
        total: the present value.
        target: the value wanted, in all or for each replica.
        current: the present number of replicas.
        ready: how many pods are ready.
        average: whether the target is for each replica.
        tolerances: how far off is near enough.
    """
    if average:
        ratio = total / (target * current) if current else math.inf
        return current if tolerances.hold(ratio) else math.ceil(total / target)
    ratio = total / target
    if not current:
        return math.ceil(ratio)
    return current if tolerances.hold(ratio) else math.ceil(ratio * ready)
