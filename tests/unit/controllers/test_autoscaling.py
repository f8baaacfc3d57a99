"""How many replicas metrics call for, and how fast they are granted."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.hpa_behavior import Memory, decide
from controllers.hpa_metric_values import quantity, requested
from controllers.hpa_metrics import seconds, thousandths
from controllers.hpa_replicas import Sample, Tolerances, Unknown, by_total, by_utilization, by_value
from controllers.hpa_views import Autoscaler
from controllers.views import Pod
from tests.unit.controllers.builders import NOW, ago, metadata, pod

NEAR = Tolerances(0.1, 0.1)


def autoscaler(least: int = 1, most: int = 10, **behavior: Any) -> Autoscaler:
    target = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
    spec = {"scaleTargetRef": target, "minReplicas": least, "maxReplicas": most}
    return msgspec.convert({"metadata": metadata("web"), "spec": {**spec, "behavior": behavior or None}}, Autoscaler)


def pods(*states: str) -> list[Pod]:
    """Return pods p0, p1, ...: `up`, `starting`, `pending`, `failed`."""
    found = []
    for index, state in enumerate(states):
        phase = {"pending": "Pending", "failed": "Failed"}.get(state, "Running")
        one = pod(f"p{index}", phase=phase, ready=state == "up", ready_seconds=5 if state == "starting" else 900)
        started = ago(10 if state == "starting" else 1000)
        found.append(msgspec.structs.replace(one, status=msgspec.structs.replace(one.status, startTime=started)))
    return found


def samples(*values: int | None) -> dict[str, Sample]:
    at = NOW - timedelta(seconds=1)
    return {f"p{index}": Sample(value, at, 30.0) for index, value in enumerate(values) if value is not None}


def utilization(which: list[Pod], used: dict[str, Sample], current: int, target: int = 50, *, cpu: bool = True) -> int:
    requests = {one.metadata.name: 1000 for one in which}
    outcome = by_utilization(which, used, requests, current, target, cpu=cpu, tolerances=NEAR, at=NOW)
    return outcome.replicas


@pytest.mark.parametrize(
    ("states", "used", "expected"),
    [
        (("up",) * 3, (1000, 1000, 1000), 6),
        (("up",) * 3, (300, 300, 300), 2),
        (("up",) * 3, (480, 500, 520), 3),
        (("up",) * 3, (540, 540, 540), 3),
        (("up", "up", "starting"), (1000, 1000, 1000), 4),
        (("up", "up", "pending"), (1000, 1000, None), 4),
        (("up", "up", "starting"), (550, 550, 1000), 3),
        (("up", "up", "up"), (1000, 1000, None), 4),
        (("up", "up", "up"), (100, 100, None), 3),
        (("up", "up", "failed"), (1000, 1000, 9000), 4),
    ],
    ids=["double", "down", "near", "within-tolerance", "starting-counts-as-idle", "pending-counts-as-idle",
         "not-past-the-turn", "unknown-counts-as-idle", "unknown-counts-as-busy", "failed-does-not-count"],
)  # fmt: skip
def test_usage_against_requests(states: tuple[str, ...], used: tuple[int | None, ...], expected: int) -> None:
    assert utilization(pods(*states), samples(*used), len(states)) == expected


def test_nothing_known_is_said() -> None:
    with pytest.raises(Unknown, match=r"did not receive metrics for targeted pods"):
        utilization(pods("up"), {}, 1)


def test_a_mean_value_is_held_against_its_target() -> None:
    found = by_value(pods("up", "up"), samples(20_000, 40_000), 2, 15_000, cpu=False, tolerances=NEAR, at=NOW)
    assert (found.replicas, found.average_value, found.average_utilization) == (4, 30_000, None)


@pytest.mark.parametrize(
    ("total", "target", "average", "expected"),
    [(100, 10, False, 30), (10, 10, False, 3), (100, 10, True, 10), (31, 10, True, 3)],
    ids=["ratio", "near", "each", "each-near"],
)
def test_a_value_of_the_whole_target(total: int, target: int, average: bool, expected: int) -> None:
    assert by_total(total, target, 3, 3, average=average, tolerances=NEAR) == expected


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=8), st.integers(1, 200))
def test_pods_that_are_unknown_never_turn_a_change(used: list[int], target: int) -> None:
    known = utilization(pods(*["up"] * len(used)), samples(*used), len(used), target)
    more = pods(*["up"] * len(used), "up")
    found = utilization(more, samples(*used), len(more), target)
    current, before = len(more), len(used)
    if known > before:
        assert current <= found
    elif known < before:
        assert found <= current


# -- how fast


def run(scaler: Autoscaler, memory: Memory, current: int, *wishes: tuple[float, int]) -> list[int]:
    """Return the sizes after each recommendation (at a time)."""
    sizes = []
    for at, wish in wishes:
        replicas = decide(scaler, memory, current, wish, at=at).replicas
        memory.scaled(current, replicas, at=at)
        current = replicas
        sizes.append(current)
    return sizes


def test_up_goes_by_four_or_double_in_each_quarter_minute() -> None:
    assert run(autoscaler(most=100), Memory(), 1, (0, 50), (5, 50), (16, 50), (32, 50), (48, 50)) == [5, 5, 10, 20, 40]


def test_down_waits_until_no_higher_wish_is_within_five_minutes() -> None:
    memory = Memory()
    assert run(autoscaler(), memory, 10, (0, 10), (100, 2), (290, 2), (301, 2)) == [10, 10, 10, 2]
    assert decide(autoscaler(), Memory(), 10, 2, at=0).replicas == 2


def test_rules_of_the_user_are_kept() -> None:
    one_a_minute = {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}], "stabilizationWindowSeconds": 0}
    slow = autoscaler(scaleDown=one_a_minute, scaleUp={**one_a_minute, "stabilizationWindowSeconds": 60})
    assert run(slow, Memory(), 5, (0, 1), (15, 1), (61, 1)) == [4, 4, 3]
    assert run(slow, Memory(), 2, (0, 2), (15, 5), (59, 5), (61, 5), (62, 5)) == [2, 2, 2, 3, 3]
    still = autoscaler(scaleDown={"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0})
    assert run(still, Memory(), 5, (0, 1)) == [5]


@pytest.mark.parametrize(
    ("current", "wish", "reason", "replicas"),
    [
        (3, 3, "DesiredWithinRange", 3),
        (8, 12, "TooManyReplicas", 10),
        (3, 0, "TooFewReplicas", 1),
        (1, 9, "ScaleUpLimit", 5),
    ],
)
def test_what_limits_is_told(current: int, wish: int, reason: str, replicas: int) -> None:
    verdict = decide(autoscaler(), Memory(), current, wish, at=0)
    assert verdict.replicas == replicas
    assert [one[2] for one in verdict.conditions if one[0] == "ScalingLimited"] == [reason]


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 30)), max_size=30), st.integers(1, 10))
def test_no_sequence_of_wishes_leaves_the_bounds(steps: list[tuple[float, int]], current: int) -> None:
    scaler, memory, at = autoscaler(2, 10), Memory(), 0.0
    current = max(current, 2)
    for wait, wish in steps:
        at += wait
        replicas = decide(scaler, memory, current, wish, at=at).replicas
        assert 2 <= replicas <= 10
        memory.scaled(current, replicas, at=at)
        current = replicas


# -- quantities


def test_requests_are_summed_and_missing_ones_told() -> None:
    cpu = {"requests": {"cpu": "250m"}}
    containers = [{"name": "a", "resources": cpu}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]
    sidecar = {"name": "s", "resources": cpu, "restartPolicy": "Always"}
    spec = {"containers": containers, "initContainers": [sidecar, {"name": "i"}]}
    assert requested(pod(spec=spec), "cpu") == 1500
    assert requested(pod(spec=spec), "cpu", "b") == 1000
    with pytest.raises(Unknown, match="missing request for memory in container a of Pod p"):
        requested(pod(spec=spec), "memory")


def test_times_and_numbers_as_metrics_servers_write_them() -> None:
    assert [seconds(text) for text in ("30s", "1m0.5s", "1h", "")] == [30, 60.5, 3600, 60]
    assert [thousandths(text) for text in ("5", "1500u", "2Ki", "123456789n")] == [5000, 2, 2_048_000, 124]
    assert [quantity(value) for value in (1500, 2_048_000, 250)] == ["1500m", "2048", "250m"]
