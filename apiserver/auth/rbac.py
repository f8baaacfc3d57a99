"""Role-based access control, answered from the roles and bindings in the cache.

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.auth.nodes import NODES, NodeAuthorizer
from apiserver.auth.user import MASTERS, User
from apiserver.request import RequestInfo
from apiserver.storage.watch_cache import Collection, WatchCache
from machinery import errors

GROUP = "rbac.authorization.k8s.io"
_ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Grant:
    """The rules a binding gives its subjects; in one namespace, or everywhere when that is empty."""

    namespace: str
    rules: Sequence[Mapping[str, Any]]
    told: str = ""  # the binding, in the words in which permissions are explained


class Authorizer:
    """Answers whether a user may do what a request asks; builds its index anew when a role or binding changes."""

    def __init__(self, cache: WatchCache) -> None:
        self._collections: dict[str, Collection] = {
            plural: cache.collection(f"{plural}.{GROUP}")
            for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
        }
        self._nodes = NodeAuthorizer(cache)
        self._generation: tuple[int, ...] = ()
        self._grants: dict[tuple[str, str], list[Grant]] = {}
        self._rules: dict[tuple[str, str, str], Sequence[Mapping[str, Any]]] = {}
        self._answers: dict[tuple[object, ...], str | None] = {}

    def authorize(self, user: User, info: RequestInfo) -> str:
        """Let the request pass and return what allows it. Raises: Forbidden when nothing does."""
        reason = self.reason(user, info)
        if reason is None:
            raise _forbidden(user, info)
        return reason

    def allows(self, user: User, info: RequestInfo) -> bool:
        """Whether a rule allows the request."""
        return self.reason(user, info) is not None

    def reason(self, user: User, info: RequestInfo) -> str | None:
        """Return what allows the request, empty where that is no binding; None when nothing does."""
        if MASTERS in user.groups or (NODES in user.groups and self._nodes.allows(user, info)):
            return ""
        self._refresh()
        if info.is_resource:
            question: tuple[object, ...] = (
                user.name, user.groups, info.verb, info.group, info.resource, info.subresource, info.namespace,
                info.name,
            )  # fmt: skip
        else:
            question = (user.name, user.groups, info.verb, info.path)
        if question not in self._answers:
            if len(self._answers) > 10_000:
                self._answers.clear()
            self._answers[question] = self._ask(user, info)
        return self._answers[question]

    def _ask(self, user: User, info: RequestInfo) -> str | None:
        for grant in self.grants(user):
            if grant.namespace and (not info.is_resource or grant.namespace != info.namespace):
                continue
            if any(_rule_allows(rule, info) for rule in grant.rules):
                return f"RBAC: allowed by {grant.told}"
        return None

    @staticmethod
    def is_master(user: User) -> bool:
        """Whether the user may do everything."""
        return MASTERS in user.groups

    def grants(self, user: User) -> Iterable[Grant]:
        """Yield what a user was given, by name, group or as a service account."""
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        if user.name.startswith(_ACCOUNT_PREFIX):
            namespace, _, name = user.name.removeprefix(_ACCOUNT_PREFIX).partition(":")
            subjects.append(("ServiceAccount", f"{namespace}/{name}"))
        for subject in subjects:
            yield from self._grants.get(subject, ())

    def rules_of(self, kind: str, namespace: str, name: str) -> Sequence[Mapping[str, Any]] | None:
        """Return the rules of a Role or ClusterRole; None when it is not there."""
        self._refresh()
        where = ("roles", namespace) if kind == "Role" else ("clusterroles", "")
        return self._rules.get((*where, name))

    def _refresh(self) -> None:
        generation = tuple(collection.generation for collection in self._collections.values())
        if generation == self._generation:
            return
        self._generation = generation
        self._answers.clear()
        self._grants = {}
        rules = self._rules = {
            (plural, entry.namespace, entry.name): entry.object().get("rules") or ()
            for plural in ("roles", "clusterroles")
            for entry in self._collections[plural].entries("")
        }
        for plural in ("rolebindings", "clusterrolebindings"):
            for entry in self._collections[plural].entries(""):
                binding = entry.object()
                reference = binding["roleRef"]
                where = ("roles", entry.namespace) if reference["kind"] == "Role" else ("clusterroles", "")
                given = rules.get((*where, reference["name"]), ())
                kind = "RoleBinding" if entry.namespace else "ClusterRoleBinding"
                shown = f"{entry.name}/{entry.namespace}" if entry.namespace else entry.name
                bound = f'{kind} "{shown}" of {reference["kind"]} "{reference["name"]}"'
                for subject in binding.get("subjects") or ():
                    name = told = subject["name"]
                    if subject["kind"] == "ServiceAccount":
                        namespace = subject.get("namespace", "")
                        name, told = f"{namespace}/{name}", f"{name}/{namespace}"
                    grant = Grant(entry.namespace, given, f'{bound} to {subject["kind"]} "{told}"')
                    self._grants.setdefault((subject["kind"], name), []).append(grant)


def _rule_allows(rule: Mapping[str, Any], info: RequestInfo) -> bool:
    if not _has(rule.get("verbs"), info.verb):
        return False
    if not info.is_resource:
        return any(_path_matches(pattern, info.path) for pattern in rule.get("nonResourceURLs") or ())
    asked = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    named = rule.get("resources") or ()
    resource = "*" in named or asked in named or (bool(info.subresource) and f"*/{info.subresource}" in named)
    only = rule.get("resourceNames") or ()
    return resource and _has(rule.get("apiGroups"), info.group) and (not only or info.name in only)


def _has(values: Sequence[str] | None, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)  # type: ignore[operator]


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _forbidden(user: User, info: RequestInfo) -> errors.Forbidden:
    if not info.is_resource:
        return errors.Forbidden(f'forbidden: User "{user.name}" cannot {info.verb} path "{info.path}"')
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    scope = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
    group_resource = f"{info.resource}.{info.group}" if info.group else info.resource
    shown = f'{group_resource} "{info.name}"' if info.name else group_resource
    message = (
        f'{shown} is forbidden: User "{user.name}" cannot {info.verb} resource "{resource}" '
        f'in API group "{info.group}" {scope}'
    )
    return errors.Forbidden(message, group=info.group, kind=info.resource, name=info.name)
