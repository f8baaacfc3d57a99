"""The built-in admission steps, in the order they run.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from apiserver.admission import certificates, claims, limits, node_restriction, pods, quota, services
from apiserver.admission.attributes import Attributes
from apiserver.admission.policies import FindResource, Policies
from apiserver.admission.webhooks import Complete, Webhooks
from apiserver.auth import escalation
from apiserver.auth.rbac import Authorizer
from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object
from apiserver.request import RequestInfo
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api.resources import NAMESPACES

# Namespaces that can't be deleted; things must work while they are being made.
_CHARGED_ON_UPDATE = ("persistentvolumeclaims", "pods", "services")
IMMORTAL = ("default", "kube-system", "kube-public", "kube-node-lease")


class Admission:
    """Runs each step over a new or changed object: first those that complete it, after validation those that judge."""

    def __init__(
        self, cache: WatchCache, service_cidr: str, find_resource: FindResource, authorizer: Authorizer
    ) -> None:
        self._cache = cache
        self._authorizer = authorizer
        self._addresses = services.ServiceAllocator(cache, service_cidr)
        self._webhooks = Webhooks(cache)
        self._policies = Policies(cache, find_resource)

    async def close(self) -> None:
        """End connections to webhooks."""
        await self._webhooks.close()

    async def admit_create(self, request: Attributes, complete: Complete) -> Object:
        """Complete a new object and return it. Raises: NotFound or Forbidden for its namespace, Forbidden, Invalid."""
        kind, namespace, obj = request.kind, request.namespace, request.present
        if kind.resource.namespaced:
            self._check_namespace(kind, namespace, obj)
        node_restriction.check(self._cache, request)
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
                certificates.note_requester(obj, request.user)
        await self._webhooks.mutate(request, complete)
        return request.present

    async def judge_create(self, request: Attributes, replace: quota.Replace) -> None:
        """Refuse a new object that policies, webhooks or its namespace's limits have something against."""
        kind, namespace, obj = request.kind, request.namespace, request.present
        if kind.resource.namespaced and kind.built_in_kind in ("Pod", "PersistentVolumeClaim"):
            limits.check(self._cache, kind, namespace, obj)
        escalation.check(self._authorizer, kind, namespace, obj, None, request.user)
        self._policies.validate(request)
        await self._webhooks.validate(request)
        if kind.resource.namespaced:
            await quota.charge(self._cache, replace, kind, namespace, obj, None, dry_run=request.dry_run)

    async def admit_update(self, request: Attributes, complete: Complete) -> Object:
        """Complete a changed object and return it. Raises: Invalid; what webhooks refuse with."""
        node_restriction.check(self._cache, request)
        if request.kind.built_in_kind == "Service" and not request.subresource and request.old is not None:
            self._addresses.reallocate(request.present, request.old)
        await self._webhooks.mutate(request, complete)
        return request.present

    async def judge_update(self, request: Attributes, replace: quota.Replace) -> None:
        """Refuse a change that policies, webhooks or quotas have something against."""
        escalation.check(self._authorizer, request.kind, request.namespace, request.present, request.old, request.user)
        self._policies.validate(request)
        await self._webhooks.validate(request)
        if not request.subresource and request.kind.resource.plural in _CHARGED_ON_UPDATE:
            await quota.charge(
                self._cache, replace, request.kind, request.namespace, request.present, request.old,
                dry_run=request.dry_run,
            )  # fmt: skip

    def check_may_create(self, kind: Kind, namespace: str, name: str, user: User | None) -> None:
        """Refuse that an apply creates what its user may only change. Raises: Forbidden."""
        if user is None:
            return
        resource = kind.resource
        self._authorizer.authorize(
            user,
            RequestInfo(
                "create", "", is_resource=True, group=resource.group, version=resource.version, namespace=namespace,
                resource=resource.plural, name=name,
            ),
        )  # fmt: skip

    async def admit_part(self, request: Attributes) -> None:
        """Complete and judge what is posted to a subresource: a token request, an eviction, a binding.

        Raises: what node restrictions, policies and webhooks refuse with.
        """
        node_restriction.check(self._cache, request)
        await self._webhooks.mutate(request, lambda changed: changed)
        self._policies.validate(request)
        await self._webhooks.validate(request)

    async def judge_connect(self, request: Attributes) -> None:
        """Refuse a connection to a pod, service or node that policies or webhooks have something against."""
        self._policies.validate(request)
        await self._webhooks.validate(request)

    async def judge_delete(self, request: Attributes) -> None:
        """Refuse to delete what the cluster can't be without, or what policies or webhooks keep. Raises: Forbidden."""
        if request.kind.built_in_kind == "Namespace" and request.name in IMMORTAL[:3]:
            raise errors.Forbidden(
                f'namespaces "{request.name}" is forbidden: this namespace may not be deleted',
                kind="namespaces", name=request.name,
            )  # fmt: skip
        node_restriction.check(self._cache, request)
        self._policies.validate(request)
        await self._webhooks.validate(request)

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
