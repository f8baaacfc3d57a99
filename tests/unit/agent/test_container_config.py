"""What a container's requests and limits become."""

from typing import Any

import pytest

from agent.container_config import linux_resources

GIB = 1 << 30


def pod(quality: str, *, priority: int = 0) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "priority": priority,
        "containers": [{"name": "main", "resources": {"requests": {"memory": "6Gi"}}}],
    }
    spec["initContainers"] = [{"name": "side", "restartPolicy": "Always", "resources": {"requests": {"memory": "1Gi"}}}]
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": {"qosClass": quality}}


@pytest.mark.parametrize(
    ("quality", "asks", "priority", "score"),
    [
        ("Guaranteed", "1Gi", 0, -997), ("BestEffort", "0", 0, 1000), ("Burstable", "2Gi", 0, 750), ("Burstable", "0", 0, 999),
        ("Burstable", "8Gi", 0, 3), ("Burstable", "1Gi", 2_000_001_000, -997),
    ],
)  # fmt: skip
def test_the_more_memory_is_asked_for_the_later_the_kernel_kills(
    quality: str, asks: str, priority: int, score: int
) -> None:
    container = {"name": "c", "resources": {"requests": {"memory": asks}}}
    assert linux_resources(pod(quality, priority=priority), container, 8 * GIB).oom_score_adj == score


def test_a_sidecar_goes_no_earlier_than_what_it_serves() -> None:
    burstable = pod("Burstable")
    assert linux_resources(burstable, burstable["spec"]["initContainers"][0], 8 * GIB).oom_score_adj == 250
