"""Requests that no client of good will sends, byte by byte: each is refused clearly and soon, and the server goes on."""

import asyncio
import dataclasses
import json
import ssl
import time
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.resources import CONFIG_MAPS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.client.tls import ssl_context

MAPS = "/api/v1/namespaces/default/configmaps"
SECONDS = 5.0
CRLF = b"\r\n"


async def raw(config: ClientConfig, request: bytes, *, token: bool = True) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and all that came until the server closed, or was silent for a while.

    0 stands for a connection that was closed without an answer.
    """
    context = ssl_context(config)
    assert isinstance(context, ssl.SSLContext)
    port = int(config.server.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    answer = b""
    try:
        writer.write(request)
        async with asyncio.timeout(SECONDS):
            while b"\r\n\r\n" not in answer and (piece := await reader.read(65536)):
                answer += piece
        try:
            async with asyncio.timeout(0.3):
                while piece := await reader.read(65536):
                    answer += piece
        except TimeoutError:
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()
    return (int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0), answer


def head(method: str, path: str, *headers: str) -> bytes:
    return CRLF.join(
        [f"{method} {path} HTTP/1.1".encode(), b"Host: x", *(h.encode("latin-1") for h in headers), b"", b""]
    )


BODY = b'{"metadata":{"name":"smuggled"}}'
SECOND = head("POST", MAPS, "Content-Type: application/json", f"Content-Length: {len(BODY)}") + BODY


async def test_a_second_request_can_not_hide_in_the_first(config: ClientConfig, client: Client) -> None:
    """Where two readers could see different ends of a request, nobody may: RFC 9112, sections 6.3 and 11.2."""
    hidden = [
        head("POST", MAPS, "Content-Length: 0", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + SECOND,
        head("POST", MAPS, "Content-Length: 5", f"Content-Length: {5 + len(SECOND)}") + b"abcde" + SECOND,
        head("POST", MAPS, "Transfer-Encoding: xchunked") + SECOND,
        head("POST", MAPS, "Transfer-Encoding: chunked", "Transfer-Encoding: identity") + SECOND,
        head("POST", MAPS, "Content-Length: +0") + SECOND,
        head("POST", MAPS, "Content-Length: -1") + SECOND,
        head("GET", MAPS, "X: a\nContent-Length: 0\n\n" + SECOND.decode()),
        head("GET", MAPS, "X : a", "Transfer-Encoding : chunked") + SECOND,
        head("POST", MAPS, "Transfer-Encoding: chunked") + b"fffffffffffffffff\r\n" + SECOND,
        head("POST", MAPS, "Transfer-Encoding: chunked") + b"0x0\r\n\r\n" + SECOND,
    ]
    for request in hidden:
        status, answer = await raw(config, request)
        assert status == 0 or 400 <= status < 500, (request, answer)
        assert answer.count(b"HTTP/1.1 2") == 0, (request, answer)
    assert (await client.list(CONFIG_MAPS, "default"))["items"] == []


@pytest.mark.parametrize(
    "header",
    ["X: a\x00b", "X\x00: a", "X: " + "a" * 200_000, "Impersonate-User: a\rImpersonate-Group: system:masters"],
    ids=["null", "null-in-name", "long", "return"],
)  # fmt: skip
async def test_a_header_that_is_none_is_refused(config: ClientConfig, header: str) -> None:
    status, answer = await raw(config, head("GET", MAPS, header, "Connection: close"))
    assert status == 0 or 400 <= status < 500, answer[:300]


async def test_thousands_of_headers_and_lines_without_end_are_refused(config: ClientConfig, client: Client) -> None:
    for request in (
        head("GET", MAPS, *(f"X-{n}: a" for n in range(100_000))),
        b"GET /" + b"a" * 1_000_000,
        b"\x16\x03\x01" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        status, answer = await raw(config, request)
        assert status == 0 or 400 <= status < 600, answer[:300]
    assert (await client.list(CONFIG_MAPS, "default"))["items"] == []


async def test_no_path_leads_out_of_its_place(config: ClientConfig, client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "kept"}, "data": {"k": "v"}}, "default")
    paths = [
        f"{MAPS}/../configmaps/kept", "/api/v1/namespaces/../namespaces/default/configmaps/kept", f"{MAPS}/%2e%2e/configmaps/kept",
        f"{MAPS}/..%2fconfigmaps%2fkept", f"{MAPS}/.%2e/kept", f"{MAPS}//kept", f"{MAPS}/kept%00", f"{MAPS}/kept%0a", f"{MAPS}/%ff%fe",
        f"{MAPS}/kept/../../secrets", f"{MAPS}/%2fregistry%2fconfigmaps%2fdefault%2fkept",
        f"{MAPS}/{'a' * 5000}", f"{MAPS}/kept;x=y", f"{MAPS}/kept%3fa=b",
    ]  # fmt: skip
    for path in paths:
        for method in ("GET", "DELETE"):
            status, answer = await raw(config, head(method, path, "Connection: close"))
            assert 300 <= status < 500, (method, path, answer[:300])
            assert b'"k":"v"' not in answer
    assert (await client.get(CONFIG_MAPS, "kept", "default"))["data"] == {"k": "v"}


@pytest.mark.parametrize("number", ["¹", "٣", "9" * 5000, "-x", "--1", "+1", "1e3", " 1"])
async def test_a_parameter_that_is_no_number_is_told(client: Client, number: str) -> None:
    for params in ({"limit": number}, {"resourceVersion": number}, {"watch": "1", "timeoutSeconds": number}):
        with pytest.raises((errors.BadRequest, errors.Invalid)):
            await client.request("GET", MAPS, params=params)
    with pytest.raises((errors.BadRequest, errors.NotFound)):
        await client.request("DELETE", f"{MAPS}/none", params={"gracePeriodSeconds": number})
    patch = json.dumps([{"op": "add", "path": f"/metadata/finalizers/{number}", "value": "a/b"}]).encode()
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a", "finalizers": ["x/y"]}}, "default")
    with pytest.raises((errors.BadRequest, errors.Invalid)):
        headers = {"Content-Type": "application/json-patch+json"}
        await client.request("PATCH", f"{MAPS}/a", body=patch, headers=headers)


async def send(client: Client, method: str, path: str, body: bytes, media: str = "application/json") -> dict[str, Any]:
    return json.loads(await client.request(method, path, body=body, headers={"Content-Type": media}))


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b'{"metadata":{"name":"a","labels":{"k":"\xff\xfe"}}}', "application/json"),
        (b'{"metadata":{"name":"a","labels":{"k":"\\ud800"}}}', "application/json"),
        (b"metadata: {name: a, labels: {k: \xff}}", "application/yaml"),
        (b'{"metadata":{"name":"a","generation":1e400}}', "application/json"),
        (b'{"metadata":{"name":"a","generation":' + b"9" * 10_000 + b"}}", "application/json"),
        (b"metadata: {name: a, generation: " + b"9" * 100_000 + b"}", "application/yaml"),
        (b"metadata: {name: a, generation: 0x" + b"f" * 100_000 + b"}", "application/yaml"),
        (b"metadata: {name: a, generation: 1" + b":59" * 30_000 + b"}", "application/yaml"),
        (b'{"metadata":' * 50_000 + b"}" * 50_000, "application/json"),
        (b"a: " * 3 + b"[" * 50_000, "application/yaml"),
        (b"{" * 20_000 + b"}" * 20_000, "application/yaml"),
        (b"- " * 50_000, "application/yaml"),
        (b"!!python/object/apply:os.system ['true']", "application/yaml"),
        (b"k8s\x00" + b"\xff" * 1000, "application/vnd.kubernetes.protobuf"),
        (b"k8s\x00\x0a\x04\x0a\x02v1" + b"\x12\xff\xff\xff\xff\x0f", "application/vnd.kubernetes.protobuf"),
    ],
    ids=["utf8", "surrogate", "utf8-yaml", "exponent", "digits", "digits-yaml", "hexadecimal", "sexagesimal", "deep-json", "deep-yaml",
         "braces", "dashes", "python", "protobuf", "protobuf-length"],
)  # fmt: skip
async def test_what_can_not_be_read_is_a_bad_request_soon(client: Client, body: bytes, media: str) -> None:
    began = time.monotonic()
    with pytest.raises((errors.BadRequest, errors.Invalid)):
        await send(client, "POST", MAPS, body, media)
    assert time.monotonic() - began < 2
    assert (await client.list(CONFIG_MAPS, "default"))["items"] == []


async def test_long_names_and_numbers_out_of_range_are_told(client: Client) -> None:
    with pytest.raises(errors.Invalid, match="must be no more than 253 characters"):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a" * 254}}, "default")
    with pytest.raises(errors.Invalid, match="name part must be no more than 63 characters"):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a", "labels": {"a" * 64: "b"}}}, "default")
    for replicas in (b"2147483648", b"9223372036854775808", b"1180591620717411303424", b"1.5"):
        body = b'{"metadata":{"name":"a"},"spec":{"replicas":%s}}' % replicas
        with pytest.raises(
            errors.BadRequest, match="cannot unmarshal number .* into Go struct field .*replicas of type int32"
        ):
            await send(client, "POST", "/apis/apps/v1/namespaces/default/deployments", body)


JSON_PATCH, MERGE, STRATEGIC, APPLY = (
    f"application/{kind}" for kind in ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")
)  # fmt: skip


@pytest.mark.parametrize(
    ("media", "body", "code"),
    [
        (JSON_PATCH, b'[{"op":"remove","path":""}]', 422), (JSON_PATCH, b'[{"op":"move","from":"","path":"/a"}]', 422), (JSON_PATCH, b"{", 400), (JSON_PATCH, b"{}", 400), (JSON_PATCH, b'["x"]', 400), (JSON_PATCH, b'[{"op":"jump","path":"/a"}]', 422),
        (JSON_PATCH, b'[{"op":"test","path":"/data/k","value":"w"}]', 422), (JSON_PATCH, b'[{"op":"remove","path":"/data/none"}]', 422),
        (JSON_PATCH, b'[{"op":"replace","path":"/none/k","value":1}]', 422), (JSON_PATCH, b'[{"op":"add","path":"data","value":1}]', 422),
        (JSON_PATCH, b'[{"op":"add","path":"/data/k","value":1}]', 422), (JSON_PATCH, b'[{"op":"copy","from":"","path":"/data/x"}]', 422),
        (JSON_PATCH, b"[" + b",".join([b'{"op":"add","path":"/data/x","value":"y"}'] * 10_001) + b"]", 413),
        (MERGE, b"[]", 400), (MERGE, b"null", 400), (MERGE, b'{"data":[]}', 422), (MERGE, b'{"metadata":{"name":"other"}}', 400),
        (STRATEGIC, b"[]", 400), (STRATEGIC, b'{"$patch":"jump"}', 400), (STRATEGIC, b'{"data":{"$patch":"jump"}}', 400),
        (STRATEGIC, b'{"$setElementOrder/data":1}', 400), (APPLY, b": :", 400), (APPLY, b"[]", 400),
    ],
    ids=lambda value: value.decode()[:40] if isinstance(value, bytes) else "",
)  # fmt: skip
async def test_a_patch_that_makes_no_sense_changes_nothing(client: Client, media: str, body: bytes, code: int) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "kept"}, "data": {"k": "v"}}, "default")
    with pytest.raises(errors.APIError) as caught:
        params = {"fieldManager": "m"} if media == APPLY else {}
        await client.request("PATCH", f"{MAPS}/kept", body=body, headers={"Content-Type": media}, params=params)
    assert (caught.value.code, caught.value.to_status()["kind"]) == (code, "Status"), caught.value
    assert await client.get(CONFIG_MAPS, "kept", "default") == made


async def test_the_issuers_document_names_an_address_of_version_six(server: APIServer, client: Client) -> None:
    server.config = dataclasses.replace(server.config, advertise_address="fd00::7")
    document = json.loads(await client.request("GET", "/.well-known/openid-configuration"))
    assert document["jwks_uri"] == f"https://[fd00::7]:{server.config.port}/openid/v1/jwks"
