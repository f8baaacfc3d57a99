"""The scale of objects: read, written, patched and applied as a Scale, and seen as one by admission.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchpolicy
"""

import json
from typing import Any

import pytest

from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import DEPLOYMENTS, MUTATING_WEBHOOKS, PODS, VALIDATING_WEBHOOKS
from machinery.client.rest import Client, PatchType
from tests.integration.apiserver.conftest import pod
from tests.integration.apiserver.test_apply import deployment, managers
from tests.integration.apiserver.test_webhooks import Hook, hook, patch
from tests.integration.apiserver.test_webhooks_everywhere import GROUP, THINGS, define, definition, rule

__all__ = ["hook"]  # a fixture

SCALED = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "a"}, "spec": {"replicas": 3}}


async def applied(client: Client, manager: str, replicas: int, **params: str) -> dict[str, Any]:
    body = {**SCALED, "spec": {"replicas": replicas}}
    asked = {"fieldManager": manager, **params}
    return await client.patch(
        DEPLOYMENTS, "a", body, "default", type=PatchType.APPLY, params=asked, subresource="scale"
    )


async def test_a_scale_is_applied_and_its_manager_owns_the_replicas(client: Client) -> None:
    await client.create(DEPLOYMENTS, deployment(replicas=1), "default")
    with pytest.raises(errors.Conflict, match=r"conflict with .*: \.spec\.replicas"):
        await applied(client, "hpa", 3)
    scale = await applied(client, "hpa", 3, force="true")
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 3})
    found = await client.get(DEPLOYMENTS, "a", "default")
    assert found["spec"]["replicas"] == 3
    assert managers(found)["hpa", "Apply"] == {"f:spec": {"f:replicas": {}}}
    [entry] = [one for one in found["metadata"]["managedFields"] if one["manager"] == "hpa"]
    assert (entry["subresource"], entry["apiVersion"]) == ("scale", "apps/v1")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({**SCALED, "kind": "Deployment", "apiVersion": "apps/v1"}, "invalid object type: apps/v1, Kind=Deployment"),
        ({**SCALED, "spec": {"replica": 1}}, ".spec.replica: field not declared in schema"),
        ({**SCALED, "spec": {"replicas": -1}},
         'Scale.autoscaling "a" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'),
    ],
)  # fmt: skip
async def test_a_scale_that_is_none_is_refused(client: Client, body: dict[str, Any], told: str) -> None:
    await client.create(DEPLOYMENTS, deployment(), "default")
    with pytest.raises(errors.APIError) as caught:
        asked = {"fieldManager": "x", "force": "true"}
        await client.patch(DEPLOYMENTS, "a", body, "default", type=PatchType.APPLY, params=asked, subresource="scale")
    assert told in str(caught.value)


async def test_admission_sees_the_scale_and_may_change_it(client: Client, hook: Hook) -> None:
    await client.create(DEPLOYMENTS, deployment(replicas=1), "default")
    hook.answer = lambda _: patch({"op": "replace", "path": "/spec/replicas", "value": 5})
    await client.create(MUTATING_WEBHOOKS, hook.registration("one", rules=rule("apps", "deployments/scale")))
    await client.create(VALIDATING_WEBHOOKS, hook.registration("two", path="/d", rules=rule("apps", "deployments")))
    scale = await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": 2}}, "default", subresource="scale")
    assert scale["spec"]["replicas"] == 5
    assert (await client.get(DEPLOYMENTS, "a", "default"))["spec"]["replicas"] == 5
    (asked,) = hook.asked  # the webhook for deployments themselves is not asked
    assert asked["kind"] == asked["requestKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert (asked["resource"]["resource"], asked["subResource"]) == ("deployments", "scale")
    assert (asked["object"]["spec"]["replicas"], asked["oldObject"]["spec"]["replicas"]) == (2, 1)


async def test_a_webhook_for_one_version_sees_scales_of_every_version(client: Client, hook: Hook) -> None:
    body = definition("v1", "v2", "v3", properties={"replicas": {"type": "integer"}})
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    part = {"type": "object", "properties": {"replicas": {"type": "integer"}}}
    for version in body["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["properties"] |= {"spec": part, "status": part}
        if version["name"] != "v3":
            version["subresources"] = {"scale": scale}
    await define(client, body)
    await client.create(THINGS, {"metadata": {"name": "a"}, "spec": {"replicas": 1}}, "default")
    own = [{**rule(GROUP, "things/scale")[0], "apiVersions": ["v1"]}]
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=own))
    lacking = [{**own[0], "apiVersions": ["v3"]}]  # that version has no scale
    await client.create(VALIDATING_WEBHOOKS, hook.registration("three", rules=lacking, failurePolicy="Fail"))
    newer = Resource(GROUP, "v2", "things", "Thing")
    await client.patch(newer, "a", {"spec": {"replicas": 4}}, "default", type=PatchType.MERGE, subresource="scale")
    (asked,) = hook.asked
    assert (asked["resource"]["version"], asked["requestResource"]["version"]) == ("v1", "v2")
    assert asked["kind"] == asked["requestKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert (asked["object"]["kind"], asked["object"]["spec"]) == ("Scale", {"replicas": 4})


async def test_an_eviction_is_an_eviction_to_webhooks(client: Client, hook: Hook) -> None:
    await client.create(PODS, pod("a"), "default")
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", rules=rule("", "pods/eviction")))
    eviction = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "a", "namespace": "default"}}
    await client.request("POST", "/api/v1/namespaces/default/pods/a/eviction", body=json.dumps(eviction).encode())
    assert hook.asked[0]["kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
    assert hook.asked[0]["resource"] == {"group": "", "version": "v1", "resource": "pods"}
