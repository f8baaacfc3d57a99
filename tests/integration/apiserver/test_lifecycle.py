"""Every kind goes through each operation its verbs allow, in each representation and by each kind of patch.

One server for all of them; what upstream's tests of API operations ask of a kind is asked here of each.
"""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
import yaml

from apiserver.registry.catalog import built_in
from apiserver.registry.kind import Kind
from machinery import errors
from machinery.api.protobuf import decode
from machinery.api.protobuf_encode import encode
from machinery.client.rest import Client
from tests.support.server import running_server
from tests.support.waiting import until

PROTOBUF = "application/vnd.kubernetes.protobuf"
_HERE = Path(__file__).parent
SAMPLES = [
    orjson.loads(orjson.dumps(one, default=str))
    for name in ("samples.yaml", "more_samples.yaml")
    for one in yaml.safe_load_all((_HERE / name).read_text())
]
KINDS = {(kind.resource.api_version, kind.resource.kind): kind for kind in built_in() if kind.is_stored}
PATCHES = {
    "application/json-patch+json": lambda text: [{"op": "add", "path": "/metadata/annotations", "value": {"by": text}}],
    "application/merge-patch+json": lambda text: {"metadata": {"annotations": {"by": text}}},
    "application/strategic-merge-patch+json": lambda text: {"metadata": {"annotations": {"by": text}}},
}  # fmt: skip
NAMESPACE = "life"


def kind_of(sample: dict[str, Any]) -> Kind:
    return KINDS[sample["apiVersion"], sample["kind"]]


def test_each_kind_is_here() -> None:
    assert {(one["apiVersion"], one["kind"]) for one in SAMPLES} == set(KINDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with running_server(tmp_path_factory.mktemp("life")) as (_, config), Client(config) as client:
        await client.request("POST", "/api/v1/namespaces", body=b'{"metadata":{"name":"life"}}')
        await client.request("POST", "/api/v1/namespaces/life/serviceaccounts", body=b'{"metadata":{"name":"default"}}')
        yield client


class Served:
    """One kind at a server, for requests in any form."""

    def __init__(self, client: Client, sample: dict[str, Any]) -> None:
        self.client = client
        self.kind = kind_of(sample)
        self.namespace = NAMESPACE if self.kind.resource.namespaced else ""
        self.sample = copy.deepcopy(sample)
        if self.kind.resource.namespaced:
            self.sample["metadata"]["namespace"] = NAMESPACE
        self.name = sample["metadata"]["name"]

    def path(self, name: str = "", part: str = "") -> str:
        return self.kind.resource.path(self.namespace, name, part)

    async def send(
        self, verb: str, path: str, body: Any = None, media: str = "", accept: str = "", **params: str
    ) -> Any:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"Content-Type": media or "application/json"} | ({"Accept": accept} if accept else {})
        answer = await self.client.request(verb, path, body=data, headers=headers, params=params)
        return answer if accept else json.loads(answer)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{one['apiVersion']}/{one['kind']}" for one in SAMPLES])
async def test_a_kind_goes_through_all_that_may_be_done_with_it(everything: Client, sample: dict[str, Any]) -> None:
    served = Served(everything, sample)
    kind = served.kind.resource
    made = await served.send("POST", served.path(), encode(served.sample), PROTOBUF, fieldValidation="Strict")
    try:
        if kind.kind in SELF_WRITTEN:  # the server itself writes the status of a new one
            written = await until(everything, kind, lambda found: _conditions(found, served.name))
            made = next(one for one in written if one["metadata"]["name"] == served.name)
        await _is_read(served, made)
        await _is_changed(served, made)
        await _has_status(served)
    finally:
        await _goes(served)
    if "deletecollection" in served.kind.verbs:
        await _go_together(served)


def _conditions(found: list[dict[str, Any]], name: str) -> Any:
    return next((one.get("status", {}).get("conditions") for one in found if one["metadata"]["name"] == name), None)


def _told(obj: dict[str, Any]) -> dict[str, Any]:
    """Return what the client said of an object; the server may write its status at any time."""
    ours = ("name", "namespace", "uid", "labels", "annotations", "generation", "creationTimestamp")
    metadata = {name: obj["metadata"].get(name) for name in ours}
    return {**{name: value for name, value in obj.items() if name != "status"}, "metadata": metadata}


async def _is_read(served: Served, made: dict[str, Any]) -> None:
    path = served.path(served.name)
    assert _told(await served.send("GET", path)) == _told(made)
    assert yaml.safe_load(await served.send("GET", path, accept="application/yaml"))["metadata"]["name"] == served.name
    read = decode(await served.send("GET", path, accept=PROTOBUF))
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    meta = "as={};v=v1;g=meta.k8s.io"
    for accept in ("application/json", PROTOBUF):
        partial = await served.send("GET", path, accept=f"{accept};{meta.format('PartialObjectMetadata')}")
        found = decode(partial) if accept == PROTOBUF else json.loads(partial)
        assert (found["kind"], found["metadata"]["uid"]) == ("PartialObjectMetadata", made["metadata"]["uid"])
    selector = f"metadata.name={served.name}"
    table = json.loads(
        await served.send(
            "GET", served.path(), accept=f"application/json;{meta.format('Table')}", fieldSelector=selector
        )
    )
    assert [len(row["cells"]) for row in table["rows"]] == [len(table["columnDefinitions"])]
    assert str(table["rows"][0]["cells"][0]).startswith(served.name) or served.kind.resource.kind == "Event"
    listed = await served.send("GET", served.path(), fieldSelector=selector)
    assert listed["kind"] == f"{served.kind.resource.kind}List"
    assert [_told(one) for one in listed["items"]] == [_told(made)]


async def _is_changed(served: Served, made: dict[str, Any]) -> None:
    path, version = served.path(served.name), made["metadata"]["resourceVersion"]
    for media, patch in PATCHES.items():
        changed = await served.send("PATCH", path, patch(media), media)
        assert changed["metadata"]["annotations"]["by"] == media
    assert changed["metadata"].get("generation") == made["metadata"].get("generation")
    config = {
        "apiVersion": served.sample["apiVersion"], "kind": served.sample["kind"],
        "metadata": {"name": served.name, "labels": {"applied": "yes"}},
    }  # fmt: skip
    applied = await served.send("PATCH", path, config, "application/apply-patch+yaml", fieldManager="life")
    assert applied["metadata"]["labels"]["applied"] == "yes"
    managers = {(one["manager"], one["operation"]) for one in applied["metadata"].get("managedFields") or ()}
    assert ("life", "Apply") in managers or served.kind.resource.plural in ("events", "leases")
    put = await served.send("PUT", path, {**applied, "metadata": {**applied["metadata"], "labels": {"put": "yes"}}})
    assert put["metadata"]["labels"]["put"] == "yes"
    with pytest.raises(errors.Conflict):
        await served.send("PUT", path, applied)
    await _is_seen(served, version, put)


async def _is_seen(served: Served, version: str, last: dict[str, Any]) -> None:
    """A watch from the object's creation tells of each change, up to the last."""
    events = served.client.watch(
        served.kind.resource, served.namespace, resource_version=version, field_selector=f"metadata.name={served.name}"
    )
    async with asyncio.timeout(5), contextlib.aclosing(events):
        async for event in events:
            if event.type == "BOOKMARK":
                continue
            assert event.type == "MODIFIED"
            if event.decode()["metadata"]["resourceVersion"] == last["metadata"]["resourceVersion"]:
                assert event.decode() == last
                return


async def _has_status(served: Served) -> None:
    if "status" not in served.kind.subresources:
        return
    path = served.path(served.name, "status")
    before = await served.send("GET", path)
    for media, patch in PATCHES.items():
        assert (await served.send("PATCH", path, patch("status"), media))["metadata"]["annotations"]["by"] == "status"
    condition = {
        "type": "Tested", "status": "True", "reason": "Test", "message": "seen",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    if served.kind.resource.kind in NO_CONDITIONS or served.sample["apiVersion"] == "autoscaling/v1":
        return
    body = {"status": {"conditions": [condition]}}
    after = await served.send("PATCH", path, body, "application/merge-patch+json")
    assert after["status"]["conditions"][0]["type"] == "Tested"
    assert after.get("spec") == before.get("spec")
    config = {
        "apiVersion": served.sample["apiVersion"], "kind": served.sample["kind"], "metadata": {"name": served.name},
        "status": {"conditions": [condition]},
    }  # fmt: skip
    applied = await served.send("PATCH", path, config, "application/apply-patch+yaml", fieldManager="s", force="true")
    # The server itself may have said something of an APIService meanwhile.
    assert [one["reason"] for one in applied["status"]["conditions"] if one["type"] == "Tested"] == ["Test"]
    fresh = await served.send("GET", path)
    whole = {**fresh, "status": {**fresh["status"], "conditions": [{**condition, "reason": "Again"}]}}
    assert (await served.send("PUT", path, whole))["status"]["conditions"][0]["reason"] == "Again"


async def _goes(served: Served) -> None:
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": "Background"}
    await served.send("DELETE", served.path(served.name), options)
    if served.kind.resource.kind == "Namespace":  # its controller is not here
        return
    await _is_gone(served)


async def _is_gone(served: Served) -> None:
    """Nothing is left of it; a definition lets its instances go first."""

    def is_gone(found: list[dict[str, Any]]) -> bool:
        return all(one["metadata"]["name"] != served.name for one in found)

    await until(served.client, served.kind.resource, is_gone, namespace=served.namespace, deadline_seconds=5)


async def _go_together(served: Served) -> None:
    again = copy.deepcopy(served.sample)
    again["metadata"]["labels"] = {**again["metadata"].get("labels", {}), "together": "yes"}
    await served.send("POST", served.path(), again)
    options = encode({"kind": "DeleteOptions", "apiVersion": served.sample["apiVersion"], "gracePeriodSeconds": 0})
    await served.send("DELETE", served.path(), options, PROTOBUF, labelSelector="together=yes")
    await _is_gone(served)


SELF_WRITTEN = {"APIService", "CustomResourceDefinition", "FlowSchema"}
# Kinds whose status has no list of conditions of this form, or one that the server keeps to itself.
NO_CONDITIONS = {
    "Namespace", "Node", "ResourceQuota", "PersistentVolume", "VolumeAttachment", "Ingress", "ResourceClaim",
    "CertificateSigningRequest", "PersistentVolumeClaim", "Service", "CronJob", "FlowSchema",
}  # fmt: skip
