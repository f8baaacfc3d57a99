"""`wherry rollout`: status, restart, undo, history, pause, resume."""

from typing import Any

import click

from cli import options
from cli.deleting import FOREVER_SECONDS
from cli.durations import seconds
from cli.framework import verb_group
from cli.making import tell
from cli.selection import JSON_PATCH, STRATEGIC, Selected, act
from cli.session import Session, leave
from cli.watching import watch_one
from machinery.api.meta import controller_of, now

REVISION, CAUSE = "deployment.kubernetes.io/revision", "kubernetes.io/change-cause"
RESTARTED = "kubectl.kubernetes.io/restartedAt"
Object = dict[str, Any]


@verb_group()
def rollout() -> None:
    """Look at, stop and turn back how workloads are rolled out."""


def _shared(command: Any) -> Any:
    for option in (
        click.argument("words", nargs=-1), options.connected, options.namespaced, options.files, options.kustomize,
        options.recursive, options.selected, options.field_manager,
    ):  # fmt: skip
        command = option(command)
    return command


def _deployment_status(obj: Object) -> tuple[str, bool]:
    name, spec, status = obj["metadata"]["name"], obj["spec"], obj.get("status") or {}
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


def _daemon_set_status(obj: Object) -> tuple[str, bool]:
    name, status = obj["metadata"]["name"], obj.get("status") or {}
    if (obj["spec"].get("updateStrategy") or {}).get("type") != "RollingUpdate":
        raise click.ClickException("rollout status is only available for RollingUpdate strategy type")
    wanted, updated = status.get("desiredNumberScheduled", 0), status.get("updatedNumberScheduled", 0)
    head = f'Waiting for daemon set "{name}" rollout to finish'
    if updated < wanted:
        return f"{head}: {updated} out of {wanted} new pods have been updated...", False
    available = status.get("numberAvailable", 0)
    if available < wanted:
        return f"{head}: {available} of {wanted} updated pods are available...", False
    return f'daemon set "{name}" successfully rolled out', True


def _stateful_set_status(obj: Object) -> tuple[str, bool]:
    spec, status = obj["spec"], obj.get("status") or {}
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") != "RollingUpdate":
        raise click.ClickException("rollout status is only available for RollingUpdate strategy type")
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    if ready < wanted:
        return f"Waiting for {wanted - ready} pods to be ready...", False
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    updated = status.get("updatedReplicas", 0)
    if partition:
        if updated < wanted - partition:
            part = wanted - partition
            return (
                f"Waiting for partitioned roll out to finish: {updated} out of {part} new pods have been updated...",
                False,
            )
        return f"partitioned roll out complete: {updated} new pods have been updated...", True
    if status.get("updateRevision") != status.get("currentRevision"):
        revision = status.get("updateRevision")
        return f"waiting for statefulset rolling update to complete {updated} pods at revision {revision}...", False
    count, current = status.get("currentReplicas", 0), status.get("currentRevision")
    return f"statefulset rolling update complete {count} pods at revision {current}...", True


_VIEWERS = {"Deployment": _deployment_status, "DaemonSet": _daemon_set_status, "StatefulSet": _stateful_set_status}


def status_text(obj: Object, kind: str = "Deployment") -> tuple[str, bool]:
    """Return what to tell of a rollout, and whether it is done. Raises: ClickException when it failed."""
    if obj["metadata"].get("generation", 0) > (obj.get("status") or {}).get("observedGeneration", 0):
        whose = {"Deployment": "deployment", "DaemonSet": "daemon set", "StatefulSet": "statefulset"}[kind]
        return f"Waiting for {whose} spec update to be observed...", False
    return _VIEWERS[kind](obj)


@rollout.command()
@_shared
@click.option("-w", "--watch/--no-watch", "watches", default=True)
@click.option("--timeout", "timeout_text", default="0s")
@click.option("--revision", default=0)
def status(words: tuple[str, ...], watches: bool, timeout_text: str, revision: int, **given: Any) -> None:
    """Wait until a rollout is done."""
    session = Session(given)
    limit = seconds(timeout_text) or FOREVER_SECONDS

    def one_by_one(one: Selected) -> None:
        kind = one.known.resource.kind
        if kind not in _VIEWERS:
            raise click.ClickException(f"no status viewer has been implemented for {kind}")
        told = ""
        for obj in watch_one(session, one, limit):
            if obj is None:
                if told:
                    raise click.ClickException("object has been deleted")
                one.read(session)
                continue
            text, done = status_text(obj, kind)
            if text != told:
                click.echo(text)
                told = text
            if done or not watches:
                return
        raise click.ClickException("timed out waiting for the condition")

    leave(act(session, words, given, one_by_one))


def _printed(command: Any) -> Any:
    for option in (options.output, options.templated, options.show_managed_fields):
        command = option(command)
    return _shared(command)


def _patch_all(words: tuple[str, ...], given: Object, body: Any, what: str, kinds: tuple[str, ...]) -> None:
    session = Session(given)

    def one_by_one(one: Selected) -> None:
        if one.known.resource.kind not in kinds:
            raise click.ClickException(f"{one.known.resource.plural} {one.name!r} is not supported".replace("'", '"'))
        obj = one.read(session)
        if what in ("paused", "resumed") and bool(obj["spec"].get("paused")) == (what == "paused"):
            raise click.ClickException(
                f"{one.known.resource.group_resource} {one.name!r} is {'already paused' if what == 'paused' else 'not paused'}".replace(
                    "'", '"'
                )
            )
        if what == "restarted" and obj["spec"].get("paused"):
            raise click.ClickException("can't restart paused deployment (run rollout resume first)")
        one.patch(session, body, STRATEGIC, fieldManager=given["field_manager"] or "kubectl-rollout")
        tell(one.known.resource, one.read(session), what, given)

    leave(act(session, words, given, one_by_one))


@rollout.command()
@_printed
def restart(words: tuple[str, ...], **given: Any) -> None:
    """Replace all pods by fresh ones, a few at a time."""
    body = {"spec": {"template": {"metadata": {"annotations": {RESTARTED: now()}}}}}
    _patch_all(words, given, body, "restarted", tuple(_VIEWERS))


@rollout.command()
@_printed
def pause(words: tuple[str, ...], **given: Any) -> None:
    """Stop rolling out for now."""
    _patch_all(words, given, {"spec": {"paused": True}}, "paused", ("Deployment",))


@rollout.command()
@_printed
def resume(words: tuple[str, ...], **given: Any) -> None:
    """Go on rolling out."""
    _patch_all(words, given, {"spec": {"paused": None}}, "resumed", ("Deployment",))


def revisions(session: Session, one: Selected) -> dict[int, Object]:
    """Return the pod templates of a workload's revisions, each as {"template", "cause"}. Raises: APIError."""
    kind = one.known.resource.kind
    uid = one.read(session)["metadata"]["uid"]
    plural = "replicasets" if kind == "Deployment" else "controllerrevisions"
    found = session.connection.json("GET", f"/apis/apps/v1/namespaces/{one.namespace}/{plural}")["items"]
    result: dict[int, Object] = {}
    for obj in found:
        owner = controller_of(obj)
        if owner is None or owner["uid"] != uid:
            continue
        annotations = obj["metadata"].get("annotations") or {}
        if kind == "Deployment":
            number, template = int(annotations.get(REVISION, 0)), obj["spec"]["template"]
        else:
            number, template = int(obj["revision"]), obj["data"]["spec"]["template"]
        result[number] = {"template": template, "cause": annotations.get(CAUSE, "<none>")}
    return result


def _with_history(one: Selected) -> None:
    if one.known.resource.kind not in _VIEWERS:
        raise click.ClickException(f"no history viewer has been implemented for {one.known.resource.kind}")


@rollout.command()
@_shared
@options.output
@click.option("--revision", default=0, help="Show this one at length.")
def history(words: tuple[str, ...], revision: int, output: str, **given: Any) -> None:
    """List the revisions."""
    session = Session(given)

    def one_by_one(one: Selected) -> None:
        _with_history(one)
        found = revisions(session, one)
        if revision and revision not in found:
            raise click.ClickException("unable to find the specified revision")
        if output:
            from cli.printers import print_objects

            number = revision or max(found)
            template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, **found[number]["template"]}
            print_objects([template], output, single=True)
        elif revision:
            from cli.describing.pods import template_lines

            click.echo(f"{one.shown} with revision #{revision}")
            click.echo(template_lines(found[revision]["template"]))
        else:
            click.echo(f"{one.shown} ")
            lines = [
                "REVISION  CHANGE-CAUSE",
                *(f"{number:<8}  {entry['cause']}" for number, entry in sorted(found.items())),
            ]
            click.echo("\n".join(lines) + "\n")

    leave(act(session, words, given, one_by_one))


@rollout.command()
@_printed
@options.dry_run
@click.option("--to-revision", default=0, help="The one before the last by default.")
def undo(words: tuple[str, ...], to_revision: int, **given: Any) -> None:
    """Go back to an earlier revision."""
    session = Session(given)

    def one_by_one(one: Selected) -> None:
        _with_history(one)
        obj = one.read(session)
        if obj["spec"].get("paused"):
            raise click.ClickException(
                f"you cannot rollback a paused deployment; resume it first with 'wherry rollout resume {one.shown}' and try again"
            )
        found = revisions(session, one)
        numbers = sorted(found)
        wanted = to_revision or (numbers[-2] if len(numbers) > 1 else 0)
        if wanted not in found:
            raise click.ClickException(
                f"unable to find specified revision {wanted} in history" if to_revision
                else f'no rollout history found for {one.known.resource.kind.lower()} "{one.name}"'
            )  # fmt: skip
        template = found[wanted]["template"]
        (template["metadata"].get("labels") or {}).pop("pod-template-hash", None)
        template.pop("$patch", None)
        same = template == obj["spec"]["template"]
        answer = obj if same else {**obj, "spec": {**obj["spec"], "template": template}}
        if not same and given["dry_run"] != "client":
            params = {
                "fieldManager": given["field_manager"] or "kubectl-rollout",
                "dryRun": "All" if given["dry_run"] == "server" else None,
            }  # fmt: skip
            patch = [{"op": "replace", "path": "/spec/template", "value": template}]
            answer = one.patch(session, patch, JSON_PATCH, **params)
        word = f"skipped rollback (current template already matches revision {wanted})" if same else "rolled back"
        tell(one.known.resource, answer, word, given)

    leave(act(session, words, given, one_by_one))
