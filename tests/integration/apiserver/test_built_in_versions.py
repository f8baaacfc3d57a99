"""Built-in kinds that are served in two versions, over the same stored objects; and kinds that are never stored."""

import json
from typing import Any

import pytest

from machinery import errors
from machinery.api.meta import now_micro
from machinery.api.resources import (
    EVENTS,
    EVENTS_V1,
    HORIZONTAL_POD_AUTOSCALERS,
    HORIZONTAL_POD_AUTOSCALERS_V1,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl

TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}


def event(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name}, "eventTime": now_micro(), "reportingController": "example.com/c", "reportingInstance": "c-1",
        "action": "Do", "reason": "Done", "note": "it is done", "type": "Normal",
        "regarding": {"kind": "Pod", "name": "web", "namespace": "default"}, **changes,
    }  # fmt: skip


async def test_an_event_is_seen_in_both_versions(client: Client) -> None:
    made = await client.create(EVENTS_V1, event("one"), "default")
    assert (made["apiVersion"], made["note"], made["regarding"]["name"]) == ("events.k8s.io/v1", "it is done", "web")
    old = await client.get(EVENTS, "one", "default")
    assert (old["apiVersion"], old["message"], old["involvedObject"]["name"]) == ("v1", "it is done", "web")
    assert old["reportingComponent"] == "example.com/c"
    assert old["metadata"]["uid"] == made["metadata"]["uid"]
    core = {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "message": "m", "reason": "r", "source": {"component": "s"}, "count": 2}  # fmt: skip
    await client.create(EVENTS, {"metadata": {"name": "two"}, **core}, "default")
    new = await client.get(EVENTS_V1, "two", "default")
    assert (new["note"], new["deprecatedSource"], new["deprecatedCount"]) == ("m", {"component": "s"}, 2)


async def test_events_are_patched_listed_selected_and_deleted_by_their_new_names(client: Client) -> None:
    for name, reason in (("one", "A"), ("two", "B")):
        await client.create(EVENTS_V1, event(name, reason=reason), "default")
    series = {"series": {"count": 100, "lastObservedTime": now_micro()}}
    changed = await client.patch(EVENTS_V1, "one", series, "default")
    assert changed["series"]["count"] == 100
    assert (await client.get(EVENTS, "one", "default"))["series"]["count"] == 100
    found = (await client.list(EVENTS_V1, "default", field_selector="reason=B,regarding.name=web"))["items"]
    assert [(one["metadata"]["name"], one["apiVersion"]) for one in found] == [("two", "events.k8s.io/v1")]
    changed["note"] = "again"
    changed["metadata"].pop("managedFields", None)
    assert (await client.update(EVENTS_V1, changed))["note"] == "again"
    with pytest.raises(errors.Invalid, match="action: Invalid value.*field is immutable"):
        await client.patch(EVENTS_V1, "one", {"action": "Other"}, "default")
    await client.delete(EVENTS_V1, "one", "default")
    assert [one["metadata"]["name"] for one in (await client.list(EVENTS, "default"))["items"]] == ["two"]
    with pytest.raises(errors.Invalid, match="reportingController: Required value"):
        await client.create(EVENTS_V1, event("three", reportingController=""), "default")


async def test_a_watch_shows_the_version_asked_for(client: Client) -> None:
    async for one in client.watch(EVENTS_V1, "default", resource_version="0"):
        if one.type == "BOOKMARK":
            continue
        assert (one.decode()["apiVersion"], one.decode()["note"]) == ("events.k8s.io/v1", "it is done")
        break
    else:
        pytest.fail("nothing came")


@pytest.fixture(autouse=True)
async def _first(request: pytest.FixtureRequest, client: Client) -> None:
    if request.node.name.startswith("test_a_watch"):
        await client.create(EVENTS, {"metadata": {"name": "w"}, "involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "message": "it is done"}, "default")  # fmt: skip


async def test_an_autoscaler_says_in_v1_what_it_can_and_loses_nothing(client: Client) -> None:
    spec = {"scaleTargetRef": TARGET, "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70}
    made = await client.create(HORIZONTAL_POD_AUTOSCALERS_V1, {"metadata": {"name": "web"}, "spec": spec}, "default")
    assert (made["apiVersion"], made["spec"]) == ("autoscaling/v1", spec)
    full = await client.get(HORIZONTAL_POD_AUTOSCALERS, "web", "default")
    assert full["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    full["spec"]["metrics"].append(memory)
    full["metadata"].pop("managedFields", None)
    await client.update(HORIZONTAL_POD_AUTOSCALERS, full)
    await client.patch(HORIZONTAL_POD_AUTOSCALERS_V1, "web", {"spec": {"maxReplicas": 9}}, "default")
    after = await client.get(HORIZONTAL_POD_AUTOSCALERS, "web", "default")
    assert after["spec"]["maxReplicas"] == 9
    assert [one["resource"]["name"] for one in after["spec"]["metrics"]] == ["cpu", "memory"]
    with pytest.raises(errors.Invalid, match="maxReplicas"):
        await client.patch(HORIZONTAL_POD_AUTOSCALERS_V1, "web", {"spec": {"maxReplicas": 0}}, "default")


@pytest.mark.slow
async def test_kubectl_finds_the_versions_and_the_reviews(client: Client, kubectl: Kubectl) -> None:
    versions = (await kubectl("api-versions"))[1].split()
    wanted = {
        "events.k8s.io/v1",
        "autoscaling/v1",
        "autoscaling/v2",
        "authentication.k8s.io/v1",
        "authorization.k8s.io/v1",
    }
    assert wanted <= set(versions)
    await client.create(EVENTS_V1, event("one"), "default")
    code, out, _ = await kubectl("get", "events.v1.events.k8s.io")
    assert (code, "it is done" in out) == (0, True)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
    }
    code, out, problem = await kubectl(
        "create", "-f", "-", "-o", "jsonpath={.status.allowed}", stdin=json.dumps(review)
    )
    assert (code, out, problem) == (0, "true", "")
    assert "regarding" in (await kubectl("explain", "events", "--api-version=events.k8s.io/v1"))[1]
