"""All kinds the server knows, found by group, version and plural."""

import re
from collections.abc import Iterator, Sequence

from apiserver.registry import (
    admission_registration,
    apiextensions,
    apiregistration,
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
    reviews,
    scheduling,
    storage,
    versions,
)  # fmt: skip
from apiserver.registry.kind import Kind
from machinery.api.meta import Resource

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
    apiextensions, apiregistration, versions, reviews,
)  # fmt: skip


_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


class Catalog:
    """The kinds of one server; those that users define come and go."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in kinds}
        self._custom: dict[str, list[Kind]] = {}
        self._same: tuple[int, dict[str, list[Kind]]] = (-1, {})
        self.changes = 0  # grows with each change: what is derived from the catalog is derived anew

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the kind served at a path, or None."""
        return self._kinds.get((group, version, plural))

    def set_custom(self, definition: str, kinds: Sequence[Kind]) -> None:
        """Serve these kinds for a CustomResourceDefinition, in place of those it had before."""
        for kind in self._custom.pop(definition, ()):
            self._kinds.pop((kind.resource.group, kind.resource.version, kind.resource.plural), None)
        if kinds:
            self._custom[definition] = list(kinds)
        for kind in kinds:
            self._kinds[kind.resource.group, kind.resource.version, kind.resource.plural] = kind
        self.changes += 1

    def resource_of(self, api_version: str, kind: str) -> Resource | None:
        """Return the resource of objects that say they are of this apiVersion and kind."""
        found = (one.resource for one in self)
        return next((one for one in found if (one.api_version, one.kind) == (api_version, kind)), None)

    def other_versions(self, kind: Kind) -> Sequence[Kind]:
        """Return the kinds whose objects are the same as a kind's, shown in other versions."""
        if self._same[0] != self.changes:
            found: dict[str, list[Kind]] = {}
            for one in self:
                found.setdefault(one.resource.group_resource, []).append(one)
            self._same = self.changes, {name: kinds for name, kinds in found.items() if len(kinds) > 1}
        return [one for one in self._same[1].get(kind.resource.group_resource, ()) if one is not kind]

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def groups(self) -> list[str]:
        """Return the group names in discovery order, the core group ("") first."""
        present = {kind.resource.group for kind in self}
        ordered = [group for group in _GROUP_ORDER if group in present]
        return ordered + sorted(present - set(ordered))

    def versions(self, group: str) -> list[str]:
        """Return the versions of a group, the preferred one first: v2, v1, v1beta2, v1alpha1, then others by name."""
        return sorted({kind.resource.version for kind in self if kind.resource.group == group}, key=version_rank)

    def kinds(self, group: str, version: str) -> list[Kind]:
        """Return the kinds of a group version, by plural."""
        found = [kind for kind in self if (kind.resource.group, kind.resource.version) == (group, version)]
        return sorted(found, key=lambda kind: kind.resource.plural)


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Return what sorts versions as Kubernetes prefers them.

    Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        return 3, 0, 0, version
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0), version


def built_in() -> Catalog:
    """Return the catalog of built-in kinds."""
    return Catalog([kind for module in _MODULES for kind in module.KINDS])
