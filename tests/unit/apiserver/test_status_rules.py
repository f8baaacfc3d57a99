"""What a status may tell: whoever writes it, numbers fit together, and what has ended stays ended."""

from typing import Any

import pytest

from apiserver.registry.catalog import built_in
from machinery.api.meta import Resource
from machinery.api.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    INGRESSES,
    JOBS,
    POD_DISRUPTION_BUDGETS,
    REPLICATION_CONTROLLERS,
    SERVICES,
    STATEFUL_SETS,
)  # fmt: skip

BEGAN, ENDED = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
INDEXED = {"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1}
MET = ("SuccessCriteriaMet", "Complete")
DONE = {"startTime": BEGAN, "completionTime": ENDED, "of": MET}


def status(fields: dict[str, Any]) -> dict[str, Any]:
    fields = dict(fields)
    true = [{"type": one, "status": "True"} for one in fields.pop("of", ())]
    return {**fields, **({"conditions": true} if true else {})}


def told(resource: Resource, spec: dict[str, Any], fresh: dict[str, Any], before: dict[str, Any]) -> list[str]:
    kind = next(one for one in built_in() if one.resource == resource)
    judge = kind.subresources["status"].validate_update
    assert judge is not None
    causes = judge({"spec": spec, "status": status(fresh)}, {"spec": spec, "status": status(before)})
    return [f"{cause.field}: {cause.message}" for cause in causes]


@pytest.mark.parametrize(
    ("spec", "before", "fresh", "wrong"),
    [
        ({}, {}, DONE, []),
        ({}, DONE, {**DONE, "labelled": True}, []),
        ({}, {}, {"startTime": BEGAN, "of": ("FailureTarget", "Failed")}, []),
        ({}, {}, {"active": -1, "ready": 0}, ["status.active: Invalid value: -1: must be greater than or equal to 0",
                                              "status.ready: Invalid value: 0: cannot set more ready pods than active"]),
        ({}, {}, {"active": 1, "ready": 2}, ["status.ready: Invalid value: 2: cannot set more ready pods than active"]),
        ({}, {}, {"uncountedTerminatedPods": {"succeeded": ["a", "a"], "failed": ["", "a"]}},
         ['status.uncountedTerminatedPods.succeeded[1]: Duplicate value: "a"',
          'status.uncountedTerminatedPods.failed[0]: Invalid value: "": must not be empty',
          'status.uncountedTerminatedPods.failed[1]: Duplicate value: "a"']),
        ({}, {}, {**DONE, "of": (*MET, "Failed", "FailureTarget")},
         [f"status.conditions: Invalid value: cannot set {what} conditions"
          for what in ("Complete=True and Failed=true", "Complete=True and FailureTarget=true",
                       "SuccessCriteriaMet=True and Failed=true", "SuccessCriteriaMet=True and FailureTarget=true")]),
        ({}, {}, {**DONE, "of": ("Complete",)},
         ["status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition"]),
        ({}, {}, {"startTime": BEGAN, "of": ("Failed",)},
         ["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"]),
        ({}, DONE, {"startTime": BEGAN},
         ["status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
          "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"]),
        ({}, {}, {"startTime": BEGAN, "completionTime": ENDED},
         [f'status.completionTime: Invalid value: "{ENDED}": cannot set completionTime when there is no Complete=True condition']),
        ({}, {}, {"of": MET}, ["status.completionTime: Required value: completionTime is required for Complete jobs",
                               "status.startTime: Required value: startTime is required for finished job"]),
        ({}, {}, {**DONE, "startTime": ENDED, "completionTime": BEGAN},
         [f'status.completionTime: Invalid value: "{BEGAN}": completionTime cannot be set before startTime']),
        ({}, DONE, {**DONE, "completionTime": "2026-01-01T00:02:00Z"},
         ['status.completionTime: Invalid value: "2026-01-01T00:02:00Z": completionTime cannot be mutated']),
        ({}, {}, {**DONE, "active": 1, "terminating": 2, "uncountedTerminatedPods": {"failed": ["a"]}},
         ["status.active: Invalid value: 1: active>0 is invalid for finished job",
          "status.terminating: Invalid value: 2: terminating>0 is invalid for finished job",
          'status.uncountedTerminatedPods: Invalid value: {"failed":["a"]}: uncountedTerminatedPods needs to be empty for finished job']),
        ({}, {}, {"completedIndexes": "1", "failedIndexes": "2"},
         ['status.completedIndexes: Invalid value: "1": cannot set non-empty completedIndexes when non-indexed completion mode',
          'status.failedIndexes: Invalid value: "2": cannot set non-null failedIndexes when backoffLimitPerIndex is null']),
        (INDEXED, {}, {"completedIndexes": "1,2", "failedIndexes": "0,3-4"}, []),
        (INDEXED, {}, {"completedIndexes": "0-2", "failedIndexes": "1-7"},
         ['status.failedIndexes: Invalid value: "1-7": error parsing failedIndexes: too large index: "7"',
          'status.failedIndexes: Invalid value: "1-7": failedIndexes and completedIndexes overlap at index: 1']),
        (INDEXED, {"completedIndexes": "7"}, {"completedIndexes": "7", "active": 1}, []),  # told before the job shrank
        ({}, {"failed": 2, "succeeded": 2}, {"failed": 1},
         ["status.failed: Invalid value: 1: cannot decrease the failed counter",
          "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter"]),
        ({**INDEXED, "parallelism": 5}, {"succeeded": 2}, {"succeeded": 1}, []),
        ({}, {"startTime": BEGAN}, {}, ["status.startTime: Required value: startTime cannot be removed for unsuspended job"]),
        ({"suspend": True}, {"startTime": BEGAN}, {}, []),
    ],
)  # fmt: skip
def test_a_job_that_ended_stays_ended(
    spec: dict[str, Any], before: dict[str, Any], fresh: dict[str, Any], wrong: list[str]
) -> None:
    assert told(JOBS, spec, fresh, before) == wrong


@pytest.mark.parametrize(
    ("resource", "fresh", "wrong"),
    [
        (DEPLOYMENTS, {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 1}, []),
        (DEPLOYMENTS, {"replicas": 1, "readyReplicas": 1, "availableReplicas": 2, "unavailableReplicas": -1},
         ["status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0",
          "status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
          "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"]),
        (STATEFUL_SETS, {"replicas": 1, "currentReplicas": 2, "collisionCount": 0},
         ["status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
          "status.collisionCount: Invalid value: 0: cannot be decremented"]),
        (DAEMON_SETS, {"numberReady": -1, "numberAvailable": 3, "collisionCount": 1},
         ["status.numberReady: Invalid value: -1: must be greater than or equal to 0"]),
        (REPLICATION_CONTROLLERS, {"replicas": 0, "fullyLabeledReplicas": 1, "collisionCount": 1},
         ["status.fullyLabeledReplicas: Invalid value: 1: cannot be greater than status.replicas"]),
    ],
)  # fmt: skip
def test_the_numbers_of_a_workload_fit_together(resource: Resource, fresh: dict[str, Any], wrong: list[str]) -> None:
    before = {} if resource == DEPLOYMENTS else {"collisionCount": 1}
    assert told(resource, {}, fresh, before) == wrong


@pytest.mark.parametrize(
    ("resource", "spec", "fresh", "wrong"),
    [
        (POD_DISRUPTION_BUDGETS, {}, {"disruptionsAllowed": -1, "conditions": [
            {"type": "a b", "status": "x", "reason": "1"}, {"type": "a b", "status": "True", "reason": "Ok", "lastTransitionTime": BEGAN}]},
         ['status.conditions[0].type: Invalid value: "a b": name part must consist of',
          'status.conditions[0].status: Unsupported value: "x": supported values: "False", "True", "Unknown"',
          "status.conditions[0].lastTransitionTime: Required value: must be set",
          'status.conditions[0].reason: Invalid value: "1": a condition reason must start with alphabetic character',
          'status.conditions[1].type: Duplicate value: "a b"',
          'status.conditions[1].type: Invalid value: "a b": name part must consist of',
          "status.podDisruptionsAllowed: Invalid value: -1: must be greater than or equal to 0"]),
        (HORIZONTAL_POD_AUTOSCALERS, {}, {"desiredReplicas": -1},
         ["status.desiredReplicas: Invalid value: -1: must be greater than or equal to 0"]),
        (SERVICES, {"type": "ClusterIP"}, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
         ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]),
        (SERVICES, {"type": "LoadBalancer"}, {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "x", "ipMode": "y"}, {"hostname": "a_b", "ipMode": "VIP"}, {"hostname": "1.2.3.4"}]}},
         ['status.loadBalancer.ingress[1].ip: Invalid value: "x": must be a valid IP address',
          'status.loadBalancer.ingress[1].ipMode: Unsupported value: "y": supported values: "Proxy", "VIP"',
          "status.loadBalancer.ingress[2].ipMode: Forbidden: may not be specified when `ip` is not set",
          'status.loadBalancer.ingress[2].hostname: Invalid value: "a_b": a lowercase RFC 1123 subdomain',
          'status.loadBalancer.ingress[3].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address']),
        (INGRESSES, {}, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "x"}]}},
         ['status.loadBalancer.ingress[1].ip: Invalid value: "x": must be a valid IP address']),
    ],
)  # fmt: skip
def test_other_statuses_make_sense(
    resource: Resource, spec: dict[str, Any], fresh: dict[str, Any], wrong: list[str]
) -> None:
    kind = next(one for one in built_in() if one.resource == resource)
    judge = kind.subresources["status"].validate_update
    assert judge is not None
    causes = judge({"spec": spec, "status": fresh}, {"spec": spec, "status": {}})
    found = [f"{cause.field}: {cause.message}" for cause in causes]
    assert len(found) == len(wrong), found
    assert all(one.startswith(start) for one, start in zip(found, wrong, strict=True)), found
