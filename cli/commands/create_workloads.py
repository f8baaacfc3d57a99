"""`wherry create deployment|job|cronjob|poddisruptionbudget|priorityclass|quota`."""

from collections.abc import Sequence
from typing import Any

import click

from cli.framework import verb
from cli.making import make, making_options
from cli.session import Session


def container_name(image: str) -> str:
    """Return the name kubectl gives to the container of an image."""
    return image.rpartition("/")[2].partition(":")[0].partition("@")[0]


@verb()
@click.argument("words", nargs=-1, required=True)
@making_options
@click.option("--image", "images", multiple=True, help="The image; may be given several times.")
@click.option("-r", "--replicas", default=1, show_default=True)
@click.option("--port", default=-1, help="The port the containers listen at.")
def deployment(words: Sequence[str], images: Sequence[str], replicas: int, port: int, **given: Any) -> None:
    """Create a deployment: NAME --image=IMAGE [-- COMMAND ARGS]."""
    name, *command = words
    all_images = [image for text in images for image in text.split(",")]
    if not all_images:
        raise click.ClickException('required flag(s) "image" not set')
    if command and len(all_images) > 1:
        raise click.ClickException("cannot specify multiple --image options and command")
    containers = []
    for image in all_images:
        container: dict[str, Any] = {"image": image, "name": container_name(image), "resources": {}}
        if command:
            container["command"] = command
        if port >= 0:
            container["ports"] = [{"containerPort": port}]
        containers.append(container)
    labels = {"app": name}
    spec = {
        "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": {},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    }  # fmt: skip
    metadata = {"name": name, "labels": labels}
    make(
        Session(given),
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec, "status": {}},
        given,
    )


@verb()
@click.argument("words", nargs=-1, required=True)
@making_options
@click.option("--image", default="")
@click.option("--from", "source", default="", help="cronjob/NAME to run now.")
def job(words: Sequence[str], image: str, source: str, **given: Any) -> None:
    """Create a job: NAME --image=IMAGE [-- COMMAND ARGS], or NAME --from=cronjob/NAME."""
    name, *command = words
    if bool(image) == bool(source):
        raise click.ClickException("either --image or --from must be specified")
    session = Session(given)
    if source:
        make(session, _from_cron_job(session, name, source), given)
        return
    container: dict[str, Any] = {"name": name, "image": image, "resources": {}}
    if command:
        container["command"] = command
    template = {"metadata": {}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    obj = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template},
        "status": {},
    }
    make(session, obj, given)


def _from_cron_job(session: Session, name: str, source: str) -> dict[str, Any]:
    kind, _, whose = source.partition("/")
    known = session.discovery.find(kind)
    if known.resource.kind != "CronJob":
        raise click.ClickException(f"from must be an existing cronjob, not {source}")
    cron = session.connection.json("GET", known.resource.path(session.namespace, whose))
    template = cron["spec"]["jobTemplate"]
    metadata = template.get("metadata") or {}
    owner = {
        "apiVersion": "batch/v1", "kind": "CronJob", "name": whose, "uid": cron["metadata"]["uid"], "controller": True,
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"],
        "metadata": {
            "name": name, "ownerReferences": [owner], "labels": metadata.get("labels") or {},
            "annotations": {**(metadata.get("annotations") or {}), "cronjob.kubernetes.io/instantiate": "manual"},
        },
    }  # fmt: skip


@verb()
@click.argument("words", nargs=-1, required=True)
@making_options
@click.option("--image", required=True)
@click.option("--schedule", required=True)
@click.option("--restart", default="OnFailure")
def cronjob(words: Sequence[str], image: str, schedule: str, restart: str, **given: Any) -> None:
    """Create a cron job: NAME --image=IMAGE --schedule='0/5 * * * ?' [-- COMMAND ARGS]."""
    name, *command = words
    container: dict[str, Any] = {"name": name, "image": image, "resources": {}}
    if command:
        container["command"] = command
    pod = {"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}}
    spec = {"jobTemplate": {"metadata": {"name": name}, "spec": {"template": pod}}, "schedule": schedule}
    make(
        Session(given),
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec, "status": {}},
        given,
    )


def _number_or_share(text: str) -> int | str:
    return int(text) if text.isdigit() else text


@verb()
@click.argument("name")
@making_options
@click.option("--selector", required=True)
@click.option("--min-available", default="")
@click.option("--max-unavailable", default="")
def poddisruptionbudget(name: str, selector: str, min_available: str, max_unavailable: str, **given: Any) -> None:
    """Create a budget of pods that may be away."""
    if bool(min_available) == bool(max_unavailable):
        raise click.ClickException("one of min-available or max-unavailable must be specified")
    labels = dict(pair.split("=", 1) for pair in selector.split(","))
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}}
    if min_available:
        spec["minAvailable"] = _number_or_share(min_available)
    else:
        spec["maxUnavailable"] = _number_or_share(max_unavailable)
    obj = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": spec,
        "status": {},
    }
    make(Session(given), obj, given)


@verb()
@click.argument("name")
@making_options
@click.option("--value", default=0)
@click.option("--global-default", is_flag=True)
@click.option("--description", default="")
@click.option("--preemption-policy", default="PreemptLowerPriority")
def priorityclass(
    name: str, value: int, global_default: bool, description: str, preemption_policy: str, **given: Any
) -> None:
    """Create a priority class."""
    obj = {
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        "preemptionPolicy": preemption_policy,
    }  # fmt: skip
    obj |= ({"globalDefault": True} if global_default else {}) | ({"description": description} if description else {})
    make(Session(given), obj, given)


@verb()
@click.argument("name")
@making_options
@click.option("--hard", default="", help="cpu=1,memory=1G,pods=2 …")
@click.option("--scopes", default="")
def quota(name: str, hard: str, scopes: str, **given: Any) -> None:
    """Create a quota."""
    spec: dict[str, Any] = {}
    if hard:
        spec["hard"] = dict(pair.split("=", 1) for pair in hard.split(","))
    if scopes:
        spec["scopes"] = scopes.split(",")
    obj = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec, "status": {}}
    make(Session(given), obj, given)
