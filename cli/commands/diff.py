"""`wherry diff`: what apply would change, shown by diff(1) or $KUBECTL_EXTERNAL_DIFF.

Exit codes: 0 no difference, 1 differences, more than 1 an error.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.applying import annotated, last_applied, shape_of_kind, three_way
from cli.framework import verb
from cli.printers import yaml_text
from cli.pruning import matches, prunable
from cli.selection import MERGE, STRATEGIC, Selected, file_objects
from cli.session import Session
from machinery.errors import APIError, NotFound


@verb()
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.selected
@options.show_managed_fields
@click.option("--server-side", is_flag=True)
@click.option("--force-conflicts", is_flag=True)
@click.option("--field-manager", default="")
@click.option("--prune", is_flag=True, help="Show what apply --prune would delete, too.")
@click.option("--prune-allowlist", multiple=True, help="With --prune: group/version/kind to look through.")
@click.option("--concurrency", default=1, hidden=True)
def diff(**given: Any) -> None:
    """Show what apply would change."""
    session = Session(given)
    with tempfile.TemporaryDirectory(prefix="LIVE-") as live, tempfile.TemporaryDirectory(prefix="MERGED-") as merged:
        try:
            said: set[str] = set()
            for one in file_objects(session, given):
                if matches(one.manifest or {}, given["selector"]):
                    said.add(_write(session, one, Path(live), Path(merged), given))
            if given["prune"]:
                for one in prunable(session, said, given["selector"], given["prune_allowlist"]):
                    (Path(live) / _dotted(one)).write_text(yaml_text(_shown(one, one.read(session), given)))
        except APIError as error:
            from cli import problems

            problems.report(error)
            sys.exit(2)
        except click.ClickException as error:
            click.echo(f"error: {error.format_message()}", err=True)
            sys.exit(2)
        command = shlex.split(os.environ.get("KUBECTL_EXTERNAL_DIFF") or "diff -u -N")
        sys.exit(subprocess.run([*command, live, merged], check=False).returncode)


def _dotted(one: Selected) -> str:
    resource = one.known.resource
    return ".".join(part for part in (resource.group, resource.version, resource.kind, one.namespace, one.name) if part)


def _write(session: Session, one: Selected, live: Path, merged: Path, given: dict[str, Any]) -> str:
    """Write an object before and after; returns its uid, empty when it is not there yet."""
    resource, dotted = one.known.resource, _dotted(one)
    try:
        current: dict[str, Any] | None = session.connection.json("GET", one.path)
    except NotFound:
        current = None
    after = _after(session, one, current, given)
    before, after = _shown(one, current, given), _shown(one, after, given)
    if resource.kind == "Secret":
        _mask(before, after)
    (live / dotted).write_text(yaml_text(before) if before else "")
    (merged / dotted).write_text(yaml_text(after))
    return str(current["metadata"]["uid"]) if current else ""


def _after(session: Session, one: Selected, current: dict[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    dry = {"dryRun": "All", "fieldManager": given["field_manager"] or "kubectl-client-side-apply"}
    if given["server_side"]:
        force = {"force": str(given["force_conflicts"]).lower(), "fieldManager": given["field_manager"] or "kubectl"}
        import orjson

        body = orjson.dumps(one.manifest)
        return one.patch(session, body, "application/apply-patch+yaml", **{**dry, **force})
    wanted = annotated(one.manifest or {}, one.namespace)
    if current is None:
        return session.connection.json("POST", one.known.resource.path(one.namespace), body=wanted, params=dry)
    patch = three_way(last_applied(current), wanted, current, one.known)
    return one.patch(session, patch, STRATEGIC if shape_of_kind(one.known) else MERGE, **dry)


def _shown(one: Selected, obj: dict[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    if obj is None:
        return {}
    metadata = dict(obj["metadata"])
    if not given["show_managed_fields"]:
        metadata.pop("managedFields", None)
    return {"apiVersion": one.known.resource.api_version, "kind": one.known.resource.kind, **obj, "metadata": metadata}


def _mask(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Hide a secret's values, and still show that one changed."""
    old, new = before.get("data") or {}, after.get("data") or {}
    for key in {*old, *new}:
        changed = key in old and key in new and old[key] != new[key]
        for data, note in ((old, "before"), (new, "after")):
            if key in data:
                data[key] = f"*** ({note})" if changed else "***"
    for obj in (before, after):
        annotations = (obj.get("metadata") or {}).get("annotations") or {}
        annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
