"""Calls to webhooks: where they are, whom they may be, what they are sent and what they may answer.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#contacting-the-webhook
"""

import asyncio
import base64
import functools
import random
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson
from yarl import URL

from apiserver.storage.watch_cache import WatchCache
from machinery.api.resources import ENDPOINT_SLICES, SERVICES

MAX_ANSWER_BYTES = 3 * 1024 * 1024


class CallFailed(Exception):
    """A webhook could not be asked, or gave no answer that can be understood; the message says why."""


class WebhookClient:
    """Posts JSON to webhooks over HTTPS."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def post(self, config: Mapping[str, Any], body: Any, *, timeout_seconds: float) -> Any:
        """Send a body to what a clientConfig names and return the answer's JSON. Raises: CallFailed."""
        shown = _shown_url(config)
        url = shown.with_query(timeout=f"{timeout_seconds:g}s")
        try:
            asked, name = self._address(config, url)
            context = _tls(config.get("caBundle") or "")
            async with (
                asyncio.timeout(timeout_seconds),
                self._client().post(
                    asked, data=orjson.dumps(body), ssl=context, server_hostname=name, allow_redirects=False,
                    headers={"Content-Type": "application/json", "Accept": "application/json", "Host": url.authority},
                ) as answer,
            ):  # fmt: skip
                content = await _content(answer)
                if answer.status >= 300:
                    raise CallFailed(f"the server returned {answer.status}: {content[:200].decode(errors='replace')}")
                return orjson.loads(content)
        except TimeoutError as error:
            raise CallFailed(f'failed to call webhook: Post "{url}": context deadline exceeded') from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'failed to call webhook: Post "{url}": {error}') from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _address(self, config: Mapping[str, Any], url: URL) -> tuple[URL, str]:
        """Return the URL with a service's address in place of its name, and the name its certificate must have."""
        service = config.get("service")
        if not service:
            return url, url.host or ""
        address, port = self._endpoint(service["namespace"], service["name"], service.get("port") or 443)
        return url.with_host(address).with_port(port), url.host or ""

    def _endpoint(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """Return a ready endpoint of a service's port. Raises: CallFailed."""
        entry = self._cache.collection(SERVICES.group_resource).get(f"/registry/services/{namespace}/{name}")
        if entry is None:
            raise CallFailed(f'failed to call webhook: service "{name}" not found')
        spec = entry.object()["spec"]
        if spec.get("type") == "ExternalName":
            return str(spec.get("externalName", "")), port
        found = next((one for one in spec.get("ports") or () if one["port"] == port), None)
        if found is None:
            raise CallFailed(f'failed to call webhook: no service port {port} found for service "{name}"')
        endpoints = ready_endpoints(self._cache, namespace, name, found.get("name", ""))
        if not endpoints:
            raise CallFailed(f'failed to call webhook: no endpoints available for service "{name}"')
        return random.choice(endpoints)  # noqa: S311 - spreads calls, guards nothing


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    """Return a whole answer. Raises: CallFailed for one that is too long."""
    content = b""
    while piece := await answer.content.read(MAX_ANSWER_BYTES + 1 - len(content)):
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise CallFailed(f"failed to call webhook: the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return content


def ready_endpoints(cache: WatchCache, namespace: str, service: str, port: str) -> list[tuple[str, int]]:
    """Return the address and port of each ready endpoint of a service's port, by the port's name."""
    plural = ENDPOINT_SLICES.group_resource
    found = []
    for entry in cache.collection(plural).entries(f"/registry/{plural}/{namespace}/"):
        obj = entry.object()
        if (obj["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != service:
            continue
        numbers = [one["port"] for one in obj.get("ports") or () if (one.get("name") or "") == port]
        for endpoint in obj.get("endpoints") or ():
            if numbers and (endpoint.get("conditions") or {}).get("ready", True):
                found += [(address, numbers[0]) for address in endpoint["addresses"]]
    return found


def _shown_url(config: Mapping[str, Any]) -> URL:
    """Return the URL as messages name it; services by their DNS names."""
    service = config.get("service")
    if not service:
        return URL(config["url"])
    port = service.get("port") or 443
    path = "/" + (service.get("path") or "").lstrip("/")
    return URL.build(scheme="https", host=f"{service['name']}.{service['namespace']}.svc", port=port, path=path)


@functools.lru_cache(maxsize=64)
def _tls(bundle: str) -> ssl.SSLContext:
    """Return the settings that trust a bundle (base64 of PEM); without one, what the machine trusts."""
    context = ssl.create_default_context()
    if bundle:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=base64.b64decode(bundle).decode())
    return context
