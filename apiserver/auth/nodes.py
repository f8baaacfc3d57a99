"""The node authorizer: an agent may read what the pods on its node use, write about itself and them, and nothing else.

Which objects the pods of a node use is kept in an index that follows the pods' collection; it is built when the first
agent asks. Source: https://kubernetes.io/docs/reference/access-authn-authz/node/
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.auth.user import User
from apiserver.request import RequestInfo
from apiserver.storage.watch_cache import Entry, WatchCache, Watcher
from machinery.api.pod_references import references
from machinery.api.resources import NETWORK_POLICIES, PERSISTENT_VOLUMES, PODS, RESOURCE_SLICES

NODES = "system:nodes"
PREFIX = "system:node:"
LEASE_NAMESPACE = "kube-node-lease"
_READS = ("get", "list", "watch")
_WRITES = ("create", "update", "patch")
_MIRROR = "kubernetes.io/config.mirror"

# The controller's own secrets are not among them: an agent has no use for these.
_VOLUME_SECRETS = ("nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef")

Reference = tuple[str, str, str]
"""Plural, namespace, name."""

# What every agent may, whatever runs on it: (group, resource[/subresource]) -> verbs.
_ALL: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("authentication.k8s.io", "tokenreviews"): ("create",),
    ("authorization.k8s.io", "subjectaccessreviews"): ("create",),
    ("authorization.k8s.io", "localsubjectaccessreviews"): ("create",),
    ("", "services"): _READS,
    ("", "nodes"): _WRITES,
    ("", "nodes/status"): ("update", "patch"),
    ("", "events"): _WRITES,
    ("events.k8s.io", "events"): _WRITES,
    ("", "pods"): ("create", "delete"),
    ("", "pods/status"): ("update", "patch"),
    ("", "pods/eviction"): ("create",),
    ("certificates.k8s.io", "certificatesigningrequests"): ("create", *_READS),
    ("storage.k8s.io", "csidrivers"): _READS,
    ("node.k8s.io", "runtimeclasses"): _READS,
    ("resource.k8s.io", "resourceslices"): ("create",),
}
# What an agent may do with single objects that its pods use: plural -> resource[/subresource] -> (group, verbs).
_USED: Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "secrets": {"secrets": ("", _READS)},
    "configmaps": {"configmaps": ("", _READS)},
    "persistentvolumeclaims": {
        "persistentvolumeclaims": ("", ("get",)), "persistentvolumeclaims/status": ("", ("update", "patch")),
    },
    "resourceclaims": {"resourceclaims": ("resource.k8s.io", ("get",))},
    "serviceaccounts": {"serviceaccounts": ("", ("get",)), "serviceaccounts/token": ("", ("create",))},
}  # fmt: skip


def node_name(user: User) -> str | None:
    """Return the node an agent speaks for, "" when its name tells of none; None for other users."""
    if NODES not in user.groups:
        return None
    return user.name.removeprefix(PREFIX) if user.name.startswith(PREFIX) else ""


class NodeAuthorizer:
    """Answers for agents; has no opinion on others."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._uses = NodeUses(cache)
        self._had_policies = False

    def allows(self, user: User, info: RequestInfo) -> bool:
        """Whether an agent may do what is asked."""
        node = node_name(user)
        if not node or not info.is_resource:
            return False
        self._uses.follow()
        what = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        if info.verb in _ALL.get((info.group, what), ()):
            return True
        if info.resource in _USED:
            return self._single(node, info, what)
        match info.group, what:
            case "", "persistentvolumes":
                return info.verb == "get" and self._volume(node, info.name)
            case "", "pods":
                return self._pods(node, info)
            case "", "nodes":
                return info.verb in _READS and info.name == node
        return self._own(node, info, what)

    def _single(self, node: str, info: RequestInfo, what: str) -> bool:
        """Whether it is about a single object that a pod of the node uses."""
        group, verbs = _USED[info.resource].get(what, ("", ()))
        if info.group != group or info.verb not in verbs or not info.namespace:
            return False
        if self._uses.has(node, (info.resource, info.namespace, info.name)):
            return True
        return info.resource == "secrets" and info.verb == "get" and self._opens_volume(node, info.namespace, info.name)

    def _opens_volume(self, node: str, namespace: str, name: str) -> bool:
        """Whether a secret is what a storage driver needs for a volume that a pod of the node uses."""
        if not name:
            return False
        plural = PERSISTENT_VOLUMES.group_resource
        for entry in self._cache.collection(plural).entries(""):
            if b'SecretRef"' in entry.value and name.encode() in entry.value:
                source = (entry.object().get("spec") or {}).get("csi") or {}
                secrets = [source.get(field) or {} for field in _VOLUME_SECRETS]
                wanted = {(one.get("namespace", ""), one.get("name", "")) for one in secrets}
                if (namespace, name) in wanted and self._volume(node, entry.name):
                    return True
        return False

    def _pods(self, node: str, info: RequestInfo) -> bool:
        if info.verb == "get":
            return self._uses.runs(node, f"{info.namespace}/{info.name}")
        if info.verb not in ("list", "watch"):
            return False
        return f"spec.nodeName={node}" in info.field_selector.split(",") or self._are_policies()

    def _are_policies(self) -> bool:
        """Whether there are or were network policies: then agents must know the pods of all nodes, their peers."""
        if not self._had_policies:
            self._had_policies = bool(len(self._cache.collection(NETWORK_POLICIES.group_resource)))
        return self._had_policies

    def _own(self, node: str, info: RequestInfo, what: str) -> bool:
        """Whether it is about an object that bears the node's name."""
        may = info.verb == "create" or (info.name == node and info.verb in ("get", "update", "patch", "delete"))
        match info.group, what:
            case "coordination.k8s.io", "leases":
                return info.namespace == LEASE_NAMESPACE and may
            case "storage.k8s.io", "csinodes":
                return may
            case "resource.k8s.io", "resourceslices":
                return self._slice(node, info)
            case "storage.k8s.io", "volumeattachments":
                return info.verb == "get" and self._attachment(node, info.name)
        return False

    def _volume(self, node: str, name: str) -> bool:
        plural = PERSISTENT_VOLUMES.group_resource
        entry = self._cache.collection(plural).get(f"/registry/{plural}/{name}")
        if entry is None:
            return False
        claim = (entry.object().get("spec") or {}).get("claimRef") or {}
        return self._uses.has(node, ("persistentvolumeclaims", claim.get("namespace", ""), claim.get("name", "")))

    def _slice(self, node: str, info: RequestInfo) -> bool:
        """Whether it is about devices of the node."""
        if info.verb in ("list", "watch", "deletecollection"):
            return f"spec.nodeName={node}" in info.field_selector.split(",")
        plural = RESOURCE_SLICES.group_resource
        entry = self._cache.collection(plural).get(f"/registry/{plural}/{info.name}")
        return entry is not None and entry.object()["spec"].get("nodeName") == node

    def _attachment(self, node: str, name: str) -> bool:
        plural = "volumeattachments.storage.k8s.io"
        entry = self._cache.collection(plural).get(f"/registry/{plural}/{name}")
        return entry is not None and entry.object()["spec"].get("nodeName") == node


class NodeUses:
    """What the pods of each node use."""

    def __init__(self, cache: WatchCache) -> None:
        self._collection = cache.collection(PODS.group_resource)
        self._open = contextlib.ExitStack()
        self._watcher: Watcher | None = None
        self._used: dict[str, Counter[Reference]] = {}
        self._placed: dict[str, tuple[str, frozenset[Reference]]] = {}  # pod -> its node and what it uses

    def follow(self) -> None:
        """Take in what changed since the last call."""
        if self._watcher is None or self._watcher.overrun:
            self._open.close()
            self._watcher = self._open.enter_context(self._collection.watch("", after=None))
            self._used, self._placed = {}, {}
            for entry in self._collection.entries(""):
                self._put(entry)
        for event in self._watcher.take():
            if event.type == "DELETED":
                self._drop(f"{event.entry.namespace}/{event.entry.name}")
            else:
                self._put(event.entry)

    def has(self, node: str, reference: Reference) -> bool:
        """Whether a pod of a node uses an object."""
        return bool(reference[2]) and self._used.get(node, Counter())[reference] > 0

    def runs(self, node: str, pod: str) -> bool:
        """Whether a pod ("namespace/name") is on a node."""
        found = self._placed.get(pod)
        return found is not None and found[0] == node

    def _put(self, entry: Entry) -> None:
        name = f"{entry.namespace}/{entry.name}"
        known = self._placed.get(name)
        # What a pod uses is fixed once it has a node; only ephemeral containers come later.
        if known is not None and b'"ephemeralContainers"' not in entry.value:
            return
        if b'"nodeName":"' not in entry.value:
            return
        pod = entry.object()
        node = pod["spec"].get("nodeName", "")
        self._drop(name)
        if not node:
            return
        uses = frozenset(_uses(pod, entry.namespace))
        self._placed[name] = (node, uses)
        self._used.setdefault(node, Counter()).update(uses)

    def _drop(self, name: str) -> None:
        node, uses = self._placed.pop(name, ("", frozenset()))
        counts = self._used.get(node)
        if counts is None:
            return
        for reference in uses:
            counts[reference] -= 1
            if counts[reference] <= 0:
                del counts[reference]


def _uses(pod: Mapping[str, Any], namespace: str) -> Iterator[Reference]:
    if _MIRROR in (pod["metadata"].get("annotations") or {}):
        return  # made by the node itself: it must not gain anything by it
    for plural, name in references(pod):
        yield plural, namespace, name
