"""`wherry rollout`: status, restart, undo, history, pause, resume."""

import sys
from typing import Any

import click
import orjson

from cli import options
from cli.commands.change import seconds
from cli.connection import Connection, connect
from cli.resources import Discovery, Target, display_name, targets
from machinery.api.meta import controller_of, now
from machinery.errors import APIError

REVISION, CAUSE = "deployment.kubernetes.io/revision", "kubernetes.io/change-cause"
RESTARTED = "kubectl.kubernetes.io/restartedAt"


@click.group()
def rollout() -> None:
    """Look at, stop and turn back how a deployment is rolled out."""


def _one(words: tuple[str, ...], given: dict[str, Any]) -> tuple[Connection, Target, str]:
    connection = connect(options.split(given))
    target = targets(Discovery(connection), words)[0]
    if target.known.resource.kind != "Deployment":
        raise click.ClickException(f"no status viewer has been implemented for {target.known.resource.kind}")
    return connection, target, given["namespace"] or connection.config.namespace


def status_text(deployment: dict[str, Any]) -> tuple[str, bool]:
    """Return what to tell of a rollout, and whether it is done. Raises: ClickException when it failed."""
    name, spec, status = deployment["metadata"]["name"], deployment["spec"], deployment.get("status") or {}
    if deployment["metadata"].get("generation", 0) > status.get("observedGeneration", 0):
        return "Waiting for deployment spec update to be observed...", False
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            raise click.ClickException(f'deployment "{name}" exceeded its progress deadline')
    wanted, updated = spec.get("replicas", 1), status.get("updatedReplicas", 0)
    head = f'Waiting for deployment "{name}" rollout to finish'
    if updated < wanted:
        return f"{head}: {updated} out of {wanted} new replicas have been updated...", False
    old = status.get("replicas", 0) - updated
    if old > 0:
        return f"{head}: {old} old replicas are pending termination...", False
    available = status.get("availableReplicas", 0)
    if available < updated:
        return f"{head}: {available} of {updated} updated replicas are available...", False
    return f'deployment "{name}" successfully rolled out', True


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
@click.option("-w", "--watch/--no-watch", "watches", default=True)
@click.option("--timeout", "timeout_text", default="0s")
def status(words: tuple[str, ...], watches: bool, timeout_text: str, **given: Any) -> None:
    """Wait until a rollout is done."""
    connection, target, namespace = _one(words, given)
    path = target.known.resource.path(namespace, target.name)
    deployment = connection.json("GET", path)
    text, done = status_text(deployment)
    click.echo(text)
    if done or not watches:
        return
    params = {
        "watch": "true", "fieldSelector": f"metadata.name={target.name}",
        "resourceVersion": deployment["metadata"]["resourceVersion"],
        "timeoutSeconds": int(seconds(timeout_text)) or None,
    }  # fmt: skip
    for line in connection.lines(target.known.resource.path(namespace), params):
        event = orjson.loads(line)
        if event["type"] == "DELETED":
            raise click.ClickException("object has been deleted")
        before = text
        text, done = status_text(event["object"])
        if text != before:
            click.echo(text)
        if done:
            return
    raise click.ClickException("timed out waiting for the condition")


def _patch(connection: Connection, target: Target, namespace: str, body: Any, what: str) -> None:
    path = target.known.resource.path(namespace, target.name)
    connection.json("PATCH", path, body=body, content_type="application/strategic-merge-patch+json")
    click.echo(f"{display_name(target.known.resource, target.name)} {what}")


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
def restart(words: tuple[str, ...], **given: Any) -> None:
    """Replace all pods by fresh ones, a few at a time."""
    connection, target, namespace = _one(words, given)
    template = {"metadata": {"annotations": {RESTARTED: now()}}}
    _patch(connection, target, namespace, {"spec": {"template": template}}, "restarted")


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
def pause(words: tuple[str, ...], **given: Any) -> None:
    """Stop rolling out for now."""
    connection, target, namespace = _one(words, given)
    _patch(connection, target, namespace, {"spec": {"paused": True}}, "paused")


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
def resume(words: tuple[str, ...], **given: Any) -> None:
    """Go on rolling out."""
    connection, target, namespace = _one(words, given)
    _patch(connection, target, namespace, {"spec": {"paused": None}}, "resumed")


def _revisions(connection: Connection, target: Target, namespace: str) -> dict[int, dict[str, Any]]:
    """Return the deployment's replica sets by revision."""
    uid = connection.json("GET", target.known.resource.path(namespace, target.name))["metadata"]["uid"]
    found = connection.json("GET", f"/apis/apps/v1/namespaces/{namespace}/replicasets")["items"]
    mine = [one for one in found if (owner := controller_of(one)) is not None and owner["uid"] == uid]
    return {int((one["metadata"].get("annotations") or {}).get(REVISION, 0)): one for one in mine}


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
def history(words: tuple[str, ...], **given: Any) -> None:
    """List the revisions."""
    from cli.printers import rows_text

    connection, target, namespace = _one(words, given)
    revisions = _revisions(connection, target, namespace)
    rows = [
        [str(number), (one["metadata"].get("annotations") or {}).get(CAUSE, "<none>")]
        for number, one in sorted(revisions.items())
    ]
    click.echo(display_name(target.known.resource, target.name))
    click.echo(rows_text(["REVISION", "CHANGE-CAUSE"], rows) + "\n")


@rollout.command()
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
@click.option("--to-revision", default=0, help="The one before the last by default.")
def undo(words: tuple[str, ...], to_revision: int, **given: Any) -> None:
    """Go back to an earlier revision."""
    connection, target, namespace = _one(words, given)
    revisions = _revisions(connection, target, namespace)
    numbers = sorted(revisions)
    wanted = to_revision or (numbers[-2] if len(numbers) > 1 else 0)
    if wanted not in revisions:
        raise click.ClickException(
            f"unable to find specified revision {wanted} in history" if to_revision
            else f'no rollout history found for deployment "{target.name}"'
        )  # fmt: skip
    template = revisions[wanted]["spec"]["template"]
    (template["metadata"].get("labels") or {}).pop("pod-template-hash", None)
    path = target.known.resource.path(namespace, target.name)
    patch = [{"op": "replace", "path": "/spec/template", "value": template}]
    try:
        connection.json("PATCH", path, body=patch, content_type="application/json-patch+json")
    except APIError as error:
        click.echo(f"Error from server ({error.reason}): {error}", err=True)
        sys.exit(1)
    click.echo(f"{display_name(target.known.resource, target.name)} rolled back")
