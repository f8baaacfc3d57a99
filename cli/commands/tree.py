"""`wherry tree`: an object and what it owns, as far down as it goes."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.durations import short
from cli.framework import verb
from cli.printers import rows_text
from cli.resources import Known
from cli.selection import select
from cli.session import Session
from machinery.errors import APIError

Object = dict[str, Any]


@verb()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
@click.option("--color", is_flag=True, hidden=True)
def tree(words: Sequence[str], **given: Any) -> None:
    """Show what an object owns: tree deployment/web."""
    session = Session(given)
    for one in select(session, words, given):
        obj = one.read(session)
        owned = _owned_by(session, one.namespace)
        rows: list[list[str]] = []
        _branch(obj, owned, "", "", rows)
        click.echo(rows_text(["NAMESPACE", "NAME", "READY", "REASON", "AGE"], rows))


def _owned_by(session: Session, namespace: str) -> dict[str, list[Object]]:
    """Return the objects of a namespace (of the cluster for "") by the uid of their owners."""
    found: dict[str, list[Object]] = {}
    for known in session.discovery.preferred():
        if "list" not in known.verbs or known.resource.plural == "events" or _is_twin(known):
            continue
        if namespace and not known.resource.namespaced:
            continue
        try:
            items = session.connection.json("GET", known.resource.path(namespace))["items"]
        except APIError:
            continue  # what we may not see can't be shown
        for item in items:
            for owner in item["metadata"].get("ownerReferences") or ():
                entry = {"apiVersion": known.resource.api_version, "kind": known.resource.kind, **item}
                siblings = found.setdefault(owner["uid"], [])
                if all(one["metadata"]["uid"] != item["metadata"]["uid"] for one in siblings):
                    siblings.append(entry)
    return found


def _is_twin(known: Known) -> bool:
    """Whether a resource shows objects that another group shows too."""
    return known.resource.group in ("metrics.k8s.io",)


def _branch(obj: Object, owned: dict[str, list[Object]], before: str, below: str, rows: list[list[str]]) -> None:
    metadata = obj["metadata"]
    ready, reason = _readiness(obj)
    rows.append(
        [metadata.get("namespace", ""), f"{before}{obj['kind']}/{metadata['name']}", ready, reason, _age(metadata)]
    )
    children = sorted(owned.get(metadata["uid"], ()), key=lambda one: (one["kind"], one["metadata"]["name"]))
    for at, child in enumerate(children):
        last = at == len(children) - 1
        _branch(child, owned, below + ("└─" if last else "├─"), below + ("  " if last else "│ "), rows)


def _age(metadata: Object) -> str:
    import time

    from machinery.api.meta import parse_time

    return short(time.time() - parse_time(metadata["creationTimestamp"]).timestamp())


def _readiness(obj: Object) -> tuple[str, str]:
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one["type"] in ("Ready", "Available", "Complete"):
            return one["status"], one.get("reason", "")
    return "-", ""
