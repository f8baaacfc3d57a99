"""The whole path of a request, outermost first: TLS, who asks, whether they may, what they ask for, the answer."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from apiserver import bootstrap
from apiserver.admission.chain import Admission
from apiserver.admission.plugins import AdmissionSettings
from apiserver.aggregation.aggregator import Aggregator
from apiserver.aggregation.backend import BackendClient
from apiserver.aggregation.resource_metrics import ResourceMetrics
from apiserver.audit.auditor import Auditor, AuditSettings, Record
from apiserver.auth.authentication import Authenticator, bearer_token
from apiserver.auth.impersonation import impersonated
from apiserver.auth.oidc import AuthenticationConfig, read_configuration
from apiserver.auth.rbac import Authorizer
from apiserver.auth.request_header import RequestHeader
from apiserver.auth.secret_tokens import SecretTokens
from apiserver.auth.tokens import ISSUER, TokenIssuer
from apiserver.auth.user import User
from apiserver.customresources.controller import DefinitionController
from apiserver.customresources.follower import Follower
from apiserver.deadlines import IDLE_SECONDS, MAX_SECONDS, Deadlines, sent, too_late
from apiserver.endpoints import health, reading, writing
from apiserver.endpoints.body import EarlyBodies
from apiserver.endpoints.components import Components
from apiserver.endpoints.compression import compressed
from apiserver.endpoints.discovery import Discovery
from apiserver.endpoints.openapi import OpenAPI
from apiserver.endpoints.prettiness import indented
from apiserver.endpoints.proxy import Proxy
from apiserver.endpoints.reviews import Reviews
from apiserver.endpoints.streams import SUBRESOURCES as STREAMED
from apiserver.endpoints.streams import Streams
from apiserver.endpoints.subresources import Subresources
from apiserver.endpoints.watch import watch
from apiserver.flowcontrol.controller import FlowControl, FlowMetrics
from apiserver.metrics import WATCHES, duration, requests
from apiserver.registry.catalog import Catalog, built_in
from apiserver.registry.kind import Kind
from apiserver.registry.rest import Rest
from apiserver.reloading import Reload, Reloader
from apiserver.request import Call, RequestInfo, duration_seconds, flag, request_info
from apiserver.storage.interface import Store
from apiserver.storage.object_storage import ObjectStorage
from apiserver.storage.watch_cache import WatchCache
from machinery import errors

log = logging.getLogger(__name__)

_READS = {"get": reading.get, "list": reading.list_}
_WRITES = {
    "create": writing.create,
    "update": writing.update,
    "patch": writing.patch,
    "delete": writing.delete,
    "deletecollection": writing.delete_collection,
}
# Subresources whose use admission sees as the operation CONNECT.
CONNECTED = ("attach", "exec", "portforward", "proxy")
LASTING = (*CONNECTED, "log")
_KEYS_PATH = "/openid/v1/jwks"
_ISSUER_PATHS = ("/.well-known/openid-configuration", _KEYS_PATH)
# What is forgotten is between one and two of these old. So much less than upstream's five minutes that a client
# who waits for ten of those sees it gone.
COMPACT_SECONDS = 285.0
BACKLOG = 1024
MAX_HEADER_BYTES = 64 * 1024  # of a path with its query, and of one header: selectors and tokens may be long
SILENT_SECONDS = 60
_SOMETHING = RequestInfo("other", "")
_BOOTSTRAP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What the server needs to know; files are PEM."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path
    token_key_file: Path
    agent_client_cert_file: Path
    agent_client_key_file: Path
    host: str = "127.0.0.1"
    port: int = 6443
    advertise_address: str = "127.0.0.1"
    service_cidr: str = "10.96.0.0/16"
    event_ttl_seconds: int = 3600
    reuse_port: bool = False  # several processes share the port
    shutdown_seconds: float = 0.1  # how long what is being answered may take when the server ends
    static_tokens: Mapping[str, User] = field(default_factory=dict)
    authentication: AuthenticationConfig = field(default_factory=AuthenticationConfig)
    authentication_file: Path | None = None  # where `authentication` was read from: read again when it changes
    reloads: Mapping[tuple[Path, ...], Reload] = field(default_factory=dict)  # what else is read again
    audit: AuditSettings | None = None
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    token_webhook_file: Path | None = None  # a kubeconfig that names who knows tokens
    front_proxy_ca_file: Path | None = None  # signs those who may say in headers who asks
    front_proxy_names: Sequence[str] = ("front-proxy-client",)
    front_proxy_cert_file: Path | None = None  # what we show to extension API servers
    front_proxy_key_file: Path | None = None


class APIServer:
    """One server over one store."""

    def __init__(self, store: Store, config: ServerConfig, *, sole_writer: bool) -> None:
        self.config = config
        self.cache = WatchCache(store, sole_writer=sole_writer)
        self.storage = ObjectStorage(self.cache)
        self.catalog: Catalog = built_in()
        authorizer = Authorizer(self.cache)
        self._admission = Admission(
            self.cache,
            config.service_cidr,
            self.catalog.resource_of,
            authorizer,
            config.admission,
            versions=self.catalog.other_versions,
        )
        self.rest = Rest(self.storage, self._admission, event_ttl_seconds=config.event_ttl_seconds)
        issuer = self.issuer = TokenIssuer(self.cache, config.token_key_file.read_bytes())
        proxies = config.front_proxy_ca_file
        self.authenticator = Authenticator(
            issuer, config.static_tokens, self.cache, config=config.authentication,
            webhook_file=config.token_webhook_file,
            proxies=RequestHeader(proxies, config.front_proxy_names) if proxies is not None else None,
        )  # fmt: skip
        self._authorizer = authorizer
        self.flow = FlowControl(self.rest, self.catalog)
        self._flow_metrics = FlowMetrics(self.flow)
        self._flow_metrics.register()
        self.auditor = Auditor(config.audit) if config.audit is not None else None
        self._subresources = Subresources(self.rest, self.catalog, issuer)
        backends = BackendClient(self.cache, config.front_proxy_cert_file, config.front_proxy_key_file)
        agent_tls = _agent_tls(config)
        metrics = self._metrics = ResourceMetrics(self.cache, agent_tls)
        self.aggregator = Aggregator(self.rest, self.catalog, backends, {metrics.backend.name: metrics})
        self._discovery = Discovery(self.catalog, self.aggregator)
        self._openapi = OpenAPI(self.catalog, self.aggregator)
        self._reviews = Reviews(authorizer, self.authenticator)
        self._streams = Streams(self.storage, agent_tls)
        self._proxy = Proxy(self.storage, agent_tls)
        self.definitions = Follower(self.cache, self.catalog)
        self.definition_controller = DefinitionController(self.rest)
        secrets = self.catalog.find("", "v1", "secrets")
        if secrets is None:
            raise LookupError("secrets")
        self.secret_tokens = SecretTokens(self.rest, secrets, issuer, config.client_ca_file.read_bytes())
        self.health = health.Health(self.cache)
        self._components = Components(self.cache, self.health)
        self.deadlines = Deadlines()
        self._bodies = EarlyBodies()
        for kind in (one for one in self.catalog if one.is_stored):
            self.cache.collection(kind.resource.group_resource)

    async def audited(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, and note it in the audit log."""
        if self.auditor is None:
            return await self.handle(http)
        record, response = self.auditor.begin(http), None
        try:
            response = await self.handle(http, record)
            if not response.prepared:
                response.headers["Audit-Id"] = record.audit_id
        finally:
            self.auditor.end(record, response)
        return response

    async def handle(self, http: web.BaseRequest, record: Record | None = None) -> web.StreamResponse:
        """Answer one HTTP request; every error becomes a Status. Args: `record` is that of the audit log."""
        started = time.perf_counter()
        query = http.query
        info = request_info(http.method, http.path, query)
        response: web.StreamResponse | None = None
        try:
            user = await self._user(http, info, record)
            response = await self._in_turn(Call(http, info, query, user), record)
        except errors.APIError as error:
            response = error_response(error)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s", http.method, http.path)
            response = error_response(errors.InternalError(f"Internal error occurred: {error}"))
        finally:
            code = response.status if response is not None else 499
            self._count(info, code, time.perf_counter() - started)
        return response

    async def _user(self, http: web.BaseRequest, info: RequestInfo, record: Record | None) -> User:
        """Return who asks, or whom he acts as. Raises: Unauthorized, Forbidden."""
        peer = http.transport.get_extra_info("peercert") if http.transport is not None else None
        user = self.authenticator.authenticate(peer, http.headers, info.path)
        if user is None:
            user = await self.authenticator.look_up(bearer_token(http.headers))
        if not self.health.bootstrapped.is_set() and not self._authorizer.is_master(user):
            await self._until_bootstrapped()  # the roles that say what they may are being written
        actor = user
        if "Impersonate-User" in http.headers or "Impersonate-Group" in http.headers:
            user = impersonated(user, http.headers, self._authorizer.authorize)
        if record is not None and self.auditor is not None:
            self.auditor.identified(record, info, actor, user)
        return user

    async def _in_turn(self, call: Call, record: Record | None) -> web.StreamResponse:
        """Serve a request when there is a seat for it; one that lasts holds none. Raises: TooManyRequests."""
        flow = self.flow.classify(call.user, call.info)
        level = flow.level
        call.told = flow.headers if record is None else {**flow.headers, "Audit-Id": record.audit_id}
        if is_long(call.info):
            response = await self._serve(call, record)
            if not response.prepared:
                response.headers.update(call.told)
            return response
        if not flow.exempt:
            if not call.http.content.is_eof() and self.aggregator.find(call) is None:
                await self._bodies.arrive(call.http)
            if not level.take():
                await level.wait(flow.flow)
        try:
            response = await self._serve(call, record)
            if not response.prepared:
                response.headers.update(call.told)
            await sent(call.http, response)
        finally:
            if not flow.exempt:
                level.release()
        return response

    async def _serve(self, call: Call, record: Record | None) -> web.StreamResponse:
        """Answer a request if its user may make it; what is refused becomes a Status."""
        try:
            reason = self._authorizer.authorize(call.user, call.info)
            if record is not None and self.auditor is not None:
                self.auditor.allowed(record, reason)
            if is_long(call.info):
                return await self._dispatch(call)
            work = self._within(call) if "timeout" in call.query else self._dispatch(call)
            response = indented(call.http, call.query, await self.deadlines.within(work))
            return await compressed(call.http, response)
        except errors.APIError as error:
            return indented(call.http, call.query, error_response(error))

    async def _within(self, call: Call) -> web.StreamResponse:
        """Answer a request within the time its client gives it. Raises: Timeout, BadRequest."""
        seconds = duration_seconds(call.query["timeout"])
        if seconds is None:
            told = f'time: invalid duration "{call.query["timeout"]}"'
            raise errors.BadRequest(f"invalid timeout specified in the request URL - {told}")
        if not seconds:
            return await self._dispatch(call)
        try:
            async with asyncio.timeout(min(seconds, MAX_SECONDS)):
                return await self._dispatch(call)
        except TimeoutError as error:
            raise too_late() from error

    def _count(self, info: RequestInfo, code: int, seconds: float) -> None:
        """Count a request; what is refused may name anything, and gets no counter of its own."""
        if code >= 400 and self.catalog.find(info.group, info.version, info.resource) is None:
            info = _SOMETHING
        requests(info.verb, info.group, info.version, info.resource, info.subresource, code).inc()
        if info.verb != "watch":
            duration(info.verb, info.resource).observe(seconds)

    async def _until_bootstrapped(self) -> None:
        try:
            async with asyncio.timeout(_BOOTSTRAP_SECONDS):
                await self.health.bootstrapped.wait()
        except TimeoutError as error:
            raise errors.ServiceUnavailable("the server is starting", retry_after_seconds=1) from error

    async def _dispatch(self, call: Call) -> web.StreamResponse:
        info = call.info
        if (backend := self.aggregator.find(call)) is not None:
            return await self.aggregator.handle(call, backend)
        if not info.is_resource:
            return await self._other(call)
        if self._reviews.serves(info):
            return await self._reviews.handle(call)
        call.kind = kind = await self._kind(info)
        if info.subresource:
            return await self._subresource(call, kind)
        if info.verb not in kind.verbs or (info.verb == "create" and info.name):
            raise _not_allowed()
        if not kind.is_stored:
            return await (self._components.handle(call) if "list" in kind.verbs else self._subresources.bind(call))
        return await self._resource(call)

    async def _kind(self, info: RequestInfo) -> Kind:
        """Return the kind a path asks for. Raises: NotFound."""
        kind = await self._find_kind(info)
        if kind is None or (kind.resource.namespaced is False and info.namespace and info.resource != "namespaces"):
            raise errors.NotFound("the server could not find the requested resource")
        return kind

    async def _subresource(self, call: Call, kind: Kind) -> web.StreamResponse:
        info = call.info
        sub = kind.subresources.get(info.subresource)
        if sub is None or (info.rest and info.subresource != "proxy"):
            raise errors.NotFound("the server could not find the requested resource")
        if info.verb not in sub.verbs:
            raise _not_allowed()
        if info.subresource in CONNECTED:
            await self.rest.admit_connect(kind, info, call.user, sub.kind)
        if info.subresource == "proxy":
            return await self._proxy.handle(call)
        if info.subresource in STREAMED:
            return await self._streams.handle(call)
        return await self._subresources.handle(call)

    async def _find_kind(self, info: RequestInfo) -> Kind | None:
        kind = self.catalog.find(info.group, info.version, info.resource)
        if kind is None and "." in info.group:  # it may have been defined a moment ago, perhaps by another server
            await self.storage.refresh()
            self.definitions.catch_up()
            kind = self.catalog.find(info.group, info.version, info.resource)
        return kind

    async def _resource(self, call: Call) -> web.StreamResponse:
        verb = call.info.verb
        if verb == "watch" or (verb == "get" and flag(call.query, "watch")):
            if call.known.warning:
                call.told = {**call.told, "Warning": writing.warning(call.known.warning)}
            return await self._watch(call)
        response = await (_READS[verb](call, self.storage) if verb in _READS else _WRITES[verb](call, self.rest))
        if call.known.warning:
            writing.add_warning(response, call.known.warning)
        return response

    async def _watch(self, call: Call) -> web.StreamResponse:
        gauge = WATCHES.labels("watch", call.info.resource)
        with gauge.track_inprogress():
            return await watch(call, self.storage)

    async def _other(self, call: Call) -> web.StreamResponse:
        path = call.info.path.rstrip("/") or "/"
        if call.info.verb not in ("get", "head"):
            raise _not_allowed()
        root = path.split("/")[1]
        if f"/{root}" in health.PATHS:
            return await self.health.handle(call)
        if path in _ISSUER_PATHS:
            return self._issuer_document(path)
        if path == "/version":
            return await health.version(call)
        if path == "/metrics":
            return await health.metrics(call)
        if root == "openapi":
            return await self._openapi.handle(call)
        if root in ("api", "apis"):
            return await self._discovery.handle(call)
        if path == "/":
            paths = [
                "/api",
                "/apis",
                "/healthz",
                "/livez",
                "/metrics",
                "/openapi/v2",
                "/openapi/v3",
                "/readyz",
                "/version",
            ]
            return reading.respond(orjson.dumps({"paths": paths}))
        raise errors.NotFound("the server could not find the requested resource")

    def _issuer_document(self, path: str) -> web.Response:
        """Tell others how to check the service account tokens this cluster issues; OpenID Connect Discovery 1.0."""
        if path == _KEYS_PATH:
            return web.Response(body=orjson.dumps(self.issuer.key_set()), content_type="application/jwk-set+json")
        host = self.config.advertise_address
        address = f"https://{f'[{host}]' if ':' in host else host}:{self.config.port}"
        document = {
            "issuer": ISSUER, "jwks_uri": address + _KEYS_PATH, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        }  # fmt: skip
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    async def compact(self) -> None:
        """Forget changes older than five minutes, for ever."""
        while True:
            revision = self.cache.revision
            await asyncio.sleep(COMPACT_SECONDS)
            with contextlib.suppress(Exception):
                await self.cache.store.compact(revision)

    async def close(self) -> None:
        """End connections to agents."""
        await self._streams.close()
        await self._proxy.close()
        await self._admission.close()
        self._flow_metrics.unregister()
        await self.authenticator.close()
        await self.aggregator.close()
        await self._metrics.close()


def is_long(info: RequestInfo) -> bool:
    """Whether a request lasts as long as its client wants: it holds no seat meanwhile."""
    return info.verb == "watch" or info.subresource in LASTING


def _not_allowed() -> errors.MethodNotAllowed:
    return errors.MethodNotAllowed("the server does not allow this method on the requested resource")


def error_response(error: errors.APIError) -> web.Response:
    """Return the Status a client is sent for an error; the one place where errors become HTTP."""
    headers = {"Content-Type": "application/json"}
    if error.retry_after_seconds:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return web.Response(body=orjson.dumps(error.to_status()), status=error.code, headers=headers)


def _agent_tls(config: ServerConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.client_ca_file))
    context.load_cert_chain(config.agent_client_cert_file, config.agent_client_key_file)
    context.check_hostname = False  # agents are reached by address; the cluster's own CA signs them
    return context


def server_tls(config: ServerConfig) -> ssl.SSLContext:
    """Return the listener's TLS settings: its own certificate, and client certificates where they are shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.cert_file, config.key_file)
    context.load_verify_locations(config.client_ca_file)
    if config.front_proxy_ca_file is not None:
        context.load_verify_locations(config.front_proxy_ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@contextlib.asynccontextmanager
async def serving(store: Store, config: ServerConfig, *, sole_writer: bool) -> AsyncIterator[APIServer]:
    """Serve until the block ends; the server is ready when the block begins."""
    server = APIServer(store, config, sole_writer=sole_writer)
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(server.cache.run()), asyncio.create_task(server.compact())]
    runner = web.ServerRunner(
        web.Server(
            server.audited if server.auditor else server.handle, access_log=None, keepalive_timeout=IDLE_SECONDS,
            handler_cancellation=True, max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES,
        ),
        shutdown_timeout=config.shutdown_seconds,
    )  # fmt: skip
    try:
        await runner.setup()
        context = server_tls(config)
        await web.SockSite(runner, _listener(config), ssl_context=context, backlog=BACKLOG).start()
        if server.auditor is not None:
            tasks.append(asyncio.create_task(server.auditor.run()))
        works = (
            bootstrap.run(server), server.definitions.run(), server.secret_tokens.run(), server.aggregator.run(),
            server.flow.run(), server.definition_controller.run(), server.deadlines.run(),
            _reloader(server, context).run(),
        )  # fmt: skip
        tasks += [asyncio.create_task(work) for work in works]
        yield server
    finally:
        # Those who watch go elsewhere, what is being answered is answered; then the rest ends.
        server.health.stopping = True
        for collection in server.cache.collections().values():
            collection.end_watches()
        await runner.cleanup()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.close()


def _reloader(server: APIServer, context: ssl.SSLContext) -> Reloader:
    """Return what reads again the files that may change: our certificate, who is trusted, and what else is named."""
    config = server.config
    files: dict[tuple[Path, ...], Reload] = {
        **config.reloads,
        (config.cert_file, config.key_file): lambda: context.load_cert_chain(config.cert_file, config.key_file),
    }
    if (path := config.authentication_file) is not None:
        files[(path,)] = lambda: server.authenticator.configure(read_configuration(path))
    return Reloader(files)


def _listener(config: ServerConfig) -> socket.socket:
    """Return the socket to listen on. A peer that takes nothing for a minute is given up by the kernel."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    if config.reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError:
        listener.close()
        raise
    return listener


async def run(store: Store, config: ServerConfig, *, sole_writer: bool) -> None:
    """Serve until cancelled."""
    async with serving(store, config, sole_writer=sole_writer):
        await asyncio.Event().wait()
