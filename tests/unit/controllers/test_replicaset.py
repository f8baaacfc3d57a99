"""ReplicaSets: whom to delete, what to say, how to begin."""

import asyncio
from typing import Any

import pytest

from controllers.pod_control import pod_of_template, slow_start
from controllers.pod_ranking import DELETION_COST, pods_to_delete
from controllers.replicaset import Failure, seconds_until_available, status_of
from machinery.api.resources import REPLICA_SETS
from machinery.errors import Forbidden
from tests.unit.controllers.builders import NOW, ago, pod, replica_set, template

STAYS = {"name": "stays", "creationTimestamp": ago(500)}


@pytest.mark.parametrize(
    "goes",
    [
        pytest.param({"node": ""}, id="not on a node"),
        pytest.param({"phase": "Pending"}, id="pending"),
        pytest.param({"phase": "Unknown"}, id="unknown"),
        pytest.param({"ready": False}, id="not ready"),
        pytest.param({"annotations": {DELETION_COST: "-1"}}, id="cheap"),
        pytest.param({"node": "crowded"}, id="on a node with more of them"),
        pytest.param({"ready_seconds": 3}, id="ready for less long"),
        pytest.param({"restarts": 5}, id="restarted more often"),
        pytest.param({"creationTimestamp": ago(5)}, id="newer"),
    ],
)
def test_of_two_pods_the_lesser_loss_goes(goes: dict[str, Any]) -> None:
    stays, loser = pod(**STAYS), pod(**{"name": "goes", "creationTimestamp": ago(500), **goes})
    related = [stays, loser, pod("other", node="crowded"), pod("another", node="crowded")]
    for pods in ([stays, loser], [loser, stays]):
        assert [one.metadata.name for one in pods_to_delete(pods, related, 1, at=NOW)] == ["goes"]


def test_being_ready_counts_for_more_than_a_cost() -> None:
    dear = pod("dear", ready=False, annotations={DELETION_COST: "1000"})
    assert pods_to_delete([pod("plain"), dear], [], 1, at=NOW) == [dear]


def test_a_cost_that_is_no_number_counts_as_nothing() -> None:
    cheap = pod("cheap", annotations={DELETION_COST: "-5"})
    assert pods_to_delete([pod("odd", annotations={DELETION_COST: "lots"}), cheap], [], 1, at=NOW) == [cheap]


def test_a_pod_counts_as_available_when_it_was_ready_long_enough() -> None:
    rs = replica_set("rs", 3, spec={"minReadySeconds": 10})
    pods = [pod("a", ready_seconds=11), pod("b", ready_seconds=4), pod("c", ready=False)]
    status = status_of(rs, pods, 0, None, at=NOW)
    assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 2, 1)
    assert seconds_until_available(rs, pods, at=NOW) == 6
    assert seconds_until_available(rs, pods[:1], at=NOW) is None


def test_pods_that_lack_a_label_of_the_template_are_told_apart() -> None:
    rs = replica_set("rs", 2)
    status = status_of(rs, [pod("a", labels={"app": "web", "x": "y"}), pod("b")], 0, None, at=NOW)
    assert status["fullyLabeledReplicas"] == 1


def test_a_failed_step_is_shown_until_one_succeeds() -> None:
    rs = replica_set("rs", 2)
    failed = status_of(rs, [], 0, Failure("FailedCreate", Forbidden("quota")), at=NOW)["conditions"]
    assert [(one["type"], one["reason"], one["message"]) for one in failed] == [
        ("ReplicaFailure", "FailedCreate", "quota")
    ]
    rs = replica_set("rs", 2, status={"conditions": failed})
    assert status_of(rs, [], 0, None, at=NOW)["conditions"] == []


def test_a_new_pod_is_the_template_with_a_name_to_come_and_an_owner() -> None:
    made = template("one", annotations={"a": "b"}, finalizers=["x/y"], creationTimestamp=None)
    owner = replica_set("web-1", spec={"template": made})
    body = pod_of_template(REPLICA_SETS, owner.metadata, owner.spec.template)
    assert body["metadata"] == {
        "generateName": "web-1-", "namespace": "default", "labels": {"app": "web"}, "annotations": {"a": "b"},
        "finalizers": ["x/y"],
        "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "uid-web-1",
            "controller": True, "blockOwnerDeletion": True,
        }],
    }  # fmt: skip
    assert body["spec"] == made["spec"]


async def test_a_start_that_goes_well_doubles_its_batches() -> None:
    running, peaks = 0, []

    async def act() -> None:
        nonlocal running
        running += 1
        peaks.append(running)
        await asyncio.sleep(0)
        running -= 1

    assert await slow_start(11, act) == (11, [])
    assert [peaks.count(size) for size in (1, 2, 4)] == [4, 3, 2], "batches of 1, 2, 4 and the 4 that are left"


async def test_a_start_that_fails_asks_no_more_than_it_must() -> None:
    calls = 0

    async def act() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Forbidden("quota")

    done, errors = await slow_start(500, act)
    assert (done, calls, [str(error) for error in errors]) == (1, 3, ["quota", "quota"])
