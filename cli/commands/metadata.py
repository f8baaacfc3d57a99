"""`wherry label` and `wherry annotate`."""

import re
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.making import tell
from cli.selection import MERGE, Selected, act
from cli.session import Session, leave

_CHANGE = re.compile(r"[^=/\s]+(?:/[^=/\s]+)?(?:=.*|-)", re.DOTALL)


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, str | None]]:
    """Return the words that name objects, and the changes: a value, or None to take away."""
    named: list[str] = []
    changes: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            if changes.get(key, "") is None:
                raise click.ClickException("can not both modify and remove a label in the same command")
            changes[key] = value
        elif word.endswith("-") and named and "/" not in word.rpartition(".")[2] and _CHANGE.fullmatch(word):
            changes[word.removesuffix("-")] = None
        else:
            named.append(word)
    return named, changes


def _shared(command: Any) -> Any:
    for option in (
        click.argument("words", nargs=-1), options.connected, options.namespaced, options.selected, options.files,
        options.field_selected, options.everywhere, options.recursive, options.kustomize, options.dry_run,
        options.output, options.field_manager, options.show_managed_fields,
        click.option("--all", "everything", is_flag=True), click.option("--overwrite/--no-overwrite", default=False),
        click.option("--resource-version", default=""), click.option("--template", default="", hidden=True),
        click.option("--list", "lists", is_flag=True, help="Show what there is."),
        click.option("--local", is_flag=True, help="Do not ask the server."),
    ):  # fmt: skip
        command = option(command)
    return command


@verb()
@_shared
def label(words: Sequence[str], **given: Any) -> None:
    """Set labels: KIND NAME KEY=VALUE … KEY- …."""
    _change(words, "labels", "label", given)


@verb()
@_shared
def annotate(words: Sequence[str], **given: Any) -> None:
    """Set annotations: KIND NAME KEY=VALUE … KEY- …."""
    _change(words, "annotations", "annotation", given)


def _change(words: Sequence[str], field: str, single: str, given: dict[str, Any]) -> None:
    session = Session(given)
    named, changes = _split(words)
    if not changes and not given["lists"]:
        raise click.ClickException(f"at least one {single} update is required")
    leave(act(session, named, given, lambda one: _one(session, one, field, single, changes, given)))


def _one(
    session: Session, one: Selected, field: str, single: str, changes: dict[str, str | None], given: dict[str, Any]
) -> None:
    obj = (one.manifest or {}) if given["local"] else one.read(session)
    present = obj["metadata"].get(field) or {}
    if not given["overwrite"]:
        taken = [key for key, value in changes.items() if value is not None and present.get(key, value) != value]
        if taken:
            said = f"'{taken[0]}' already has a value ({present[taken[0]]})"
            if field == "labels":
                raise click.ClickException(f"{said}, and --overwrite is false")
            raise click.ClickException(f"--overwrite is false but found the following declared annotation(s): {said}")
    for key in (key for key, value in changes.items() if value is None and key not in present):
        click.echo(f'{single} "{key}" not found.', err=field == "annotations")
    after = {key: value for key, value in {**present, **changes}.items() if value is not None}
    if given["lists"]:
        click.echo("\n".join(f"{key}={value}" for key, value in sorted(after.items())))
        return
    answer = obj = {**obj, "metadata": {**obj["metadata"], field: after}}
    if given["dry_run"] != "client" and not given["local"] and after != present:
        version = {"resourceVersion": given["resource_version"]} if given["resource_version"] else {}
        params = {
            "fieldManager": given["field_manager"] or ("kubectl-label" if field == "labels" else "kubectl-annotate"),
            "dryRun": "All" if given["dry_run"] == "server" else None,
        }  # fmt: skip
        answer = one.patch(session, {"metadata": {field: changes, **version}}, MERGE, **params)
    tell(one.known.resource, answer, _done(field, present, after, changes), given)


def _done(field: str, present: dict[str, str], after: dict[str, str], changes: dict[str, str | None]) -> str:
    if field == "annotations":
        return "annotated"
    if present == after:
        return "not labeled"
    return "unlabeled" if all(value is None for value in changes.values()) else "labeled"
