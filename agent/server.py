"""What the API server asks an agent for: logs, exec, attach, port forwarding, statistics.

HTTPS; clients show a certificate. The paths are the kubelet's, so that tools which speak to nodes find what they know.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from agent import runtime_streams
from agent.container_config import log_folder
from agent.cri import api_pb2 as cri
from agent.cri.client import Runtime, RuntimeFailure
from agent.logs import LogOptions, open_log, read_log
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_state import ContainerSeen
from agent.server_access import Access
from agent.server_reports import Reports

_V5 = "v5.channel.k8s.io"  # in which a client can say that its input has ended
_PROTOCOLS = (_V5, "v4.channel.k8s.io", "portforward.k8s.io", "SPDY/3.1+portforward.k8s.io")
_MAX_MESSAGE = 16 * 1024 * 1024
_RELOAD_SECONDS = 30.0
_LONG = ("exec", "attach", "portForward")


class _OldProtocol(Exception):
    """The runtime's WebSockets can't say that input has ended."""


class AgentServer:
    """The agent's own server."""

    def __init__(self, services: NodeServices, pods: PodManager) -> None:
        self._services = services
        self._pods = pods
        self._reports = Reports(services, pods)
        self._runtime: Runtime = services.runtime
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._speaks_v5: bool | None = None  # the runtime; None while nobody has asked it

    async def start(self) -> None:
        """Begin to serve."""
        config = self._services.config
        app = web.Application(middlewares=[self._count, Access(self._services.client, config.node_name).check])
        app.add_routes(
            [
                *self._reports.routes(),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
                web.get("/exec/{namespace}/{pod}/{container}", self._exec),
                web.get("/attach/{namespace}/{pod}/{container}", self._attach),
                web.get("/portForward/{namespace}/{pod}", self._port_forward),
            ]
        )  # fmt: skip
        self._session = aiohttp.ClientSession()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.cert_file, config.key_file)
        self._reloading = asyncio.create_task(_reload(context, config.cert_file, config.key_file))
        context.load_verify_locations(config.ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL  # without one, a token says who asks
        await web.TCPSite(self._runner, config.address, config.port, ssl_context=context, reuse_address=True).start()

    async def close(self) -> None:
        """Stop serving."""
        if self._reloading is not None:
            self._reloading.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Count and time a request."""
        first = request.path.split("/")[1] or "/"
        is_long = str(first in _LONG or request.query.get("follow") in ("true", "1")).lower()
        labels = (request.method, first if request.match_info.http_exception is None else "other", "readwrite", is_long)
        metrics = self._services.metrics
        metrics.add("kubelet_http_requests_total", *labels)
        with metrics.timed("kubelet_http_requests_duration_seconds", *labels):
            response: web.StreamResponse = await handler(request)
        return response

    def _container(self, request: web.Request, *, previous: bool = False) -> tuple[Mapping[str, Any], ContainerSeen]:
        """Return pod and container. Raises: HTTPNotFound, HTTPBadRequest in the words kubectl shows."""
        info = request.match_info
        name = info["container"]
        found = self._pods.find(info["namespace"], info["pod"])
        if found is None:
            raise web.HTTPNotFound(text=f'pod "{info["pod"]}" is not on this node')
        attempts = found.seen.containers.get(name) or ()
        at = 1 if previous else 0
        if len(attempts) <= at:
            if previous:
                raise web.HTTPBadRequest(
                    text=f'previous terminated container "{name}" in pod "{info["pod"]}" not found'
                )
            why = self._waiting_reason(found.pod, name)
            raise web.HTTPBadRequest(text=f'container "{name}" in pod "{info["pod"]}" is waiting to start: {why}')
        return found.pod, attempts[at]

    @staticmethod
    def _waiting_reason(pod: Mapping[str, Any], name: str) -> str:
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        state = next((one.get("state") or {} for one in statuses if one["name"] == name), {})
        reason = (state.get("waiting") or {}).get("reason", "ContainerCreating")
        return {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}.get(
            reason, reason
        )

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        options = LogOptions(
            follow=query.get("follow") in ("true", "1"), tail_lines=_number(query, "tailLines"),
            since_seconds=_number(query, "sinceSeconds"), since_time=query.get("sinceTime", ""),
            timestamps=query.get("timestamps") in ("true", "1"), limit_bytes=_number(query, "limitBytes"),
        )  # fmt: skip
        pod, seen = self._container(request, previous=query.get("previous") in ("true", "1"))
        root = self._services.config.logs_dir
        path = log_folder(root, pod) / seen.name / f"{seen.attempt}.log"
        try:
            (await asyncio.to_thread(open_log, root, path)).close()
        except OSError as error:
            raise web.HTTPNotFound(text=f"the log of {seen.name} is gone") from error
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        namespace, name = request.match_info["namespace"], request.match_info["pod"]

        def is_running() -> bool:
            found = self._pods.find(namespace, name)
            attempts = found.seen.containers.get(seen.name) if found is not None else None
            return any(one.id == seen.id and one.state in ("running", "created") for one in attempts or ())

        with contextlib.suppress(ConnectionResetError, OSError):  # it may go meanwhile
            async for piece in read_log(root, path, options, is_running):
                await response.write(piece)
            await response.write_eof()
        return response

    def _streams(self, request: web.Request, seen: ContainerSeen) -> dict[str, Any]:
        query = request.query
        tty = query.get("tty") in ("true", "1")
        wanted = {name: query.get(name) in ("true", "1") for name in ("stdin", "stdout", "stderr")}
        if tty:
            wanted["stderr"] = False
        return {"container_id": seen.id, "tty": tty, **wanted}

    def _running(self, request: web.Request) -> ContainerSeen:
        """Return the running container that is to be joined. Raises: what streams are refused with."""
        info = request.match_info
        found, name = self._pods.find(info["namespace"], info["pod"]), info["container"]
        if found is None:
            raise _refused(404, "pod does not exist")
        attempts = found.seen.containers.get(name)
        if not attempts or attempts[0].state != "running":
            raise _refused(500, f'container not found ("{name}")')
        return attempts[0]

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        seen = self._running(request)
        command = request.query.getall("command", [])
        call = cri.ExecRequest(cmd=command, **self._streams(request, seen))
        return await self._join(request, call, lambda: self._runtime.exec_url(call))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        seen = self._running(request)
        call = cri.AttachRequest(**self._streams(request, seen))
        return await self._join(request, call, lambda: self._runtime.attach_url(call))

    async def _join(self, request: web.Request, call: Any, get_url: Callable[[], Awaitable[str]]) -> web.StreamResponse:
        """Join a client with a command: by WebSockets, where those of the runtime can say that input has ended."""
        if _V5 not in request.headers.get("Sec-WebSocket-Protocol", "") or not call.stdin:
            return await self._proxy(request, get_url())
        if self._speaks_v5 is not False:
            try:
                return await self._proxy(request, get_url(), only=_V5)
            except _OldProtocol:
                self._speaks_v5 = False  # the command was not begun
        return await self._by_spdy(request, call, get_url)

    async def _by_spdy(
        self, request: web.Request, call: Any, get_url: Callable[[], Awaitable[str]]
    ) -> web.StreamResponse:
        try:
            streams = await runtime_streams.connect(await get_url())
        except RuntimeFailure as error:
            raise _refused(500, str(error)) from error
        except runtime_streams.Refused as error:
            raise _refused(500, f"error dialing the runtime: {error}") from error
        client = web.WebSocketResponse(protocols=[_V5], max_msg_size=_MAX_MESSAGE)
        await client.prepare(request)
        channels = runtime_streams.channels_of(stdin=call.stdin, stdout=call.stdout, stderr=call.stderr, tty=call.tty)
        try:
            await runtime_streams.carry(streams, client, channels)
        finally:
            await client.close()
        return client

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        found = self._pods.find(request.match_info["namespace"], request.match_info["pod"])
        if found is None or not found.seen.sandbox_ready:
            raise _refused(404, "pod does not exist")
        ports = [int(port) for text in request.query.getall("ports", []) for port in text.split(",")]
        call = cri.PortForwardRequest(pod_sandbox_id=found.seen.sandbox_id, port=ports)
        return await self._proxy(request, self._runtime.port_forward_url(call))

    async def _proxy(self, request: web.Request, getting_url: Any, *, only: str = "") -> web.StreamResponse:
        """Join the client's WebSocket with the runtime's.

        Args: `only` is the one protocol that will do. Raises: _OldProtocol, where the runtime speaks others.
        """
        try:
            url = await getting_url
        except RuntimeFailure as error:
            raise _refused(500, str(error)) from error
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        protocols = [only] if only else [one for one in offered if one in _PROTOCOLS]
        if self._session is None:
            raise web.HTTPServiceUnavailable
        try:
            backend = await self._session.ws_connect(url, protocols=protocols, max_msg_size=_MAX_MESSAGE)
        except aiohttp.ClientError as error:
            if only and isinstance(error, aiohttp.WSServerHandshakeError):
                raise _OldProtocol from error
            raise _refused(500, f"error dialing the runtime: {error}") from error
        if only and backend.protocol != only:
            await backend.close()
            raise _OldProtocol
        async with backend:
            client = web.WebSocketResponse(
                protocols=[backend.protocol] if backend.protocol else (), max_msg_size=_MAX_MESSAGE
            )
            await client.prepare(request)
            tasks = [asyncio.create_task(_copy(client, backend)), asyncio.create_task(_copy(backend, client))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await client.close()
            return client


async def _reload(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Show new connections the certificate as it is now: who renews it only has to write the files."""
    known = await asyncio.to_thread(_stamp, cert)
    while True:
        await asyncio.sleep(_RELOAD_SECONDS)
        found = await asyncio.to_thread(_stamp, cert)
        if found != known:
            with contextlib.suppress(ssl.SSLError, OSError):  # half written: again next time
                context.load_cert_chain(cert, key)
                known = found


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


async def _copy(source: Any, target: Any) -> None:
    async for message in source:
        if message.type == aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type == aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)


def _refused(status: int, text: str) -> web.HTTPException:
    """Return the answer to who wanted a WebSocket; in a header too, as their libraries show no body then."""
    header = text.replace("\n", " ").replace("\r", " ")[:1024]
    answers = {404: web.HTTPNotFound, 500: web.HTTPInternalServerError}
    return answers[status](text=text, headers={"X-Wherry-Error": header})


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if text and not text.isdigit():
        raise web.HTTPBadRequest(text=f"{name} is no number: {text}")
    return int(text) if text else None
