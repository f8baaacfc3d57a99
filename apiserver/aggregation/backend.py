"""One extension API server: where it is, whom it may be, and what it tells of itself.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/#kubernetes-apiserver-authentication-and-authorization-flow
"""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from apiserver.admission.webhook_client import ready_endpoints
from apiserver.auth.request_header import headers_of
from apiserver.auth.user import MASTERS, User
from apiserver.storage.watch_cache import WatchCache
from machinery.api.resources import SERVICES

AGGREGATOR = User("system:kube-aggregator", (MASTERS,))
_PROBE_SECONDS = 5.0
_MAX_DOCUMENT = 32 * 1024 * 1024


class Unavailable(Exception):
    """An extension API server can't be used; `reason` is that of its condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Backend:
    """What is known of the server behind one APIService."""

    name: str
    spec: Mapping[str, Any]
    revision: int
    available: bool = False
    resources: list[dict[str, Any]] = field(default_factory=list)  # as aggregated discovery has them
    openapi_v3: bytes = b""  # the group version's document, empty when the server has none
    openapi_v2: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group_version(self) -> tuple[str, str]:
        """The group and the version it answers for."""
        return self.spec["group"], self.spec["version"]

    @property
    def path(self) -> str:
        """Where its group version lies."""
        return f"/apis/{self.spec['group']}/{self.spec['version']}"

    @property
    def openapi_hash(self) -> str:
        """What changes with its OpenAPI document."""
        return hashlib.sha256(self.openapi_v3).hexdigest().upper()


class BackendClient:
    """Talks to extension API servers under the certificate that makes them take our word for who asks."""

    def __init__(self, cache: WatchCache, cert_file: Path | None, key_file: Path | None) -> None:
        self._cache = cache
        self._files = (cert_file, key_file)
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self.session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self.session is not None:
            await self.session.close()

    def client(self) -> aiohttp.ClientSession:
        """Return the session for requests."""
        if self.session is None:
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30), auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10), cookie_jar=aiohttp.DummyCookieJar(),
            )  # fmt: skip
        return self.session

    def tls(self, backend: Backend) -> ssl.SSLContext:
        """Return the TLS settings for a server: its CA bundle, and our certificate."""
        bundle, insecure = backend.spec.get("caBundle") or "", bool(backend.spec.get("insecureSkipTLSVerify"))
        context = self._contexts.get((bundle, insecure))
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif bundle:
                context.load_verify_locations(cadata=base64.b64decode(bundle).decode())
            else:
                context.load_default_certs()
            cert, key = self._files
            if cert is not None:
                context.load_cert_chain(cert, key)
            self._contexts[bundle, insecure] = context
        return context

    @staticmethod
    def server_name(backend: Backend) -> str:
        """Return the name that a server's certificate must have."""
        service = backend.spec["service"]
        return f"{service['name']}.{service['namespace']}.svc"

    def url(self, backend: Backend, path_and_query: str) -> URL:
        """Return where a server answers for a path. Raises: Unavailable."""
        host, port = self._address(backend)
        shown = f"[{host}]" if ":" in host else host
        return URL(f"https://{shown}:{port}{path_and_query}", encoded=True)

    def _address(self, backend: Backend) -> tuple[str, int]:
        service = backend.spec["service"]
        namespace, name, port = service["namespace"], service["name"], service.get("port", 443)
        entry = self._cache.collection(SERVICES.group_resource).get(f"/registry/services/{namespace}/{name}")
        shown = f'service/{name} in "{namespace}"'
        if entry is None:
            raise Unavailable("ServiceNotFound", f"{shown} is not present")
        spec = entry.object()["spec"]
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName", "")), port
        found = next((one for one in spec.get("ports") or () if one["port"] == port), None)
        if found is None:
            raise Unavailable("ServicePortError", f"{shown} is not listening on port {port}")
        endpoints = ready_endpoints(self._cache, namespace, name, found.get("name", ""))
        if not endpoints:
            told = f'endpoints for {shown} have no addresses with port name "{found.get("name", "")}"'
            raise Unavailable("MissingEndpoints", told)
        # Always the same one while it is there: its connection is kept, and watches go on where they began.
        return endpoints[0]

    async def get(self, backend: Backend, path: str, accept: str = "application/json") -> bytes:
        """Ask a server in our own name. Raises: Unavailable."""
        try:
            asking = self.client().get(
                self.url(backend, path), ssl=self.tls(backend), server_hostname=self.server_name(backend),
                headers=CIMultiDict([*headers_of(AGGREGATOR), ("Accept", accept), ("Accept-Encoding", "identity")]),
                allow_redirects=False,
            )  # fmt: skip
            async with asyncio.timeout(_PROBE_SECONDS), asking as answer:
                content = await answer.content.read(-1) if answer.status == 200 else b""
                if answer.status != 200:
                    raise Unavailable("FailedDiscoveryCheck", f"bad status from {answer.url}: {answer.status}")
                if len(content) > _MAX_DOCUMENT:
                    raise Unavailable("FailedDiscoveryCheck", f"{answer.url} sends too much")
                return content
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            told = f"failing or missing response from {backend.path}: {error or 'context deadline exceeded'}"
            raise Unavailable("FailedDiscoveryCheck", told) from error

    async def look(self, backend: Backend) -> None:
        """Ask a server what it serves. Raises: Unavailable."""
        listed = orjson.loads(await self.get(backend, backend.path))
        if not isinstance(listed, dict):
            raise Unavailable("FailedDiscoveryCheck", f"no APIResourceList at {backend.path}")
        backend.resources = _aggregated(listed.get("resources") or (), *backend.group_version)

    async def read_documents(self, backend: Backend) -> None:
        """Read a server's OpenAPI documents; one without any is served all the same."""
        try:
            backend.openapi_v3 = await self.get(backend, f"/openapi/v3{backend.path}")
        except Unavailable:
            backend.openapi_v3 = b""
        try:
            backend.openapi_v2 = orjson.loads(await self.get(backend, "/openapi/v2"))
        except (Unavailable, ValueError):
            backend.openapi_v2 = {}


def _aggregated(listed: Any, group: str, version: str) -> list[dict[str, Any]]:
    """Return the resources of an APIResourceList as aggregated discovery has them."""
    found: dict[str, dict[str, Any]] = {}
    for one in listed:
        plural, _, sub = one["name"].partition("/")
        kind = {"group": one.get("group") or group, "version": one.get("version") or version, "kind": one["kind"]}
        if not sub:
            entry = found.setdefault(plural, {"resource": plural})
            entry |= {
                "responseKind": kind, "scope": "Namespaced" if one.get("namespaced") else "Cluster",
                "singularResource": one.get("singularName", ""), "verbs": one.get("verbs") or [],
            }  # fmt: skip
            entry |= {field: one[field] for field in ("shortNames", "categories") if one.get(field)}
        else:
            entry = found.setdefault(plural, {"resource": plural})
            part = {"subresource": sub, "responseKind": kind, "verbs": one.get("verbs") or []}
            entry.setdefault("subresources", []).append(part)
    return [one for one in found.values() if "responseKind" in one]
