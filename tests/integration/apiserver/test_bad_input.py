"""What bad input gets: an error that says what is wrong, soon, and nothing stored."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from cli.connection import Connection
from machinery import errors
from machinery.api import resources
from machinery.api.resources import EVENTS, NAMESPACES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.client.tls import ssl_context

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
JSON, YAML = "application/json", "application/yaml"


async def post(client: Client, path: str, body: bytes, media: str = JSON, **params: str) -> Any:
    return json.loads(await client.request("POST", path, body=body, headers={"Content-Type": media}, params=params))


def of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("body", "media", "text"),
    [
        (b'{"metadata": {', JSON, "json parse error"),
        (b"metadata: [", YAML, "error converting YAML to JSON"),
        (b"[1, 2]", JSON, "the body is no object but array"),
        (b'{"kind": "Pod", "metadata": {"name": "a"}}', JSON, "cannot be handled as a ConfigMap"),
        (b'{"apiVersion": "v2", "metadata": {"name": "a"}}', JSON, "does not match the expected API version"),
        (b'{"metadata": {"name": "a"}, "data": {"k": 1}}', JSON, "cannot unmarshal number into Go struct field ConfigMap"),
        (b'{"metadata": {"name": "a"}, "data": []}', JSON, "of type map\\[string\\]string"),
        (b'{"metadata": {"name": "a", "labels": "x"}}', JSON, "cannot unmarshal string into Go struct field ObjectMeta"),
        (b'{"metadata": {"name": "a", "namespace": "b"}}', JSON, "does not match the namespace sent on the request"),
        (b"[" * 100_000, JSON, "json parse error"),
        (b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n" + b"".join(
            b"k%d: &k%d [*k%d,*k%d,*k%d,*k%d]\n" % (n, n, n - 1, n - 1, n - 1, n - 1) if n else b"k0: &k0 [*c,*c]\n"
            for n in range(12)), YAML, "excessive aliasing"),
    ],
    ids=["json", "yaml", "array", "kind", "version", "number", "map", "labels", "namespace", "deep", "aliases"],
)  # fmt: skip
async def test_a_body_that_makes_no_sense_is_a_bad_request(client: Client, body: bytes, media: str, text: str) -> None:
    began = time.monotonic()
    with pytest.raises(errors.BadRequest, match=text):
        await post(client, MAPS, body, media)
    assert time.monotonic() - began < 5
    assert json.loads(await client.request("GET", MAPS))["items"] == []


async def test_unknown_fields_are_refused_warned_of_or_dropped_as_asked(client: Client) -> None:
    body = of(metadata={"name": "a"}, spce={"x": 1}, data={"k": "v"})
    with pytest.raises(errors.BadRequest, match='strict decoding error: unknown field "spce"'):
        await post(client, MAPS, body, fieldValidation="Strict")
    made = await post(client, MAPS, body, fieldValidation="Ignore")
    assert "spce" not in made


async def test_duplicate_fields_are_refused_under_strict(client: Client) -> None:
    with pytest.raises(errors.BadRequest, match='strict decoding error: duplicate field "data.k"'):
        await post(client, MAPS, b'{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}', fieldValidation="Strict")


async def test_a_body_over_three_mebibytes_is_too_large(client: Client) -> None:
    with pytest.raises(errors.RequestEntityTooLarge, match="limit is 3145728"):
        await post(client, MAPS, of(metadata={"name": "a"}, data={"k": "x" * (3 * 1024 * 1024)}))


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (MAPS, of(metadata={"name": "Not_A_Name"}), r'ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value'),
        (MAPS, of(metadata={}), "metadata.name: Required value: name or generateName is required"),
        (MAPS, of(metadata={"name": "a", "labels": {"-": "x"}}), "metadata.labels: Invalid value"),
        (PODS, of(metadata={"name": "a"}, spec={}), 'Pod "a" is invalid: spec.containers: Required value'),
        (PODS, of(metadata={"name": "a"}, spec={"containers": [{"name": "c"}]}), r"spec.containers\[0\].image: Required"),
        (PODS, of(metadata={"name": "a"}, spec={"containers": [{"name": "c", "image": "i"}] * 2}), "Duplicate value"),
        (PODS, of(metadata={"name": "a"}, spec={"containers": [{"name": "c", "image": "i"}], "restartPolicy": "No"}),
         'spec.restartPolicy: Unsupported value: "No": supported values: "Always", "OnFailure", "Never"'),
        (DEPLOYMENTS, of(metadata={"name": "a"}, spec={
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }), 'Deployment.apps "a" is invalid: spec.template.metadata.labels: Invalid value: .* `selector` does not match'),
    ],
    ids=["name", "nameless", "label", "containers", "image", "twice", "policy", "selector"],
)  # fmt: skip
async def test_an_object_that_breaks_rules_is_invalid_and_the_fields_are_named(
    client: Client, path: str, body: bytes, text: str
) -> None:
    with pytest.raises(errors.Invalid, match=text) as caught:
        await post(client, path, body)
    assert caught.value.causes
    assert caught.value.code == 422


@pytest.mark.parametrize(
    "path", ["/api/v1/nonsense", "/apis/none.example/v1/things", "/nowhere", "/api/v1/pods/x/none/y"]
)
async def test_what_is_not_served_is_a_status_not_found(client: Client, path: str) -> None:
    with pytest.raises(errors.NotFound, match="could not find the requested resource"):
        await client.request("GET", path)


async def test_a_method_the_resource_does_not_take_is_told(client: Client) -> None:
    with pytest.raises(errors.MethodNotAllowed):
        await client.request("DELETE", "/api/v1/namespaces")


async def test_a_patch_of_an_unknown_type_is_told(client: Client) -> None:
    await post(client, MAPS, of(metadata={"name": "a"}))
    with pytest.raises(errors.UnsupportedMediaType):
        await client.request("PATCH", f"{MAPS}/a", body=b"{}", headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"labelSelector": "a in"}, errors.BadRequest),
        ({"fieldSelector": "spec.nothing=x"}, errors.BadRequest),
        ({"limit": "many"}, errors.BadRequest),
        ({"resourceVersion": "x"}, errors.BadRequest),
        ({"continue": "%%%"}, errors.BadRequest),
    ],
    ids=["label", "field", "limit", "version", "token"],
)
async def test_a_list_with_a_bad_parameter_is_refused(client: Client, params: dict[str, str], error: Any) -> None:
    with pytest.raises(error):
        await client.request("GET", PODS, params=params)


async def test_a_version_of_the_future_is_waited_for_and_then_refused(client: Client, config: ClientConfig) -> None:
    connection = Connection(config)  # this one does not try again by itself
    with pytest.raises(errors.Timeout, match="Too large resource version: 99999999"):
        await asyncio.to_thread(connection.request, "GET", PODS, params={"resourceVersion": "99999999"})
    await asyncio.to_thread(connection.close)


async def test_a_namespace_without_a_name_is_told(client: Client) -> None:
    with pytest.raises(errors.Invalid, match="metadata.name: Required value"):
        await client.create(NAMESPACES, {"metadata": {"labels": {"a": "b"}}})


@pytest.mark.parametrize("time", ["yesterday", "2020-13-01T00:00:00Z", "2020-01-01", ""])
async def test_what_is_no_time_is_refused_where_one_belongs(client: Client, time: str) -> None:
    about = {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}, "reason": "r", "message": "m"}
    with pytest.raises(errors.BadRequest, match='parsing time "'):
        await client.create(EVENTS, {"metadata": {"name": "e"}, **about, "lastTimestamp": time}, "default")
    await client.create(EVENTS, {"metadata": {"name": "e"}, **about, "lastTimestamp": "2020-01-01T00:00:00.5+02:00"}, "default")  # fmt: skip


async def test_a_warning_stays_within_its_header(client: Client, config: ClientConfig) -> None:
    body = b'{"metadata":{"name":"c"},"un\\r\\nknown\\u0000":1}'
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context(config))) as session,
        session.post(config.server + "/api/v1/namespaces/default/configmaps", data=body) as answer,
    ):
        assert answer.status == 201
        assert answer.headers["Warning"] == '299 - "unknown field \\"un  known \\""'


DEPLOYMENT = (
    b'{"metadata":{"name":"a"},"spec":{"unknownField":"x","replicas":2,"replicas":3,"selector":{"matchLabels":{"a":"b"}},'
    b'"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"web:1"}]}}}}'
)
DOUBLE_YAML = b"\napiVersion: v1\nkind: ConfigMap\ndata:\n  k: '1'\n  k: '2'\n"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


async def test_unknown_fields_and_those_given_twice_are_told_with_their_paths(client: Client) -> None:
    told = 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"'
    with pytest.raises(
        errors.BadRequest, match=f'Deployment in version "v1" cannot be handled as a Deployment: {told}'
    ):
        await post(client, DEPLOYMENTS, DEPLOYMENT, fieldValidation="Strict")
    await post(client, DEPLOYMENTS, DEPLOYMENT)
    assert (await client.get(resources.DEPLOYMENTS, "a", "default"))["spec"]["replicas"] == 3  # the last one holds


async def test_yaml_tells_the_line_of_a_key_given_twice(client: Client) -> None:
    path = f"{MAPS}/a"
    strict = {"fieldManager": "m", "fieldValidation": "Strict"}
    with pytest.raises(errors.BadRequest, match='(?s)error strict decoding YAML: .*line 6: key "k" already set in map'):
        await client.request("PATCH", path, body=DOUBLE_YAML, params=strict, headers=APPLY)
    await client.request("PATCH", path, body=DOUBLE_YAML, params={"fieldManager": "m"}, headers=APPLY)
    assert (await client.get(resources.CONFIG_MAPS, "a", "default"))["data"] == {"k": "2"}


async def test_a_field_that_is_not_declared_can_not_be_applied(client: Client) -> None:
    body = b'{"apiVersion":"v1","kind":"ConfigMap","wrong":1,"metadata":{"odd":2}}'
    with pytest.raises(errors.BadRequest) as caught:
        await client.request("PATCH", f"{MAPS}/a", body=body, params={"fieldManager": "m"}, headers=APPLY)
    assert "failed to create typed patch object (default/a; v1, Kind=ConfigMap)" in str(caught.value)
    assert ".wrong: field not declared in schema" in str(caught.value)
    assert ".metadata.odd: field not declared in schema" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["/apis/authorization.k8s.io/v1/subjectaccessreviews", "/apis/authentication.k8s.io/v1/tokenreviews"],
)
async def test_reviews_of_wrong_types_are_bad_requests(client: Client, path: str) -> None:
    with pytest.raises(errors.BadRequest, match="cannot unmarshal array into Go struct field"):
        await post(client, path, b'{"spec":[1]}')


JSON_PATCH, MERGE, STRATEGIC = (
    f"application/{kind}+json" for kind in ("json-patch", "merge-patch", "strategic-merge-patch")
)


@pytest.mark.parametrize(
    ("media", "body", "told"),
    [
        (
            MERGE,
            b'{"spec":{"replicas":1,"replicas":2,"wrong":1}}',
            'duplicate field "spec.replicas", unknown field "spec.wrong"',
        ),
        (STRATEGIC, b'{"spec":{"replicas":1,"replicas":2}}', 'duplicate field "spec.replicas"'),
        (STRATEGIC, b'{"spec":{"wrong":[true,null,"x"]}}', 'unknown field "spec.wrong"'),
        (JSON_PATCH, b'[{"op":"add","path":"/spec/wrong","value":1}]', 'unknown field "spec.wrong"'),
    ],
)
async def test_a_patch_is_held_to_its_fields_too(
    client: Client, config: ClientConfig, media: str, body: bytes, told: str
) -> None:
    await post(client, DEPLOYMENTS, DEPLOYMENT)
    path, headers = f"{DEPLOYMENTS}/a", {"Content-Type": media}
    with pytest.raises(errors.Invalid) as caught:
        await client.request("PATCH", path, body=body, params={"fieldValidation": "Strict"}, headers=headers)
    shown = "map[spec:map[wrong:[true <nil> x]]]" if b"null" in body else ""
    assert str(caught.value).startswith(f' "" is invalid: patch: Invalid value: "{shown}')
    assert str(caught.value).endswith(f'": strict decoding error: {told}')
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl_context(config))) as session,
        session.patch(config.server + path, data=body, headers=headers) as answer,
    ):
        assert told.split(", ")[0].replace('"', '\\"') in answer.headers["Warning"]
