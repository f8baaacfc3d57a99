"""`wherry apply`: bring objects to what manifests say.

What a manifest said the last time stands in an annotation, so that what is no longer said is taken away, and what
others set stays. Source: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/
"""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli import manifests, options
from cli.connection import Connection, connect
from cli.printers import print_objects
from cli.resources import Discovery, Known, display_name
from machinery.errors import APIError, NotFound

LAST = "kubectl.kubernetes.io/last-applied-configuration"
_SUFFIXES = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


@click.command()
@options.connected
@options.namespaced
@options.files
@options.recursive
@options.dry_run
@options.output
@click.option("--server-side", is_flag=True, help="Let the server merge.")
@click.option("--field-manager", default="")
@click.option("--force-conflicts", is_flag=True)
@click.option("--validate", default="strict", hidden=True)
def apply(filenames: Sequence[str], recursive: bool, **given: Any) -> None:
    """Bring objects to what manifests say."""
    connection = connect(options.split(given))
    discovery = Discovery(connection)
    failed = False
    for obj in manifests.read(filenames, recursive=recursive):
        try:
            known = discovery.of_kind(obj["apiVersion"], obj["kind"])
            _apply_one(connection, known, obj, given)
        except APIError as error:
            click.echo(f"Error from server ({error.reason}): {error}", err=True)
            failed = True
    sys.exit(1 if failed else 0)


def _apply_one(connection: Connection, known: Known, obj: dict[str, Any], given: dict[str, Any]) -> None:
    resource = known.resource
    metadata = obj.setdefault("metadata", {})
    namespace = _namespace(known, metadata, given["namespace"], connection.config.namespace)
    path = resource.path(namespace, metadata.get("name", ""))
    dry = {"dryRun": "All"} if given["dry_run"] == "server" else {}
    if given["server_side"]:
        params = {
            "fieldManager": given["field_manager"] or "kubectl",
            "force": str(given["force_conflicts"]).lower(),
            **dry,
        }
        body = orjson.dumps(obj)
        answer = connection.json("PATCH", path, params=params, body=body, content_type="application/apply-patch+yaml")
        _tell(resource, answer, "serverside-applied", given)
        return
    wanted = _annotated(obj, namespace)
    strict = {"fieldValidation": "Strict", "fieldManager": given["field_manager"] or "kubectl-client-side-apply", **dry}
    try:
        current = connection.json("GET", path)
    except NotFound:
        if given["dry_run"] != "client":
            wanted = connection.json("POST", resource.path(namespace), params=strict, body=wanted)
        _tell(resource, wanted, "created", given)
        return
    patch = three_way(_last_applied(current), wanted, current, known)
    if not patch:
        _tell(resource, current, "unchanged", given)
        return
    if given["dry_run"] == "client":
        _tell(resource, current, "configured", given)
        return
    media = "application/strategic-merge-patch+json" if _shape(known) else "application/merge-patch+json"
    answer = connection.json("PATCH", path, params=strict, body=patch, content_type=media)
    same = answer["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
    _tell(resource, answer, "unchanged" if same else "configured", given)


def _namespace(known: Known, metadata: dict[str, Any], asked: str | None, default: str) -> str:
    if not known.resource.namespaced:
        return ""
    said = metadata.get("namespace", "")
    if asked and said and asked != said:
        raise click.ClickException(
            f'the namespace from the provided object "{said}" does not match the namespace "{asked}". '
            f"You must pass '--namespace={said}' to perform this operation."
        )
    return said or asked or default


def _tell(resource: Any, obj: dict[str, Any], what: str, given: dict[str, Any]) -> None:
    if given["output"] not in ("", "wide"):
        print_objects([obj], given["output"], single=True)
        return
    click.echo(f"{display_name(resource, obj['metadata']['name'])} {what}{_SUFFIXES[given['dry_run']]}")


def _annotated(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return the manifest with itself in its annotation."""
    plain = copy.deepcopy(obj)
    metadata = plain["metadata"]
    annotations = metadata.get("annotations") or {}
    annotations.pop(LAST, None)
    metadata["annotations"] = annotations
    if namespace:
        metadata["namespace"] = namespace
    text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    result = copy.deepcopy(plain)
    result["metadata"]["annotations"] = {**annotations, LAST: text}
    return result


def _last_applied(current: dict[str, Any]) -> dict[str, Any]:
    text = (current["metadata"].get("annotations") or {}).get(LAST, "")
    found: dict[str, Any] = orjson.loads(text) if text else {}
    return found


def _shape(known: Known) -> Any:
    """Return the compiled type of a built-in kind; None for others, which merge as plain JSON."""
    from machinery.api.schema import definitions, shape_of

    resource = known.resource
    wanted = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    for name, raw in definitions().items():
        if wanted in (raw.get("x-kubernetes-group-version-kind") or ()):
            return shape_of(name)
    return None


def three_way(last: dict[str, Any], wanted: dict[str, Any], current: dict[str, Any], known: Known) -> dict[str, Any]:
    """Return the patch that takes away what was said and is no longer, and sets what is said and differs."""
    return _difference(last, wanted, current, _shape(known))


def _difference(last: Any, wanted: dict[str, Any], current: dict[str, Any], shape: Any) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for name, value in wanted.items():
        child = _child(shape, name)
        here = current.get(name)
        before = last.get(name) if isinstance(last, dict) else None
        if isinstance(value, dict) and isinstance(here, dict):
            if inner := _difference(before or {}, value, here, child):
                patch[name] = inner
        elif (
            isinstance(value, list)
            and isinstance(here, list)
            and child is not None
            and child.merges
            and child.merge_key
        ):
            patch.update(_list_difference(name, before or [], value, here, child))
        elif value != here and not (value is None and name not in current):
            patch[name] = value
    for name in last if isinstance(last, dict) else ():
        if name not in wanted and name in current:
            patch[name] = None
    return patch


def _child(shape: Any, name: str) -> Any:
    if shape is None:
        return None
    return shape.items if shape.form == "map" else shape.fields.get(name)


def _list_difference(name: str, last: list[Any], wanted: list[Any], current: list[Any], shape: Any) -> dict[str, Any]:
    key = shape.merge_key
    here = {one.get(key): one for one in current}
    before = {one.get(key): one for one in last}
    changes: list[Any] = []
    for one in wanted:
        present = here.get(one.get(key))
        if present is None:
            changes.append(one)
        elif inner := _difference(before.get(one.get(key)) or {}, one, present, shape.items):
            changes.append({key: one.get(key), **inner})
    said = {one.get(key) for one in wanted}
    changes += [{"$patch": "delete", key: gone} for gone in before if gone not in said and gone in here]
    if not changes:
        return {}
    return {name: changes, f"$setElementOrder/{name}": [{key: one.get(key)} for one in wanted]}
