"""An extension API server behind the aggregation layer; it is a real HTTPS server.

https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from apiserver.app import APIServer
from cluster.addresses import node_address
from cluster.pki import Pki
from machinery import errors
from machinery.api.resources import API_SERVICES, CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, SERVICES
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl
from tests.support.server import client_config
from tests.support.waiting import until_one

GROUP, VERSION = "wardle.example.com", "v1alpha1"
NAME = f"{VERSION}.{GROUP}"
RESOURCES = [{"name": "flunders", "singularName": "flunder", "namespaced": True, "kind": "Flunder", "verbs": ["get", "list"], "shortNames": ["fl"]}]  # fmt: skip


def available(status: str) -> Any:
    def is_so(service: dict[str, Any]) -> bool:
        conditions = (service.get("status") or {}).get("conditions") or ()
        return any(one["type"] == "Available" and one["status"] == status for one in conditions)

    return is_so


def condition(service: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in service["status"]["conditions"] if one["type"] == "Available")


@pytest.fixture
async def extension(tmp_path: Path, server: APIServer) -> AsyncIterator[tuple[int, str]]:
    """Serve a group as an extension API server does; it takes users from the front proxy's headers."""
    pki = Pki(tmp_path / "extension", ca_name="extension-ca")
    cert, key = pki.server("wardle", "wardle", ["api.wardle.svc"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    assert server.config.front_proxy_ca_file is not None
    context.load_verify_locations(server.config.front_proxy_ca_file)
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(request: web.BaseRequest) -> web.Response:
        peer = request.transport.get_extra_info("peercert") if request.transport else {}
        proxy = next(v for part in peer["subject"] for k, v in part if k == "commonName")
        assert proxy == "front-proxy-client"
        assert "Authorization" not in request.headers
        told = {"user": request.headers["X-Remote-User"], "groups": request.headers.getall("X-Remote-Group")}
        match request.path:
            case "/apis/wardle.example.com/v1alpha1":
                body: Any = {"kind": "APIResourceList", "groupVersion": f"{GROUP}/{VERSION}", "resources": RESOURCES}
            case "/openapi/v2":
                body = {"swagger": "2.0", "paths": {"/apis/wardle.example.com/v1alpha1/flunders": {}}, "definitions": {"wardle.Flunder": {"type": "object"}}}  # fmt: skip
            case "/openapi/v3/apis/wardle.example.com/v1alpha1":
                body = {"openapi": "3.0.0", "components": {"schemas": {"wardle.Flunder": {"type": "object"}}}}
            case path if path.endswith("/flunders"):
                metadata = {"name": "one", "annotations": {"told": json.dumps(told)}}
                body = {"kind": "FlunderList", "apiVersion": f"{GROUP}/{VERSION}", "items": [{"kind": "Flunder", "apiVersion": f"{GROUP}/{VERSION}", "metadata": metadata}]}  # fmt: skip
            case _:
                return web.Response(status=404, text=request.path)
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, node_address(), 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1], base64.b64encode(pki.ca_file.read_bytes()).decode()
    finally:
        await runner.cleanup()


async def register(client: Client, bundle: str) -> None:
    spec = {
        "group": GROUP, "version": VERSION, "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": bundle,
        "service": {"namespace": "wardle", "name": "api", "port": 7443},
    }  # fmt: skip
    await client.create(API_SERVICES, {"metadata": {"name": NAME}, "spec": spec})


async def point_to(client: Client, port: int) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": "wardle"}})
    await client.create(SERVICES, {"metadata": {"name": "api"}, "spec": {"ports": [{"port": 7443}]}}, "wardle")
    endpoints: dict[str, Any] = {
        "metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [node_address()]}], "ports": [{"name": "", "port": port}],
    }  # fmt: skip
    await client.create(ENDPOINT_SLICES, endpoints, "wardle")


@pytest.mark.slow
async def test_requests_reach_the_extension_server_in_the_users_name(
    client: Client, kubectl: Kubectl, extension: tuple[int, str]
) -> None:
    port, bundle = extension
    await register(client, bundle)
    service = await until_one(client, API_SERVICES, NAME, available("False"))
    assert condition(service)["reason"] == "ServiceNotFound"
    assert condition(service)["message"] == 'service/api in "wardle" is not present'
    with pytest.raises(errors.ServiceUnavailable):
        await client.request("GET", f"/apis/{GROUP}/{VERSION}/flunders")
    await point_to(client, port)
    service = await until_one(client, API_SERVICES, NAME, available("True"))
    assert (condition(service)["reason"], condition(service)["message"]) == ("Passed", "all checks passed")

    code, out, problem = await kubectl("get", "fl", "-o", "json")
    assert (code, problem) == (0, "")
    told = json.loads(json.loads(out)["items"][0]["metadata"]["annotations"]["told"])
    assert told == {"user": "admin", "groups": ["system:masters", "system:authenticated"]}
    _, out, _ = await kubectl("get", "apiservice", NAME)
    assert out.splitlines()[1].split()[:3] == [NAME, "wardle/api", "True"]
    document = json.loads(await client.request("GET", "/openapi/v3"))
    link = document["paths"][f"apis/{GROUP}/{VERSION}"]["serverRelativeURL"]
    assert "wardle.Flunder" in json.loads(await client.request("GET", link.partition("?")[0]))["components"]["schemas"]
    assert "wardle.Flunder" in json.loads(await client.request("GET", "/openapi/v2"))["definitions"]


async def test_a_user_who_may_not_is_stopped_here(
    client: Client, extension: tuple[int, str], server: APIServer, tmp_path: Path
) -> None:
    port, bundle = extension
    await point_to(client, port)
    await register(client, bundle)
    await until_one(client, API_SERVICES, NAME, available("True"))
    async with Client(client_config(tmp_path, server.config, user="bob", groups=())) as bob:
        with pytest.raises(errors.Forbidden, match='cannot list resource "flunders" in API group "wardle.example.com"'):
            await bob.request("GET", f"/apis/{GROUP}/{VERSION}/flunders")
        assert b"flunders" in await bob.request("GET", f"/apis/{GROUP}/{VERSION}")  # discovery is open


async def test_a_certificate_of_another_authority_makes_it_unavailable(client: Client, extension: tuple[int, str], tmp_path: Path) -> None:  # fmt: skip
    port, _ = extension
    await point_to(client, port)
    other = Pki(tmp_path / "else", ca_name="else").ca_file.read_bytes()
    await register(client, base64.b64encode(other).decode())
    service = await until_one(client, API_SERVICES, NAME, available("False"))
    assert condition(service)["reason"] == "FailedDiscoveryCheck"


async def test_what_is_served_here_has_local_api_services(client: Client) -> None:
    found = await until_one(client, API_SERVICES, "v1.apps", available("True"))
    assert condition(found)["reason"] == "Local"
    await until_one(client, API_SERVICES, "v1.", available("True"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"groupPriorityMinimum": 0}, "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"),
        ({"version": "v2"}, 'metadata.name: Invalid value: "v1alpha1.wardle.example.com"'),
        ({"insecureSkipTLSVerify": True}, "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present"),
        ({"service": None}, "local APIServices may not have a caBundle"),
    ],
)  # fmt: skip
async def test_an_api_service_without_sense_is_refused(client: Client, changes: dict[str, Any], told: str) -> None:
    spec = {
        "group": GROUP, "version": VERSION, "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": "YQ==",
        "service": {"namespace": "wardle", "name": "api"}, **changes,
    }  # fmt: skip
    with pytest.raises(errors.Invalid) as caught:
        await client.create(API_SERVICES, {"metadata": {"name": NAME}, "spec": spec})
    assert told in str(caught.value)


async def test_extension_servers_are_told_whom_to_trust(client: Client) -> None:
    data = (await client.get(CONFIG_MAPS, "extension-apiserver-authentication", "kube-system"))["data"]
    assert json.loads(data["requestheader-username-headers"]) == ["X-Remote-User"]
    assert json.loads(data["requestheader-allowed-names"]) == ["front-proxy-client"]
    assert data["client-ca-file"] != data["requestheader-client-ca-file"]
