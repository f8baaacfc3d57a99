"""All kinds the server knows, found by group, version and plural."""

from collections.abc import Iterator, Sequence

from apiserver.registry import (
    admission_registration,
    apps,
    autoscaling,
    batch,
    certificates,
    coordination,
    core,
    devices,
    flowcontrol,
    limits,
    networking,
    policy,
    rbac,
    replication,
    scheduling,
    storage,
)  # fmt: skip
from apiserver.registry.kind import Kind

# The order discovery lists groups in; kubectl resolves short names by it.
_GROUP_ORDER = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
    "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
    "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
    "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
)  # fmt: skip
_MODULES = (
    core, replication, limits, storage, apps, batch, autoscaling, policy, rbac, coordination, networking, scheduling,
    certificates, admission_registration, flowcontrol, devices,
)  # fmt: skip


class Catalog:
    """The kinds of one server."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in kinds}

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the kind served at a path, or None."""
        return self._kinds.get((group, version, plural))

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def groups(self) -> list[str]:
        """Return the group names in discovery order, the core group ("") first."""
        present = {kind.resource.group for kind in self}
        ordered = [group for group in _GROUP_ORDER if group in present]
        return ordered + sorted(present - set(ordered))

    def versions(self, group: str) -> list[str]:
        """Return the versions of a group, the preferred one first."""
        return sorted({kind.resource.version for kind in self if kind.resource.group == group})

    def kinds(self, group: str, version: str) -> list[Kind]:
        """Return the kinds of a group version, by plural."""
        found = [kind for kind in self if (kind.resource.group, kind.resource.version) == (group, version)]
        return sorted(found, key=lambda kind: kind.resource.plural)


def built_in() -> Catalog:
    """Return the catalog of built-in kinds."""
    return Catalog([kind for module in _MODULES for kind in module.KINDS])
