"""`wherry wait`: until a condition, a path's value, creation or deletion (kubectl), or a container's end (Docker)."""

import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from cli import options, problems
from cli.deleting import FOREVER_SECONDS, wait_gone
from cli.durations import seconds
from cli.framework import verb
from cli.jsonpath import compiled, shown
from cli.selection import Selected, select
from cli.session import Session, leave
from cli.watching import watch_one
from machinery.errors import APIError, NotFound

Met = Callable[[dict[str, Any]], bool]


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.files
@options.recursive
@options.field_selected
@options.everywhere
@options.output
@click.option("--for", "what", default="", help="condition=NAME[=VALUE], jsonpath={PATH}[=VALUE], create, delete.")
@click.option("--timeout", "timeout_text", default="30s", show_default=True)
@click.option("--all", "everything", is_flag=True)
@click.option("--local", is_flag=True, hidden=True)
def wait(words: Sequence[str], what: str, timeout_text: str, **given: Any) -> None:
    """Wait until something holds; without --for, until containers end, telling their exit codes."""
    session = Session(given)
    if not what:
        from cli.containers.lifecycle import wait_for_ends

        sys.exit(wait_for_ends(session, words))
    limit = seconds(timeout_text)
    limit = FOREVER_SECONDS if limit < 0 else limit
    deadline = time.monotonic() + limit
    if what.lower() == "create":
        leave(_created(session, words, given, deadline))
    found = _found(session, words, given, is_delete=what.lower() == "delete")
    if not found:
        if what.lower() == "delete":
            return
        raise click.ClickException("no matching resources found")
    if what.lower() == "delete":
        fine = [_gone(session, one, deadline, given) for one in found]
    else:
        met = condition(what)
        fine = [_met(session, one, met, deadline, given) for one in found]
    leave(all(fine))


def _found(session: Session, words: Sequence[str], given: dict[str, Any], *, is_delete: bool) -> list[Selected]:
    """Return the objects meant; those named are read, so that one that is missing is told of at once."""
    found = []
    for one in select(session, words, given):
        if one.live is not None:
            found.append(one)
            continue
        try:
            session.connection.json("GET", one.path)
        except NotFound as error:
            if not is_delete:
                problems.report(error)
                leave(fine=False)
        else:
            found.append(one)
    return found


def _created(session: Session, words: Sequence[str], given: dict[str, Any], deadline: float) -> bool:
    if given["selector"] or given["everything"]:
        while not (found := select(session, words, given)):
            if time.monotonic() > deadline:
                raise click.ClickException("timed out waiting for the condition")
            time.sleep(0.1)
    else:
        found = select(session, words, given)
    fine = [_met(session, one, lambda _: True, deadline, given, absent_ok=True) for one in found]
    return all(fine)


def _gone(session: Session, one: Selected, deadline: float, given: dict[str, Any]) -> bool:
    try:
        uid = one.read(session)["metadata"]["uid"]
    except APIError:
        uid = ""
    if uid and not wait_gone(session, one, uid, max(deadline - time.monotonic(), 0)):
        return False
    _tell(one, "condition met", given)
    return True


def _met(
    session: Session, one: Selected, met: Met, deadline: float, given: dict[str, Any], *, absent_ok: bool = False
) -> bool:
    for obj in watch_one(session, one, max(deadline - time.monotonic(), 0)):
        if obj is None and not absent_ok:
            resource = one.known.resource
            raise NotFound(f'{resource.group_resource} "{one.name}" not found')
        if obj is not None and met(obj):
            _tell(one, "condition met", given)
            return True
    click.echo(f"error: timed out waiting for the condition on {one.known.resource.plural}/{one.name}", err=True)
    return False


def _tell(one: Selected, what: str, given: dict[str, Any]) -> None:
    click.echo(one.shown if given["output"] == "name" else f"{one.shown} {what}")


def condition(text: str) -> Met:
    """Return the test that --for asks for. Raises: ClickException."""
    if text.startswith("condition="):
        name, _, value = text.removeprefix("condition=").partition("=")
        return lambda obj: _has_condition(obj, name.lower(), (value or "true").lower())
    if text.startswith("jsonpath="):
        match = re.fullmatch(r"['\"]?(\{.*?\})['\"]?(?:=(.*))?", text.removeprefix("jsonpath="), re.DOTALL)
        if match is None:
            raise click.ClickException(
                "jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'"
            )
        find, wanted = compiled(match[1]), match[2]
        if wanted is None:
            return lambda obj: bool(find(obj)) and find(obj)[0] not in ("", None)
        value = wanted.strip("'\"")
        return lambda obj: any(shown(one) == value for one in find(obj))
    raise click.ClickException(f'unrecognized condition: "{text}"')


def _has_condition(obj: dict[str, Any], name: str, value: str) -> bool:
    status = obj.get("status") or {}
    generation = obj["metadata"].get("generation", 0)
    for one in status.get("conditions") or ():
        if one["type"].lower() == name:
            seen = one.get("observedGeneration", status.get("observedGeneration", generation))
            return bool(one["status"].lower() == value and seen >= generation)
    return False
