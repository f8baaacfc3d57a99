"""Admission webhooks: a real HTTPS server is asked, and what it answers decides."""

import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from apiserver.app import APIServer
from cluster.addresses import node_address
from cluster.pki import Pki
from machinery import errors
from machinery.api.resources import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    MUTATING_WEBHOOKS,
    NAMESPACES,
    SERVICES,
    VALIDATING_WEBHOOKS,
)
from machinery.client.rest import Client

Answer = Callable[[dict[str, Any]], dict[str, Any]]
RULE = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}


class Hook:
    """A webhook that notes what it is asked."""

    def __init__(self, port: int, ca_bundle: str) -> None:
        self.port, self.ca_bundle = port, ca_bundle
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = lambda request: {"allowed": True}
        self.raw: Callable[[str], bytes] | None = None  # what is sent in place of a review
        self.status = 200

    def registration(self, name: str, path: str = "/", **fields: Any) -> dict[str, Any]:
        client = {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self.ca_bundle}
        hook = {
            "name": f"{name}.hook.example.com", "clientConfig": client, "rules": [RULE], "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 2, **fields,
        }  # fmt: skip
        return {"metadata": {"name": name}, "webhooks": [hook]}


@pytest.fixture
async def hook(tmp_path: Path, server: APIServer) -> AsyncIterator[Hook]:
    pki = Pki(tmp_path / "hook")
    cert, key = pki.server("hook", "hook", ["127.0.0.1", "hook.default.svc"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        review = json.loads(await request.read())
        hook.asked.append(review["request"])
        if hook.raw is not None:
            return web.Response(body=hook.raw(review["request"]["uid"]), status=hook.status)
        response = {"uid": review["request"]["uid"], **hook.answer(review["request"])}
        return web.json_response({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0, ssl_context=context).start()
    hook = Hook(int(runner.addresses[0][1]), base64.b64encode(pki.ca_file.read_bytes()).decode())
    try:
        yield hook
    finally:
        await runner.cleanup()


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    body = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": body}


def config_map(name: str = "a", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {"k": "v"}}


async def test_a_mutating_webhook_changes_what_is_stored(client: Client, hook: Hook) -> None:
    hook.answer = lambda _: patch({"op": "add", "path": "/data/added", "value": "yes"})
    await client.create(MUTATING_WEBHOOKS, hook.registration("one"))
    made = await client.create(CONFIG_MAPS, config_map(), "default")
    assert made["data"] == {"k": "v", "added": "yes"}
    [asked] = hook.asked
    assert (asked["operation"], asked["name"], asked["namespace"], asked["dryRun"]) == ("CREATE", "a", "default", False)
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["userInfo"]["username"] == "admin"
    assert asked["object"]["data"] == {"k": "v"}
    assert asked["oldObject"] is None
    await client.patch(CONFIG_MAPS, "a", {"data": {"k": "w"}}, "default")
    assert (hook.asked[-1]["operation"], hook.asked[-1]["oldObject"]["data"]["k"]) == ("UPDATE", "v")


async def test_managed_fields_are_shown_to_a_webhook_and_survive_it(client: Client, hook: Hook) -> None:
    broken = [{"manager": "hook", "operation": "Invent", "fieldsType": "FieldsV1", "fieldsV1": {}}]
    hook.answer = lambda _: patch(
        {"op": "add", "path": "/data/added", "value": "yes"},
        {"op": "replace", "path": "/metadata/managedFields", "value": broken},
    )
    await client.create(MUTATING_WEBHOOKS, hook.registration("one"))
    made = await client.create(CONFIG_MAPS, config_map(), "default")
    assert made["data"] == {"k": "v", "added": "yes"}
    [entry] = made["metadata"]["managedFields"]
    assert (entry["operation"], entry["fieldsV1"]) == ("Update", {"f:data": {".": {}, "f:k": {}}})
    assert hook.asked[0]["object"]["metadata"]["managedFields"] == [entry]


async def test_a_validating_webhook_refuses_with_its_reason(client: Client, hook: Hook) -> None:
    hook.answer = lambda request: {
        "allowed": request["operation"] == "CREATE", "status": {"message": "not now", "code": 403}, "warnings": ["careful"],
    }  # fmt: skip
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one"))
    await client.create(CONFIG_MAPS, config_map(), "default")
    told = 'admission webhook "one.hook.example.com" denied the request: not now'
    with pytest.raises(errors.Forbidden) as caught:
        await client.patch(CONFIG_MAPS, "a", {"data": {"k": "w"}}, "default")
    assert str(caught.value) == told
    with pytest.raises(errors.Forbidden, match="denied the request"):
        await client.delete(CONFIG_MAPS, "a", "default")
    assert (hook.asked[-1]["operation"], hook.asked[-1]["object"]) == ("DELETE", None)
    assert (await client.get(CONFIG_MAPS, "a", "default"))["data"] == {"k": "v"}


async def test_a_service_is_found_and_its_certificate_is_checked(client: Client, hook: Hook) -> None:
    await client.create(SERVICES, {"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}}, "default")
    endpoints = {
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [node_address()]}], "ports": [{"name": "", "port": hook.port, "protocol": "TCP"}],
    }  # fmt: skip
    await client.create(ENDPOINT_SLICES, endpoints, "default")
    service = {"service": {"name": "hook", "namespace": "default", "path": "/check"}, "caBundle": hook.ca_bundle}
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", clientConfig=service))
    await client.create(CONFIG_MAPS, config_map(), "default")
    assert len(hook.asked) == 1


async def test_a_webhook_that_fails_blocks_or_is_passed_over(client: Client, hook: Hook) -> None:
    gone = {"url": "https://127.0.0.1:1/", "caBundle": hook.ca_bundle}
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", clientConfig=gone, failurePolicy="Ignore"))
    await client.create(CONFIG_MAPS, config_map(), "default")
    await client.create(VALIDATING_WEBHOOKS, hook.registration("two", clientConfig=gone))
    with pytest.raises(
        errors.InternalError, match='failed calling webhook "two.hook.example.com": failed to call webhook'
    ):
        await client.create(CONFIG_MAPS, config_map("b"), "default")
    await client.delete(VALIDATING_WEBHOOKS, "two")  # no webhook stands in the way of this
    await client.create(CONFIG_MAPS, config_map("b"), "default")


async def test_an_answer_that_makes_no_sense_is_refused(client: Client, hook: Hook) -> None:
    await client.create(MUTATING_WEBHOOKS, hook.registration("one"))
    for answer in ({"uid": "other", "allowed": True}, {**patch({"op": "remove", "path": "/nothing"})}):
        hook.answer = lambda _, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(errors.InternalError, match="failed calling webhook"):
            await client.create(CONFIG_MAPS, config_map("b"), "default")


async def test_selectors_and_reinvocation(client: Client, hook: Hook) -> None:
    """The first is asked again because the second changed what it had left."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        count = int(request["object"]["data"].get("count", "0")) + 1
        return patch({"op": "add", "path": "/data/count", "value": str(count)})

    hook.answer = answer
    await client.create(MUTATING_WEBHOOKS, hook.registration("a", reinvocationPolicy="IfNeeded"))
    await client.create(MUTATING_WEBHOOKS, hook.registration("b", objectSelector={"matchLabels": {"twice": "yes"}}))
    await client.create(MUTATING_WEBHOOKS, hook.registration("c", namespaceSelector={"matchLabels": {"none": "such"}}))
    assert (await client.create(CONFIG_MAPS, config_map("once"), "default"))["data"]["count"] == "1"
    twice = await client.create(CONFIG_MAPS, config_map("twice", labels={"twice": "yes"}), "default")
    assert twice["data"]["count"] == "3"
    await client.patch(NAMESPACES, "default", {"metadata": {"labels": {"none": "such"}}})
    assert (await client.create(CONFIG_MAPS, config_map("all"), "default"))["data"]["count"] == "3"


async def test_match_conditions_decide_who_is_asked(client: Client, hook: Hook) -> None:
    conditions = [{"name": "only-b", "expression": 'object.metadata.name == "b"'}]
    await client.create(VALIDATING_WEBHOOKS, hook.registration("one", matchConditions=conditions))
    for name in ("a", "b"):
        await client.create(CONFIG_MAPS, config_map(name), "default")
    assert [asked["name"] for asked in hook.asked] == ["b"]


async def test_a_webhook_that_hangs_costs_its_timeout(client: Client, hook: Hook) -> None:
    """A listener that accepts and says nothing."""
    import asyncio

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        slow = {"url": url, "caBundle": hook.ca_bundle}
        await client.create(VALIDATING_WEBHOOKS, hook.registration("one", clientConfig=slow, timeoutSeconds=1))
        async with asyncio.timeout(5):
            with pytest.raises(errors.InternalError, match="context deadline exceeded"):
                await client.create(CONFIG_MAPS, config_map(), "default")


def review(**response: Any) -> Callable[[str], bytes]:
    """Return what answers a request with a review that allows it, but for what is wrong with it."""

    def body(uid: str) -> bytes:
        full = {"uid": uid, "allowed": True, **response}
        return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": full}).encode()

    return body


MALFORMED: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _: b"", "no-json": lambda _: b"<html>", "list": lambda _: b"[]", "deep": lambda _: b"[" * 100_000,
    "utf8": lambda _: b'{"kind":"\xff"}', "other-kind": lambda _: b'{"kind":"Pod","apiVersion":"v1"}',
    "other-version": lambda uid: review()(uid).replace(b"k8s.io/v1", b"k8s.io/v2"),
    "no-response": lambda _: b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}',
    "endless": review(status={"message": "a" * 4_000_000}), "other-uid": review(uid="x"), "allowed": review(allowed="yes"),
    "status": review(allowed=False, status="no"), "code": review(allowed=False, status={"code": "x"}), "warnings": review(warnings=[1]),
    "annotations": review(auditAnnotations=[]), "patch-type": review(patch="W10=", patchType="MergePatch"),
    "base64": review(patch="???", patchType="JSONPatch"), "patch-json": review(patch="ew==", patchType="JSONPatch"),
    "patch-object": review(**{**patch({"op": "replace", "path": "", "value": 1}), "allowed": True}),
    "patch-metadata": review(**{**patch({"op": "replace", "path": "/metadata", "value": []}), "allowed": True}),
    "patch-field": review(**{**patch({"op": "add", "path": "/data", "value": [1]}), "allowed": True}),
}  # fmt: skip


async def test_a_malformed_answer_is_a_failed_call(client: Client, hook: Hook) -> None:
    await client.create(MUTATING_WEBHOOKS, hook.registration("one"))
    for name, raw in MALFORMED.items():
        hook.raw = raw
        with pytest.raises(errors.InternalError) as caught:
            await client.create(CONFIG_MAPS, config_map(), "default")
        assert 'failed calling webhook "one.hook.example.com"' in str(caught.value), name
    for status in (500, 404, 302):
        hook.raw, hook.status = review(), status
        with pytest.raises(errors.InternalError, match="failed calling webhook"):
            await client.create(CONFIG_MAPS, config_map(), "default")
    hook.status = 200
    assert (await client.list(CONFIG_MAPS, "default"))["items"] == []


async def test_a_long_answer_is_read_whole(client: Client, hook: Hook) -> None:
    text = "a" * 700_000
    hook.answer = lambda _: patch({"op": "add", "path": "/data/long", "value": text})
    await client.create(MUTATING_WEBHOOKS, hook.registration("one"))
    assert (await client.create(CONFIG_MAPS, config_map(), "default"))["data"]["long"] == text
