"""Looking at devices that others have is for namespaces whose label says so.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#admin-access
"""

from collections.abc import Iterator

from apiserver.registry.kind import Kind, Object, forbidden
from apiserver.registry.object_rules import raise_invalid
from apiserver.storage.watch_cache import WatchCache
from machinery.errors import Cause

LABEL = "resource.kubernetes.io/admin-access"


def check_admin_access(cache: WatchCache, kind: Kind, namespace: str, obj: Object) -> None:
    """Refuse a claim, or a template of claims, that asks for more than its namespace may. Raises: Invalid."""
    spec, path = obj.get("spec") or {}, "spec"
    if kind.built_in_kind == "ResourceClaimTemplate":
        spec, path = spec.get("spec") or {}, "spec.spec"
    causes = list(_causes(spec, path))
    if not causes:
        return
    entry = cache.collection("namespaces").get(f"/registry/namespaces/{namespace}")
    labels = (entry.object()["metadata"].get("labels") or {}) if entry is not None else {}
    if labels.get(LABEL) != "true":
        raise_invalid(kind, obj, causes)


def _causes(spec: Object, path: str) -> Iterator[Cause]:
    for index, request in enumerate((spec.get("devices") or {}).get("requests") or ()):
        if (request.get("exactly") or {}).get("adminAccess"):
            why = f"admin access to devices requires the `{LABEL}: true` label on the containing namespace"
            yield forbidden(f"{path}.devices.requests[{index}].adminAccess", why)
            return
