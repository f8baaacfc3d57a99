"""`wherry edit`: change objects in $KUBE_EDITOR or $EDITOR; what was changed is sent as a patch."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli import options, problems
from cli.applying import shape_of_kind, three_way
from cli.framework import verb
from cli.making import tell
from cli.printers import json_text, yaml_text
from cli.selection import MERGE, STRATEGIC, Selected, select
from cli.session import Session
from machinery.errors import APIError

_HEAD = (
    "# Please edit the object below. Lines beginning with a '#' will be ignored,\n"
    "# and an empty file will abort the edit. If an error occurs while saving this file will be\n"
    "# reopened with the relevant failures.\n#\n"
)


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
@click.option("--save-config", is_flag=True, hidden=True)
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
    text = (_HEAD if given["output"] == "yaml" else "") + (yaml_text if given["output"] == "yaml" else json_text)(
        original
    )
    while True:
        changed = _edited(text, given["output"])
        if changed == text or not _content(changed):
            click.echo(
                "Edit cancelled, no changes made." if changed == text else "Edit cancelled, saved file was empty.",
                err=True,
            )
            return
        try:
            _send(session, one, path, original, _parsed(changed), given)
        except (APIError, click.ClickException) as error:
            said = problems.text_of(error) if isinstance(error, APIError) else error.format_message()
            note = "".join(f"# {line}\n" for line in said.splitlines())
            text = _HEAD + note + "#\n" + _content(changed)
            if os.environ.get("WHERRY_EDIT_ONCE") or not _may_retry():
                kept = _kept(changed, given["output"])
                raise click.ClickException(f'{said}\nA copy of your changes has been stored to "{kept}"') from error
        else:
            return


def _may_retry() -> bool:
    import sys

    return sys.stdin.isatty()


def _content(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _parsed(text: str) -> dict[str, Any]:
    from cli.manifests import parse

    found = list(parse("edited-file", text))
    if len(found) != 1:
        raise click.ClickException("the edited file must hold one object")
    return found[0]


def _edited(text: str, suffix: str) -> str:
    editor = os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", prefix="wherry-edit-", suffix=f".{suffix}") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([*shlex.split(editor), file.name], check=False)
        if done.returncode:
            raise click.ClickException(f'there was a problem with the editor "{editor}"')
        return Path(file.name).read_text()


def _kept(text: str, suffix: str) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="wherry-edit-", suffix=f".{suffix}", delete=False) as file:
        file.write(text)
        return file.name


def _send(
    session: Session, one: Selected, path: str, original: dict[str, Any], changed: dict[str, Any], given: dict[str, Any]
) -> None:
    for field in ("apiVersion", "kind"):
        if changed.get(field) != original.get(field):
            raise click.ClickException("At least one of apiVersion, kind and name was changed")
    if changed["metadata"].get("name") != one.name:
        raise click.ClickException("At least one of apiVersion, kind and name was changed")
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
