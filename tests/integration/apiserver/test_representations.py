"""The forms an answer may take: protobuf, tables of either version, other versions of the same objects."""

import json
from typing import Any

import pytest

from machinery import errors
from machinery.api import protobuf
from machinery.api.resources import (
    CONFIG_MAPS,
    EVENTS,
    EVENTS_V1,
    HORIZONTAL_POD_AUTOSCALERS,
    HORIZONTAL_POD_AUTOSCALERS_V1,
    NODES,
    PODS,
    SECRETS,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod

PROTOBUF = "application/vnd.kubernetes.protobuf"
TABLE = "application/json;as=Table;v={};g=meta.k8s.io"
AUTOSCALER = {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}


def event(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name}, "regarding": {"namespace": "default"}, "eventTime": "2017-09-19T13:49:16.000000Z",
        "note": "it happened", "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node",
    }  # fmt: skip


def frames(body: bytes) -> list[bytes]:
    found = []
    while body:
        size = int.from_bytes(body[:4])
        found.append(body[4 : 4 + size])
        body = body[4 + size :]
    return found


async def test_a_client_that_takes_protobuf_alone_is_answered_in_it(client: Client) -> None:
    made = await client.create(PODS, pod("a"), "default")
    for accept in (PROTOBUF, f"{PROTOBUF};as=x;v=v1;g=meta.k8s.io,{PROTOBUF}"):
        body = await client.request("GET", PODS.path("default", "a"), headers={"Accept": accept})
        found = protobuf.decode(body)
        assert (found["metadata"]["uid"], found["spec"]) == (made["metadata"]["uid"], made["spec"])
    listed = await client.request("GET", PODS.path("default"), headers={"Accept": PROTOBUF})
    assert [one["metadata"]["name"] for one in protobuf.decode(listed)["items"]] == ["a"]
    both = await client.request("GET", PODS.path("default", "a"), headers={"Accept": f"{PROTOBUF}, */*"})
    assert json.loads(both) == made  # text, where the client takes it


async def test_a_watch_in_protobuf_is_a_row_of_frames(client: Client) -> None:
    before = (await client.list(CONFIG_MAPS, "default"))["metadata"]["resourceVersion"]
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, "default")
    params = {"watch": "true", "resourceVersion": before, "timeoutSeconds": "1"}
    body = await client.request("GET", CONFIG_MAPS.path("default"), params=params, headers={"Accept": PROTOBUF})
    frame = frames(body)[0]
    assert frame.startswith(b"\x0a\x05ADDED")
    at = frame.index(protobuf.MAGIC)
    assert protobuf.decode(frame[at:])["data"] == {"k": "v"}


async def test_a_table_is_of_the_version_asked_for_and_no_part_of_a_streaming_list(client: Client) -> None:
    for version in ("v1", "v1beta1"):
        body = await client.request("GET", NODES.path(), headers={"Accept": TABLE.format(version)})
        assert json.loads(body)["apiVersion"] == f"meta.k8s.io/{version}"
    stream = {
        "watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "timeoutSeconds": "1",
        "allowWatchBookmarks": "true",
    }  # fmt: skip
    with pytest.raises(errors.NotAcceptable):
        await client.request("GET", SECRETS.path(), params=stream, headers={"Accept": TABLE.format("v1")})
    accept = TABLE.format("v1") + ",application/json"
    lines = (await client.request("GET", SECRETS.path(), params=stream, headers={"Accept": accept})).splitlines()
    assert json.loads(lines[-1])["object"]["kind"] == "Secret"


async def test_a_review_is_no_table(client: Client) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = json.dumps({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).encode()
    with pytest.raises(errors.NotAcceptable):
        await client.request("POST", path, body=body, headers={"Accept": TABLE.format("v1")})


async def test_events_of_both_groups_are_the_same_objects(client: Client) -> None:
    made = await client.create(EVENTS_V1, event("a"), "default")
    core = await client.get(EVENTS, "a", "default")
    assert (core["message"], core["involvedObject"]) == ("it happened", {"namespace": "default"})
    assert core["metadata"] == made["metadata"]
    assert len((await client.list(EVENTS, "default", field_selector="source=test-controller"))["items"]) == 1
    selected = await client.list(EVENTS_V1, "default", field_selector="reportingController=test-controller")
    assert selected["items"] == [made]
    patched = await client.patch(EVENTS_V1, "a", {"note": "it happened again"}, "default")
    assert (await client.get(EVENTS, "a", "default"))["message"] == "it happened again"
    with pytest.raises(errors.Invalid, match="series.count: Invalid value"):
        await client.update(EVENTS_V1, {**patched, "series": {"count": 1}})
    body = await client.request("GET", EVENTS_V1.path("default"), params={"watch": "1", "timeoutSeconds": "1"})
    assert json.loads(body.splitlines()[0])["object"] == patched
    await client.delete(EVENTS_V1, "a", "default")
    with pytest.raises(errors.NotFound, match=r'events "a" not found'):
        await client.get(EVENTS_V1, "a", "default")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"eventTime": None}, "eventTime: Required value"),
        ({"type": "Odd"}, "has invalid value: Odd"),
        ({"action": ""}, "action: Required value"),
        ({"deprecatedCount": 1}, "count: Invalid value"),
        ({"regarding": {"namespace": "other"}, "eventTime": None}, "does not match event.namespace"),
    ],
)
async def test_a_new_event_tells_all_there_is(client: Client, change: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.Invalid, match=told):
        await client.create(EVENTS_V1, {**event("a"), **change}, "default")


async def test_autoscalers_of_v1_keep_what_only_v2_knows(client: Client) -> None:
    metrics = [
        {"type": "Resource", "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": 60}}}
        for name in ("cpu", "memory")
    ]
    await client.create(
        HORIZONTAL_POD_AUTOSCALERS, {"metadata": {"name": "a"}, "spec": {**AUTOSCALER, "metrics": metrics}}, "default"
    )
    old = await client.get(HORIZONTAL_POD_AUTOSCALERS_V1, "a", "default")
    assert old["spec"]["targetCPUUtilizationPercentage"] == 60
    await client.patch(HORIZONTAL_POD_AUTOSCALERS_V1, "a", {"spec": {"targetCPUUtilizationPercentage": 70}}, "default")
    new = (await client.get(HORIZONTAL_POD_AUTOSCALERS, "a", "default"))["spec"]["metrics"]
    assert [(one["resource"]["name"], one["resource"]["target"]["averageUtilization"]) for one in new] == [
        ("cpu", 70), ("memory", 60)
    ]  # fmt: skip
    assert "annotations" not in (await client.get(HORIZONTAL_POD_AUTOSCALERS, "a", "default"))["metadata"]


async def test_a_watch_from_a_forgotten_version_is_told_so_in_its_only_event(client: Client, server: Any) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    server.cache.collection("configmaps")._forgotten = server.cache.revision  # as after many changes
    body = await client.request("GET", CONFIG_MAPS.path("default"), params={"watch": "1", "resourceVersion": "1"})
    told = json.loads(body)
    assert (told["type"], told["object"]["reason"], told["object"]["code"]) == ("ERROR", "Expired", 410)


async def test_metadata_alone_is_watched_in_protobuf(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    accept = f"{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    params = {"watch": "1", "timeoutSeconds": "1", "allowWatchBookmarks": "1"}
    body = await client.request("GET", CONFIG_MAPS.path("default"), params=params, headers={"Accept": accept})
    kinds = [protobuf.decode(frame[frame.index(protobuf.MAGIC) :])["kind"] for frame in frames(body)]
    assert kinds == ["PartialObjectMetadata"] * 2  # the object, and the bookmark at the end


@pytest.mark.parametrize(
    ("match", "version", "told"),
    [
        ("Odd", "1", 'Unsupported value: "Odd"'),
        ("Exact", "0", 'is forbidden for resourceVersion "0"'),
        ("Exact", "", "is forbidden unless resourceVersion is provided"),
    ],
)
async def test_options_that_contradict_each_other_are_invalid(
    client: Client, match: str, version: str, told: str
) -> None:
    params = {"resourceVersionMatch": match, "resourceVersion": version}
    with pytest.raises(errors.Invalid, match="ListOptions.meta.k8s.io .* is invalid: resourceVersionMatch: .*" + told):
        await client.request("GET", CONFIG_MAPS.path("default"), params=params)


async def test_discovery_in_protobuf_and_the_version_a_kind_is_stored_in(client: Client) -> None:
    headers = {"Accept": "application/vnd.kubernetes.protobuf"}
    for path, kind in (("/api", "APIVersions"), ("/apis", "APIGroupList"), ("/api/v1", "APIResourceList")):
        found = protobuf.decode(await client.request("GET", path, headers=headers))
        assert (found["kind"], found["apiVersion"]) == (kind, "v1")
    resources = {one["name"]: one for one in found["resources"]}
    assert resources["pods"]["shortNames"] == ["po"]
    assert resources["pods"]["storageVersionHash"] == "xPOwRZ+Yhw8="  # as every Kubernetes has it
    assert not resources["pods/log"].get("storageVersionHash")
    old = json.loads(await client.request("GET", "/apis/autoscaling/v1"))["resources"][0]
    new = json.loads(await client.request("GET", "/apis/autoscaling/v2"))["resources"][0]
    assert old["storageVersionHash"] == new["storageVersionHash"]
