"""The built-in admission steps, in the order they run.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from apiserver.admission import certificates, claims, limits, pods, quota, services
from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api.resources import NAMESPACES

# Namespaces that can't be deleted; things must work while they are being made.
IMMORTAL = ("default", "kube-system", "kube-public", "kube-node-lease")


class Admission:
    """Runs each step over a new or changed object: first those that complete it, after validation those that judge."""

    def __init__(self, cache: WatchCache, service_cidr: str) -> None:
        self._cache = cache
        self._addresses = services.ServiceAllocator(cache, service_cidr)

    async def admit_create(self, kind: Kind, namespace: str, obj: Object, user: User | None) -> None:
        """Complete a new object. Raises: NotFound or Forbidden for its namespace, Forbidden, Invalid."""
        if kind.resource.namespaced:
            self._check_namespace(kind, namespace, obj)
        match kind.built_in_kind:
            case "Pod":
                limits.set_defaults(self._cache, namespace, obj)
                pods.admit(self._cache, namespace, obj)
            case "Service":
                self._addresses.allocate(obj)
            case "PersistentVolumeClaim":
                claims.set_class(self._cache, obj)
            case "Ingress":
                claims.set_ingress_class(self._cache, obj)
            case "CertificateSigningRequest":
                certificates.note_requester(obj, user)

    async def judge_create(
        self, kind: Kind, namespace: str, obj: Object, replace: quota.Replace, *, dry_run: bool
    ) -> None:
        """Refuse a new object that its namespace has no room for. Raises: Forbidden."""
        if not kind.resource.namespaced:
            return
        if kind.built_in_kind in ("Pod", "PersistentVolumeClaim"):
            limits.check(self._cache, kind, namespace, obj)
        await quota.charge(self._cache, replace, kind, namespace, obj, None, dry_run=dry_run)

    def admit_update(self, kind: Kind, new: Object, old: Object) -> None:
        """Complete a changed object. Raises: Invalid."""
        if kind.built_in_kind == "Service":
            self._addresses.reallocate(new, old)

    def admit_delete(self, kind: Kind, name: str) -> None:
        """Refuse to delete what the cluster can't be without. Raises: Forbidden."""
        if kind.built_in_kind == "Namespace" and name in IMMORTAL[:3]:
            raise errors.Forbidden(
                f'namespaces "{name}" is forbidden: this namespace may not be deleted', kind="namespaces", name=name
            )

    def released(self, kind: Kind, entry: Entry) -> None:
        """Take back what a deleted object held."""
        if kind.built_in_kind == "Service":
            self._addresses.release(entry.object())

    def _check_namespace(self, kind: Kind, namespace: str, obj: Object) -> None:
        found = self._cache.collection(NAMESPACES.group_resource).get(f"/registry/namespaces/{namespace}")
        if found is None:
            raise errors.NotFound(f'namespaces "{namespace}" not found', kind="namespaces", name=namespace)
        if b'"phase":"Terminating"' in found.value and kind.resource.kind != "Event":
            name = obj["metadata"].get("name", "")
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            told = f"namespace {namespace} is being terminated"
            raise errors.Forbidden(
                f'{kind.resource.group_resource} "{name}" is forbidden: {why}',
                group=kind.resource.group, kind=kind.resource.plural, name=name,
                causes=[errors.Cause("NamespaceTerminating", told, "metadata.namespace")],
            )  # fmt: skip
