"""ConfigMaps, Secrets and service account tokens that pods of this node use."""

import time
from collections.abc import Mapping
from typing import Any

from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS
from machinery.client.rest import Client

_RESOURCES = {"configmaps": CONFIG_MAPS, "secrets": SECRETS}
# Several containers of a pod, and several pods, ask for the same object at once.
_FRESH_SECONDS = 1.0
_RENEW_PART = 0.8


class ObjectSource:
    """Reads objects by name; one read within a second serves all who ask."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, ObjectKey], tuple[float, Mapping[str, Any]]] = {}

    async def get(self, plural: str, namespace: str, name: str) -> Mapping[str, Any]:
        """Return a ConfigMap or Secret. Raises: NotFound."""
        key = (plural, ObjectKey(namespace, name))
        known = self._known.get(key)
        if known is not None and time.monotonic() - known[0] < _FRESH_SECONDS:
            return known[1]
        obj = await self._client.get(_RESOURCES[plural], name, namespace)
        if len(self._known) > 256:
            self._known.clear()
        self._known[key] = (time.monotonic(), obj)
        return obj


class TokenSource:
    """Gets tokens for pods and renews them before they end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str, int], tuple[float, str]] = {}

    async def get(self, pod: Mapping[str, Any], source: Mapping[str, Any]) -> str:
        """Return a token bound to the pod. Raises: APIError."""
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
        answer = await self._client.create(
            SERVICE_ACCOUNTS, request, metadata["namespace"], subresource="token", name=account
        )
        status = answer["status"]
        left = parse_time(status["expirationTimestamp"]).timestamp() - time.time()
        self._known[key] = (time.time() + left * _RENEW_PART, status["token"])
        return str(status["token"])

    def forget(self, uid: str) -> None:
        """Drop a pod's tokens."""
        for key in [key for key in self._known if key[0] == uid]:
            del self._known[key]
