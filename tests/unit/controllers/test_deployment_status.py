"""The conditions `kubectl rollout status` and users read."""

from datetime import timedelta
from typing import Any

import pytest

from controllers import conditions, deployment_status
from controllers.deployment_status import status_of, with_pause
from tests.unit.controllers.builders import NOW, ago, deployment, replica_set


def progressing(reason: str, *, status: str = "True", seconds: float = 5) -> dict[str, Any]:
    time = ago(seconds)
    return {
        "type": "Progressing", "status": status, "reason": reason, "message": "",
        "lastUpdateTime": time, "lastTransitionTime": time,
    }  # fmt: skip


def judged(new: Any, *old: Any, before: dict[str, Any] | None = None, known: Any = (), **spec: Any) -> dict[str, Any]:
    found = deployment(3, status=before, **{"progressDeadlineSeconds": 60, **spec})
    return status_of(found, new, [*old, new], tuple(known), rolling_out=True, at=NOW)


def condition(status: dict[str, Any], kind: str = "Progressing") -> Any:
    return conditions.find(status["conditions"], kind)


def test_a_finished_rollout_is_complete_and_available() -> None:
    status = judged(replica_set("new", 3), known=[progressing("ReplicaSetUpdated")])
    assert {name: status[name] for name in ("replicas", "updatedReplicas", "availableReplicas")} == {
        "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3,
    }  # fmt: skip
    assert status["unavailableReplicas"] == 0
    assert condition(status)["reason"] == "NewReplicaSetAvailable"
    assert condition(status)["message"] == 'ReplicaSet "new" has successfully progressed.'
    assert condition(status, "Available")["reason"] == "MinimumReplicasAvailable"


def test_progress_renews_the_time_the_deadline_counts_from() -> None:
    before = {"replicas": 3, "updatedReplicas": 1, "availableReplicas": 2, "readyReplicas": 2}
    status = judged(
        replica_set("new", 2, available=1), replica_set("old", 1),
        before=before, known=[progressing("NewReplicaSetCreated", seconds=50)],
    )  # fmt: skip
    assert condition(status)["reason"] == "ReplicaSetUpdated"
    assert condition(status)["lastUpdateTime"] == ago(0)
    assert condition(status)["lastTransitionTime"] == ago(50), "it was True before"


@pytest.mark.parametrize(
    ("seconds", "reason", "expected"),
    [
        (59, "ReplicaSetUpdated", "ReplicaSetUpdated"),
        (61, "ReplicaSetUpdated", "ProgressDeadlineExceeded"),
        (61, "NewReplicaSetCreated", "ProgressDeadlineExceeded"),
        (61, "DeploymentResumed", "ProgressDeadlineExceeded"),
    ],
)
def test_without_progress_the_deadline_runs_out(seconds: float, reason: str, expected: str) -> None:
    before = {"replicas": 3, "updatedReplicas": 3}
    status = judged(replica_set("new", 3, available=0), before=before, known=[progressing(reason, seconds=seconds)])
    assert condition(status)["reason"] == expected
    assert condition(status)["status"] == ("False" if expected == "ProgressDeadlineExceeded" else "True")


def test_a_complete_deployment_whose_pod_fails_later_does_not_time_out() -> None:
    before = {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "readyReplicas": 3}
    known = [progressing("NewReplicaSetAvailable", seconds=1000)]
    status = judged(replica_set("new", 3, available=1), before=before, known=known)
    assert condition(status) == known[0]
    assert condition(status, "Available")["status"] == "False"


def test_without_a_deadline_there_is_no_progress_condition() -> None:
    for deadline in (None, deployment_status.NO_DEADLINE):
        status = judged(
            replica_set("new", 3), known=[progressing("ReplicaSetUpdated")], progressDeadlineSeconds=deadline
        )
        assert condition(status) is None


def test_a_failure_of_the_new_set_is_shown_and_goes_with_it() -> None:
    failure = {
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota",
        "lastTransitionTime": ago(3),
    }  # fmt: skip
    status = judged(replica_set("new", 3, actual=0, available=0, status={"conditions": [failure]}))
    assert condition(status, "ReplicaFailure")["message"] == "quota"
    healed = judged(replica_set("new", 3), known=status["conditions"])
    assert condition(healed, "ReplicaFailure") is None


def test_pausing_and_resuming_are_noted_once() -> None:
    paused, resumed = (deployment(paused=one, progressDeadlineSeconds=60) for one in (True, False))
    known = with_pause(paused, (progressing("ReplicaSetUpdated"),), at=NOW)
    assert condition({"conditions": known})["reason"] == "DeploymentPaused"
    assert with_pause(paused, known, at=NOW + timedelta(seconds=9)) == known
    again = with_pause(resumed, known, at=NOW)
    assert condition({"conditions": again})["reason"] == "DeploymentResumed"
    assert with_pause(resumed, again, at=NOW) == again
    late = (progressing("ProgressDeadlineExceeded", status="False"),)
    assert with_pause(paused, late, at=NOW) == late


def test_the_time_left_is_asked_only_where_progress_is_awaited() -> None:
    found = deployment(progressDeadlineSeconds=60)
    assert deployment_status.seconds_left(found, progressing("ReplicaSetUpdated", seconds=20), at=NOW) == 40
    for reason in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        assert deployment_status.seconds_left(found, progressing(reason), at=NOW) is None
    assert deployment_status.seconds_left(found, None, at=NOW) is None
