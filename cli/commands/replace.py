"""`wherry replace`."""

import contextlib
from collections.abc import Sequence
from typing import Any

import click

from cli import options, problems
from cli.deleting import delete_and_wait, from_namespace
from cli.framework import verb
from cli.making import tell
from cli.selection import Selected, file_objects
from cli.session import Session, leave
from machinery.errors import NotFound


@verb()
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.dry_run
@options.output
@options.field_manager
@options.validated
@options.show_managed_fields
@click.option("--template", default="", hidden=True)
@click.option("--force", is_flag=True, help="Delete and create anew.")
@click.option("--grace-period", default=-1)
@click.option("--cascade", default="background", hidden=True)
@click.option("--timeout", default="0s", hidden=True)
@click.option("--wait/--no-wait", default=True, hidden=True)
@click.option("--save-config", is_flag=True)
@click.option("--subresource", default="")
@click.option("--raw", default="", help="Put the file to a path of the server.")
def replace(**given: Any) -> None:
    """Replace objects by what manifests say."""
    session = Session(given)
    if given["raw"]:
        from pathlib import Path

        body = Path(given["filenames"][0]).read_bytes()
        click.echo(session.connection.request("PUT", given["raw"], body=body, accept="*/*"), nl=False)
        return
    found = list(file_objects(session, given))
    if given["force"]:
        leave(_anew(session, found, given))
    leave(problems.each(found, lambda one: _one(session, one, given)))


def _params(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "fieldValidation": options.field_validation(given), "fieldManager": given["field_manager"] or "kubectl-replace",
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip


def _said(one: Selected, given: dict[str, Any]) -> dict[str, Any]:
    from cli.applying import annotated

    obj = one.manifest or {}
    return annotated(obj, one.namespace) if given["save_config"] else obj


def _one(session: Session, one: Selected, given: dict[str, Any]) -> None:
    answer = _said(one, given)
    if given["dry_run"] != "client":
        with problems.doing(f'error when replacing "{one.source}"'):
            path = one.known.resource.path(one.namespace, one.name, given["subresource"])
            answer = session.connection.json("PUT", path, body=answer, params=_params(given))
    tell(one.known.resource, answer, "replaced", given)


def _anew(session: Session, found: Sequence[Selected], given: dict[str, Any]) -> bool:
    """Delete all, then create all."""
    for one in found:
        with contextlib.suppress(NotFound):
            delete_and_wait(session, [one], grace_seconds=given["grace_period"])
            click.echo(f'{one.shown.partition("/")[0]} "{one.name}" deleted{from_namespace(one)}')

    def create(one: Selected) -> None:
        path = one.known.resource.path(one.namespace)
        answer = session.connection.json("POST", path, body=_said(one, given), params=_params(given))
        tell(one.known.resource, answer, "replaced", given)

    return problems.each(found, create)
