"""Logs, exec, attach and port forwarding: passed on to the agent of the pod's node.

The agent serves them as the kubelet does; this server checks who asks, finds the node and hands bytes over.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from apiserver.agent_address import agent_authority
from apiserver.auth.authentication import TOKEN_PROTOCOL
from apiserver.endpoints import remote_command
from apiserver.endpoints.port_forward import PROTOCOL, Tunnel
from apiserver.endpoints.proxy import join
from apiserver.endpoints.takeover import take_over
from apiserver.registry.kind import Object
from apiserver.request import Call, flag
from apiserver.storage.object_storage import ObjectStorage
from machinery import errors
from machinery.api.digits import is_number
from machinery.channels import ERROR

SUBRESOURCES = ("log", "exec", "attach", "portforward")
_PATHS = {"log": "containerLogs", "exec": "exec", "attach": "attach", "portforward": "portForward"}
_FORWARD_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "portforward.k8s.io")
_SPDY, _SPDY_FORWARD = "SPDY/3.1", "portforward.k8s.io"
_LOG_FLAGS = ("follow", "previous", "timestamps")
_LOG_LEAST = {"sinceSeconds": 1, "tailLines": 0, "limitBytes": 1}
_LOG_TEXTS = ("sinceTime", "stream")
_LOG_PROTOCOLS = ("binary.k8s.io", "base64.binary.k8s.io")
_CONNECT_SECONDS = 10
# kubectl before 1.33 throws away what comes before it has set up its channels, right after the handshake.
_LISTENING_SECONDS = 0.02
_MAX_MESSAGE = 16 * 1024 * 1024


class Streams:
    """Connects clients with agents."""

    def __init__(self, storage: ObjectStorage, tls: ssl.SSLContext) -> None:
        """Args: `tls` carries the certificate this server shows to agents, and the CA theirs are checked against."""
        self._storage = storage
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections to agents."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request for a pod's log, exec, attach or portforward."""
        entry = await self._storage.get(call.known.resource, call.known.key(call.info.namespace, call.info.name))
        pod = entry.object()
        if call.info.subresource == "log":
            query = _log_query(call)
            if not pod["spec"].get("nodeName"):
                return web.Response(text="", content_type="text/plain")
            return await self._log(call, self._agent_url(pod, call), query)
        try:
            return await self._stream(call, pod)
        except _Refused as refused:
            return refused.response()

    async def _stream(self, call: Call, pod: Object) -> web.StreamResponse:
        if call.info.subresource == "portforward":
            return await self._forward(call, self._agent_url(pod, call))
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            verb = "exec into" if call.info.subresource == "exec" else "attach to"
            raise errors.BadRequest(f"cannot {verb} a container in a completed pod; current phase is {_phase(pod)}")
        return await self._command(call, self._agent_url(pod, call))

    def _agent_url(self, pod: Object, call: Call) -> str:
        node_name = pod["spec"].get("nodeName", "")
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        container = "" if call.info.subresource == "portforward" else _container(pod, call)
        if not node_name:
            raise errors.BadRequest(f"pod {name} does not have a host assigned")
        node = self._storage.cache.collection("nodes").get(f"/registry/nodes/{node_name}")
        if node is None:
            raise errors.NotFound(f'nodes "{node_name}" not found', kind="nodes", name=node_name)
        path = f"/{_PATHS[call.info.subresource]}/{namespace}/{name}"
        return f"https://{agent_authority(node.object())}{path}" + (f"/{container}" if container else "")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), timeout=timeout, auto_decompress=False
            )
        return self._session

    async def _log(self, call: Call, url: str, query: Mapping[str, str]) -> web.StreamResponse:
        async with _agent_errors(url), self._client().get(url, params=query) as answer:
            if answer.status != 200:
                raise _agent_refusal(answer.status, await answer.text())
            if _upgrade(call) == "websocket":
                return await _log_over_websocket(call, answer)
            response = web.StreamResponse(headers={"Content-Type": "text/plain", **call.told})
            response.enable_chunked_encoding()
            await response.prepare(call.http)
            with contextlib.suppress(ConnectionResetError, aiohttp.ClientPayloadError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    async def _command(self, call: Call, url: str) -> web.StreamResponse:
        """Run a command, or join a running one, for a client of any protocol."""
        wanted = {name: flag(call.query, name) for name in ("stdin", "stdout", "stderr", "tty")}
        if not (wanted["stdin"] or wanted["stdout"] or wanted["stderr"]):
            raise errors.BadRequest("you must specify at least 1 of stdin, stdout, stderr")
        if wanted["tty"]:
            wanted["stderr"] = False
        params = [(name, "true") for name, value in wanted.items() if value]
        params += [("command", part) for part in call.http.query.getall("command", [])]
        if call.info.subresource == "exec" and params[-1][0] != "command":
            raise errors.BadRequest("you must specify at least one command for the container")
        upgrade = _upgrade(call)
        if upgrade not in ("websocket", _SPDY.lower()):
            raise errors.BadRequest("Upgrade request required")
        if upgrade == "websocket":
            return await self._command_over_websocket(call, url, params)
        protocol = _spdy_protocol(call, remote_command.SPDY)
        async with self._agent(url, params, remote_command.PLAIN) as agent:
            connection = await take_over(call.http, _SPDY, {"X-Stream-Protocol-Version": protocol})
            session = remote_command.SpdySession(connection, protocol, wanted)
            if await session.opened():
                await remote_command.bridge(session, agent)
            return connection.response

    async def _command_over_websocket(self, call: Call, url: str, params: Any) -> web.StreamResponse:
        protocol = _websocket_protocol(call, remote_command.WEBSOCKET)
        if protocol == remote_command.PLAIN[0]:
            return await self._command_over_newest(call, url, params)
        plain = (protocol,) if protocol in remote_command.PLAIN else remote_command.PLAIN
        async with self._agent(url, params, plain) as agent:
            client = await _accepted(call, protocol)
            await remote_command.bridge(remote_command.WebSocket(client, protocol), agent)
            return client

    async def _command_over_newest(self, call: Call, url: str, params: Any) -> web.StreamResponse:
        """Serve v5, whose clients upstream lets in first: what the agent refuses is told on the channel for it."""
        client = await _accepted(call, remote_command.PLAIN[0])
        session = remote_command.WebSocket(client, remote_command.PLAIN[0])
        told: errors.APIError
        try:
            async with self._agent(url, params, remote_command.PLAIN) as agent:
                await remote_command.bridge(session, agent)
                return client
        except _Refused as refused:
            told = errors.InternalError(f"Internal error occurred: unable to upgrade connection: {refused.text}")
        except errors.APIError as error:
            told = error
        await session.send(ERROR, orjson.dumps(told.to_status()))
        await session.close()
        return client

    @contextlib.asynccontextmanager
    async def _agent(
        self, url: str, params: Any, protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket to an agent. Raises: _Refused; InternalError when it is away."""
        connecting = self._client().ws_connect(url, params=params, protocols=protocols, max_msg_size=_MAX_MESSAGE)
        async with _agent_errors(url), connecting as agent:
            yield agent

    async def _forward(self, call: Call, url: str) -> web.StreamResponse:
        """Forward ports: over SPDY streams, bare or inside a WebSocket, or over a WebSocket's channels."""
        upgrade = _upgrade(call)
        if upgrade == _SPDY.lower():
            protocol = _spdy_protocol(call, (_SPDY_FORWARD,))
            connection = await take_over(call.http, _SPDY, {"X-Stream-Protocol-Version": protocol})
            await Tunnel(connection.send, connection.receive(), self._port(url)).run()
            return connection.response
        if upgrade != "websocket":
            raise errors.BadRequest("Upgrade request required")
        if PROTOCOL in _offered(call):
            client = web.WebSocketResponse(protocols=[PROTOCOL], max_msg_size=_MAX_MESSAGE)
            await client.prepare(call.http)
            await Tunnel(client.send_bytes, _messages(client), self._port(url)).run()
            return client
        protocol = _websocket_protocol(call, _FORWARD_PROTOCOLS)
        async with self._agent(url, list(call.http.query.items()), (protocol or _FORWARD_PROTOCOLS[1],)) as agent:
            client = web.WebSocketResponse(protocols=[protocol] if protocol else (), max_msg_size=_MAX_MESSAGE)
            await client.prepare(call.http)
            await join(client, agent)
            return client

    def _port(self, url: str) -> Any:
        """Return what opens a WebSocket for one port of a pod."""

        def connect(port: int) -> Any:
            return self._client().ws_connect(
                url, params=[("ports", str(port))], protocols=["v4.channel.k8s.io"], max_msg_size=_MAX_MESSAGE
            )

        return connect


async def _accepted(call: Call, protocol: str) -> web.WebSocketResponse:
    """Return a client's WebSocket, open."""
    client = web.WebSocketResponse(protocols=[protocol] if protocol else (), max_msg_size=_MAX_MESSAGE)
    await client.prepare(call.http)
    await asyncio.sleep(_LISTENING_SECONDS)
    return client


class _Refused(Exception):
    """An agent would not open a WebSocket."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text

    def response(self) -> web.Response:
        """Return the agent's answer, as clients of old protocols are shown it."""
        return web.Response(status=self.status, text=self.text)


async def _messages(socket: web.WebSocketResponse) -> AsyncIterator[bytes]:
    async for message in socket:
        if message.type == aiohttp.WSMsgType.BINARY:
            yield message.data


def _upgrade(call: Call) -> str:
    return str(call.http.headers.get("Upgrade", "")).lower()


def _offered(call: Call) -> list[str]:
    headers = call.http.headers.getall("Sec-WebSocket-Protocol", [])
    found = [one.strip() for header in headers for one in header.split(",")]
    return [one for one in found if one and not one.startswith(TOKEN_PROTOCOL)]


def _websocket_protocol(call: Call, known: Sequence[str]) -> str:
    """Return the first protocol a client offers that is known; "" when it offers none. Raises: BadRequest."""
    offered = _offered(call)
    found = next((one for one in offered if one in known), "")
    if offered and not found:
        raise errors.BadRequest(f"unable to negotiate protocol: client offers {offered}, server takes {list(known)}")
    return found


def _spdy_protocol(call: Call, known: Sequence[str]) -> str:
    """Return the newest protocol a client's headers offer. Raises: Forbidden when none is known."""
    headers = call.http.headers.getall("X-Stream-Protocol-Version", [])
    offered = [one.strip() for header in headers for one in header.split(",") if one.strip()]
    if not offered:
        return known[-1]
    found = next((one for one in known if one in offered), "")
    if not found:
        raise errors.Forbidden(
            f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {list(known)}"
        )
    return found


def _log_query(call: Call) -> dict[str, str]:
    """Return the parameters of a log request for the agent. Raises: BadRequest, Invalid."""
    query = call.query
    found = {name: "true" for name in _LOG_FLAGS if flag(query, name)}
    found |= {name: query[name] for name in _LOG_TEXTS if query.get(name)}
    wrong = []
    for name, least in _LOG_LEAST.items():
        text = query.get(name, "")
        if not text:
            continue
        if not is_number(text.removeprefix("-")):
            raise errors.BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        if int(text) < least:
            rule = "must be greater than or equal to 0" if least == 0 else "must be greater than 0"
            wrong.append(errors.Cause("FieldValueInvalid", f"Invalid value: {int(text)}: {rule}", name))
        found[name] = text
    if "sinceSeconds" in found and "sinceTime" in found:
        told = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        wrong.append(errors.Cause("FieldValueForbidden", told, ""))
    if wrong:
        texts = [f"{one.field}: {one.message}" if one.field else one.message for one in wrong]
        listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        message = f'PodLogOptions "{call.info.name}" is invalid: {listed}'
        raise errors.Invalid(message, kind="PodLogOptions", name=call.info.name, causes=wrong)
    return found


async def _log_over_websocket(call: Call, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Send a log as the messages of a WebSocket, bytes or base64."""
    protocol = _websocket_protocol(call, _LOG_PROTOCOLS)
    client = web.WebSocketResponse(protocols=[protocol] if protocol else ())
    await client.prepare(call.http)
    with contextlib.suppress(ConnectionResetError, aiohttp.ClientPayloadError):
        async for chunk in answer.content.iter_any():
            if protocol == _LOG_PROTOCOLS[1]:
                await client.send_str(base64.b64encode(chunk).decode())
            else:
                await client.send_bytes(chunk)
    await client.close()
    return client


def _phase(pod: Object) -> str:
    return str(pod["status"]["phase"])


def _container(pod: Object, call: Call) -> str:
    """Return the container asked for, or the only one. Raises: BadRequest in kubectl's words."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    groups = {
        g: [c["name"] for c in spec.get(g) or ()] for g in ("containers", "initContainers", "ephemeralContainers")
    }
    known = [one for names in groups.values() for one in names]
    asked = call.query.get("container", "")
    if asked:
        if asked not in known:
            raise errors.BadRequest(f"container {asked} is not valid for pod {name}")
        return asked
    annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container", "")
    if annotated in known:
        return str(annotated)
    if len(groups["containers"]) == 1:
        return str(groups["containers"][0])
    listed = " ".join(groups["containers"])
    message = f"a container name must be specified for pod {name}, choose one of: [{listed}]"
    if groups["initContainers"]:
        message += f" or one of the init containers: [{' '.join(groups['initContainers'])}]"
    raise errors.BadRequest(message)


def _agent_refusal(status: int, text: str) -> errors.APIError:
    text = text.strip()
    match status:
        case 400:
            return errors.BadRequest(text)
        case 404:
            return errors.NotFound(f"the server could not find the requested resource ( {text} )")
        case _:
            return errors.InternalError(f"Internal error occurred: {text}")


@contextlib.asynccontextmanager
async def _agent_errors(url: str) -> AsyncIterator[None]:
    """Tell of an agent that can't be reached as the API does."""
    try:
        yield
    except aiohttp.WSServerHandshakeError as error:
        headers: Mapping[str, str] = error.headers or {}
        raise _Refused(error.status, headers.get("X-Wherry-Error", error.message)) from error
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise errors.InternalError(f"Internal error occurred: error dialing backend: {url}: {error}") from error
