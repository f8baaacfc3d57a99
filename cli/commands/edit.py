"""`wherry edit`: change objects in $KUBE_EDITOR or $EDITOR; what was changed is sent as a patch."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.applying import annotated, shape_of_kind, three_way
from cli.editing import edit_object
from cli.framework import verb
from cli.making import tell
from cli.selection import MERGE, STRATEGIC, Selected, select
from cli.session import Session


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.files
@options.kustomize
@options.recursive
@options.field_manager
@options.validated
@options.show_managed_fields
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml")
@click.option("--subresource", default="")
@click.option("--output-patch", is_flag=True, help="Print the patch.")
@click.option("--save-config", is_flag=True, help="Remember what was said, for apply.")
@click.option("--windows-line-endings", is_flag=True, hidden=True)
def edit(words: Sequence[str], **given: Any) -> None:
    """Change objects in an editor."""
    session = Session(given)
    for one in select(session, words, given, needs_name=False):
        _one(session, one, given)


def _one(session: Session, one: Selected, given: dict[str, Any]) -> None:
    path = one.known.resource.path(one.namespace, one.name, given["subresource"])
    original = {
        "apiVersion": one.known.resource.api_version, "kind": one.known.resource.kind,
        **session.connection.json("GET", path),
    }  # fmt: skip
    if not given["show_managed_fields"]:
        original["metadata"].pop("managedFields", None)
    edit_object(
        original, given["output"], lambda changed: _send(session, one, path, original, changed, given),
        windows=given["windows_line_endings"],
    )  # fmt: skip


def _send(
    session: Session, one: Selected, path: str, original: dict[str, Any], changed: dict[str, Any], given: dict[str, Any]
) -> None:
    for field in ("apiVersion", "kind"):
        if changed.get(field) != original.get(field):
            raise click.ClickException("At least one of apiVersion, kind and name was changed")
    if changed["metadata"].get("name") != one.name:
        raise click.ClickException("At least one of apiVersion, kind and name was changed")
    if given["save_config"]:
        changed = annotated(changed, one.namespace)
    patch = three_way(original, changed, original, one.known)
    if not patch:
        click.echo("Edit cancelled, no changes made.", err=True)
        return
    if given["output_patch"]:
        import orjson

        click.echo(f"Patch: {orjson.dumps(patch).decode()}")
    media = STRATEGIC if shape_of_kind(one.known) else MERGE
    params = {
        "fieldManager": given["field_manager"] or "kubectl-edit",
        "fieldValidation": options.field_validation(given),
    }
    answer = session.connection.json("PATCH", path, body=patch, content_type=media, params=params)
    tell(one.known.resource, answer, "edited", {"dry_run": "none"})
