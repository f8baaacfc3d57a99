"""`wherry apply`: bring objects to what manifests say, by a patch worked out here or merged by the server."""

from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli import options, problems
from cli.applying import LAST, annotated, last_applied, shape_of_kind, three_way
from cli.framework import Verb
from cli.making import tell
from cli.selection import MERGE, STRATEGIC, Selected, file_objects, select
from cli.session import Session, leave
from machinery.errors import APIError, Conflict, NotFound

_PRUNED = (
    ("", "configmaps"), ("", "endpoints"), ("", "namespaces"), ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"), ("", "pods"), ("", "replicationcontrollers"), ("", "secrets"), ("", "services"),
    ("batch", "jobs"), ("batch", "cronjobs"), ("networking.k8s.io", "ingresses"), ("apps", "daemonsets"),
    ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"),
)  # fmt: skip
"""What --prune looks through unless --prune-allowlist says otherwise; kubectl's list."""


class _Apply(click.Group):
    """`apply` and what looks at the annotation it leaves."""

    command_class = Verb


@click.group(cls=_Apply, invoke_without_command=True)
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.selected
@options.dry_run
@options.output
@options.validated
@options.show_managed_fields
@click.option("--template", default="", hidden=True)
@click.option("--server-side", is_flag=True, help="Let the server merge.")
@click.option("--field-manager", default="")
@click.option("--force-conflicts", is_flag=True, help="Take fields that others manage.")
@click.option("--prune", is_flag=True, help="Delete what was applied before and is no longer said.")
@click.option("--all", "everything", is_flag=True, help="With --prune: whatever its labels.")
@click.option("--prune-allowlist", multiple=True, help="With --prune: group/version/kind to look through.")
@click.option("--force", is_flag=True, help="Delete and create anew what can't be changed.")
@click.option("--overwrite/--no-overwrite", default=True, hidden=True)
@click.option("--openapi-patch/--no-openapi-patch", default=True, hidden=True)
@click.option("--cascade", default="background", hidden=True)
@click.option("--grace-period", default=-1, hidden=True)
@click.option("--timeout", default="0s", hidden=True)
@click.option("--wait/--no-wait", default=False, hidden=True)
@click.pass_context
def apply(ctx: click.Context, **given: Any) -> None:
    """Bring objects to what manifests say."""
    if ctx.invoked_subcommand is not None:
        return
    session = Session(given)
    if given["prune"] and not (given["selector"] or given["everything"]):
        raise click.ClickException(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector"
        )
    applied: list[str] = []

    def one_by_one(one: Selected) -> None:
        if given["selector"] and not _matches(one.manifest or {}, given["selector"]):
            return
        answer = _one(session, one, given)
        applied.append(answer.get("metadata", {}).get("uid", ""))

    fine = problems.each(_found(session, given), one_by_one)
    if fine and given["prune"]:
        _prune(session, set(applied), given)
    leave(fine)


def _found(session: Session, given: dict[str, Any]) -> list[Selected]:
    """Return what files say; kinds that are missing are told of, after the others are applied as kubectl does."""
    return list(file_objects(session, given))


def _matches(obj: dict[str, Any], selector: str) -> bool:
    from machinery.api.selectors import parse_label_selector

    return parse_label_selector(selector).matches((obj.get("metadata") or {}).get("labels") or {})


def _one(session: Session, one: Selected, given: dict[str, Any]) -> dict[str, Any]:
    if not one.name and not (one.manifest or {}).get("metadata", {}).get("generateName"):
        raise click.ClickException(
            f'error when retrieving current configuration of "{one.source}": resource name may not be empty'
        )
    return _server_side(session, one, given) if given["server_side"] else _client_side(session, one, given)


def _server_side(session: Session, one: Selected, given: dict[str, Any]) -> dict[str, Any]:
    params = {
        "fieldManager": given["field_manager"] or "kubectl", "force": str(given["force_conflicts"]).lower(),
        "fieldValidation": options.field_validation(given),
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip
    try:
        answer = one.patch(session, orjson.dumps(one.manifest), "application/apply-patch+yaml", **params)
    except Conflict as error:
        raise click.ClickException(
            f"{error}\nThe fields above have other managers. Either leave them out of the manifest, give them the "
            "values they have, or take them with `--force-conflicts`.\n"
            "See https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts"
        ) from error
    tell(one.known.resource, answer, "serverside-applied", given)
    return answer


def _client_side(session: Session, one: Selected, given: dict[str, Any]) -> dict[str, Any]:
    wanted = annotated(one.manifest or {}, one.namespace)
    resource = one.known.resource
    strict = {
        "fieldValidation": options.field_validation(given),
        "fieldManager": given["field_manager"] or "kubectl-client-side-apply",
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip
    try:
        current = session.connection.json("GET", one.path) if one.name else None
    except NotFound:
        current = None
    if current is None:
        if given["dry_run"] != "client":
            with problems.doing(f'error when creating "{one.source}"'):
                wanted = session.connection.json("POST", resource.path(one.namespace), params=strict, body=wanted)
        tell(resource, wanted, "created", given)
        return wanted
    return _changed(session, one, current, wanted, strict, given)


def _changed(
    session: Session, one: Selected, current: dict[str, Any], wanted: dict[str, Any], params: dict[str, Any],
    given: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    resource = one.known.resource
    if LAST not in (current["metadata"].get("annotations") or {}) and given["dry_run"] == "none":
        click.echo(
            f"Warning: resource {resource.plural}/{one.name} is missing the {LAST} annotation which is required by kubectl apply. "
            "kubectl apply should only be used on resources created declaratively by either kubectl create --save-config "
            "or kubectl apply. The missing annotation will be patched automatically.", err=True,
        )  # fmt: skip
    patch = three_way(last_applied(current), wanted, current, one.known)
    if not patch or given["dry_run"] == "client":
        tell(resource, current, "configured" if given["dry_run"] == "client" else "unchanged", given)
        return current
    media = STRATEGIC if shape_of_kind(one.known) else MERGE
    try:
        with problems.doing(_patching(one, patch)):
            answer = one.patch(session, patch, media, **params)
    except (APIError, click.ClickException):
        if not given["force"]:
            raise
        answer = _recreated(session, one, wanted, params)
    tell(resource, answer, "configured", given)
    return answer


def _patching(one: Selected, patch: dict[str, Any]) -> str:
    resource = one.known.resource
    group = f"{resource.group}/{resource.version}"
    return (
        f"error when applying patch:\n{orjson.dumps(patch).decode()}\nto:\n"
        f'Resource: "{group}, Resource={resource.plural}", GroupVersionKind: "{group}, Kind={resource.kind}"\n'
        f'Name: "{one.name}", Namespace: "{one.namespace}"\nfor: "{one.source}": error when patching "{one.source}"'
    )


def _recreated(session: Session, one: Selected, wanted: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    from cli.deleting import delete_and_wait

    delete_and_wait(session, [one], grace_seconds=0)
    return session.connection.json("POST", one.known.resource.path(one.namespace), params=params, body=wanted)


def _prune(session: Session, applied: set[str], given: dict[str, Any]) -> None:
    """Delete what apply made before, has our labels, and was not said this time."""
    asked = {tuple(text.rsplit("/", 2)) for text in given["prune_allowlist"]}
    for known in session.discovery.preferred():
        resource = known.resource
        group = resource.group or "core"
        if (group, resource.version, resource.kind) not in asked if asked else (
            (resource.group, resource.plural) not in _PRUNED
        ):  # fmt: skip
            continue
        namespace = session.namespace if resource.namespaced else ""
        params = {"labelSelector": given["selector"]}
        for obj in session.connection.json("GET", resource.path(namespace), params=params)["items"]:
            metadata = obj["metadata"]
            if metadata["uid"] in applied or LAST not in (metadata.get("annotations") or {}):
                continue
            if given["dry_run"] != "client":
                dry = {"dryRun": "All"} if given["dry_run"] == "server" else {}
                body = {"propagationPolicy": "Background"}
                session.connection.json("DELETE", resource.path(namespace, metadata["name"]), body=body, params=dry)
            tell(resource, obj, "pruned", given)


@apply.command("view-last-applied")
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@options.selected
@click.option("-o", "--output", default="yaml")
@click.option("--all", "everything", is_flag=True)
def view_last_applied(words: Sequence[str], output: str, **given: Any) -> None:
    """Show what was applied last."""
    from cli.printers import print_objects

    session = Session(given)
    for one in select(session, words, given):
        said = last_applied(one.read(session))
        if not said:
            raise click.ClickException(f"no last-applied-configuration annotation found on resource: {one.name}")
        print_objects([said], output, single=True)


@apply.command("set-last-applied")
@options.connected
@options.namespaced
@options.files
@options.output
@options.dry_run
@click.option("--create-annotation", is_flag=True)
def set_last_applied(create_annotation: bool, **given: Any) -> None:
    """Take a file for what was applied last, without changing anything else."""
    session = Session(given)

    def one_by_one(one: Selected) -> None:
        current = one.read(session)
        if LAST not in (current["metadata"].get("annotations") or {}) and not create_annotation:
            raise click.ClickException(
                f"no last-applied-configuration annotation found on resource: {one.name}, to create the annotation, "
                "run the command with --create-annotation"
            )
        text = annotated(one.manifest or {}, one.namespace)["metadata"]["annotations"][LAST]
        answer = current
        if given["dry_run"] != "client":
            answer = one.patch(session, {"metadata": {"annotations": {LAST: text}}}, MERGE)
        tell(one.known.resource, answer, "configured", given)

    leave(problems.each(file_objects(session, given), one_by_one))
