"""The group rbac.authorization.k8s.io: roles and bindings."""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.columns import AGE, NAME
from apiserver.registry.kind import Column, Kind, Object, default_text, invalid, required, unsupported
from machinery.api import resources
from machinery.api.meta import Resource
from machinery.errors import Cause

RBAC = "io.k8s.api.rbac.v1."
GROUP = "rbac.authorization.k8s.io"
_SUBJECTS = ("ServiceAccount", "User", "Group")


def _default_binding(binding: Object) -> None:
    default_text(binding.get("roleRef", {}), "apiGroup", GROUP)
    for subject in binding.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            default_text(subject, "apiGroup", GROUP)


def _role_causes(role: Object) -> Iterator[Cause]:
    if (aggregation := role.get("aggregationRule")) is not None:
        selectors, path = aggregation.get("clusterRoleSelectors") or (), "aggregationRule.clusterRoleSelectors"
        if not selectors:
            yield required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil")
        for index, selector in enumerate(selectors):
            yield from label_selector_causes(selector, f"{path}[{index}]")
    for index, rule in enumerate(role.get("rules") or ()):
        at = f"rules[{index}]"
        if not rule.get("verbs"):
            yield required(f"{at}.verbs", "verbs must contain at least one value")
        if rule.get("nonResourceURLs"):
            yield from _path_causes(role, rule, at)
            continue
        if not rule.get("apiGroups"):
            yield required(f"{at}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{at}.resources", "resource rules must supply at least one resource")


def _path_causes(role: Object, rule: Object, at: str) -> Iterator[Cause]:
    """Yield what is wrong with a rule of paths: only ClusterRoles have such, and no resources beside them."""
    if "namespace" in role["metadata"]:
        why = "namespaced rules cannot apply to non-resource URLs"
        yield invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], why)
    if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
        why = "rules cannot apply to both regular resources and non-resource URLs"
        yield invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], why)


def _binding_causes(binding: Object) -> Iterator[Cause]:
    reference = binding.get("roleRef") or {}
    known = ("ClusterRole",) if "namespace" not in binding["metadata"] else ("Role", "ClusterRole")
    if reference.get("apiGroup") != GROUP:
        yield unsupported("roleRef.apiGroup", reference.get("apiGroup"), (GROUP,))
    if reference.get("kind") not in known:
        yield unsupported("roleRef.kind", reference.get("kind"), known)
    if not reference.get("name"):
        yield required("roleRef.name")
    elif wrong := names.path_segment(reference["name"]):
        yield invalid("roleRef.name", reference["name"], wrong)
    for index, subject in enumerate(binding.get("subjects") or ()):
        yield from _subject_causes(subject, "namespace" in binding["metadata"], f"subjects[{index}]")


def _subject_causes(subject: Object, within: bool, path: str) -> Iterator[Cause]:
    """Yield what is wrong with one that is given a role, `within` a namespace or in all of them."""
    kind, name, group = subject.get("kind", ""), subject.get("name", ""), subject.get("apiGroup", "")
    if not name:
        yield required(f"{path}.name")
    if kind not in _SUBJECTS:
        yield unsupported(f"{path}.kind", kind, _SUBJECTS)
    elif kind != "ServiceAccount":
        if group != GROUP:
            yield unsupported(f"{path}.apiGroup", group, (GROUP,))
        return
    elif name and (wrong := names.dns_subdomain(name)):
        yield invalid(f"{path}.name", name, wrong)
    if kind == "ServiceAccount" and group:
        yield unsupported(f"{path}.apiGroup", group, ("",))
    if kind == "ServiceAccount" and not within and not subject.get("namespace"):
        yield required(f"{path}.namespace")


def _fixed_role(new: Object, old: Object) -> list[Cause]:
    same = new.get("roleRef") == old.get("roleRef")
    return [] if same else [invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]


def _role_text(binding: Object) -> str:
    return f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}"


def _subjects(kind: str) -> Column:
    def read(binding: Object) -> str:
        found = [one for one in binding.get("subjects") or () if one["kind"] == kind]
        prefix = kind == "ServiceAccount"
        return ", ".join(f"{one['namespace']}/{one['name']}" if prefix else one["name"] for one in found)

    return Column(f"{kind}s", read, priority=1)


_ROLE_COLUMNS = (
    NAME,
    Column("Created At", lambda obj: obj["metadata"].get("creationTimestamp", ""), type="date"),
)
_BINDING_COLUMNS = (
    NAME, Column("Role", _role_text), AGE, _subjects("User"), _subjects("Group"), _subjects("ServiceAccount")
)  # fmt: skip


def _role(resource: Resource, singular: str) -> Kind:
    return Kind(
        resource, RBAC + resource.kind, singular, columns=_ROLE_COLUMNS, validate_name=names.path_segment,
        validate=lambda obj: list(_role_causes(obj)), optional_required=frozenset({"rules"}), creates_on_update=True,
    )  # fmt: skip


def _binding(resource: Resource, singular: str) -> Kind:
    return Kind(
        resource, RBAC + resource.kind, singular, columns=_BINDING_COLUMNS, validate_name=names.path_segment,
        default=_default_binding, validate=lambda obj: list(_binding_causes(obj)), validate_update=_fixed_role,
        creates_on_update=True, optional_required=frozenset({"roleRef.kind", "roleRef.name"}),  # told by the rules
    )  # fmt: skip


KINDS = (
    _role(resources.ROLES, "role"),
    _role(resources.CLUSTER_ROLES, "clusterrole"),
    _binding(resources.ROLE_BINDINGS, "rolebinding"),
    _binding(resources.CLUSTER_ROLE_BINDINGS, "clusterrolebinding"),
)
