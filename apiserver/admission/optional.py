"""Steps that run only where they are asked for: AlwaysPullImages, EventRateLimit, OwnerReferencesPermissionEnforcement.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from apiserver.admission.attributes import Attributes
from apiserver.admission.policies import FindResource
from apiserver.auth.rbac import Authorizer
from apiserver.registry.kind import Object
from apiserver.request import RequestInfo
from machinery import errors

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_CACHE_SIZE = 4096


def always_pull(pod: Object) -> None:
    """Let every image of a pod be asked for anew, so that only who may pull it can use it."""
    for group in _CONTAINERS:
        for container in pod["spec"].get(group) or ():
            container["imagePullPolicy"] = "Always"


class _Bucket:
    """Tokens that come back with time."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps, self._burst = qps, burst
        self._tokens, self._at = float(burst), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _source_and_object(request: Attributes) -> str:
    event = request.present
    source, about = event.get("source") or {}, event.get("involvedObject") or {}
    parts = [source.get("component", ""), source.get("host", "")]
    parts += [about.get(key, "") for key in ("kind", "namespace", "name", "uid", "apiVersion")]
    return "".join(parts)


_KEYS: Mapping[str, Callable[[Attributes], str]] = {
    "Server": lambda _: "",
    "Namespace": lambda request: request.namespace,
    "User": lambda request: request.user.name if request.user is not None else "",
    "SourceAndObject": _source_and_object,
}


class EventRateLimit:
    """Refuses events that come too fast: for the server, a namespace, a user, or a source and its object."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._limits = configuration.get("limits") or ()
        self._buckets: list[OrderedDict[str, _Bucket]] = [OrderedDict() for _ in self._limits]

    def check(self, request: Attributes) -> None:
        """Count an event. Raises: TooManyRequests."""
        for limit, buckets in zip(self._limits, self._buckets, strict=True):
            key = _KEYS[limit["type"]](request)
            bucket = buckets.get(key)
            if bucket is None:
                bucket = buckets[key] = _Bucket(limit["qps"], limit["burst"])
                if len(buckets) > (limit.get("cacheSize") or _CACHE_SIZE):
                    buckets.popitem(last=False)
            buckets.move_to_end(key)
            if not bucket.take():
                raise errors.TooManyRequests(f"limit reached on type {limit['type']} for key {key}")


def check_owners(authorizer: Authorizer, find_resource: FindResource, request: Attributes) -> None:
    """Refuse owner references by users who may not delete the object, or not block the owner. Raises: Forbidden."""
    user = request.user
    new = request.present["metadata"].get("ownerReferences") or []
    old = ((request.old or {}).get("metadata") or {}).get("ownerReferences") or []
    if user is None or new == old or (request.operation == "CREATE" and not new):
        return
    resource = request.kind.resource
    if request.old is not None:  # who makes an object may say whose it is
        asked = RequestInfo(
            "delete", "", is_resource=True, group=resource.group, version=resource.version,
            namespace=request.namespace, resource=resource.plural, name=request.name,
        )  # fmt: skip
        if not authorizer.allows(user, asked):
            raise _refused(request, "cannot set an ownerRef on a resource you can't delete: ")
    for owner in new:
        if not owner.get("blockOwnerDeletion") or owner in old:
            continue
        found = find_resource(owner["apiVersion"], owner["kind"])
        namespace = request.namespace if found is None or found.namespaced else ""
        asked = RequestInfo(
            "update", "", is_resource=True, group=found.group if found else "*", namespace=namespace,
            resource=found.plural if found else "*", name=owner["name"], subresource="finalizers",
        )  # fmt: skip
        if not authorizer.allows(user, asked):
            why = (
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: "
            )
            raise _refused(request, why)


def _refused(request: Attributes, why: str) -> errors.Forbidden:
    resource = request.kind.resource
    return errors.Forbidden(
        f'{resource.group_resource} "{request.name}" is forbidden: {why}', group=resource.group,
        kind=resource.plural, name=request.name,
    )  # fmt: skip
