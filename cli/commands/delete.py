"""`wherry delete`."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options, problems
from cli.deleting import FOREVER_SECONDS, delete_one, from_namespace, wait_gone
from cli.durations import seconds
from cli.framework import verb
from cli.resources import display_name
from cli.selection import Selected, select
from cli.session import Session, leave
from machinery.errors import APIError, NotFound


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.files
@options.kustomize
@options.recursive
@options.dry_run
@options.output
@options.field_selected
@options.everywhere
@click.option("--all", "everything", is_flag=True, help="All objects of the kind.")
@click.option("--grace-period", default=-1, help="Seconds for the objects to end.")
@click.option("--now", is_flag=True, help="As --grace-period=1.")
@click.option("--force", is_flag=True, help="Do not wait for anyone: grace period 0.")
@click.option("--cascade", type=click.Choice(["background", "foreground", "orphan"]), default="background")
@click.option("--wait/--no-wait", default=True, help="Return when the objects are gone.")
@click.option("--timeout", "timeout_text", default="0s")
@click.option("--ignore-not-found", is_flag=True)
@click.option("-i", "--interactive", is_flag=True, help="Ask first.")
@click.option("--raw", default="", help="Delete a path of the server.")
def delete(words: Sequence[str], **given: Any) -> None:
    """Delete objects."""
    session = Session(given)
    if given["raw"]:
        click.echo(session.connection.request("DELETE", given["raw"], accept="*/*"), nl=False)
        return
    if given["everything"] and given["selector"]:
        raise click.ClickException("setting 'all' parameter but found a non empty selector. ")
    given["ignore_not_found"] |= bool(given["everything"] or given["selector"])
    try:
        found = select(session, words, given)
    except APIError as error:
        problems.report(error)
        leave(fine=False)
    if not found:
        click.echo("No resources found")
        return
    if given["interactive"] and not _agreed(found):
        click.echo("deletion is cancelled")
        return
    leave(_all(session, found, given))


def _agreed(found: Sequence[Selected]) -> bool:
    click.echo(f"You are about to delete the following {len(found)} resource(s):")
    for one in found:
        click.echo(one.shown)
    return click.confirm("Do you want to continue?", default=False)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": given["cascade"].title()}
    grace = given["grace_period"]
    if given["now"]:
        grace = 1
    elif given["force"] and grace < 0:
        grace = 0
    if grace == 0 and not given["force"]:
        grace = 1  # only --force kills at once
    return {**body, "gracePeriodSeconds": grace} if grace >= 0 else body


def _all(session: Session, found: Sequence[Selected], given: dict[str, Any]) -> bool:
    body = _options(given)
    if given["force"]:
        click.echo(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. "
            "The resource may continue to run on the cluster indefinitely.", err=True,
        )  # fmt: skip
    params = {"dryRun": "All"} if given["dry_run"] == "server" else {}
    going: list[tuple[Selected, str]] = []

    def one_by_one(one: Selected) -> None:
        try:
            uid = delete_one(session, one, body, params) if given["dry_run"] != "client" else ""
        except NotFound:
            if given["ignore_not_found"]:
                return
            raise
        going.append((one, uid))
        _tell(one, given)

    fine = problems.each(found, one_by_one)
    if given["wait"] and given["dry_run"] == "none" and not given["force"]:
        limit = seconds(given["timeout_text"]) or FOREVER_SECONDS
        gone = [wait_gone(session, one, uid, limit) for one, uid in going]
        fine &= all(gone)
    return fine


def _tell(one: Selected, given: dict[str, Any]) -> None:
    kind = display_name(one.known.resource, "").rstrip("/")
    force = "force deleted" if given["force"] else "deleted"
    text = f'{kind} "{one.name}" {force}{from_namespace(one)}{options.DRY_SUFFIXES[given["dry_run"]]}'
    click.echo(one.shown if given["output"] == "name" else text)
