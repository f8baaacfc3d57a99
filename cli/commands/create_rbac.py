"""`wherry create role|clusterrole|rolebinding|clusterrolebinding`."""

from collections.abc import Sequence
from typing import Any

import click

from cli.framework import verb
from cli.making import make, making_options
from cli.session import Session

_RBAC = "rbac.authorization.k8s.io"


def _split(texts: Sequence[str]) -> list[str]:
    return [part for text in texts for part in text.split(",") if part]


def _rules(session: Session, given: dict[str, Any]) -> list[dict[str, Any]]:
    verbs = list(dict.fromkeys(_split(given["verbs"])))
    if not verbs:
        raise click.ClickException("at least one verb must be specified")
    groups: dict[str, list[str]] = {}
    for text in _split(given["resources"]):
        word, _, subresource = text.partition("/")
        if word == "*":
            groups.setdefault("*", []).append("*")
            continue
        resource = session.discovery.find(word).resource
        groups.setdefault(resource.group, []).append(
            f"{resource.plural}/{subresource}" if subresource else resource.plural
        )
    names = {"resourceNames": list(given["resource_names"])} if given["resource_names"] else {}
    return [
        {"apiGroups": [group], "resources": resources, **names, "verbs": verbs} for group, resources in groups.items()
    ]


def _rule_options(command: Any) -> Any:
    command = click.option("--verb", "verbs", multiple=True)(command)
    command = click.option("--resource", "resources", multiple=True)(command)
    return click.option("--resource-name", "resource_names", multiple=True)(command)


@verb()
@click.argument("name")
@making_options
@_rule_options
def role(name: str, **given: Any) -> None:
    """Create a role."""
    session = Session(given)
    rules = _rules(session, given)
    if not rules:
        raise click.ClickException("at least one resource must be specified")
    make(session, {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}, given)


@verb()
@click.argument("name")
@making_options
@_rule_options
@click.option("--non-resource-url", "urls", multiple=True)
@click.option("--aggregation-rule", default="")
def clusterrole(name: str, urls: Sequence[str], aggregation_rule: str, **given: Any) -> None:
    """Create a cluster role."""
    session = Session(given)
    obj: dict[str, Any] = {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    if aggregation_rule:
        labels = dict(pair.split("=", 1) for pair in aggregation_rule.split(","))
        obj |= {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": labels}]}, "rules": []}
    else:
        rules = _rules(session, given)
        if urls:
            rules.append({"nonResourceURLs": _split(urls), "verbs": _split(given["verbs"])})
        if not rules:
            raise click.ClickException("one of resource or nonResourceURL must be specified")
        obj["rules"] = rules
    make(session, obj, given)


def _subjects(given: dict[str, Any], namespace: str) -> list[dict[str, Any]]:
    found = [
        {"apiGroup": _RBAC, "kind": kind, "name": name}
        for kind, names in (("User", given["users"]), ("Group", given["groups"]))
        for name in _split(names)
    ]
    for text in _split(given["accounts"]):
        where, colon, name = text.partition(":")
        if not colon or not name:
            raise click.ClickException("serviceaccount must be <namespace>:<name>")
        found.append({"kind": "ServiceAccount", "name": name, "namespace": where or namespace})
    return found


def _subject_options(command: Any) -> Any:
    command = click.option("--user", "users", multiple=True)(command)
    command = click.option("--group", "groups", multiple=True)(command)
    return click.option("--serviceaccount", "accounts", multiple=True, help="NAMESPACE:NAME.")(command)


def _without_user(command: Any) -> Any:
    """Drop the global --user, whose name these commands use for a subject, as kubectl's do."""
    command.params = [one for one in command.params if one.name not in ("user",)]
    return command


@_without_user
@verb()
@click.argument("name")
@making_options
@_subject_options
@click.option("--role", default="")
@click.option("--clusterrole", default="")
def rolebinding(name: str, role: str, clusterrole: str, **given: Any) -> None:
    """Create a role binding."""
    if bool(role) == bool(clusterrole):
        raise click.ClickException("exactly one of clusterrole or role must be specified")
    session = Session(given)
    ref = {"apiGroup": _RBAC, "kind": "Role" if role else "ClusterRole", "name": role or clusterrole}
    obj = {"apiVersion": f"{_RBAC}/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": ref}
    make(session, {**obj, "subjects": _subjects(given, session.namespace)}, given)


@_without_user
@verb()
@click.argument("name")
@making_options
@_subject_options
@click.option("--clusterrole", required=True)
def clusterrolebinding(name: str, clusterrole: str, **given: Any) -> None:
    """Create a cluster role binding."""
    session = Session(given)
    ref = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": clusterrole}
    obj = {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": ref}
    make(session, {**obj, "subjects": _subjects(given, session.namespace)}, given)
