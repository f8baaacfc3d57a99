"""NodeRestriction: an agent changes its own node, its own lease and its own pods, and gains nothing by it.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
"""

from collections.abc import Mapping
from typing import Any

from apiserver.admission.attributes import Attributes
from apiserver.auth.nodes import LEASE_NAMESPACE, node_name
from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.pod_references import references
from machinery.api.resources import NODES, PODS

_MIRROR = "kubernetes.io/config.mirror"
_RESTRICTED_LABEL = "node-restriction.kubernetes.io"
# The labels of Kubernetes' own names that an agent may give its node.
_OWN_LABELS = frozenset(
    {"kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
     "failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
     "node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os",
     "beta.kubernetes.io/arch", "kubernetes.io/os", "kubernetes.io/arch", "node.kubernetes.io/windows-build"}
)  # fmt: skip
_OWN_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def check(cache: WatchCache, request: Attributes) -> None:
    """Refuse what an agent may not do. Raises: Forbidden."""
    node = node_name(request.user) if request.user is not None else None
    if node is None or request.user is None:
        return
    if not node:
        raise _forbidden(request, f'could not determine node from user "{request.user.name}"')
    match request.kind.resource.group_resource:
        case "pods":
            why = _pod(cache, node, request)
        case "nodes":
            why = _node(node, request)
        case "serviceaccounts" if request.subresource == "token":
            why = _token(cache, node, request.present)
        case "persistentvolumeclaims" if request.subresource != "status":
            why = "may only update PVC status"
        case "leases.coordination.k8s.io":
            why = _lease(node, request)
        case "csinodes.storage.k8s.io" if request.name != node:
            why = f'can only access CSINode with the same name as the requesting node: "{node}"'
        case _:
            return
    if why:
        raise _forbidden(request, why)


def _pod(cache: WatchCache, node: str, request: Attributes) -> str:
    match request.subresource, request.operation:
        case "", "CREATE":
            return _mirror(cache, node, request.present)
        case "", "DELETE":
            mine = request.present["spec"].get("nodeName") == node
            return "" if mine else f'node "{node}" can only delete pods with spec.nodeName set to itself'
        case "", operation:
            return f'unexpected operation "{operation}", node "{node}" can only create and delete mirror pods'
        case "status", "UPDATE":
            return _pod_status(node, request)
        case "eviction", _:
            entry = cache.collection(PODS.group_resource).get(request.kind.key(request.namespace, request.name))
            mine = entry is not None and entry.object()["spec"].get("nodeName") == node
            return "" if mine else f"node {node} can only evict pods with spec.nodeName set to itself"
    return f"unexpected pod subresource \"{request.subresource}\", only 'status' and 'eviction' are allowed"


def _pod_status(node: str, request: Attributes) -> str:
    old, new = request.old or {}, request.present
    if old["spec"].get("nodeName") != node:
        return f'node "{node}" can only update pod status for pods with spec.nodeName set to itself'  # noqa: S608
    if (old["metadata"].get("labels") or {}) != (new["metadata"].get("labels") or {}):
        return f'node "{node}" cannot update labels through pod status'
    return ""


def _mirror(cache: WatchCache, node: str, pod: Object) -> str:
    """Say what keeps an agent from creating a pod: it may only mirror one of its own files."""
    metadata, spec = pod["metadata"], pod["spec"]
    if _MIRROR not in (metadata.get("annotations") or {}):
        return f'pod does not have "{_MIRROR}" annotation, node "{node}" can only create mirror pods'
    if spec.get("nodeName") != node:
        return f'node "{node}" can only create pods with spec.nodeName set to itself'
    owners = metadata.get("ownerReferences") or []
    if len(owners) > 1:
        return f'node "{node}" can only create pods with a single owner reference set to itself'
    owner: Mapping[str, Any] = owners[0] if owners else {}
    if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
        return f'node "{node}" can only create pods with an owner reference set to itself'
    if not owner.get("controller"):
        return f'node "{node}" can only create pods with a controller owner reference set to itself'
    if owner.get("blockOwnerDeletion"):
        return f'node "{node}" must not set blockOwnerDeletion on an owner reference'
    entry = cache.collection(NODES.group_resource).get(f"/registry/nodes/{node}")
    uid = entry.object()["metadata"]["uid"] if entry is not None else ""
    if owner.get("uid") != uid:
        return f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}"
    plural = next((plural for plural, _ in references(pod)), "")
    what = "a service account" if plural == "serviceaccounts" else plural
    return f'node "{node}" can not create pods that reference {what}' if plural else ""


def _node(node: str, request: Attributes) -> str:
    if request.name != node:
        return f'node "{node}" is not allowed to modify node "{request.name}"'
    if request.operation == "DELETE":
        return ""
    new, old = request.present, request.old or {}
    wrong = sorted(key for key in _changed(new, old) if not _may_label(key, existing=bool(old)))
    if wrong:
        told = "is not allowed to modify labels" if old else "is not allowed to set the following labels"
        return f'node "{node}" {told}: {", ".join(wrong)}'
    if old and (old.get("spec") or {}).get("taints") != (new.get("spec") or {}).get("taints"):
        return f'node "{node}" is not allowed to modify taints'
    if old and (old["metadata"].get("ownerReferences") or []) != (new["metadata"].get("ownerReferences") or []):
        return f'node "{node}" is not allowed to modify ownerReferences'
    return ""


def _changed(new: Object, old: Object) -> set[str]:
    before, after = ((one.get("metadata") or {}).get("labels") or {} for one in (old, new))
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def _may_label(key: str, *, existing: bool) -> bool:
    domain = key.rpartition("/")[0]
    if domain == _RESTRICTED_LABEL or domain.endswith("." + _RESTRICTED_LABEL):
        return False
    owned = any(domain == one or domain.endswith("." + one) for one in ("kubernetes.io", "k8s.io"))
    if not owned or key in _OWN_LABELS:
        return True
    return any(domain == one or domain.endswith("." + one) for one in _OWN_LABEL_DOMAINS)


def _token(cache: WatchCache, node: str, request: Object) -> str:
    reference = (request.get("spec") or {}).get("boundObjectRef") or {}
    if reference.get("apiVersion", "v1") != "v1" or reference.get("kind") != "Pod" or not reference.get("name"):
        return "node requested token not bound to a pod"
    if not reference.get("uid"):
        return "node requested token with a pod binding without a uid"
    metadata = request.get("metadata") or {}
    key = f"/registry/pods/{metadata.get('namespace', '')}/{reference['name']}"
    entry = cache.collection(PODS.group_resource).get(key)
    pod: Object = entry.object() if entry is not None else {"metadata": {}, "spec": {}}
    if pod["metadata"].get("uid") != reference["uid"]:
        return "the UID in the bound object reference does not match the UID in record"
    if pod["spec"].get("nodeName") != node:
        return "node requested token bound to a pod scheduled on a different node"
    return ""


def _lease(node: str, request: Attributes) -> str:
    if request.namespace != LEASE_NAMESPACE:
        return f'can only access leases in the "{LEASE_NAMESPACE}" system namespace'
    if request.operation == "CREATE" and request.name != node:
        return f'can only access node lease with the same name as the requesting node: "{node}"'
    return ""


def _forbidden(request: Attributes, why: str) -> errors.Forbidden:
    resource = request.kind.resource
    return errors.Forbidden(
        f'{resource.group_resource} "{request.name}" is forbidden: {why}', group=resource.group, kind=resource.plural,
        name=request.name,
    )  # fmt: skip
