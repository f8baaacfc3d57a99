"""`wherry create`, `delete` and `scale`."""

import base64
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from cli import manifests, options
from cli.connection import Connection, connect
from cli.printers import print_objects
from cli.resources import Discovery, Target, display_name, targets
from machinery.errors import APIError, NotFound

_SUFFIXES = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


def _report(error: APIError) -> None:
    click.echo(f"Error from server ({error.reason}): {error}", err=True)


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@options.recursive
@options.dry_run
@options.output
@click.option("--from-literal", multiple=True, help="KEY=VALUE, for a configmap or secret.")
@click.option("--from-file", multiple=True, help="[KEY=]PATH, for a configmap or secret.")
@click.option("--image", "images", multiple=True, help="For a deployment.")
@click.option("--replicas", default=1, help="For a deployment.")
@click.option("--port", default=0, help="For a deployment.")
@click.option("--type", "secret_type", default="", help="For a secret.")
def create(words: Sequence[str], filenames: Sequence[str], recursive: bool, **given: Any) -> None:
    """Create objects from files, or one from arguments (namespace, configmap, secret generic, deployment, sa)."""
    connection = connect(options.split(given))
    discovery = Discovery(connection)
    objects = [_generated(words, given)] if words else manifests.read(filenames, recursive=recursive)
    failed = False
    for obj in objects:
        known = discovery.of_kind(obj["apiVersion"], obj["kind"])
        metadata = obj.setdefault("metadata", {})
        namespace = metadata.get("namespace") or given["namespace"] or connection.config.namespace
        params = {"fieldValidation": "Strict", "fieldManager": "kubectl-create"}
        if given["dry_run"] == "server":
            params["dryRun"] = "All"
        try:
            made = obj
            if given["dry_run"] != "client":
                made = connection.json("POST", known.resource.path(namespace), params=params, body=obj)
        except APIError as error:
            _report(error)
            failed = True
            continue
        if given["output"]:
            print_objects([made], given["output"], single=True)
        else:
            name = display_name(known.resource, made["metadata"].get("name", ""))
            click.echo(f"{name} created{_SUFFIXES[given['dry_run']]}")
    sys.exit(1 if failed else 0)


def _generated(words: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    kind, *rest = words
    if kind == "secret" and rest and rest.pop(0) != "generic":
        raise click.UsageError("only generic secrets can be made from arguments")
    if len(rest) != 1:
        raise click.ClickException(f"exactly one NAME is required, got {len(rest)}")
    metadata = {"name": rest[0]}
    match kind:
        case "namespace" | "ns":
            return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        case "serviceaccount" | "sa":
            return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
        case "configmap" | "cm":
            data = {key: value.decode() for key, value in _data(given).items()}
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **({"data": data} if data else {})}
        case "secret":
            data = {key: base64.b64encode(value).decode() for key, value in _data(given).items()}
            kind_of = {"type": given["secret_type"]} if given["secret_type"] else {}
            return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data, **kind_of}
        case "deployment" | "deploy":
            return _deployment(rest[0], given)
    raise click.ClickException(f'unknown command "{kind}": give a file with -f')


def _data(given: dict[str, Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for text in given["from_literal"]:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.ClickException(f"invalid literal source {text}, expected key=value")
        found[key] = value.encode()
    for text in given["from_file"]:
        key, equals, path = text.rpartition("=")
        file = Path(path)
        if not file.exists():
            raise click.ClickException(f"error reading {path}: no such file or directory")
        if file.is_dir():
            found.update({one.name: one.read_bytes() for one in sorted(file.iterdir()) if one.is_file()})
        else:
            found[key if equals else file.name] = file.read_bytes()
    return found


def _deployment(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if not given["images"]:
        raise click.ClickException('required flag(s) "image" not set')
    labels = {"app": name}
    ports = {"ports": [{"containerPort": given["port"]}]} if given["port"] else {}
    containers = [
        {"name": image.rpartition("/")[2].partition(":")[0].partition("@")[0], "image": image, **ports}
        for image in given["images"]
    ]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    spec = {"replicas": given["replicas"], "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": spec}


@click.command()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.files
@options.recursive
@options.dry_run
@options.output
@click.option("--field-selector", default="")
@click.option("--all", "everything", is_flag=True, help="All objects of the kind.")
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("--grace-period", default=-1, help="Seconds for the objects to end.")
@click.option("--now", is_flag=True, help="As --grace-period=1.")
@click.option("--force", is_flag=True, help="Do not wait for anyone: grace period 0.")
@click.option("--cascade", type=click.Choice(["background", "foreground", "orphan"]), default="background")
@click.option("--wait/--no-wait", default=True, help="Return when the objects are gone.")
@click.option("--timeout", "timeout_text", default="0s")
@click.option("--ignore-not-found", is_flag=True)
def delete(words: Sequence[str], filenames: Sequence[str], recursive: bool, **given: Any) -> None:
    """Delete objects."""
    connection = connect(options.split(given))
    discovery = Discovery(connection)
    namespace = given["namespace"] or connection.config.namespace
    found: list[tuple[Target, str]] = []
    if filenames:
        for obj in manifests.read(filenames, recursive=recursive):
            target = Target(discovery.of_kind(obj["apiVersion"], obj["kind"]), obj["metadata"]["name"])
            found.append((target, obj["metadata"].get("namespace") or namespace))
    else:
        for target in targets(discovery, words):
            found += [(target, namespace)] if target.name else _selected(connection, target, namespace, given)
    failed = _delete_all(connection, found, given)
    if not found and not failed:
        click.echo("No resources found", err=True)
    sys.exit(1 if failed else 0)


def _selected(
    connection: Connection, target: Target, namespace: str, given: dict[str, Any]
) -> list[tuple[Target, str]]:
    if not (given["everything"] or given["selector"] or given["field_selector"]):
        raise click.ClickException("resource(s) were provided, but no name was specified")
    params = {"labelSelector": given["selector"], "fieldSelector": given["field_selector"]}
    path = target.known.resource.path("" if given["all_namespaces"] else namespace)
    items = connection.json("GET", path, params=params)["items"]
    return [(Target(target.known, one["metadata"]["name"]), one["metadata"].get("namespace", "")) for one in items]


def _delete_all(connection: Connection, found: list[tuple[Target, str]], given: dict[str, Any]) -> bool:
    body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": given["cascade"].title()}
    grace = 0 if given["force"] else 1 if given["now"] else given["grace_period"]
    if grace >= 0:
        body["gracePeriodSeconds"] = grace
    if given["force"]:
        click.echo(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. "
            "The resource may continue to run on the cluster indefinitely.", err=True,
        )  # fmt: skip
    failed = False
    going: list[tuple[str, str]] = []
    for target, namespace in found:
        path = target.known.resource.path(namespace, target.name)
        params = {"dryRun": "All"} if given["dry_run"] == "server" else {}
        try:
            answer = connection.json("DELETE", path, body=body, params=params) if given["dry_run"] != "client" else {}
        except NotFound as error:
            if not given["ignore_not_found"]:
                _report(error)
                failed = True
            continue
        except APIError as error:
            _report(error)
            failed = True
            continue
        kind = display_name(target.known.resource, "").rstrip("/")
        force = "force deleted" if given["force"] else "deleted"
        click.echo(
            display_name(target.known.resource, target.name) if given["output"] == "name"
            else f'{kind} "{target.name}" {force}{_SUFFIXES[given["dry_run"]]}'
        )  # fmt: skip
        details, metadata = answer.get("details") or {}, answer.get("metadata") or {}
        going.append((path, metadata.get("uid") or details.get("uid", "")))
    if given["wait"] and given["dry_run"] == "none" and not given["force"]:
        failed |= not _wait_gone(connection, going, seconds(given["timeout_text"]))
    return failed


def _wait_gone(connection: Connection, going: list[tuple[str, str]], limit: float) -> bool:
    """Watch each object until it is gone, or another has its name."""
    deadline = time.monotonic() + (limit or 7 * 24 * 3600)
    for path, uid in going:
        collection, _, name = path.rpartition("/")
        try:
            present = connection.json("GET", path)
        except NotFound:
            continue
        if present["metadata"]["uid"] != uid:
            continue
        left = max(int(deadline - time.monotonic()), 1)
        params = {
            "watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": left,
            "resourceVersion": present["metadata"]["resourceVersion"],
        }  # fmt: skip
        if not any(orjson.loads(line)["type"] == "DELETED" for line in connection.lines(collection, params)):
            click.echo(f"error: timed out waiting for the condition on {name}", err=True)
            return False
    return True


def seconds(text: str) -> float:
    """Read a duration such as 30s, 5m, 1h30m or a number of seconds. Raises: ClickException."""
    import re

    if text.isdigit():
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise click.ClickException(f'invalid argument "{text}" for a duration')
    return float(sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts))


@click.command()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@click.option("--replicas", type=int, required=True)
@click.option("--current-replicas", type=int, default=-1)
def scale(words: Sequence[str], filenames: Sequence[str], replicas: int, current_replicas: int, **given: Any) -> None:
    """Set how many replicas there are to be."""
    connection = connect(options.split(given))
    discovery = Discovery(connection)
    namespace = given["namespace"] or connection.config.namespace
    if filenames:
        found = [
            Target(discovery.of_kind(obj["apiVersion"], obj["kind"]), obj["metadata"]["name"])
            for obj in manifests.read(filenames)
        ]
    else:
        found = targets(discovery, words)
    failed = False
    for target in found:
        path = target.known.resource.path(namespace, target.name, "scale")
        try:
            if current_replicas >= 0:
                present = connection.json("GET", path)["spec"].get("replicas", 0)
                if present != current_replicas:
                    raise click.ClickException(f"Expected replicas to be {current_replicas}, was {present}")
            body = {"spec": {"replicas": replicas}}
            connection.json("PATCH", path, body=body, content_type="application/merge-patch+json")
            click.echo(f"{display_name(target.known.resource, target.name)} scaled")
        except APIError as error:
            _report(error)
            failed = True
    sys.exit(1 if failed else 0)
