"""The order of groups and of their versions that APIServices tell of those this server answers for itself.

Source: the table apiVersionPriorities of Kubernetes' aggregator; custom resources come behind.
"""

_GROUPS = {
    "": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
    "autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
    "rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "admissionregistration.k8s.io": 16700,
    "apiextensions.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
    "discovery.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100, "internal.apiserver.k8s.io": 16000,
    "resource.k8s.io": 15900, "apiregistration.k8s.io": 18000,
}  # fmt: skip
_CUSTOM_GROUP, _CUSTOM_VERSION = 1000, 100


def group_priority(group: str, *, custom: bool) -> int:
    """Return a group's groupPriorityMinimum."""
    return _CUSTOM_GROUP if custom else _GROUPS.get(group, 15000)


def version_priority(index: int, count: int, *, custom: bool) -> int:
    """Return the versionPriority of the version at `index` of `count`, the preferred one first."""
    return _CUSTOM_VERSION + count - 1 - index if custom else 15 if count == 1 else 15 - index
