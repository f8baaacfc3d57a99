"""Several versions of a custom resource, conversion, watches, and names in dispute."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from apiserver.app import APIServer, serving
from apiserver.storage.etcd import EtcdStore
from cluster.pki import Pki
from machinery import errors
from machinery.api.meta import Resource
from machinery.client.rest import Client
from machinery.errors import InternalError, Invalid, MethodNotAllowed, NotFound
from tests.support.etcd import running_etcd
from tests.support.server import client_config, free_port, server_config
from tests.support.waiting import until_gone, until_one

pytestmark = pytest.mark.slow
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
V1 = Resource("example.com", "v1", "widgets", "Widget")
V2 = Resource("example.com", "v2", "widgets", "Widget")
SPEC = {"type": "object", "properties": {"size": {"type": "integer", "default": 1}, "color": {"type": "string"}}}


def version(name: str, *, storage: bool = False, **more: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"spec": SPEC, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    return {"name": name, "served": True, "storage": storage, "schema": {"openAPIV3Schema": schema}, **more}


def definition(*versions: dict[str, Any], plural: str = "widgets", kind: str = "Widget", **spec: Any) -> dict[str, Any]:
    names = {"plural": plural, "kind": kind}
    body = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": list(versions), **spec}
    return {"metadata": {"name": f"{plural}.example.com"}, "spec": body}


def is_true(kind: str) -> Any:
    return lambda crd: any(
        c["type"] == kind and c["status"] == "True" for c in (crd.get("status") or {}).get("conditions", ())
    )


async def define(client: Client, body: dict[str, Any]) -> None:
    await client.create(DEFINITIONS, body)
    await until_one(client, DEFINITIONS, body["metadata"]["name"], is_true("Established"))


async def test_an_object_is_stored_in_one_version_and_shown_in_each(client: Client, server: APIServer) -> None:
    await define(client, definition(version("v1"), version("v2", storage=True)))
    await client.create(V1, {"metadata": {"name": "a"}, "spec": {"color": "red"}}, "default")
    assert (await client.get(V1, "a", "default"))["apiVersion"] == "example.com/v1"
    assert (await client.get(V2, "a", "default"))["spec"] == {"color": "red", "size": 1}
    stored = await server.cache.store.get("/registry/widgets.example.com/default/a")
    assert b'"apiVersion":"example.com/v2"' in stored.value
    assert [one["apiVersion"] for one in (await client.list(V1, "default"))["items"]] == ["example.com/v1"]
    crd = await client.get(DEFINITIONS, "widgets.example.com")
    assert crd["status"]["storedVersions"] == ["v2"]
    assert crd["spec"]["names"] == {
        "plural": "widgets",
        "kind": "Widget",
        "singular": "widget",
        "listKind": "WidgetList",
    }
    assert crd["spec"]["conversion"] == {"strategy": "None"}


async def test_a_new_default_shows_on_what_is_stored_and_ends_watches(client: Client) -> None:
    await define(client, definition(version("v1", storage=True)))
    await client.create(V1, {"metadata": {"name": "a"}, "spec": {"size": 2}}, "default")
    changed = version("v1", storage=True)
    changed["schema"] = {
        "openAPIV3Schema": {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {"size": {"type": "integer"}, "color": {"type": "string", "default": "blue"}},
                }
            },
        }
    }
    watch = client.watch(V1, "default", resource_version="0")
    assert (await anext(watch)).type == "ADDED"
    ended = asyncio.ensure_future(anext(watch, None))
    await client.patch(DEFINITIONS, "widgets.example.com", {"spec": {"versions": [changed]}})
    assert await ended is None
    assert (await client.get(V1, "a", "default"))["spec"] == {"size": 2, "color": "blue"}


async def test_selectable_fields_select_in_lists(client: Client) -> None:
    await define(client, definition(version("v1", storage=True, selectableFields=[{"jsonPath": ".spec.color"}])))
    for name, color in (("a", "red"), ("b", "blue")):
        await client.create(V1, {"metadata": {"name": name}, "spec": {"color": color}}, "default")
    found = await client.list(V1, "default", field_selector="spec.color=blue")
    assert [one["metadata"]["name"] for one in found["items"]] == ["b"]


async def test_status_is_written_on_its_own_and_moves_no_generation(client: Client) -> None:
    await define(client, definition(version("v1", storage=True, subresources={"status": {}})))
    made = await client.create(V1, {"metadata": {"name": "a"}, "spec": {}, "status": {"x": 1}}, "default")
    assert "status" not in made
    made["status"] = {"ready": True}
    made["spec"]["size"] = 9
    written = await client.update(V1, made, subresource="status")
    assert (written["status"], written["spec"], written["metadata"]["generation"]) == ({"ready": True}, {"size": 1}, 1)
    written["spec"]["size"] = 3
    written["status"] = {}
    again = await client.update(V1, written)
    assert (again["status"], again["metadata"]["generation"]) == ({"ready": True}, 2)


async def test_names_in_use_are_not_accepted_until_they_are_free(client: Client) -> None:
    await define(client, definition(version("v1", storage=True)))
    await client.create(DEFINITIONS, definition(version("v1", storage=True), plural="gadgets"))
    refused = await until_one(
        client, DEFINITIONS, "gadgets.example.com", lambda crd: (crd.get("status") or {}).get("conditions")
    )
    told = {one["type"]: (one["status"], one["reason"], one["message"]) for one in refused["status"]["conditions"]}
    assert told["NamesAccepted"][:2] == ("False", "KindConflict") or told["NamesAccepted"][:2] == (
        "False",
        "SingularConflict",
    )
    assert told["Established"] == ("False", "NotAccepted", "not all names are accepted")
    with pytest.raises(NotFound):
        await client.list(Resource("example.com", "v1", "gadgets", "Widget"), "default")
    await client.delete(DEFINITIONS, "widgets.example.com")
    await until_one(client, DEFINITIONS, "gadgets.example.com", is_true("Established"))


async def test_instances_with_finalizers_hold_their_definition(client: Client) -> None:
    await define(client, definition(version("v1", storage=True)))
    await client.create(V1, {"metadata": {"name": "a", "finalizers": ["example.com/wait"]}}, "default")
    await client.delete(DEFINITIONS, "widgets.example.com")
    await until_one(client, DEFINITIONS, "widgets.example.com", is_true("Terminating"))
    with pytest.raises(MethodNotAllowed, match="create not allowed while custom resource definition is terminating"):
        await client.create(V1, {"metadata": {"name": "b"}}, "default")
    await client.patch(V1, "a", {"metadata": {"finalizers": None}}, "default")
    await until_gone(client, DEFINITIONS, "widgets.example.com")


@pytest.fixture
async def webhook(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """A conversion webhook: v2 says `shade` where v1 says `color`; it refuses the colour "bad"."""

    async def convert(request: web.Request) -> web.Response:
        review = (await request.json())["request"]
        made = [_converted(obj, review["desiredAPIVersion"]) for obj in review["objects"]]
        refused = any((obj.get("spec") or {}).get("color") == "bad" for obj in review["objects"])
        result = {"status": "Failure", "message": "no such colour"} if refused else {"status": "Success"}
        response = {"uid": review["uid"], "convertedObjects": [] if refused else made, "result": result}
        return web.json_response(
            {"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response}
        )

    pki = Pki(tmp_path / "pki")
    cert, key = pki.server("webhook", "webhook", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    app = web.Application()
    app.router.add_post("/convert", convert)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    bundle = base64.b64encode(pki.ca_file.read_bytes()).decode()
    yield {
        "strategy": "Webhook",
        "webhook": {
            "clientConfig": {"url": f"https://127.0.0.1:{port}/convert", "caBundle": bundle},
            "conversionReviewVersions": ["v1"],
        },
    }
    await runner.cleanup()


def _converted(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
    old, new = ("color", "shade") if wanted.endswith("v2") else ("shade", "color")
    spec = {new if name == old else name: value for name, value in (obj.get("spec") or {}).items()}
    return {**obj, "apiVersion": wanted, "spec": spec}


async def test_a_webhook_converts_between_versions(client: Client, webhook: dict[str, Any]) -> None:
    second = version("v2")
    second["schema"] = {
        "openAPIV3Schema": {
            "type": "object",
            "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}, "shade": {"type": "string"}}}
            },
        }
    }
    await define(client, definition(version("v1", storage=True), second, conversion=webhook))
    await client.create(V2, {"metadata": {"name": "a"}, "spec": {"shade": "red", "size": 4}}, "default")
    assert (await client.get(V1, "a", "default"))["spec"] == {"color": "red", "size": 4}
    found = await client.get(V2, "a", "default")
    found["spec"]["shade"] = "green"
    await client.update(V2, found)
    assert [one["spec"] for one in (await client.list(V2, "default"))["items"]] == [{"shade": "green", "size": 4}]
    async for event in client.watch(V2, "default", resource_version="0"):
        assert event.decode()["spec"]["shade"] == "green"
        break
    await client.create(V1, {"metadata": {"name": "b"}, "spec": {"color": "bad"}}, "default")
    with pytest.raises(
        InternalError, match="conversion webhook for example.com/v1, Kind=Widget failed: no such colour"
    ):
        await client.get(V2, "b", "default")
    with pytest.raises(Invalid):
        await client.create(V1, {"metadata": {"name": "c"}, "spec": {"size": "x"}}, "default")


async def test_kinds_named_as_core_kinds_are_objects_like_any_other(client: Client) -> None:
    for plural, kind in (("services", "Service"), ("namespaces", "Namespace"), ("pods", "Pod")):
        await define(client, definition(version("v1", storage=True), plural=plural, kind=kind))
        resource = Resource("example.com", "v1", plural, kind)
        await client.create(resource, {"metadata": {"name": "a"}, "spec": {}}, "default")
        assert (await client.list(resource, "default"))["kind"] == f"{kind}List"
        await client.delete(resource, "a", "default")
        with pytest.raises(NotFound):
            await client.get(resource, "a", "default")


async def test_documents_tell_of_a_definition_while_it_is_there(client: Client) -> None:
    async def paths() -> dict[str, Any]:
        return orjson.loads(await client.request("GET", "/openapi/v3"))["paths"]

    before = await paths()
    await define(client, definition(version("v1", storage=True)))
    with_it = await paths()
    assert set(with_it) - set(before) == {"apis/example.com/v1"}
    document = orjson.loads(await client.request("GET", "/openapi/v3/apis/example.com/v1"))
    schema = document["components"]["schemas"]["com.example.v1.Widget"]
    assert schema["x-kubernetes-group-version-kind"] == [{"group": "example.com", "version": "v1", "kind": "Widget"}]
    assert schema["properties"]["spec"]["properties"]["size"] == {"type": "integer", "default": 1}
    assert "com.example.v1.Widget" in orjson.loads(await client.request("GET", "/openapi/v2"))["definitions"]
    changed = version("v1", storage=True)
    changed["schema"]["openAPIV3Schema"]["description"] = "told anew"
    await client.patch(DEFINITIONS, "widgets.example.com", {"spec": {"versions": [changed]}})
    async with asyncio.timeout(5):
        while (await paths())["apis/example.com/v1"] == with_it["apis/example.com/v1"]:
            await client.get(DEFINITIONS, "widgets.example.com")
    await client.delete(DEFINITIONS, "widgets.example.com")
    await until_gone(client, DEFINITIONS, "widgets.example.com")
    assert await paths() == before


async def test_servers_over_one_store_serve_the_same_definitions(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(running_etcd(tmp_path))
        clients: list[Client] = []
        for _ in range(2):
            store = EtcdStore([etcd.endpoint])
            stack.push_async_callback(store.close)
            config = server_config(tmp_path)
            server = await stack.enter_async_context(serving(store, config, sole_writer=False))
            await server.health.bootstrapped.wait()
            clients.append(await stack.enter_async_context(Client(client_config(tmp_path, config))))
        one, two = clients
        await define(one, definition(version("v1", storage=True)))
        await two.create(V1, {"metadata": {"name": "a"}, "spec": {}}, "default")
        assert (await one.get(V1, "a", "default"))["spec"] == {"size": 1}
        await two.delete(DEFINITIONS, "widgets.example.com")
        await until_gone(one, DEFINITIONS, "widgets.example.com")
        for client in clients:
            with pytest.raises(NotFound):
                await client.list(V1, "default")


async def test_an_update_of_an_instance_says_what_it_was_made_from(client: Client) -> None:
    await define(client, definition(version("v1", storage=True)))
    made = await client.create(V1, {"metadata": {"name": "a"}}, "default")
    del made["metadata"]["resourceVersion"]
    with pytest.raises(
        errors.Invalid, match="metadata.resourceVersion: Invalid value: 0x0: must be specified for an upd"
    ):
        await client.update(V1, made)
