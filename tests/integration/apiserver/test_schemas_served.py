"""What readers of OpenAPI v2 get, which kubectl still asks for in protobuf, and how wrong types are told."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from apiserver.registry.apiextensions import DEFINITIONS
from machinery import errors
from machinery.api.resources import CONFIG_MAPS
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl
from tests.support.waiting import until

ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
LISTED = {
    "type": "object", "description": "A list of named things",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "bars": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}
            },
        }
    },
}  # fmt: skip


async def define(client: Client, name: str, schema: dict[str, Any]) -> None:
    group = f"{name}.example.com"
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": f"{name}s", "singular": name, "kind": name.title()}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    await client.create(DEFINITIONS, {"metadata": {"name": f"{name}s.{group}"}, "spec": spec})

    def is_established(found: list[dict[str, Any]]) -> bool:
        mine = next(one for one in found if one["spec"]["group"] == group)
        conditions = (mine.get("status") or {}).get("conditions") or ()
        return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)

    await until(client, DEFINITIONS, is_established)
    await client.request("GET", f"/apis/{group}/v1/{name}s")  # what is asked for is looked for


async def test_kubectl_reads_openapi_v2_in_protobuf(kubectl: Kubectl, client: Client) -> None:
    await define(client, "listed", LISTED)
    code, out, problem = await kubectl("explain", "pods.spec.containers", "--output=plaintext-openapiv2")
    assert (code, problem) == (0, "")
    assert "List of containers belonging to the pod" in out
    assert "name\t<string> -required-" in out
    assert "<[]Object> -required-" not in out
    assert "A list of named things" in (await kubectl("explain", "listeds", "--output=plaintext-openapiv2"))[1]


async def test_readers_of_v2_do_not_refuse_what_a_kind_keeps(client: Client) -> None:
    await define(client, "open", {**ANY, "properties": {"spec": {"type": "object"}}})
    await define(client, "listed", LISTED)
    found = json.loads(await client.request("GET", "/openapi/v2"))["definitions"]
    gvk = [{"group": "open.example.com", "version": "v1", "kind": "Open"}]
    assert found["com.example.open.v1.Open"] == {"type": "object", "x-kubernetes-group-version-kind": gvk}
    assert found["com.example.listed.v1.Listed"]["properties"]["spec"] == LISTED["properties"]["spec"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"containers": [{"name": "c", "image": 1}]}, "number into Go struct field Container.spec.containers.image of type string"),
        ({"nodeSelector": {"a": 1}}, "number into Go struct field PodSpec.spec.nodeSelector of type string"),
        ({"containers": [{"resources": {"limits": {"cpu": "1foo"}}}]}, "quantities must match the regular expression"),
        ({"containers": [{"resources": {"limits": {"cpu": "1nn"}}}]}, "unable to parse quantity's suffix"),
    ],
)  # fmt: skip
async def test_wrong_types_are_told_as_a_go_server_tells_them(client: Client, spec: dict[str, Any], told: str) -> None:
    body = json.dumps({"metadata": {"name": "a"}, "spec": spec}).encode()
    with pytest.raises(errors.BadRequest) as caught:
        await client.request("POST", "/api/v1/namespaces/default/pods", body=body)
    assert 'Pod in version "v1" cannot be handled as a Pod: ' in str(caught.value)
    assert told in str(caught.value)


async def test_a_dry_run_has_no_version(client: Client) -> None:
    body = b'{"metadata":{"name":"a"}}'
    made = json.loads(
        await client.request("POST", "/api/v1/namespaces/default/configmaps", body=body, params={"dryRun": "All"})
    )
    assert "resourceVersion" not in made["metadata"]
    assert made["metadata"]["uid"]


async def test_openapi_tells_of_lists_and_of_the_parts_of_objects(client: Client) -> None:
    core = json.loads(await client.request("GET", "/openapi/v3/api/v1"))
    paths, schemas = core["paths"], core["components"]["schemas"]
    pods = "/api/v1/namespaces/{namespace}/pods"
    listed = paths[pods]["get"]
    assert listed["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(".v1.PodList")
    assert {"labelSelector", "limit", "watch"} <= {one["name"] for one in listed["parameters"]}
    patched = paths[f"{pods}/{{name}}/status"]["patch"]
    assert "application/strategic-merge-patch+json" in patched["requestBody"]["content"]
    assert paths[f"{pods}/{{name}}/eviction"]["post"]["x-kubernetes-group-version-kind"]["kind"] == "Eviction"
    assert "tailLines" in {one["name"] for one in paths[f"{pods}/{{name}}/log"]["get"]["parameters"]}
    assert paths[f"{pods}/{{name}}/exec"]["post"]["x-kubernetes-action"] == "connect"
    both = json.loads(await client.request("GET", "/openapi/v2"))
    for document, known, prefix in (
        (core, schemas, "#/components/schemas/"),
        (both, both["definitions"], "#/definitions/"),
    ):
        asked = set(re.findall(rf'"{re.escape(prefix)}([^"]+)"', json.dumps(document)))
        assert asked <= known.keys()
    names = [op["operationId"] for path in both["paths"].values() for op in path.values() if isinstance(op, dict)]
    assert len(names) == len(set(names))


async def test_openapi_tells_of_groups_versions_and_the_server_itself(client: Client) -> None:
    await define(client, "listed", LISTED)
    listed = json.loads(await client.request("GET", "/openapi/v3"))["paths"]
    roots = {".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"}
    assert roots | {"apis/apps", "apis/apps/v1", "apis/rbac.authorization.k8s.io", "api/v1"} <= listed.keys()
    assert "apis/listed.example.com" not in listed  # there are documents of what versions hold, and no more
    for name, link in listed.items():
        path, _, found = link["serverRelativeURL"].partition("?hash=")
        document = json.loads(await client.request("GET", path, params={"hash": found}))
        assert document["openapi"] == "3.0.0", name
        asked = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
        assert asked <= document["components"]["schemas"].keys(), name
    group = json.loads(await client.request("GET", "/openapi/v3/apis/rbac.authorization.k8s.io"))
    told = group["paths"]["/apis/rbac.authorization.k8s.io/"]["get"]
    assert (told["operationId"], told["tags"]) == ("getRbacAuthorizationAPIGroup", ["rbacAuthorization"])
    version = json.loads(await client.request("GET", "/openapi/v3/apis/apps/v1"))["paths"]["/apis/apps/v1/"]["get"]
    assert (version["operationId"], version["tags"]) == ("getAppsV1APIResources", ["apps_v1"])
    both = json.loads(await client.request("GET", "/openapi/v2"))["paths"]
    assert {
        "/api/",
        "/apis/",
        "/apis/apps/",
        "/apis/apps/v1/",
        "/api/v1/",
        "/version/",
        "/openid/v1/jwks/",
    } <= both.keys()


@pytest.mark.parametrize("place", ["configmaps", "namespaces/default/configmaps", "namespaces/default/configmaps/a"])
async def test_a_watch_can_be_asked_for_as_old_clients_do(client: Client, place: str) -> None:
    for name in ("a", "b"):
        await client.create(CONFIG_MAPS, {"metadata": {"name": name}}, "default")
    seen = await client.request("GET", f"/api/v1/watch/{place}", params={"timeoutSeconds": "1"})
    events = [json.loads(line) for line in seen.splitlines()]
    names = [event["object"]["metadata"]["name"] for event in events if event["type"] == "ADDED"]
    assert [name for name in names if len(name) == 1] == (["a"] if place.endswith("/a") else ["a", "b"])


async def test_a_definition_is_told_of_within_a_second_and_forgotten_as_fast(
    client: Client, record_property: Callable[[str, object], None]
) -> None:
    """Ask as a client does that knows nothing yet, until all that tells of kinds agrees."""
    await client.request("GET", "/openapi/v2")  # what was made before must not be answered from then on

    async def told() -> set[bool]:
        groups = json.loads(await client.request("GET", "/apis"))["groups"]
        both = json.loads(await client.request("GET", "/openapi/v2"))
        third = json.loads(await client.request("GET", "/openapi/v3"))["paths"]
        place = "apis/timed.example.com/v1"
        found = {any(one["name"] == "timed.example.com" for one in groups), place in third}
        found |= {f"/{place}/timeds" in both["paths"], "com.example.timed.v1.Timed" in both["definitions"]}
        for path in (f"/{place}", f"/openapi/v3/{place}"):
            try:
                json.loads(await client.request("GET", path))
                found.add(True)
            except errors.NotFound:
                found.add(False)
        return found

    async def seconds_until(state: bool) -> float:
        began = time.perf_counter()
        while await told() != {state}:
            assert time.perf_counter() - began < 30
        return time.perf_counter() - began

    await define(client, "timed", LISTED)
    appeared = await seconds_until(True)
    await client.delete(DEFINITIONS, "timeds.timed.example.com")
    vanished = await seconds_until(False)
    print(f"appeared after {appeared:.3f} s, vanished after {vanished:.3f} s")
    record_property("appeared_seconds", appeared)
    record_property("vanished_seconds", vanished)
    assert appeared < 5  # a second on a machine that does nothing else
    assert vanished < 5
