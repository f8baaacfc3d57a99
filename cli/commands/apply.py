"""`wherry apply`: bring objects to what manifests say, by a patch worked out here or merged by the server."""

from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli import options, problems
from cli.applying import LAST, annotated, escaped, last_applied, shape_of_kind, three_way
from cli.deleting import FOREVER_SECONDS
from cli.durations import seconds
from cli.framework import VerbGroup
from cli.making import tell
from cli.pruning import matches, prunable
from cli.selection import MERGE, STRATEGIC, Selected, file_objects, select
from cli.session import Session, leave
from machinery.errors import APIError, Conflict, NotFound


@click.group(cls=VerbGroup, invoke_without_command=True)
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
@click.option("--subresource", default="", help="With --server-side: status, scale and the like.")
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
    if given["subresource"] and not given["server_side"]:
        raise click.ClickException("--subresource can only be specified for --server-side")
    if given["prune"] and not (given["selector"] or given["everything"]):
        raise click.ClickException(
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector"
        )
    applied: list[str] = []

    def one_by_one(one: Selected) -> None:
        if not matches(one.manifest or {}, given["selector"]):
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
    path = one.known.resource.path(one.namespace, one.name, given["subresource"])
    body = orjson.dumps(one.manifest)
    media = "application/apply-patch+yaml"
    try:
        answer = session.connection.json("PATCH", path, body=body, content_type=media, params=params)
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
    from cli.deleting import wait_gone

    limit_seconds = seconds(given["timeout"]) or FOREVER_SECONDS
    for one in prunable(session, applied, given["selector"], given["prune_allowlist"]):
        obj = one.read(session)
        if given["dry_run"] != "client":
            dry = {"dryRun": "All"} if given["dry_run"] == "server" else {}
            session.connection.json("DELETE", one.path, body=_deletion(given), params=dry)
        tell(one.known.resource, obj, "pruned", given)
        if given["wait"] and given["dry_run"] == "none":
            wait_gone(session, one, obj["metadata"]["uid"], limit_seconds)


def _deletion(given: dict[str, Any]) -> dict[str, Any]:
    """Return what --cascade and --grace-period ask of a deletion."""
    policy = {"true": "background", "false": "orphan"}.get(given["cascade"], given["cascade"])
    grace = given["grace_period"]
    return {"propagationPolicy": policy.capitalize(), **({"gracePeriodSeconds": grace} if grace >= 0 else {})}


@apply.command("view-last-applied")
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.selected
@click.option("-o", "--output", default="yaml")
@click.option("--all", "everything", is_flag=True)
def view_last_applied(words: Sequence[str], output: str, **given: Any) -> None:
    """Show what was applied last."""
    from cli.printers import yaml_text

    if output not in ("yaml", "json"):
        raise click.ClickException(
            f"Unexpected -o output mode: {output}, the flag 'output' must be one of yaml|json\n"
            "See 'wherry apply view-last-applied -h' for help and examples"
        )
    session = Session(given)
    for one in select(session, words, given):
        said = last_applied(one.read(session))
        if not said:
            raise click.ClickException(f"no last-applied-configuration annotation found on resource: {one.name}")
        indented = orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"
        click.echo(yaml_text(said) if output == "yaml" else escaped(indented), nl=False)


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


@apply.command("edit-last-applied")
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.validated
@options.field_manager
@click.option("-o", "--output", default="yaml")
@click.option("--windows-line-endings", is_flag=True, hidden=True)
def edit_last_applied(words: Sequence[str], output: str, windows_line_endings: bool, **given: Any) -> None:
    """Change in an editor what was applied last, without changing anything else."""
    from cli.editing import edit_object

    session = Session(given)

    def one_by_one(one: Selected) -> None:
        current = one.read(session)
        said = last_applied(current)
        if not said:
            raise click.ClickException(f"no last-applied-configuration annotation found on resource: {one.name}")
        form = "json" if output == "json" else "yaml"
        edit_object(said, form, lambda changed: _note(session, one, changed, given), windows=windows_line_endings)

    leave(problems.each(select(session, words, given), one_by_one))


def _note(session: Session, one: Selected, changed: dict[str, Any], given: dict[str, Any]) -> None:
    """Set what was applied last."""
    text = annotated(changed, one.namespace)["metadata"]["annotations"][LAST]
    params = {"fieldManager": given["field_manager"] or "kubectl-client-side-apply"}
    answer = one.patch(session, {"metadata": {"annotations": {LAST: text}}}, MERGE, **params)
    tell(one.known.resource, answer, "edited", {"dry_run": "none"})
