"""Webhooks stand before custom resources, definitions, pods and connections, and never before themselves.

As upstream's conformance tests ask: test/e2e/apimachinery/webhook.go
"""

from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    HORIZONTAL_POD_AUTOSCALERS,
    MUTATING_POLICIES,
    MUTATING_POLICY_BINDINGS,
    MUTATING_WEBHOOKS,
    PODS,
    VALIDATING_POLICIES,
    VALIDATING_POLICY_BINDINGS,
    VALIDATING_WEBHOOKS,
)
from machinery.client.rest import Client, PatchType
from tests.integration.apiserver.conftest import pod
from tests.integration.apiserver.test_webhooks import Hook, hook, patch
from tests.support.waiting import until_one

__all__ = ["hook"]  # a fixture

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
GROUP = "hooks.example.com"
THINGS = Resource(GROUP, "v1", "things", "Thing")
TEXT = {"type": "string"}


def rule(group: str, resource: str, *operations: str) -> list[dict[str, Any]]:
    return [
        {"operations": list(operations or ["*"]), "apiGroups": [group], "apiVersions": ["*"], "resources": [resource]}
    ]


def definition(*versions: str, **schema: Any) -> dict[str, Any]:
    data = schema or {"additionalProperties": TEXT}
    shape = {"type": "object", "properties": {"data": {"type": "object", **data}}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    return {
        "metadata": {"name": f"things.{GROUP}", "labels": {"kept": "yes"}},
        "spec": {
            "group": GROUP, "scope": "Namespaced", "names": names,
            "versions": [
                {"name": name, "served": True, "storage": at == 0, "schema": {"openAPIV3Schema": shape}}
                for at, name in enumerate(versions)
            ],
        },
    }  # fmt: skip


async def define(client: Client, body: dict[str, Any]) -> None:
    def established(crd: dict[str, Any]) -> bool:
        return any(c["type"] == "Established" and c["status"] == "True" for c in crd["status"].get("conditions") or ())

    await client.create(CRDS, body)
    await until_one(client, CRDS, f"things.{GROUP}", established)


def stages(request: dict[str, Any]) -> dict[str, Any]:
    """Add the next stage to what has begun, as the webhooks of the tests do."""
    data = request["object"].get("data") or {}
    for before, after in (("mutation-start", "mutation-stage-1"), ("mutation-stage-1", "mutation-stage-2")):
        if before in data and after not in data:
            return patch({"op": "add", "path": f"/data/{after}", "value": "yes"})
    return {"allowed": True}


async def two_stages(client: Client, hook: Hook) -> None:
    hook.answer = stages
    body = hook.registration("one", rules=rule(GROUP, "things", "CREATE", "UPDATE"))
    second = {**body["webhooks"][0], "name": "two.hook.example.com"}
    await client.create(MUTATING_WEBHOOKS, {**body, "webhooks": [*body["webhooks"], second]})


async def test_a_custom_resource_is_changed_and_what_its_schema_does_not_know_is_pruned(
    client: Client, hook: Hook
) -> None:
    await two_stages(client, hook)
    known = {"mutation-start": TEXT, "mutation-stage-1": TEXT}
    await define(client, definition("v1", properties=known))
    made = await client.create(THINGS, {"metadata": {"name": "a"}, "data": {"mutation-start": "yes"}}, "default")
    assert made["data"] == {"mutation-start": "yes", "mutation-stage-1": "yes"}  # the second stage is not in the schema


async def test_a_custom_resource_is_changed_whatever_version_it_is_stored_in(client: Client, hook: Hook) -> None:
    await two_stages(client, hook)
    await define(client, definition("v1", "v2"))
    await client.create(THINGS, {"metadata": {"name": "a"}, "data": {}}, "default")
    swap = [
        {"op": "replace", "path": f"/spec/versions/{at}/storage", "value": value}
        for at, value in ((0, False), (1, True))
    ]
    await client.patch(CRDS, f"things.{GROUP}", swap, type=PatchType.JSON)
    await until_one(client, CRDS, f"things.{GROUP}", lambda crd: "v2" in (crd["status"].get("storedVersions") or ()))
    changed = await client.patch(THINGS, "a", {"data": {"mutation-start": "yes"}}, "default", type=PatchType.MERGE)
    assert changed["data"] == dict.fromkeys(("mutation-start", "mutation-stage-1", "mutation-stage-2"), "yes")


async def test_custom_resources_and_definitions_are_refused(client: Client, hook: Hook) -> None:
    await define(client, definition("v1"))
    made = await client.create(THINGS, {"metadata": {"name": "a"}, "data": {"k": "v"}}, "default")
    hook.answer = lambda request: {"allowed": False, "status": {"message": f"no {request['operation']}"}}
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=rule(GROUP, "things")))
    await client.create(
        VALIDATING_WEBHOOKS, hook.registration("two", rules=rule("apiextensions.k8s.io", "customresourcedefinitions"))
    )
    with pytest.raises(errors.APIError, match="denied the request: no CREATE"):
        await client.create(THINGS, {"metadata": {"name": "b"}}, "default")
    with pytest.raises(errors.APIError, match="denied the request: no UPDATE"):
        await client.update(THINGS, {**made, "data": {"k": "w"}})
    with pytest.raises(errors.APIError, match="denied the request: no DELETE"):
        await client.delete(THINGS, "a", "default")
    with pytest.raises(errors.APIError, match="denied the request: no CREATE"):
        other = definition("v1")
        other["metadata"]["name"], other["spec"]["group"] = "things.other.example.com", "other.example.com"
        await client.create(CRDS, other)


async def test_what_a_webhook_adds_to_a_pod_gets_its_defaults(client: Client, hook: Hook) -> None:
    added = {"name": "webhook-added-init-container", "image": "web:1", "resources": {}}
    hook.answer = lambda _: patch({"op": "add", "path": "/spec/initContainers", "value": [added]})
    await client.create(MUTATING_WEBHOOKS, hook.registration("one", rules=rule("", "pods", "CREATE")))
    [init] = (await client.create(PODS, pod("a"), "default"))["spec"]["initContainers"]
    assert (init["name"], init["terminationMessagePolicy"]) == ("webhook-added-init-container", "File")


@pytest.mark.parametrize("part", ["attach", "exec", "portforward"])
async def test_a_connection_to_a_pod_is_refused(client: Client, hook: Hook, part: str) -> None:
    await client.create(PODS, pod("a"), "default")
    hook.answer = lambda _: {"allowed": False, "status": {"message": f"{part} to pod 'a' is not allowed"}}
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=rule("", f"pods/{part}", "CONNECT")))
    with pytest.raises(errors.APIError, match=f"{part} to pod 'a' is not allowed"):
        await client.request("POST", f"/api/v1/namespaces/default/pods/a/{part}", params={"container": "c"})
    [asked] = hook.asked
    assert (asked["operation"], asked["subResource"], asked["name"]) == ("CONNECT", part, "a")
    assert asked["requestKind"]["kind"] == f"Pod{'PortForward' if part == 'portforward' else part.title()}Options"


async def test_configurations_of_webhooks_are_left_alone_by_webhooks(
    client: Client, server: APIServer, hook: Hook
) -> None:
    hook.answer = lambda _: {"allowed": False, "status": {"message": "no"}}
    everything = rule("admissionregistration.k8s.io", "*")
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=everything))
    await client.create(MUTATING_WEBHOOKS, hook.registration("one", rules=everything))
    for resource in (VALIDATING_WEBHOOKS, MUTATING_WEBHOOKS):
        made = await client.create(resource, hook.registration("other", rules=rule("example.com", "things")))
        assert made["webhooks"][0]["name"] == "other.hook.example.com"
        await client.delete(resource, "other")
    assert hook.asked == []


async def test_a_webhook_for_one_version_sees_requests_in_every_version(client: Client, hook: Hook) -> None:
    """Converted to its own, unless it insists on exact matches; what it changes is converted back."""
    await define(client, definition("v1", "v2"))
    newer, own = Resource(GROUP, "v2", "things", "Thing"), [{**rule(GROUP, "things")[0], "apiVersions": ["v1"]}]
    hook.answer = stages
    await client.create(MUTATING_WEBHOOKS, hook.registration("one", rules=own))
    exact = {"rules": own, "matchPolicy": "Exact", "failurePolicy": "Fail"}
    await client.create(VALIDATING_WEBHOOKS, hook.registration("two", path="/exact", **exact))
    body = {
        "apiVersion": newer.api_version,
        "kind": "Thing",
        "metadata": {"name": "a"},
        "data": {"mutation-start": "yes"},
    }
    made = await client.create(newer, body, "default")
    assert (made["apiVersion"], made["data"]["mutation-stage-1"]) == (newer.api_version, "yes")
    (asked,) = hook.asked
    assert (asked["kind"]["version"], asked["requestKind"]["version"]) == ("v1", "v2")
    assert (asked["resource"]["version"], asked["requestResource"]["version"]) == ("v1", "v2")
    assert asked["object"]["apiVersion"] == THINGS.api_version


async def test_a_webhook_for_an_older_autoscaler_sees_newer_ones(client: Client, hook: Hook) -> None:
    only = {
        "operations": ["CREATE"],
        "apiGroups": ["autoscaling"],
        "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"],
    }
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=[only]))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    body = {"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target}}
    await client.create(HORIZONTAL_POD_AUTOSCALERS, body, "default")
    assert hook.asked[0]["object"]["apiVersion"] == "autoscaling/v1"
    assert hook.asked[0]["object"]["spec"]["targetCPUUtilizationPercentage"] == 80


async def test_policies_for_one_version_see_requests_in_every_version(client: Client) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    older = {
        "operations": ["CREATE"],
        "apiGroups": ["autoscaling"],
        "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"],
    }
    match = {"resourceRules": [older]}
    change = {"expression": "Object{spec: Object.spec{targetCPUUtilizationPercentage: 33}}"}
    mutations = [{"patchType": "ApplyConfiguration", "applyConfiguration": change}]
    spec = {"matchConstraints": match, "mutations": mutations, "reinvocationPolicy": "Never"}
    await client.create(MUTATING_POLICIES, {"metadata": {"name": "few"}, "spec": spec})
    await client.create(MUTATING_POLICY_BINDINGS, {"metadata": {"name": "few"}, "spec": {"policyName": "few"}})
    rules = [{"expression": "object.apiVersion == 'autoscaling/v1' && object.spec.targetCPUUtilizationPercentage == 33"},
             {"expression": "object.spec.maxReplicas < 5", "message": "too many"}]  # fmt: skip
    await client.create(
        VALIDATING_POLICIES, {"metadata": {"name": "few"}, "spec": {"matchConstraints": match, "validations": rules}}
    )
    bound = {"policyName": "few", "validationActions": ["Deny"]}
    await client.create(VALIDATING_POLICY_BINDINGS, {"metadata": {"name": "few"}, "spec": bound})
    body = {"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target}}
    made = await client.create(HORIZONTAL_POD_AUTOSCALERS, body, "default")
    assert made["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 33}
    with pytest.raises(errors.Invalid, match="too many"):
        await client.create(
            HORIZONTAL_POD_AUTOSCALERS,
            {**body, "metadata": {"name": "b"}, "spec": {**body["spec"], "maxReplicas": 9}},
            "default",
        )
