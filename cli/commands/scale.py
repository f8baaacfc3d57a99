"""`wherry scale`."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.durations import seconds
from cli.framework import verb
from cli.making import tell
from cli.selection import MERGE, Selected, act
from cli.session import Session, leave


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
@options.templated
@options.show_managed_fields
@click.option("--replicas", type=int, required=True)
@click.option("--current-replicas", type=int, default=-1, help="Refuse unless there are so many now.")
@click.option("--resource-version", default="", help="Refuse unless the object is of this version.")
@click.option("--all", "everything", is_flag=True)
@click.option("--timeout", "timeout_text", default="0s", help="Wait so long for the number to be reached.")
def scale(words: Sequence[str], replicas: int, current_replicas: int, timeout_text: str, **given: Any) -> None:
    """Set how many replicas there are to be."""
    if replicas < 0:
        raise click.ClickException(
            f"The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0, was {replicas}"
        )
    session = Session(given)
    limit = seconds(timeout_text)

    def one_by_one(one: Selected) -> None:
        if "scale" not in one.known.subresources:
            one.read(session)
        path = one.known.resource.path(one.namespace, one.name, "scale")
        if current_replicas >= 0:
            present = session.connection.json("GET", path)["spec"].get("replicas", 0)
            if present != current_replicas:
                raise click.ClickException(f"Expected replicas to be {current_replicas}, was {present}")
        version = {"metadata": {"resourceVersion": given["resource_version"]}} if given["resource_version"] else {}
        if given["dry_run"] != "client":
            params = {"dryRun": "All"} if given["dry_run"] == "server" else {}
            session.connection.json(
                "PATCH", path, body={"spec": {"replicas": replicas}, **version}, content_type=MERGE, params=params
            )
        tell(one.known.resource, one.read(session), "scaled", given)
        if limit and given["dry_run"] == "none":
            _reached(session, one, replicas, limit)

    leave(act(session, words, given, one_by_one))


def _reached(session: Session, one: Selected, replicas: int, limit: float) -> None:
    from cli.watching import watch_one

    for obj in watch_one(session, one, limit):
        if obj is not None and (obj.get("status") or {}).get("replicas", 0) == replicas:
            return
    raise click.ClickException("timed out waiting for the condition")
