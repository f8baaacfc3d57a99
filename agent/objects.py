"""ConfigMaps, Secrets and service account tokens that pods of this node use.

An object that pods use is followed by a watch of its own, as kubelets do, so that mounted files change within a moment;
one that is immutable, and one that a pod needs only for its start, isn't.
Source: https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import CLUSTER_TRUST_BUNDLES, CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, NotFound

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
_RESOURCES = {"configmaps": CONFIG_MAPS, "secrets": SECRETS}
# Several containers of a pod, and several pods, ask for the same object at once.
_FRESH_SECONDS = 1.0
# Pods that end sooner than this need no watch.
_SETTLE_SECONDS = 3.0
_RETRY_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0  # so long the API is waited for where it told of an object before
_RENEW_PART = 0.8


@dataclass(slots=True)
class _Followed:
    """One object: None while there is none of its name."""

    obj: Object | None = None
    read_at: float = 0.0
    users: set[str] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None
    is_live: bool = False  # a watch keeps it up to date


class ObjectSource:
    """Reads objects by name for pods, and tells of their changes."""

    def __init__(self, client: Client, changed: Callable[[str], None]) -> None:
        """Args: `changed` is called with the uid of each pod that uses an object that changed."""
        self._client = client
        self._changed = changed
        self._known: dict[tuple[str, ObjectKey], _Followed] = {}

    async def get(self, plural: str, namespace: str, name: str, *, user: str = "") -> Object:
        """Return a ConfigMap or Secret; `user` is the uid of the pod that is told of its changes. Raises: NotFound."""
        key = (plural, ObjectKey(namespace, name))
        known = self._known.setdefault(key, _Followed())
        is_new_user = user not in known.users
        if user and is_new_user:
            known.users.add(user)
            if known.task is None:
                known.task = asyncio.create_task(self._follow(key, known))
        if not (known.is_live and not is_new_user) and time.monotonic() - known.read_at >= _FRESH_SECONDS:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS if known.obj is not None else None):
                    await self._read(key, known)
            except (ConnectionFailed, TimeoutError):
                if known.obj is None:
                    raise  # else what was told last is better than nothing
        if known.obj is None:
            raise NotFound(f'{plural} "{name}" not found')
        return known.obj

    async def _read(self, key: tuple[str, ObjectKey], known: _Followed) -> None:
        plural, (namespace, name) = key
        try:
            known.obj = await self._client.get(_RESOURCES[plural], name, namespace)
        except NotFound:
            known.obj = None
        known.read_at = time.monotonic()

    async def _follow(self, key: tuple[str, ObjectKey], known: _Followed) -> None:
        await asyncio.sleep(_SETTLE_SECONDS)
        while not (known.obj is not None and known.obj.get("immutable")):
            before = known.obj
            try:
                await self._read(key, known)
                if before != known.obj:
                    self._tell(known)
                known.is_live = True
                await self._watch(key, known)
            except (APIError, ConnectionFailed, OSError) as error:
                log.debug("watching %s %s: %s", *key, error)
                await asyncio.sleep(_RETRY_SECONDS)
            finally:
                known.is_live = False
        known.is_live = True

    async def _watch(self, key: tuple[str, ObjectKey], known: _Followed) -> None:
        plural, (namespace, name) = key
        version = (known.obj or {}).get("metadata", {}).get("resourceVersion", "")
        selector = f"metadata.name={name}"
        watch = self._client.watch(
            _RESOURCES[plural], namespace, resource_version=version, field_selector=selector, bookmarks=False
        )
        async for event in watch:
            if event.type in ("ADDED", "MODIFIED", "DELETED"):
                known.obj = None if event.type == "DELETED" else event.decode()
                known.read_at = time.monotonic()
                self._tell(known)
                if known.obj is not None and known.obj.get("immutable"):
                    return

    def _tell(self, known: _Followed) -> None:
        for uid in tuple(known.users):
            self._changed(uid)

    async def trust_bundles(self, source: Mapping[str, Any]) -> list[Object]:
        """Return the ClusterTrustBundles that a projected volume's source names or selects. Raises: NotFound."""
        if name := source.get("name"):
            return [await self._client.get(CLUSTER_TRUST_BUNDLES, name)]
        from machinery.api.selectors import from_label_selector

        found = (await self._client.list(CLUSTER_TRUST_BUNDLES))["items"]
        selector = from_label_selector(source["labelSelector"]) if "labelSelector" in source else None
        signer = source.get("signerName", "")
        return [
            one for one in found
            if one["spec"].get("signerName", "") == signer and selector is not None
            and selector.matches(one["metadata"].get("labels") or {})
        ]  # fmt: skip

    def forget(self, uid: str) -> None:
        """A pod is gone: what it alone used is no longer followed."""
        for key, known in list(self._known.items()):
            known.users.discard(uid)
            if not known.users and time.monotonic() - known.read_at >= _FRESH_SECONDS:
                if known.task is not None:
                    known.task.cancel()
                del self._known[key]

    async def close(self) -> None:
        """Follow nothing any more."""
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._known.clear()


class TokenSource:
    """Gets tokens for pods and renews them before they end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str, int], tuple[float, Mapping[str, str]]] = {}

    async def get(self, pod: Mapping[str, Any], source: Mapping[str, Any]) -> str:
        """Return a token bound to the pod. Raises: APIError."""
        return (await self.status(pod, source))["token"]

    async def status(self, pod: Mapping[str, Any], source: Mapping[str, Any]) -> Mapping[str, str]:
        """Return a token bound to the pod and its expirationTimestamp. Raises: APIError."""
        metadata, audience = pod["metadata"], source.get("audience", "")
        seconds = int(source.get("expirationSeconds", 3600))
        key = (metadata["uid"], audience, seconds)
        known = self._known.get(key)
        if known is not None and time.time() < known[0]:
            return known[1]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
        spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": bound}
        if audience:
            spec["audiences"] = [audience]
        request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec}
        account = pod["spec"].get("serviceAccountName") or "default"
        try:
            answer = await self._client.create(
                SERVICE_ACCOUNTS, request, metadata["namespace"], subresource="token", name=account
            )
        except ConnectionFailed:
            if known is None or time.time() >= parse_time(known[1]["expirationTimestamp"]).timestamp():
                raise
            return known[1]  # it is to be renewed, but good yet
        status: Mapping[str, str] = answer["status"]
        left = parse_time(status["expirationTimestamp"]).timestamp() - time.time()
        self._known[key] = (time.time() + left * _RENEW_PART, status)
        return status

    def forget(self, uid: str) -> None:
        """Drop a pod's tokens."""
        for key in [key for key in self._known if key[0] == uid]:
            del self._known[key]
