"""`wherry cordon`, `uncordon` and `taint`."""

import re
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.making import tell
from cli.selection import MERGE, STRATEGIC, Selected, act
from cli.session import Session, leave


def set_schedulable(session: Session, one: Selected, given: dict[str, Any], *, schedulable: bool) -> None:
    """Let pods onto a node or keep them off, and tell of it. Raises: APIError."""
    word = "uncordoned" if schedulable else "cordoned"
    present = bool((one.read(session).get("spec") or {}).get("unschedulable"))
    suffix = options.DRY_SUFFIXES[given["dry_run"]]
    if present is not schedulable:
        click.echo(f"node/{one.name} already {word}{suffix}")
        return
    if given["dry_run"] != "client":
        params = {"dryRun": "All"} if given["dry_run"] == "server" else {}
        one.patch(session, {"spec": {"unschedulable": None if schedulable else True}}, STRATEGIC, **params)
    click.echo(f"node/{one.name} {word}{suffix}")


@verb()
@click.argument("names", nargs=-1)
@options.connected
@options.selected
@options.dry_run
def cordon(names: Sequence[str], **given: Any) -> None:
    """Keep new pods off nodes; pods already there stay."""
    _all(names, given, schedulable=False)


@verb()
@click.argument("names", nargs=-1)
@options.connected
@options.selected
@options.dry_run
def uncordon(names: Sequence[str], **given: Any) -> None:
    """Let new pods onto nodes."""
    _all(names, given, schedulable=True)


def node_words(names: Sequence[str]) -> list[str]:
    """Return words that name nodes: `a`, `node/a` and `nodes a` alike."""
    plain = [name.partition("/")[2] if name.startswith(("node/", "nodes/", "no/")) else name for name in names]
    return ["nodes", *plain]


def _all(names: Sequence[str], given: dict[str, Any], *, schedulable: bool) -> None:
    if not names and not given["selector"]:
        raise click.ClickException("error: one of NODE or --selector must be specified".removeprefix("error: "))
    session = Session(given)
    leave(
        act(
            session, node_words(names), given, lambda one: set_schedulable(session, one, given, schedulable=schedulable)
        )
    )


_TAINT = re.compile(r"([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)(-)?|([^=:]+)-")


@verb()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.selected
@options.dry_run
@options.output
@options.field_manager
@click.option("--all", "everything", is_flag=True)
@click.option("--overwrite/--no-overwrite", default=False)
@click.option("--validate", default="strict", hidden=True)
def taint(words: Sequence[str], **given: Any) -> None:
    """Set taints of nodes: node NAME KEY=VALUE:EFFECT … KEY:EFFECT- KEY-."""
    kind, *rest = words
    names = [word for word in rest if not _TAINT.fullmatch(word)]
    changes = [match for word in rest if (match := _TAINT.fullmatch(word))]
    if not changes:
        bad = next((word for word in rest if "=" in word or ":" in word), "")
        raise click.ClickException(f"unknown taint spec: {bad}" if bad else "at least one taint update is required")
    session = Session(given)
    leave(act(session, [kind, *names], given, lambda one: _taint(session, one, changes, given)))


def _taint(session: Session, one: Selected, changes: Sequence[re.Match[str]], given: dict[str, Any]) -> None:
    obj = one.read(session)
    taints = list((obj.get("spec") or {}).get("taints") or ())
    removed = added = 0
    for match in changes:
        key, value, effect, minus, bare = match.groups()
        if bare or minus:
            left = [t for t in taints if not (t["key"] == (bare or key) and (bare or t["effect"] == effect))]
            if len(left) == len(taints):
                what = bare or f"{key}:{effect}"
                raise click.ClickException(f'taint "{what}" not found')
            taints, removed = left, removed + 1
            continue
        same = [t for t in taints if t["key"] == key and t["effect"] == effect]
        if same and not given["overwrite"]:
            text = f"node {one.name} already has {key} taint(s) with same effect(s) and --overwrite is false"
            raise click.ClickException(text)
        taints = [t for t in taints if t not in same]
        taints.append({"key": key, **({"value": value} if value else {}), "effect": effect})
        added += 1
    if given["dry_run"] != "client":
        params = {
            "fieldManager": given["field_manager"] or "kubectl-taint",
            "dryRun": "All" if given["dry_run"] == "server" else None,
        }  # fmt: skip
        version = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        obj = one.patch(session, {"metadata": version, "spec": {"taints": taints or None}}, MERGE, **params)
    word = "modified" if removed and added else "untainted" if removed else "tainted"
    tell(one.known.resource, obj, word, given)
