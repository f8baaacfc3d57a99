"""The API over HTTP: one coroutine a verb, bytes and dicts in and out, refusals as machinery.errors.

This module alone turns HTTP answers back into APIError.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import orjson

from machinery.api.meta import Resource, key_of
from machinery.client import http
from machinery.client.kubeconfig import ClientConfig
from machinery.client.tls import ssl_context
from machinery.errors import APIError, from_status

if TYPE_CHECKING:
    import aiohttp

REQUEST_TIMEOUT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_THROTTLED_TRIES = 10
"""How often a request answered with Retry-After is sent again; client-go's figure."""
# What may stand in a path as it is; a name with a blank or a line break in it must not become another request.
_PATH_SAFE = "/:@!$&'()*+,;=~"


class ConnectionFailed(ConnectionError):
    """The server could not be reached, or hung up before its answer was whole."""


class PatchType(StrEnum):
    """The four patch forms; the values are their content types."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch: "ADDED", "MODIFIED", "DELETED" or "BOOKMARK", and the object's bytes as they came."""

    type: str
    object: msgspec.Raw

    def decode(self) -> dict[str, Any]:
        """Return the object as the dict of its JSON."""
        return orjson.loads(memoryview(self.object))  # type: ignore[no-any-return]  # an API object is a JSON object


_decode_event = msgspec.json.Decoder(WatchEvent).decode


class Client:
    """Talks to one API server as one identity; an async context manager holding one connection pool."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        user_agent: str = "wherry",
        patience_seconds: float = 1.0,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Args: `patience_seconds` is how long reads keep trying while the server refuses connections.

        `headers` go with every request, such as those that make us act as another user.
        """
        self.config = config
        parts = urlsplit(config.server)
        self._path = parts.path.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._address = (parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80))
        self._is_secure = parts.scheme == "https"
        # No compression: the usual peer is on this machine or this network, where gzip costs more than it saves.
        self._headers = {"Host": self._host, "Accept": "application/json", "User-Agent": user_agent, **(headers or {})}
        self._patience_seconds = patience_seconds
        self._timeout_seconds = timeout_seconds
        self._tls: ssl.SSLContext | None = None
        self._pool: http.Pool | None = None
        self._token_stamp = 0
        self._token = config.token
        # Told of each answer, when it begins: method, status code ("<error>" for none), host, seconds.
        self.observe: Callable[[str, str, str, float], None] | None = None

    async def __aenter__(self) -> Self:
        if self._is_secure:
            self._tls = await asyncio.to_thread(ssl_context, self.config)
        self._pool = http.Pool(*self._address, self._tls, server_name=self.config.tls_server_name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    async def reload_certificate(self) -> None:
        """Show new connections the client certificate as its files hold it now. Raises: OSError."""
        if self._tls is not None and self.config.cert_file:
            await asyncio.to_thread(self._tls.load_cert_chain, self.config.cert_file, self.config.key_file or None)

    # ---- verbs

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> dict[str, Any]:
        """Return one object. Raises: APIError; NotFound when there is none; ConnectionFailed."""
        return await self._json("GET", resource.path(namespace, name, subresource))

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        resource_version: str = "",
    ) -> dict[str, Any]:
        """Return the List object: everything when `limit` is 0, else the first page with its `continue` token."""
        params = _params(
            labelSelector=label_selector, fieldSelector=field_selector, limit=limit, resourceVersion=resource_version
        )
        path = resource.path(namespace)
        answer = await self._json("GET", path, params=params)
        while limit == 0 and (token := answer["metadata"].get("continue")):
            page = await self._json("GET", path, params={**params, "continue": token})
            answer["metadata"] = page["metadata"]
            answer["items"].extend(page["items"])
        return answer

    async def create(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
        name: str = "",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Create an object, or POST to a subresource of `name` (binding, eviction, token)."""
        namespace = namespace or obj.get("metadata", {}).get("namespace", "")
        return await self._json("POST", resource.path(namespace, name, subresource), params=params, body=obj)

    async def update(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        *,
        subresource: str = "",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Replace an object. Raises: Conflict when its resourceVersion is no longer the newest."""
        key = key_of(obj)
        return await self._json("PUT", resource.path(key.namespace, key.name, subresource), params=params, body=obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any] | Sequence[Any],
        namespace: str = "",
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Change part of an object. APPLY needs `fieldManager` in `params`."""
        path = resource.path(namespace, name, subresource)
        return await self._json("PATCH", path, params=params, body=patch, content_type=type.value)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Delete an object; `options` are meta/v1 DeleteOptions."""
        return await self._json("DELETE", resource.path(namespace, name), body=options)

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Delete all objects that match."""
        params = _params(labelSelector=label_selector, fieldSelector=field_selector)
        return await self._json("DELETE", resource.path(namespace), params=params, body=options)

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 0,
        bookmarks: bool = True,
    ) -> AsyncGenerator[WatchEvent]:
        """Yield changes after `resource_version` until the server ends the watch.

        Raises: Expired when the version is too old; ConnectionFailed when the connection is cut.
        """
        params = _params(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            resourceVersion=resource_version,
            timeoutSeconds=timeout_seconds,
            allowWatchBookmarks="true" if bookmarks else "",
            watch="true",
        )
        async with self.stream("GET", resource.path(namespace), params=params) as response:
            async for line in _lines(response):
                event = _decode_event(line)
                if event.type == "ERROR":
                    raise from_status(event.decode())
                yield event

    # ---- below the verbs

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send one request and return the body of its answer.

        An answer with Retry-After is waited out and the request sent again: nothing was done. Reads are also sent
        again while connections are refused, for `patience_seconds`; writes never, because they may have happened.

        Raises: APIError for an answer of 400 and above; ConnectionFailed.
        """
        tries, deadline = 0, asyncio.get_running_loop().time() + self._patience_seconds
        while True:
            tries += 1
            try:
                async with (
                    asyncio.timeout(self._timeout_seconds),
                    self._exchange(method, path, params, body, headers) as response,
                ):
                    return await response.read()
            except TimeoutError as error:
                raise ConnectionFailed(_describe(error, self._host)) from error
            except ConnectionFailed:
                pause = min(0.05 * 2**tries, 0.5)
                if method != "GET" or asyncio.get_running_loop().time() + pause > deadline:
                    raise
            except APIError as error:
                pause = float(error.retry_after_seconds)
                if not pause or tries > MAX_THROTTLED_TRIES or not _may_repeat(method, error):
                    raise
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[http.Response]:
        """Send a request whose answer is read as it comes: watches, logs. No time limit but the server's.

        Raises: as `request`; ConnectionFailed also when the connection is cut while the caller reads.
        """
        async with self._exchange(method, path, params, None, headers) as response:
            yield response

    @contextlib.asynccontextmanager
    async def websocket(
        self,
        path: str,
        *,
        params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        protocols: Sequence[str] = (),
    ) -> AsyncIterator["aiohttp.ClientWebSocketResponse"]:
        """Open a WebSocket (exec, attach, port-forward); repeated parameters are given as pairs.

        Loads aiohttp, which only those who open one need.
        """
        import aiohttp
        from yarl import URL

        url = URL(f"{'https' if self._is_secure else 'http'}://{self._host}{self._target(path, None)}", encoded=True)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or False)) as session,
                session.ws_connect(
                    url.update_query(params or ()), protocols=protocols, headers=await self._authorization(),
                    max_msg_size=0, server_hostname=self.config.tls_server_name or None,
                ) as socket_,
            ):  # fmt: skip
                yield socket_
        except aiohttp.WSServerHandshakeError as error:
            raise from_status({"message": error.message}, code=error.status) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConnectionFailed(_describe(error.certificate_error, self._host)) from error
        except aiohttp.ClientError as error:
            raise ConnectionFailed(_describe(error, self._host)) from error

    async def _json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        return orjson.loads(await self.send(method, path, body, params=params, content_type=content_type))  # type: ignore[no-any-return]  # the API answers objects

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Send an object; return the bytes of the answer, for writers that need little or nothing of it.

        Raises: as `request`.
        """
        payload = None if body is None else orjson.dumps(body)
        headers = None if body is None else {"Content-Type": content_type}
        return await self.request(method, path, params=params, body=payload, headers=headers)

    @contextlib.asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> AsyncIterator[http.Response]:
        pool = self._require_pool()
        sent = {**self._headers, **await self._authorization(), **(headers or {})}
        with self._connection_errors():
            began, code = time.perf_counter(), "<error>"
            try:
                response = await pool.send(
                    method, self._target(path, params), sent, body, connect_seconds=CONNECT_TIMEOUT_SECONDS
                )
                code = str(response.status)
            finally:
                if self.observe is not None:
                    self.observe(method, code, self._host, time.perf_counter() - began)
            try:
                if response.status >= 400:
                    raise _refusal(response, await response.read())
                yield response
            finally:
                pool.release(response)

    def _require_pool(self) -> http.Pool:
        if self._pool is None:
            raise RuntimeError("the client is used outside `async with`")
        return self._pool

    def _target(self, path: str, params: Mapping[str, str] | None) -> str:
        target = self._path + quote(path, safe=_PATH_SAFE)
        return f"{target}?{urlencode(params, safe='(),')}" if params else target

    async def _authorization(self) -> Mapping[str, str]:
        if self.config.token_file:
            # Bound tokens are replaced on disk before they run out, so the file's stamp is looked at each time.
            stamp = os.stat(self.config.token_file).st_mtime_ns
            if stamp != self._token_stamp:
                self._token = await asyncio.to_thread(_read_text, self.config.token_file)
                self._token_stamp = stamp
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @contextlib.contextmanager
    def _connection_errors(self) -> Iterator[None]:
        """Turn what is raised about the connection into ConnectionFailed, in kubectl's words."""
        try:
            yield
        except http.Failure as error:
            cause = error.__cause__ if isinstance(error, http.NotConnected) else None
            raise ConnectionFailed(_describe(cause or error, self._host)) from error


def _params(**given: str | int) -> dict[str, str]:
    return {name: str(value) for name, value in given.items() if value}


def _may_repeat(method: str, error: APIError) -> bool:
    """Say whether an answer that asks us to wait also promises that nothing was done."""
    return error.code == 429 or method == "GET"


def _refusal(response: http.Response, body: bytes) -> APIError:
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        status = {"message": body.decode(errors="replace").strip() or response.reason or "unknown"}
    error = from_status(status, code=response.status)
    # The header, not the body, is the promise that a repeat is welcome (as client-go reads it).
    wait = response.headers.get("retry-after", "")
    error.retry_after_seconds = int(wait) if wait.isdigit() else 0
    return error


def _describe(error: BaseException, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Unable to connect to the server: tls: failed to verify certificate: {error}"
    if isinstance(error, socket.gaierror):
        return f"Unable to connect to the server: dial tcp: lookup {host.rpartition(':')[0] or host}: no such host"
    if isinstance(error, ConnectionRefusedError):
        return f"The connection to the server {host} was refused - did you specify the right host or port?"
    if isinstance(error, TimeoutError):
        return f"Unable to connect to the server: {host} did not answer in time"
    return f"Unable to connect to the server: {host}: {error or type(error).__name__}"


async def _lines(response: http.Response) -> AsyncIterator[bytes]:
    """Cut a stream at newlines; a line of a watch can be megabytes long."""
    pending: list[bytes] = []
    async for chunk in response.chunks():
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        for piece in rest:
            line = b"".join(pending)
            pending = [piece]
            if line:
                yield line


def _read_text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()
