"""What pods that are being resized in place count for: the larger of what they ask for and what they were given."""

from typing import Any

import pytest

from tests.unit.scheduler.builders import READER, pod_object

INFEASIBLE = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
DEFERRED = {**INFEASIBLE, "reason": "Deferred"}


@pytest.mark.parametrize(
    ("asked", "allotted", "in_effect", "conditions", "cpu"),
    [
        ("200m", None, None, [], 200),
        ("200m", "500m", "500m", [], 500),  # on its way down
        ("500m", "200m", "200m", [DEFERRED], 500),  # on its way up: the room is kept for it
        ("200m", "200m", "700m", [], 700),  # allotted, and not yet in effect
        ("9", "200m", "300m", [INFEASIBLE], 300),  # it will never have that
    ],
)
def test_a_resized_container_counts_for_the_larger(
    asked: str, allotted: str | None, in_effect: str | None, conditions: list[Any], cpu: int
) -> None:
    obj = pod_object("p", asked, nodeName="n")
    status: dict[str, Any] = {"name": "c"}
    if allotted:
        status |= {"allocatedResources": {"cpu": allotted}, "resources": {"requests": {"cpu": in_effect}}}
    obj["status"] = {"containerStatuses": [status], "conditions": conditions}
    assert READER.read_object(obj).shape.needs.requests["cpu"] == cpu


@pytest.mark.parametrize(
    ("asked", "given", "conditions", "cpu"),
    [("2", "1", [], 2000), ("1", "2", [], 2000), ("9", "2", [INFEASIBLE], 2000), (None, "2", [], 100)],
)
def test_so_does_a_pod_that_is_resized_as_a_whole(
    asked: str | None, given: str, conditions: list[Any], cpu: int
) -> None:
    obj = pod_object("p", "100m", nodeName="n")
    if asked:
        obj["spec"]["resources"] = {"requests": {"cpu": asked}}
    obj["status"] = {"resources": {"requests": {"cpu": given}}, "conditions": conditions}
    assert READER.read_object(obj).shape.needs.requests["cpu"] == cpu
