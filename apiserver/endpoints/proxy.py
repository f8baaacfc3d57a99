"""Requests passed on to a pod, to a service's endpoints or to a node's agent: the subresource `proxy`.

Source: https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/#manually-constructing-apiserver-proxy-urls
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from apiserver.admission.webhook_client import ready_endpoints
from apiserver.agent_address import agent_address
from apiserver.registry.kind import Object
from apiserver.registry.service_rules import address_problem
from apiserver.request import Call
from apiserver.storage.object_storage import ObjectStorage
from machinery import errors
from machinery.api.digits import is_number
from machinery.api.resources import NODES, PODS, SERVICES

_CONNECT_SECONDS = 10
# Headers that belong to one connection, not to the request; RFC 9110, 7.6.1.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip
# What says who the client is towards this server must not reach what it asks for.
_PRIVATE = frozenset({"authorization", "host", "content-length", "cookie2"})


class Target(NamedTuple):
    """Where a request goes: "http" or "https", host and port, and whether it is a node's agent."""

    scheme: str
    host: str
    port: int
    is_agent: bool = False


class Proxy:
    """Passes requests on; answers come back as they are."""

    def __init__(self, storage: ObjectStorage, agent_tls: ssl.SSLContext) -> None:
        """Args: `agent_tls` carries the certificate this server shows to agents."""
        self._storage = storage
        self._agent_tls = agent_tls
        self._session: aiohttp.ClientSession | None = None
        self._targets: Mapping[str, Callable[[Call], Target]] = {
            "pods": self._pod, "services": self._service, "nodes": self._node,
        }  # fmt: skip

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request for what lies below `proxy`. Raises: NotFound, ServiceUnavailable, BadRequest."""
        target = self._targets[call.info.resource](call)
        before, rest = _around_proxy(call.http.raw_path.partition("?")[0], namespaced=bool(call.info.namespace))
        if not rest and call.http.method in ("GET", "HEAD"):
            query = call.http.query_string
            location = f"{before}/proxy/" + (f"?{query}" if query else "")
            return web.Response(status=301, headers={"Location": location})
        return await self.forward(call, target, rest or "/")

    async def forward(self, call: Call, target: Target, path: str) -> web.StreamResponse:
        """Send the request to a target's path (raw, without query) and hand its answer back."""
        host = f"[{target.host}]" if ":" in target.host else target.host
        query = call.http.query_string
        url = URL(f"{target.scheme}://{host}:{target.port}{path}" + (f"?{query}" if query else ""), encoded=True)
        headers = request_headers(call)
        tls: Any = self._agent_tls if target.is_agent else False  # services show certificates nobody here signed
        if "websocket" in call.http.headers.get("Upgrade", "").lower():
            return await self._join(call, url, headers, tls)
        body = call.http.content if call.http.body_exists else None
        asking = self._client().request(
            call.http.method, url, headers=headers, data=body, ssl=tls, allow_redirects=False, skip_auto_headers=_SKIP
        )
        async with _reaching(), asking as answer:
            return await hand_back(call, answer)

    async def _join(self, call: Call, url: URL, headers: CIMultiDict[str], tls: Any) -> web.StreamResponse:
        protocols = [one.strip() for one in call.http.headers.get("Sec-WebSocket-Protocol", "").split(",") if one]
        kept = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket")}
        async with _reaching(), self._client().ws_connect(url, headers=kept, protocols=protocols, ssl=tls) as there:
            here = web.WebSocketResponse(protocols=[there.protocol] if there.protocol else ())
            await here.prepare(call.http)
            await join(here, there)
            return here

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    # ---- where to

    def _pod(self, call: Call) -> Target:
        scheme, name, port = _split(call.info.name)
        pod = self._object(call, PODS.group_resource, name)
        address = (pod.get("status") or {}).get("podIP", "")
        if not address:
            raise errors.ServiceUnavailable(f'pod "{name}" has no address: it is not running')
        if address_problem(address):  # who writes a pod's status must not reach what listens on this machine alone
            raise errors.BadRequest("address not allowed")
        if not port:
            ports = (one for container in pod["spec"]["containers"] for one in container.get("ports") or ())
            port = str(next((one["containerPort"] for one in ports), 80))
        if not is_number(port):
            named = (one for container in pod["spec"]["containers"] for one in container.get("ports") or ())
            port = next((str(one["containerPort"]) for one in named if one.get("name") == port), "")
        return Target(scheme, address, _port(port, call.info.name))

    def _service(self, call: Call) -> Target:
        scheme, name, port = _split(call.info.name)
        service = self._object(call, SERVICES.group_resource, name)
        found = _service_port(service, port)
        if found is None:
            raise errors.ServiceUnavailable(f'no service port "{port}" found for service "{name}"')
        endpoints = ready_endpoints(self._storage.cache, call.info.namespace, name, found.get("name", ""))
        if not endpoints:
            raise errors.ServiceUnavailable(f'no endpoints available for service "{call.info.name}"')
        address, number = random.choice(endpoints)  # noqa: S311 - spreads requests, guards nothing
        return Target(scheme, address, number)

    def _node(self, call: Call) -> Target:
        _, name, port = _split(call.info.name)
        node = self._object(call, NODES.group_resource, name)
        address, own = agent_address(node)
        if port and port != str(own):
            return Target("http", address, _port(port, call.info.name))
        return Target("https", address, own, is_agent=True)

    def _object(self, call: Call, group_resource: str, name: str) -> Object:
        entry = self._storage.cache.collection(group_resource).get(call.known.key(call.info.namespace, name))
        if entry is None:
            raise errors.NotFound(f'{group_resource} "{name}" not found', kind=group_resource, name=name)
        return entry.object()


_SKIP = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


def _around_proxy(path: str, *, namespaced: bool) -> tuple[str, str]:
    """Return what stands before and behind `/proxy`; names may begin with that word, so it is found by counting."""
    at = 7 if namespaced else 5  # /api/v1/namespaces/NAMESPACE/pods/NAME/proxy, /api/v1/nodes/NAME/proxy
    parts = path.split("/", at + 1)
    return "/".join(parts[:at]), "/" + parts[at + 1] if len(parts) > at + 1 else ""


def _split(name: str) -> tuple[str, str, str]:
    """Return scheme, name and port of "name", "name:port" or "scheme:name:port". Raises: BadRequest."""
    parts = name.split(":")
    if len(parts) == 1:
        return "http", name, ""
    if len(parts) == 2:
        return "http", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0] or "http", parts[1], parts[2]
    raise errors.BadRequest(f'invalid proxy request "{name}"')


def _port(text: str, name: str) -> int:
    if not is_number(text) or not 0 < int(text) < 65536:
        raise errors.BadRequest(f'invalid port in proxy request "{name}"')
    return int(text)


def _service_port(service: Object, asked: str) -> Object | None:
    """Return the port of a service by name or number; the only one where none is asked for."""
    ports: list[Object] = service["spec"].get("ports") or []
    if not asked:
        return ports[0] if ports else None
    return next((one for one in ports if asked in (one.get("name"), str(one["port"]))), None)


def request_headers(call: Call) -> CIMultiDict[str]:
    """Return the headers of a request that may be passed on."""
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in call.http.headers.items():
        if name.lower() not in _HOP_BY_HOP and name.lower() not in _PRIVATE:
            kept.add(name, value)
    kept["X-Forwarded-Uri"] = call.http.raw_path
    kept["X-Forwarded-Proto"] = "https"
    if call.http.remote:
        kept.add("X-Forwarded-For", call.http.remote)
    return kept


async def hand_back(call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Hand an answer back as it comes."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in _HOP_BY_HOP:
            response.headers.add(name, value)
    response.headers.update(call.told)
    if "Content-Length" not in answer.headers:
        response.enable_chunked_encoding()
    await response.prepare(call.http)
    with contextlib.suppress(ConnectionResetError, aiohttp.ClientPayloadError):
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    return response


@contextlib.asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    """Tell of what can't be reached as the API does."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise errors.ServiceUnavailable(f"error trying to reach service: {error}") from error


async def join(client: web.WebSocketResponse, server: aiohttp.ClientWebSocketResponse) -> None:
    """Hand messages over in both directions until either side ends."""
    tasks = [asyncio.create_task(_copy(client, server)), asyncio.create_task(_copy(server, client))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.close()
        await client.close()


async def _copy(source: Any, target: Any) -> None:
    async for message in source:
        if message.type == aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type == aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
