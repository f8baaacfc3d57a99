"""The built-in admission steps, in the order they run.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from collections.abc import Mapping
from functools import partial

from apiserver.admission import (
    certificates,
    claims,
    declared_features,
    devices,
    limits,
    node_restriction,
    optional,
    pods,
    quota,
    services,
)
from apiserver.admission.attributes import Attributes
from apiserver.admission.equivalents import FindVersions
from apiserver.admission.mutating_policies import MutatingPolicies
from apiserver.admission.plugins import AdmissionSettings
from apiserver.admission.pod_security import PodSecurity
from apiserver.admission.policies import FindResource, Policies
from apiserver.admission.webhooks import Complete, Webhooks
from apiserver.auth import escalation
from apiserver.auth.rbac import Authorizer
from apiserver.auth.user import MASTERS, User, account_user
from apiserver.registry.kind import Kind, Object
from apiserver.request import RequestInfo
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api.resources import NAMESPACES
from machinery.cel.authorizing import DECIDE

# Namespaces that can't be deleted; things must work while they are being made.
_CHARGED_ON_UPDATE = ("persistentvolumeclaims", "pods", "services")
IMMORTAL = ("default", "kube-system", "kube-public", "kube-node-lease")


class Admission:
    """Runs each step over a new or changed object: first those that complete it, after validation those that judge."""

    def __init__(
        self,
        cache: WatchCache,
        service_cidr: str,
        find_resource: FindResource,
        authorizer: Authorizer,
        settings: AdmissionSettings = AdmissionSettings(),  # noqa: B008 - frozen
        *,
        versions: FindVersions,
    ) -> None:
        self._cache = cache
        self._authorizer = authorizer
        self._find_resource = find_resource
        self._on = settings.enabled
        self._addresses = services.ServiceAllocator(cache, service_cidr)
        self._webhooks = Webhooks(cache, versions)
        self._policies = Policies(cache, find_resource, versions)
        self._changes = MutatingPolicies(cache, find_resource, versions)
        self._pod_security = PodSecurity(cache, settings.pod_security())
        self._event_rates = optional.EventRateLimit(settings.configuration.get("EventRateLimit", {}))

    async def close(self) -> None:
        """End connections to webhooks."""
        await self._webhooks.close()

    async def admit_create(self, request: Attributes, complete: Complete) -> Object:
        """Complete a new object and return it. Raises: NotFound or Forbidden for its namespace, Forbidden, Invalid."""
        kind, namespace, obj = request.kind, request.namespace, request.present
        if kind.resource.namespaced and "NamespaceLifecycle" in self._on:
            self._check_namespace(kind, namespace, obj)
        self._check_user(request)
        if kind.built_in_kind:
            self._complete_new(kind.built_in_kind, namespace, obj, request)
        await self._mutate(request, complete)
        return request.present

    def _complete_new(self, kind: str, namespace: str, obj: Object, request: Attributes) -> None:
        on = self._on
        match kind:
            case "Pod":
                self._complete_pod(namespace, obj)
            case "Service":
                self._addresses.allocate(obj)
            case "PersistentVolumeClaim" if "DefaultStorageClass" in on:
                claims.set_class(self._cache, obj)
            case "Ingress" if "DefaultIngressClass" in on:
                claims.set_ingress_class(self._cache, obj)
            case "Node" if "TaintNodesByCondition" in on:
                _taint(obj)
            case "CertificateSigningRequest":
                certificates.note_requester(obj, request.user)
                if "CertificateSubjectRestriction" in on:
                    certificates.check_subject(request)
            case "Event" if "EventRateLimit" in on:
                self._event_rates.check(request)

    def _complete_pod(self, namespace: str, pod: Object) -> None:
        if "LimitRanger" in self._on:
            limits.set_defaults(self._cache, namespace, pod)
        pods.admit(self._cache, namespace, pod, self._on)
        if "AlwaysPullImages" in self._on:
            optional.always_pull(pod)

    def _check_user(self, request: Attributes) -> None:
        """Refuse what a user may not do though roles let it. Raises: Forbidden."""
        if "NodeRestriction" in self._on:
            node_restriction.check(self._cache, request)
        if "OwnerReferencesPermissionEnforcement" in self._on and not request.subresource:
            optional.check_owners(self._authorizer, self._find_resource, request)
        if "AlwaysDeny" in self._on:
            raise errors.Forbidden("admission control is denying all modifications")

    def _decide(self, request: Attributes, asked: Mapping[str, str]) -> bool:
        """Answer what an expression asks the authorizer."""
        user = request.user or User("system:apiserver", (MASTERS,))
        if (account := asked.get("user")) is not None:
            user = account_user(account)
        verb = asked["verb"]
        if "path" in asked:
            return self._authorizer.allows(user, RequestInfo(verb, asked["path"]))
        parts = {field: asked.get(field, "") for field in ("group", "resource", "subresource", "namespace", "name")}
        return self._authorizer.allows(user, RequestInfo(verb, "", is_resource=True, version="*", **parts))

    async def _mutate(self, request: Attributes, complete: Complete) -> None:
        DECIDE.set(partial(self._decide, request))
        if "MutatingAdmissionPolicy" in self._on:
            await self._changes.mutate(request, complete)
        if "MutatingAdmissionWebhook" in self._on:
            await self._webhooks.mutate(request, complete)

    async def _validate(self, request: Attributes) -> None:
        DECIDE.set(partial(self._decide, request))
        if "ValidatingAdmissionPolicy" in self._on:
            await self._policies.validate(request)
        if "ValidatingAdmissionWebhook" in self._on:
            await self._webhooks.validate(request)

    async def judge_create(self, request: Attributes, replace: quota.Replace) -> None:
        """Refuse a new object that policies, webhooks or its namespace's limits have something against."""
        kind, namespace, obj = request.kind, request.namespace, request.present
        if kind.built_in_kind in ("Pod", "PersistentVolumeClaim") and "LimitRanger" in self._on:
            limits.check(self._cache, kind, namespace, obj)
        if kind.built_in_kind in ("ResourceClaim", "ResourceClaimTemplate"):
            devices.check_admin_access(self._cache, kind, namespace, obj)
        escalation.check(self._authorizer, kind, namespace, obj, None, request.user)
        if "PodSecurity" in self._on:
            self._pod_security.judge(request)
        await self._validate(request)
        if kind.resource.namespaced and "ResourceQuota" in self._on:
            await quota.charge(self._cache, replace, kind, namespace, obj, None, dry_run=request.dry_run)

    async def admit_update(self, request: Attributes, complete: Complete) -> Object:
        """Complete a changed object and return it. Raises: Invalid; what webhooks refuse with."""
        self._check_user(request)
        match request.kind.built_in_kind:
            case "Service" if not request.subresource and request.old is not None:
                self._addresses.reallocate(request.present, request.old)
            case "Pod" if "AlwaysPullImages" in self._on and request.subresource in ("", "ephemeralcontainers"):
                optional.always_pull(request.present)
            case "CertificateSigningRequest" if request.subresource == "approval" and "CertificateApproval" in self._on:
                certificates.check_approval(self._authorizer, request)
            case "CertificateSigningRequest" if request.subresource == "status" and "CertificateSigning" in self._on:
                certificates.check_signing(self._authorizer, request)
        await self._mutate(request, complete)
        return request.present

    async def judge_update(self, request: Attributes, replace: quota.Replace) -> None:
        """Refuse a change that policies, webhooks or quotas have something against."""
        escalation.check(self._authorizer, request.kind, request.namespace, request.present, request.old, request.user)
        if "PodSecurity" in self._on:
            self._pod_security.judge(request)
        main = not request.subresource
        if request.kind.built_in_kind == "ResourceClaim" and request.subresource == "status":
            devices.check_status(self._authorizer, request)
        if (
            request.kind.built_in_kind == "Pod" and request.subresource in ("", "resize")
            and "NodeDeclaredFeatureValidator" in self._on
        ):  # fmt: skip
            declared_features.check(self._cache, request)
        if (
            main and request.kind.built_in_kind == "PersistentVolumeClaim" and request.old is not None
            and "PersistentVolumeClaimResize" in self._on
        ):  # fmt: skip
            claims.check_resize(self._cache, request.present, request.old)
        await self._validate(request)
        if main and request.kind.resource.plural in _CHARGED_ON_UPDATE and "ResourceQuota" in self._on:
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
        self._check_user(request)
        await self._mutate(request, lambda changed: changed)
        await self._validate(request)

    async def judge_connect(self, request: Attributes) -> None:
        """Refuse a connection to a pod, service or node that policies or webhooks have something against."""
        await self._validate(request)

    async def judge_delete(self, request: Attributes) -> None:
        """Refuse to delete what the cluster can't be without, or what policies or webhooks keep. Raises: Forbidden."""
        immortal = request.kind.built_in_kind == "Namespace" and request.name in IMMORTAL[:3]
        if immortal and "NamespaceLifecycle" in self._on:
            raise errors.Forbidden(
                f'namespaces "{request.name}" is forbidden: this namespace may not be deleted',
                kind="namespaces", name=request.name,
            )  # fmt: skip
        if "NodeRestriction" in self._on:
            node_restriction.check(self._cache, request)
        await self._validate(request)

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


_NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


def _taint(node: Object) -> None:
    """Keep pods off a new node until its conditions say that it is ready."""
    taints = node.setdefault("spec", {}).setdefault("taints", [])
    if not any((one.get("key"), one.get("effect")) == tuple(_NOT_READY.values()) for one in taints):
        taints.append(dict(_NOT_READY))
