"""Server-side apply, with our client and with the real kubectl.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import json
from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import CONFIG_MAPS, DEPLOYMENTS, PODS
from machinery.client.rest import Client, PatchType
from tests.integration.apiserver.conftest import Kubectl, pod


def config_map(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}


def deployment(**spec: Any) -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "one"}]}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }  # fmt: skip


async def apply(
    client: Client,
    config: dict[str, Any],
    manager: str,
    *,
    resource: Any = CONFIG_MAPS,
    force: bool = False,
    subresource: str = "",
) -> dict[str, Any]:
    params = {"fieldManager": manager, **({"force": "true"} if force else {})}
    return await client.patch(
        resource, "a", config, "default", type=PatchType.APPLY, params=params, subresource=subresource
    )


def managers(obj: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["manager"], one["operation"]): one["fieldsV1"] for one in obj["metadata"].get("managedFields", ())}


async def test_an_apply_creates_changes_and_takes_away(client: Client) -> None:
    made = await apply(client, config_map(x="1", y="2"), "one")
    assert managers(made) == {("one", "Apply"): {"f:data": {"f:x": {}, "f:y": {}}}}
    changed = await apply(client, config_map(x="3"), "one")
    assert changed["data"] == {"x": "3"}
    again = await apply(client, config_map(x="3"), "one")
    assert again == changed  # nothing written, not even a time


async def test_two_managers_share_an_object(client: Client) -> None:
    await apply(client, config_map(x="1"), "one")
    both = await apply(client, config_map(y="2"), "two")
    assert both["data"] == {"x": "1", "y": "2"}
    shared = await apply(client, config_map(x="1", y="2"), "two")
    assert managers(shared)["one", "Apply"] == {"f:data": {"f:x": {}}}
    left = await apply(client, config_map(y="2"), "two")  # x stays: the other still has it
    assert left["data"] == {"x": "1", "y": "2"}


async def test_a_conflict_is_told_and_can_be_forced(client: Client) -> None:
    await apply(client, config_map(x="1"), "one")
    with pytest.raises(errors.Conflict) as caught:
        await apply(client, config_map(x="2"), "two")
    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "one": .data.x'
    assert (caught.value.causes[0].reason, caught.value.causes[0].field) == ("FieldManagerConflict", ".data.x")
    forced = await apply(client, config_map(x="2"), "two", force=True)
    assert forced["data"] == {"x": "2"}
    assert list(managers(forced)) == [("two", "Apply")]


async def test_other_writes_take_fields_over(client: Client) -> None:
    await apply(client, config_map(x="1", y="1"), "one")
    updated = await client.patch(CONFIG_MAPS, "a", {"data": {"x": "2"}}, "default", params={"fieldManager": "editor"})
    assert managers(updated) == {
        ("one", "Apply"): {"f:data": {"f:y": {}}},
        ("editor", "Update"): {"f:data": {"f:x": {}}},
    }
    with pytest.raises(errors.Conflict, match='conflict with "editor" using v1 at .*: .data.x$'):
        await apply(client, config_map(x="1", y="1"), "one")


async def test_lists_merge_by_their_keys(client: Client) -> None:
    config = deployment()
    await apply(client, config, "one", resource=DEPLOYMENTS)
    sidecar = deployment()
    del sidecar["spec"]["selector"]
    sidecar["spec"]["template"] = {"spec": {"containers": [{"name": "side", "image": "two"}]}}
    both = await apply(client, sidecar, "two", resource=DEPLOYMENTS)
    assert [one["name"] for one in both["spec"]["template"]["spec"]["containers"]] == ["main", "side"]
    sidecar["spec"] = {"template": {"metadata": {"annotations": {"a": "b"}}}}
    left = await apply(client, sidecar, "two", resource=DEPLOYMENTS)
    assert [one["name"] for one in left["spec"]["template"]["spec"]["containers"]] == ["main"]
    assert left["metadata"]["generation"] == 3


async def test_replicas_are_handed_to_who_scales(client: Client) -> None:
    await apply(client, deployment(replicas=2), "one", resource=DEPLOYMENTS)
    await client.patch(
        DEPLOYMENTS, "a", {"spec": {"replicas": 7}}, "default", subresource="scale", params={"fieldManager": "hpa"}
    )
    with pytest.raises(errors.Conflict, match=r'conflict with "hpa".*: \.spec\.replicas'):
        await apply(client, deployment(replicas=2), "one", resource=DEPLOYMENTS)
    kept = await apply(client, deployment(), "one", resource=DEPLOYMENTS)
    assert kept["spec"]["replicas"] == 7


async def test_status_and_spec_have_managers_of_their_own(client: Client) -> None:
    await apply(client, deployment(), "one", resource=DEPLOYMENTS)
    status = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "status": {"replicas": 3}}
    found = await apply(client, status, "controller", resource=DEPLOYMENTS, subresource="status")
    entry = next(one for one in found["metadata"]["managedFields"] if one["manager"] == "controller")
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:replicas": {}}})
    assert found["status"]["replicas"] == 3


async def test_a_creation_is_noted_under_the_programs_name(client: Client) -> None:
    made = await client.create(PODS, pod("a"), "default")
    [entry] = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("wherry", "Update", "v1")
    container = entry["fieldsV1"]["f:spec"]["f:containers"]['k:{"name":"c"}']
    assert {".", "f:name", "f:image", "f:imagePullPolicy"} <= set(container)
    assert "f:volumeMounts" not in container, "admission's part has no manager"
    assert set(entry["fieldsV1"]["f:spec"]) == {
        "f:containers", "f:dnsPolicy", "f:enableServiceLinks", "f:restartPolicy", "f:schedulerName",
        "f:securityContext", "f:terminationGracePeriodSeconds",
    }  # fmt: skip
    cleared = await client.patch(PODS, "a", {"metadata": {"managedFields": [{}]}}, "default")
    assert "managedFields" not in cleared["metadata"]


@pytest.mark.parametrize(
    ("params", "body", "told"),
    [
        ({}, config_map(), "fieldManager: Required value: is required for apply patch"),
        ({"fieldManager": "x"}, {**config_map(), "metadata": {"name": "a", "managedFields": [{"manager": "y"}]}}, "metadata.managedFields must be nil"),
        ({"fieldManager": "x"}, {**config_map(), "metadata": {"name": "b"}}, "does not match the name on the URL"),
        ({"fieldManager": "x"}, {"metadata": {"name": "a"}, "data": {"x": "1"}}, "invalid object type: /, Kind="),
        ({"fieldManager": "x"}, {**config_map(), "kind": "Secret"}, "invalid object type: /v1, Kind=Secret"),
        ({"fieldManager": "x"}, {**config_map(), "apiVersion": "apps/v1"}, "invalid object type: apps/v1, Kind=ConfigMap"),
        ({"fieldManager": "x"}, {**config_map(), "bogus": 1}, '.bogus: field not declared in schema'),
    ],
)  # fmt: skip
async def test_what_cannot_be_applied_is_refused(
    client: Client, params: dict[str, str], body: dict[str, Any], told: str
) -> None:
    with pytest.raises(errors.APIError) as caught:
        await client.patch(CONFIG_MAPS, "a", body, "default", type=PatchType.APPLY, params=params)
    assert told in str(caught.value)


@pytest.mark.slow
async def test_kubectl_applies_on_the_server(kubectl: Kubectl) -> None:
    text = json.dumps(deployment(replicas=2))
    arguments = ("apply", "--server-side", "-f", "-")
    assert (await kubectl(*arguments, stdin=text))[1] == "deployment.apps/a serverside-applied\n"
    await kubectl("scale", "deploy/a", "--replicas=5")
    code, _, problem = await kubectl(*arguments, stdin=text)
    assert code == 1
    assert 'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1' in problem
    assert ".spec.replicas" in problem
    assert (await kubectl(*arguments, "--force-conflicts", stdin=text))[0] == 0
    assert (await kubectl("get", "deploy", "a", "-o", "jsonpath={.spec.replicas}"))[1] == "2"
    assert (await kubectl("diff", "--server-side", "-f", "-", stdin=text))[0] == 0


@pytest.mark.slow
async def test_kubectl_moves_from_client_side_apply(kubectl: Kubectl) -> None:
    first = json.dumps(config_map(x="1", y="1"))
    assert (await kubectl("apply", "-f", "-", stdin=first))[0] == 0
    second = json.dumps(config_map(x="2"))
    code, _, problem = await kubectl("apply", "--server-side", "-f", "-", stdin=second)
    assert (code, problem) == (0, "")
    found = json.loads((await kubectl("get", "cm", "a", "-o", "json", "--show-managed-fields"))[1])
    assert found["data"] == {"x": "2"}
    assert set(managers(found)) == {("kubectl", "Apply"), ("kubectl-last-applied", "Apply")}
