"""Turning custom resources of one version into another: by name alone, or by the definition's webhook.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/
"""

import asyncio
import base64
import ssl
import uuid
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson

from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.meta import Resource

_TIMEOUT_SECONDS = 30.0
_REVIEW = "apiextensions.k8s.io/v1"
SERVICES = Resource("", "v1", "services", "Service")


class ServiceResolver:
    """Finds the address behind a service: its cluster address, or an endpoint of one that has none."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache

    def address(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """Return host and port. Raises: LookupError."""
        entry = self._cache.collection("services").get(f"/registry/services/{namespace}/{name}")
        if entry is None:
            raise LookupError(f'service "{name}" not found')
        spec = entry.object()["spec"]
        if not any(one["port"] == port for one in spec.get("ports") or ()):
            raise LookupError(f'no service port {port} found for service "{name}"')
        if spec.get("clusterIP") and spec["clusterIP"] != "None":
            return spec["clusterIP"], port
        found = self._cache.collection("endpoints").get(f"/registry/endpoints/{namespace}/{name}")
        for subset in (found.object().get("subsets") or ()) if found is not None else ():
            if subset.get("addresses") and subset.get("ports"):
                return subset["addresses"][0]["ip"], subset["ports"][0]["port"]
        raise LookupError(f'no endpoints available for service "{name}"')


class Converter:
    """Converts the objects of one definition."""

    def __init__(self, spec: Object, resolver: ServiceResolver) -> None:
        conversion = spec.get("conversion") or {}
        self._webhook: Object | None = conversion.get("webhook") if conversion.get("strategy") == "Webhook" else None
        self._resolver = resolver

    async def convert(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Return the objects in another version. Raises: InternalError when the webhook fails or answers nonsense."""
        if self._webhook is None:
            return [{**obj, "apiVersion": api_version} for obj in objects]
        foreign = [obj for obj in objects if obj["apiVersion"] != api_version]
        made = iter(await self._ask(foreign, api_version) if foreign else ())
        return [obj if obj["apiVersion"] == api_version else next(made) for obj in objects]

    async def _ask(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        uid = str(uuid.uuid4())
        request = {"uid": uid, "desiredAPIVersion": api_version, "objects": list(objects)}
        try:
            answer = await self._post({"kind": "ConversionReview", "apiVersion": _REVIEW, "request": request})
            made = _checked(answer, uid, objects, api_version)
        except (aiohttp.ClientError, TimeoutError, LookupError, ValueError, OSError) as error:
            what = f"{objects[0]['apiVersion']}, Kind={objects[0]['kind']}"
            why = str(error) or type(error).__name__
            raise errors.InternalError(f"conversion webhook for {what} failed: {why}") from error
        return made

    async def _post(self, review: Object) -> Any:
        assert self._webhook is not None  # noqa: S101 - only called with one
        config = self._webhook["clientConfig"]
        url, host = self._target(config)
        context = await asyncio.to_thread(_tls, config.get("caBundle", ""))
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                url, data=orjson.dumps(review), headers={"Content-Type": "application/json"}, ssl=context,
                server_hostname=host or None,
            ) as response,
        ):  # fmt: skip
            body = await response.read()
            if response.status >= 300:
                raise ValueError(f"the webhook answered {response.status}")
            return orjson.loads(body)

    def _target(self, config: Object) -> tuple[str, str]:
        if config.get("url"):
            return config["url"], ""
        service = config["service"]
        name, namespace = service["name"], service["namespace"]
        host, port = self._resolver.address(namespace, name, service.get("port", 443))
        path = (service.get("path") or "/").removeprefix("/")
        return f"https://{host}:{port}/{path}", f"{name}.{namespace}.svc"


def _tls(bundle: str) -> ssl.SSLContext:
    pem = base64.b64decode(bundle).decode() if bundle else None
    return ssl.create_default_context(cadata=pem)


def _checked(answer: Any, uid: str, objects: Sequence[Object], api_version: str) -> list[Object]:
    """Return the objects of a webhook's answer. Raises: ValueError when it did not do what it must."""
    response = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(response, dict):
        raise ValueError("invalid response: no response in the ConversionReview")
    if response.get("uid") != uid:
        raise ValueError(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        raise ValueError(result.get("message") or "unknown error")
    made = response.get("convertedObjects")
    if not isinstance(made, list) or len(made) != len(objects):
        count = len(made) if isinstance(made, list) else 0
        raise ValueError(f"expected {len(objects)} converted objects, got {count}")
    return [_same(old, new, index, api_version) for index, (old, new) in enumerate(zip(objects, made, strict=True))]


def _same(old: Object, new: Any, index: int, api_version: str) -> Object:
    where = f"invalid converted object at index {index}"
    if not isinstance(new, dict) or new.get("apiVersion") != api_version:
        raise ValueError(f"{where}: expected apiVersion {api_version}")
    if new.get("kind") != old["kind"]:
        raise ValueError(f"{where}: invalid kind, expected={old['kind']}, got={new.get('kind')}")
    metadata = new.get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError(f"{where}: metadata is missing")
    if metadata.get("name") != old["metadata"].get("name") or metadata.get("uid") != old["metadata"].get("uid"):
        raise ValueError(f"{where}: metadata.name and metadata.uid must not change")
    kept = {name: value for name, value in old["metadata"].items() if name not in ("labels", "annotations")}
    changed = {name: metadata[name] for name in ("labels", "annotations") if name in metadata}
    return {**new, "metadata": {**kept, **changed}}
