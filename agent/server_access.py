"""Who may ask a node's agent for what: by client certificate or token, as the cluster's rules say.

Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
"""

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from machinery.api.resources import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError

# These may do everything here: the API server, and administrators.
ALLOWED_GROUPS = frozenset({"wherry:agent-clients", "system:masters"})
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_FIRST = {
    "stats": ("stats",), "metrics": ("metrics",), "logs": ("log",), "healthz": ("healthz", "proxy"),
    "pods": ("pods", "proxy"), "runningpods": ("pods", "proxy"), "configz": ("configz", "proxy"),
    "checkpoint": ("checkpoint", "proxy"),
}  # fmt: skip
_KEEP_SECONDS = 30.0
_MAX_KEPT = 256
User = tuple[str, tuple[str, ...]]


class Access:
    """Lets requests through that the cluster allows."""

    def __init__(self, client: Client, node_name: str) -> None:
        self._client = client
        self._node_name = node_name
        self._kept: dict[Any, tuple[float, Any]] = {}

    @web.middleware
    async def check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Handle a request if its sender may make it."""
        user = _by_certificate(request) or await self._by_token(request)
        if user is None:
            raise web.HTTPUnauthorized(text="Unauthorized")
        name, groups = user
        if not set(groups) & ALLOWED_GROUPS:
            first = request.path.split("/")[1]
            parts = _FIRST.get(first, ("proxy",))
            verb = _VERBS.get(request.method, "get")
            if not any([await self._allowed(name, groups, verb, part) for part in parts]):
                text = f"Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{' '.join(parts)}])"
                raise web.HTTPForbidden(text=text)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _by_token(self, request: web.Request) -> User | None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            return None
        review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}}
        status = await self._ask(("token", token), TOKEN_REVIEWS, review)
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return user.get("username", ""), tuple(user.get("groups") or ())

    async def _allowed(self, name: str, groups: tuple[str, ...], verb: str, part: str) -> bool:
        attributes = {"verb": verb, "version": "v1", "resource": "nodes", "subresource": part, "name": self._node_name}
        spec = {"user": name, "groups": list(groups), "resourceAttributes": attributes}
        review = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec}
        return bool((await self._ask((name, groups, verb, part), SUBJECT_ACCESS_REVIEWS, review)).get("allowed"))

    async def _ask(self, key: Any, resource: Any, review: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the status of a review, kept for a while; a server that can't be asked allows nothing."""
        known = self._kept.get(key)
        if known is not None and time.monotonic() < known[0]:
            found: Mapping[str, Any] = known[1]
            return found
        try:
            status = (await self._client.create(resource, {"metadata": {}, **review})).get("status") or {}
        except (APIError, ConnectionFailed):
            return {}
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[key] = (time.monotonic() + _KEEP_SECONDS, status)
        return status


def _by_certificate(request: web.Request) -> User | None:
    peer = request.transport.get_extra_info("peercert") if request.transport is not None else None
    pairs = [pair for part in (peer or {}).get("subject", ()) for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return (names[0], groups) if names else None
