"""`wherry auth`: who we are, what we may do, and bringing RBAC objects to what files say."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import click

from cli import options, problems
from cli.framework import verb_group
from cli.making import tell
from cli.printers import print_objects, rows_text
from cli.selection import Selected, file_objects
from cli.session import Session, leave
from machinery.errors import NotFound

_VERBS = (
    "get list watch create update patch delete deletecollection use bind impersonate approve sign escalate attest *"
)
_URL_VERBS = "get put post head options delete patch *"


@verb_group()
def auth() -> None:
    """See who we are and what we may do."""


@auth.command("can-i")
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.everywhere
@click.option("-q", "--quiet", is_flag=True, help="Say it by the exit code alone.")
@click.option("--subresource", default="")
@click.option("--list", "lists", is_flag=True, help="All that we may do here.")
@click.option("--no-headers", is_flag=True)
def can_i(words: Sequence[str], quiet: bool, subresource: str, lists: bool, **given: Any) -> None:
    """Say whether we may: can-i VERB [KIND | KIND/NAME | /URL]."""
    session = Session(given)
    if lists:
        _list(session, given)
        return
    if not words or len(words) > 3:
        raise click.ClickException(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'wherry auth can-i -h' for help and examples."
        )
    spec = _attributes(session, words, subresource, given)
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
    status = session.connection.json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)[
        "status"
    ]
    if not quiet:
        notes = [f" - {status['reason']}"] if status.get("reason") and not status["allowed"] else []
        notes += [f" - {status['evaluationError']}"] if status.get("evaluationError") else []
        click.echo(("yes" if status["allowed"] else "no") + "".join(notes if not status["allowed"] else []))
    sys.exit(0 if status["allowed"] else 1)


def _attributes(session: Session, words: Sequence[str], subresource: str, given: dict[str, Any]) -> dict[str, Any]:
    verb, *rest = words
    what = rest[0] if rest else "*"
    if what.startswith("/"):
        _check_verb(verb, _URL_VERBS)
        return {"nonResourceAttributes": {"path": what, "verb": verb}}
    kind, _, name = what.partition("/")
    name = name or (rest[1] if len(rest) > 1 else "")
    attributes: dict[str, Any] = {"verb": verb, "resource": kind}
    namespaced = True
    if kind != "*":
        try:
            resource = session.discovery.find(kind).resource
            attributes |= {"resource": resource.plural, "group": resource.group}
            namespaced = resource.namespaced
        except click.ClickException:
            click.echo(f"Warning: the server doesn't have a resource type '{kind}'\n", err=True)
            head, _, group = kind.partition(".")
            attributes |= {"resource": head, "group": group}
    else:
        attributes["group"] = "*"
    _check_verb(verb, _VERBS)
    if not namespaced:
        click.echo(
            f"Warning: resource '{attributes['resource']}' is not namespace scoped"
            + (f" in group '{attributes['group']}'" if attributes.get("group") else "")
            + "\n",
            err=True,
        )
    if namespaced and not given["all_namespaces"]:
        attributes["namespace"] = session.namespace
    extra = {"name": name, "subresource": subresource}
    return {"resourceAttributes": attributes | {key: value for key, value in extra.items() if value}}


def _check_verb(verb: str, known: str) -> None:
    if verb not in known.split():
        click.echo(f"Warning: verb '{verb}' is not a known verb\n", err=True)


def _list(session: Session, given: dict[str, Any]) -> None:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": session.namespace},
    }
    status = session.connection.json("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body=body)[
        "status"
    ]
    rows = [
        [_combined(one["resource"], one["group"]), f"[{one['url']}]", f"[{one['name']}]", f"[{' '.join(one['verbs'])}]"]
        for one in sorted(_single_rules(status), key=_rule_order)
    ]
    headers = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"]
    click.echo(rows_text(headers, rows, show_headers=not given["no_headers"]))


def _single_rules(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rules taken apart: one a resource and name, with all its verbs, and one a URL and verb."""
    found: list[dict[str, Any]] = []
    for rule in status.get("nonResourceRules") or ():
        for url in rule.get("nonResourceURLs") or ():
            found += [{"group": "", "resource": "", "name": "", "url": url, "verbs": [one]} for one in rule["verbs"]]
    known: dict[tuple[str, str, str], list[str]] = {}
    for rule in status.get("resourceRules") or ():
        parts = (rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("resourceNames") or ("",))
        for key in itertools.product(*parts):
            verbs = known.setdefault(key, [])
            verbs += [one for one in rule["verbs"] if one not in verbs]
    for (group, resource, name), verbs in known.items():
        found.append({"group": group, "resource": resource, "name": name, "url": "", "verbs": verbs})
    return found


def _rule_order(one: dict[str, Any]) -> tuple[str, ...]:
    """Return what kubectl orders rules by: how Go prints them, field by field."""
    verbs = " ".join(one["verbs"])
    return tuple(f"[{text}]" for text in (verbs, one["group"], one["resource"], one["name"], one["url"]))


def _combined(resource: str, group: str) -> str:
    head, slash, sub = resource.partition("/")
    return (f"{head}.{group}" if group else head) + (f"/{sub}" if slash else "")


@auth.command()
@options.connected
@options.output
def whoami(output: str, **given: Any) -> None:
    """Say who the server takes us for."""
    session = Session(given)
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = session.connection.json("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=body)
    if output:
        print_objects([answer], output, single=True)
        return
    user = answer["status"].get("userInfo") or {}
    rows = [["Username", user.get("username", "")]] if user.get("username") else []
    if user.get("uid"):
        rows.append(["UID", user["uid"]])
    if user.get("groups"):
        rows.append(["Groups", f"[{' '.join(user['groups'])}]"])
    rows += [[f"Extra: {key}", f"[{' '.join(values)}]"] for key, values in sorted((user.get("extra") or {}).items())]
    click.echo(rows_text(["ATTRIBUTE", "VALUE"], rows))


@auth.command()
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.dry_run
@options.output
@click.option("--remove-extra-permissions", is_flag=True)
@click.option("--remove-extra-subjects", is_flag=True)
def reconcile(**given: Any) -> None:
    """Bring roles and bindings to what files say, without taking away what others added."""
    session = Session(given)
    leave(problems.each(file_objects(session, given), lambda one: _reconcile(session, one, given)))


def _reconcile(session: Session, one: Selected, given: dict[str, Any]) -> None:
    wanted = one.manifest or {}
    kind = one.known.resource.kind
    if kind not in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        click.echo(f"skipping {one.shown}: it is no RBAC object", err=True)
        return
    params = {"dryRun": "All"} if given["dry_run"] == "server" else {}
    is_role = kind.endswith("Role")
    field, replaces = (
        ("rules", given["remove_extra_permissions"]) if is_role else ("subjects", given["remove_extra_subjects"])
    )
    try:
        present = session.connection.json("GET", one.path)
    except NotFound:
        made = wanted
        if given["dry_run"] != "client":
            made = session.connection.json("POST", one.known.resource.path(one.namespace), body=wanted, params=params)
        tell(one.known.resource, made, "reconciled", given)
        return
    before = present.get(field) or []
    said = wanted.get(field) or []
    after = said if replaces else before + [item for item in said if item not in before]
    answer = present
    if after != before and given["dry_run"] != "client":
        answer = session.connection.json("PUT", one.path, body={**present, field: after}, params=params)
    tell(one.known.resource, answer, "reconciled", given)
