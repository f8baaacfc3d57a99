"""Requests through `proxy` to a pod and to a service; what answers is a real HTTP server."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cluster.addresses import node_address
from machinery import errors
from machinery.api.resources import ENDPOINT_SLICES, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, SERVICES
from machinery.client.rest import Client
from machinery.client.tls import ssl_context
from tests.integration.apiserver.conftest import Kubectl, pod

NAMESPACE = "proxy-1"  # a name that begins as the subresource is called, as upstream's test has it


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[int]:
    """Serve an echo of method, path, query and body on a port of this machine."""

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(f"echo {message.data}")
            return socket
        body = await request.text()
        text = f"{request.method} {request.raw_path} {body} {request.headers.get('Authorization', 'nobody')}"
        return web.Response(text=text, status=int(request.query.get("status", "200")), headers={"X-From": "pod"})

    runner = web.ServerRunner(web.Server(echo))
    await runner.setup()
    site = web.TCPSite(runner, node_address(), 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.fixture
async def port(client: Client) -> AsyncIterator[int]:
    async with answering() as port:
        await client.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, NAMESPACE)
        body = pod("web")
        body["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": port}]
        await client.create(PODS, body, NAMESPACE)
        await client.patch(PODS, "web", {"status": {"podIP": node_address()}}, NAMESPACE, subresource="status")
        service = {"metadata": {"name": "web"}, "spec": {"ports": [{"name": "main", "port": 80, "targetPort": port}]}}
        await client.create(SERVICES, service, NAMESPACE)
        endpoints: dict[str, Any] = {
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [node_address()]}], "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
        }  # fmt: skip
        await client.create(ENDPOINT_SLICES, endpoints, NAMESPACE)
        yield port


@pytest.mark.parametrize(
    "target", ["pods/web", "pods/web:http", "services/web", "services/web:main", "services/http:web:80"]
)
async def test_requests_reach_their_target_as_they_are(client: Client, port: int, target: str) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/{target}/proxy/some/place"
    answer = await client.request("POST", path, params={"a": "b"}, body=b"hello")
    assert answer == b"POST /some/place?a=b hello nobody"


async def test_a_path_without_slash_is_sent_on(client: Client, port: int, server: Any, config: Any) -> None:
    url = f"{config.server}/api/v1/namespaces/{NAMESPACE}/pods/web:{port}/proxy?x=1"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=ssl_context(config), allow_redirects=False) as answer,
    ):
        assert (answer.status, answer.headers["Location"]) == (
            301,
            f"/api/v1/namespaces/{NAMESPACE}/pods/web:{port}/proxy/?x=1",
        )


async def test_what_is_not_there_is_told(client: Client, port: int) -> None:
    with pytest.raises(errors.NotFound, match='pods "none" not found'):
        await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/none/proxy/")
    with pytest.raises(errors.ServiceUnavailable, match="error trying to reach service"):
        await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/web:1/proxy/")
    await client.delete(ENDPOINT_SLICES, "web-1", NAMESPACE)
    with pytest.raises(errors.ServiceUnavailable, match='no endpoints available for service "web"'):
        await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/services/web/proxy/")


async def test_a_node_that_tells_no_address_is_told_of(client: Client, port: int) -> None:
    await client.create(NODES, {"metadata": {"name": "mute"}})
    pod = {"metadata": {"name": "there"}, "spec": {"nodeName": "mute", "containers": [{"name": "c", "image": "i:1"}]}}
    await client.create(PODS, pod, NAMESPACE)
    for path in (f"namespaces/{NAMESPACE}/pods/there/log", "nodes/mute/proxy/healthz"):
        with pytest.raises(errors.InternalError, match="no preferred addresses found; known addresses"):
            await client.request("GET", f"/api/v1/{path}")


async def test_websockets_go_through(client: Client, port: int) -> None:
    async with client.websocket(f"/api/v1/namespaces/{NAMESPACE}/services/web/proxy/") as socket:
        await socket.send_str("hi")
        assert (await socket.receive()).data == "echo hi"


@pytest.mark.slow
async def test_kubectl_get_raw_shows_the_answer(kubectl: Kubectl, port: int) -> None:
    code, out, _ = await kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/services/web/proxy/hello")
    assert (code, out) == (0, "GET /hello  nobody")


async def test_no_pod_leads_to_what_listens_on_the_servers_own_loopback(client: Client, port: int) -> None:
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"):
        await client.patch(PODS, "web", {"status": {"podIP": address}}, NAMESPACE, subresource="status")
        with pytest.raises(errors.BadRequest, match="address not allowed"):
            await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/web:{port}/proxy/")
