"""Whom a node ends for a critical pod. Source: kubelet's preemption of pods for critical ones."""

from typing import Any

import pytest

from agent.preemption import victims

CRITICAL = {"metadata": {"name": "critical", "uid": "c"}, "spec": {"priority": 2_000_001_000}}
MI = 1 << 20


def pod(name: str, quality: str = "BestEffort", cpu: str = "", memory: str = "", priority: int = 0) -> dict[str, Any]:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    spec = {"priority": priority, "containers": [{"name": "main", "resources": {"requests": requests}}]}
    return {"metadata": {"name": name, "uid": name}, "spec": spec, "status": {"qosClass": quality}}


TINY, SMALL = pod("tiny"), pod("small", "Burstable", "100m", "100Mi")
LARGE, SURE = pod("large", "Burstable", "300m", "300Mi"), pod("sure", "Guaranteed", "200m", "200Mi")
SYSTEM = pod("system", "Burstable", "1", "1Gi", priority=2_000_000_000)


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ({"cpu": 100}, ["small"]),
        ({"cpu": 250}, ["large"]),
        ({"cpu": 400}, ["large", "small"]),
        ({"cpu": 600}, ["sure", "large", "small"]),
        ({"memory": 150 * MI}, ["large"]),
        ({"cpu": 100, "memory": 300 * MI}, ["large"]),
        ({"pods": 1}, ["tiny"]),
        ({}, []),
    ],
)
def test_as_few_and_as_small_as_will_do(missing: dict[str, int], names: list[str]) -> None:
    found = victims(CRITICAL, [TINY, SMALL, LARGE, SURE, SYSTEM], missing)
    assert found is not None
    assert [one["metadata"]["name"] for one in found] == names


def test_nobody_goes_where_it_would_not_do_or_for_a_usual_pod() -> None:
    assert victims(CRITICAL, [TINY, SMALL, SYSTEM], {"cpu": 500}) is None
    assert victims(pod("usual", priority=1_000_000_000), [TINY, SMALL], {"cpu": 50}) is None
