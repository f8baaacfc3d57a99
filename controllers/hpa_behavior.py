"""How fast an autoscaler may go: stabilization windows, policies, and the bounds. Pure, but for its memory.

Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from controllers.hpa_views import Autoscaler, Policy, Rules

DOWN_WINDOW_SECONDS = 300
TOLERANCE = 0.1
_UP = (Policy("Pods", 4, 15), Policy("Percent", 100, 15))
_DOWN = (Policy("Percent", 100, 15),)
_TOO_MANY = (
    "ScalingLimited", "True", "TooManyReplicas", "the desired replica count is more than the maximum replica count"
)  # fmt: skip


class Change(NamedTuple):
    """A number at a time (seconds): a recommendation, or by how much was scaled."""

    at: float
    replicas: int


class Verdict(NamedTuple):
    """How many replicas there shall be, and the conditions that tell why: (type, status, reason, message)."""

    replicas: int
    conditions: Sequence[tuple[str, str, str, str]]


@dataclass(slots=True)
class Memory:
    """What an autoscaler recommended and did of late."""

    recommendations: list[Change] = field(default_factory=list)
    ups: list[Change] = field(default_factory=list)
    downs: list[Change] = field(default_factory=list)

    def scaled(self, before: int, after: int, *, at: float) -> None:
        """Note that the number was changed."""
        if after > before:
            self.ups.append(Change(at, after - before))
        elif after < before:
            self.downs.append(Change(at, before - after))

    def forget_before(self, at: float) -> None:
        """Drop what is too old to matter."""
        for kept in (self.recommendations, self.ups, self.downs):
            kept[:] = [one for one in kept if one.at >= at]


def rules_of(autoscaler: Autoscaler) -> tuple[Rules, Rules]:
    """Return the rules for up and for down, the defaults filled in."""
    behavior = autoscaler.spec.behavior
    up = _filled(behavior.scaleUp if behavior else None, 0, _UP)
    return up, _filled(behavior.scaleDown if behavior else None, DOWN_WINDOW_SECONDS, _DOWN)


def _filled(given: Rules | None, window: int, policies: tuple[Policy, ...]) -> Rules:
    if given is None:
        return Rules(window, "Max", policies)
    return Rules(
        window if given.stabilizationWindowSeconds is None else given.stabilizationWindowSeconds,
        given.selectPolicy or "Max", policies if given.policies is None else given.policies, given.tolerance,
    )  # fmt: skip


def decide(autoscaler: Autoscaler, memory: Memory, current: int, recommended: int, *, at: float) -> Verdict:
    """Return what comes of a recommendation; it is remembered."""
    up, down = rules_of(autoscaler)
    stable = _stabilized(memory, up, down, current, recommended, at=at)
    memory.recommendations.append(Change(at, recommended))
    if stable > recommended and recommended < current:
        reason, known = "ScaleDownStabilized", "higher than current one, applying the highest"
    elif stable < recommended and recommended > current:
        reason, known = "ScaleUpStabilized", "lower than current one, applying the lowest"
    else:
        reason, known = "ReadyForNewScale", ""
    message = f"recent recommendations were {known} recent recommendation" if known else (
        "recommended size matches current size"
    )  # fmt: skip
    replicas, limited = _limited(autoscaler, memory, up, down, current, stable, at=at)
    return Verdict(replicas, [("AbleToScale", "True", reason, message), limited])


def _stabilized(memory: Memory, up: Rules, down: Rules, current: int, recommended: int, *, at: float) -> int:
    """Return the number that the recommendations of both windows agree on, as near to the present as they allow."""
    since_up = at - (up.stabilizationWindowSeconds or 0)
    since_down = at - (down.stabilizationWindowSeconds or 0)
    lowest = min([recommended, *(one.replicas for one in memory.recommendations if one.at > since_up)])
    highest = max([recommended, *(one.replicas for one in memory.recommendations if one.at > since_down)])
    return min(max(current, lowest), highest)


def _limited(
    autoscaler: Autoscaler, memory: Memory, up: Rules, down: Rules, current: int, wanted: int, *, at: float
) -> tuple[int, tuple[str, str, str, str]]:
    spec = autoscaler.spec
    least = 1 if spec.minReplicas is None else spec.minReplicas
    most = spec.maxReplicas
    if wanted > current:
        limit = max(_limit_up(memory, up, current, at=at), current)
        if wanted > min(limit, most):
            if most > limit:
                message = "the desired replica count is increasing faster than the maximum scale rate"
                return limit, ("ScalingLimited", "True", "ScaleUpLimit", message)
            return most, _TOO_MANY
    elif wanted < current:
        limit = min(_limit_down(memory, down, current, at=at), current)
        if wanted < max(limit, least):
            if least < limit:
                message = "the desired replica count is decreasing faster than the maximum scale rate"
                return limit, ("ScalingLimited", "True", "ScaleDownLimit", message)
            return least, _too_few(least)
    return wanted, (
        "ScalingLimited", "False", "DesiredWithinRange", "the desired count is within the acceptable range"
    )  # fmt: skip


def _too_few(least: int) -> tuple[str, str, str, str]:
    what = "zero" if least == 0 else "the minimum replica count"
    return "ScalingLimited", "True", "TooFewReplicas", f"the desired replica count is less than {what}"


def _at_start(memory: Memory, policy: Policy, current: int, *, at: float) -> int:
    """Return how many replicas there were when a policy's period began."""
    since = at - policy.periodSeconds
    return current - _sum(memory.ups, since) + _sum(memory.downs, since)


def _sum(changes: Iterable[Change], since: float) -> int:
    return sum(one.replicas for one in changes if one.at > since)


def _limit_up(memory: Memory, rules: Rules, current: int, *, at: float) -> int:
    if rules.selectPolicy == "Disabled":
        return current
    found = []
    for policy in rules.policies or ():
        start = _at_start(memory, policy, current, at=at)
        more = policy.value if policy.type == "Pods" else start * policy.value / 100
        found.append(math.ceil(start + more))
    choose = min if rules.selectPolicy == "Min" else max
    return choose(found, default=current)


def _limit_down(memory: Memory, rules: Rules, current: int, *, at: float) -> int:
    if rules.selectPolicy == "Disabled":
        return current
    found = []
    for policy in rules.policies or ():
        start = _at_start(memory, policy, current, at=at)
        less = policy.value if policy.type == "Pods" else start * policy.value / 100
        found.append(int(start - less))
    choose = max if rules.selectPolicy == "Min" else min
    return choose(found, default=current)
