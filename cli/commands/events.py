"""`wherry events`."""

import sys
import time
from typing import Any

import click
import orjson

from cli import options
from cli.durations import short
from cli.framework import verb
from cli.printers import Columns, print_objects
from cli.resources import targets
from cli.session import Session
from machinery.api.meta import parse_time

Event = dict[str, Any]
_DOCKERS = {"since": "since", "until": "until", "filters": "filters", "template": "form"}
"""What makes it docker events, by what `show` takes."""


@verb()
@options.connected
@options.namespaced
@options.everywhere
@options.output
@click.option("--for", "whose", default="", help="KIND/NAME: of this object alone.")
@click.option("--types", default="", help="Normal,Warning.")
@click.option("-w", "--watch", "watches", is_flag=True)
@click.option("--no-headers", is_flag=True)
@click.option("--chunk-size", default=500, hidden=True)
@click.option("--template", default="", hidden=True)
@click.option("--since", default="", help="Docker's: what happened to containers since a time or so long ago.")
@click.option("--until", default="", help="Docker's: until a time; what comes is shown until then.")
@click.option("-f", "--filter", "filters", multiple=True, help="Docker's: container=, event=, image=, label=, type=.")
@click.option("--format", "form", default="", help="Docker's: a template, or json.")
def events(whose: str, types: str, watches: bool, **given: Any) -> None:
    """List events, the oldest first."""
    session = Session(given)
    asked = {name: given[key] for name, key in _DOCKERS.items()}
    if any(asked.values()):
        from cli.containers.events import show

        show(session, **asked)
        return
    namespace = "" if given["all_namespaces"] else session.namespace
    path = f"/api/v1/namespaces/{namespace}/events" if namespace else "/api/v1/events"
    params = {"fieldSelector": _selector(session, whose)}
    answer = session.connection.json("GET", path, params=params)
    kinds = {one.strip().lower() for one in types.split(",") if one.strip()}
    if kinds - {"normal", "warning"}:
        raise click.ClickException("valid --types are Normal or Warning")
    found = sorted((one for one in answer["items"] if not kinds or one["type"].lower() in kinds), key=last_seen)
    if given["output"] and found:
        items = [{"apiVersion": "v1", "kind": "Event", **one} for one in found]
        print_objects(items, given["output"], single=False, template=given["template"])
        return
    if not found and not watches:
        click.echo(f"No events found in {namespace} namespace." if namespace else "No events found.", err=True)
        return
    columns = Columns()
    head = [*([] if namespace else ["NAMESPACE"]), "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    lines = [] if given["no_headers"] else [head]
    text = columns.text(lines + [_line(one, show_namespace=not namespace) for one in found])
    if text:
        click.echo(text)
    if not watches:
        return
    params |= {"watch": "true", "resourceVersion": answer["metadata"]["resourceVersion"]}
    for raw in session.connection.lines(path, params):
        change = orjson.loads(raw)
        if change["type"] in ("ADDED", "MODIFIED") and (not kinds or change["object"]["type"].lower() in kinds):
            click.echo(columns.text([_line(change["object"], show_namespace=not namespace)]))
            sys.stdout.flush()


def _selector(session: Session, whose: str) -> str:
    if not whose:
        return ""
    target = targets(session.discovery, [whose] if "/" in whose else whose.split())[0]
    resource = target.known.resource
    return f"involvedObject.kind={resource.kind},involvedObject.apiVersion={resource.api_version},involvedObject.name={target.name}"


def last_seen(event: Event) -> str:
    """Return when an event was seen last, as text that sorts."""
    series = event.get("series") or {}
    found = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(found or event["metadata"].get("creationTimestamp") or "")


def first_seen(event: Event) -> str:
    """Return when an event was seen first."""
    return str(
        event.get("firstTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
    )


def age(stamp: str) -> str:
    """Return how long ago a time was, as kubectl prints it."""
    return short(time.time() - parse_time(stamp).timestamp()) if stamp else "<unknown>"


def interval(event: Event) -> str:
    """Return the age of an event; for one seen often, how often over which time."""
    series = event.get("series") or {}
    count = series.get("count") or event.get("count") or 1
    if series or count > 1:
        return f"{age(last_seen(event))} (x{count} over {age(first_seen(event))})"
    return age(first_seen(event))


def _line(event: Event, *, show_namespace: bool) -> list[str]:
    target = event["involvedObject"]
    line = [
        interval(event),
        event["type"],
        event["reason"],
        f"{target['kind']}/{target['name']}",
        event.get("message", "").strip(),
    ]
    return [event["metadata"]["namespace"], *line] if show_namespace else line
