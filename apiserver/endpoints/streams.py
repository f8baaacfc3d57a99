"""Logs, exec, attach and port forwarding: passed on to the agent of the pod's node.

The agent serves them as the kubelet does; this server checks who asks, finds the node and hands bytes over.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import web

from apiserver.endpoints.port_forward import PROTOCOL, Tunnel
from apiserver.endpoints.proxy import join
from apiserver.registry.kind import Object
from apiserver.request import Call
from apiserver.storage.object_storage import ObjectStorage
from machinery import errors

SUBRESOURCES = ("log", "exec", "attach", "portforward")
_PATHS = {"log": "containerLogs", "exec": "exec", "attach": "attach", "portforward": "portForward"}
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "portforward.k8s.io")
_LOG_PARAMETERS = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_CONNECT_SECONDS = 10
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
        url = self._agent_url(pod, call)
        if call.info.subresource == "log":
            return await self._log(call, url)
        return await self._stream(call, url)

    def _agent_url(self, pod: Object, call: Call) -> str:
        node_name = pod["spec"].get("nodeName", "")
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        container = "" if call.info.subresource == "portforward" else _container(pod, call)
        if not node_name:
            raise errors.BadRequest(f"pod {name} does not have a host assigned")
        node = self._storage.cache.collection("nodes").get(f"/registry/nodes/{node_name}")
        if node is None:
            raise errors.NotFound(f'nodes "{node_name}" not found', kind="nodes", name=node_name)
        status = node.object().get("status") or {}
        address = next((one["address"] for one in status.get("addresses") or () if one["type"] == "InternalIP"), "")
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port", 10250)
        host = f"[{address}]" if ":" in address else address
        path = f"/{_PATHS[call.info.subresource]}/{namespace}/{name}"
        return f"https://{host}:{port}{path}" + (f"/{container}" if container else "")

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), timeout=timeout, auto_decompress=False
            )
        return self._session

    async def _log(self, call: Call, url: str) -> web.StreamResponse:
        query = {name: call.query[name] for name in _LOG_PARAMETERS if name in call.query}
        async with _agent_errors(url), self._client().get(url, params=query) as answer:
            if answer.status != 200:
                raise _agent_refusal(answer.status, await answer.text())
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            response.enable_chunked_encoding()
            await response.prepare(call.http)
            with contextlib.suppress(ConnectionResetError, aiohttp.ClientPayloadError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    async def _stream(self, call: Call, url: str) -> web.StreamResponse:
        if call.http.headers.get("Upgrade", "").lower() != "websocket":
            raise errors.BadRequest("Upgrade request required: this server streams over WebSocket")
        offered = [one.strip() for one in call.http.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if call.info.subresource == "portforward" and PROTOCOL in offered:
            return await self._tunnel(call, url)
        protocols = [one for one in offered if one in _PROTOCOLS]
        if not protocols:
            raise errors.BadRequest(
                f"unable to negotiate protocol: client offers {offered}, server takes {list(_PROTOCOLS)}"
            )
        params = list(call.http.query.items())
        async with (
            _agent_errors(url),
            self._client().ws_connect(url, params=params, protocols=protocols, max_msg_size=_MAX_MESSAGE) as agent,
        ):
            client = web.WebSocketResponse(protocols=[agent.protocol or protocols[0]], max_msg_size=_MAX_MESSAGE)
            await client.prepare(call.http)
            await join(client, agent)
            return client

    async def _tunnel(self, call: Call, url: str) -> web.StreamResponse:
        """Forward ports over the SPDY streams a WebSocket carries."""
        client = web.WebSocketResponse(protocols=[PROTOCOL], max_msg_size=_MAX_MESSAGE)
        await client.prepare(call.http)

        def connect(port: int) -> Any:
            return self._client().ws_connect(
                url, params=[("ports", str(port))], protocols=["v4.channel.k8s.io"], max_msg_size=_MAX_MESSAGE
            )

        await Tunnel(client, connect).run()
        return client


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
        raise _agent_refusal(error.status, headers.get("X-Wherry-Error", error.message)) from error
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise errors.InternalError(f"Internal error occurred: error dialing backend: {url}: {error}") from error
