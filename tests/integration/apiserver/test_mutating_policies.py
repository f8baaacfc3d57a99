"""Objects changed by mutating admission policies.

https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
"""

from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import CONFIG_MAPS, MUTATING_POLICIES, MUTATING_POLICY_BINDINGS, PODS
from machinery.cel.literals import as_maps
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import pod


async def bind(client: Client, name: str, resource: str, *mutations: dict[str, Any], **spec: Any) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
    body = {
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "mutations": list(mutations),
            "reinvocationPolicy": "Never",
            **spec,
        },
    }
    await client.create(MUTATING_POLICIES, body)
    await client.create(MUTATING_POLICY_BINDINGS, {"metadata": {"name": name}, "spec": {"policyName": name}})


def configuration(expression: str) -> dict[str, Any]:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def json_patch(expression: str) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


async def test_a_configuration_is_merged_into_the_object(client: Client) -> None:
    expression = """Object{
        metadata: Object.metadata{labels: {"team": variables.team}},
        spec: Object.spec{
            initContainers: [Object.spec.initContainers{name: "mesh", image: "mesh/proxy:v1", restartPolicy: "Always"}]
        }
    }"""
    await bind(
        client, "sidecar", "pods", configuration(expression), variables=[{"name": "team", "expression": "object.metadata.name + '-team'"}],
        matchConditions=[{"name": "none", "expression": "!has(object.spec.initContainers)"}],
    )  # fmt: skip
    made = await client.create(PODS, pod("web"), "default")
    assert made["metadata"]["labels"] == {"team": "web-team"}
    [mesh] = made["spec"]["initContainers"]
    assert (mesh["image"], mesh["terminationMessagePath"]) == ("mesh/proxy:v1", "/dev/termination-log")
    assert [one["name"] for one in made["spec"]["containers"]] == ["c"]


async def test_a_patch_changes_the_object_and_sees_what_came_before(client: Client) -> None:
    first = json_patch('[JSONPatch{op: "add", path: "/metadata/labels", value: {"a": "1"}}]')
    second = json_patch(
        """[
          JSONPatch{op: "test", path: "/metadata/labels/a", value: "1"},
          JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/b"), value: "x_y"},
        ]"""
    )
    await bind(client, "labels", "configmaps", first, second)
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "c"}}, "default")
    assert made["metadata"]["labels"] == {"a": "1", "example.com/b": "x_y"}


async def test_a_policy_that_fails_refuses_unless_it_may_not(client: Client) -> None:
    await bind(
        client,
        "broken",
        "configmaps",
        json_patch('[JSONPatch{op: "remove", path: "/data/none"}]'),
        failurePolicy="Ignore",
    )
    await client.create(CONFIG_MAPS, {"metadata": {"name": "c"}}, "default")
    await bind(client, "closed", "configmaps", configuration('Object{metadata: Object.metadata{name: "other"}}'))
    with pytest.raises(
        errors.Invalid, match="MutatingAdmissionPolicy 'closed' with binding 'closed' denied request: error applying"
    ):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "d"}}, "default")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Object{}", "{}"),
        ("Object{a: 1, ?b: x}", '{"a": 1, ?"b": x}'),
        ("Object{spec: Object.spec{n: {'k': a ? b : c}}}", """{"spec": {"n": {'k': a ? b : c}}}"""),
        ('x == "Object{a: 1}"', 'x == "Object{a: 1}"'),
        ("object.spec", "object.spec"),
    ],
)
def test_typed_literals_are_said_as_maps(text: str, shown: str) -> None:
    assert as_maps(text) == shown
