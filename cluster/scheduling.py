"""`wherry why` and `wherry simulate`: the scheduler's own rules, applied to what the API lists.

They run here and not in the scheduler, with the rights of who asks: they change nothing, need no endpoint, and also
answer when no scheduler runs, or for a cluster that is not ours.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.connection import Connection, connect
from machinery.api.meta import Resource
from machinery.errors import AlreadyExists, Forbidden, NotFound

scheduler_config = click.option(
    "--scheduler-config", type=click.Path(exists=True, path_type=Path),
    help="The KubeSchedulerConfiguration the scheduler runs with.",
)  # fmt: skip


@click.command()
@click.argument("pod")
@options.connected
@options.namespaced
@scheduler_config
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def why(pod: str, namespace: str, scheduler_config: Path | None, output: str, **given: Any) -> None:
    """Tell why POD is where it is, or why it is nowhere, and what would help."""
    connection = connect(options.split(given))
    from scheduler.explain import explain
    from scheduler.schedule_one import Chooser
    from scheduler.snapshot import Snapshot

    snapshot = Snapshot(lambda resource: _list_all(connection, resource))
    name = pod.removeprefix("pods/").removeprefix("pod/").removeprefix("po/")
    where = namespace or connection.config.namespace
    found = snapshot.pods.get((where, name))
    if found is None:
        raise NotFound(f'pods "{name}" not found')
    profile = _profiles(scheduler_config).get(found.scheduler)
    if profile is None:
        raise click.ClickException(f"no profile is known for the scheduler {found.scheduler}")
    answer = explain(Chooser(snapshot.table, profile, snapshot.cluster), snapshot.table, found)
    click.echo(json.dumps(answer, indent=2) if output == "json" else "\n".join(_told(answer)))


@click.command()
@options.connected
@options.namespaced
@options.files
@options.recursive
@scheduler_config
@click.option("--replicas", type=int, help="Place so many instead of what the manifests say.")
@click.option("--like", default="", help="Add copies of this node as the pods need them.")
@click.option("--nodes", default=0, help="Add so many copies of the node at once.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def simulate(filenames: Sequence[str], recursive: bool, like: str, nodes: int, output: str, **given: Any) -> None:
    """Tell where the pods of some manifests would go, without making them."""
    if nodes and not like:
        raise click.UsageError("--nodes needs --like NODE: what are they to be like?")
    connection = connect(options.split(given))
    from cli import manifests
    from scheduler.simulate import simulate
    from scheduler.snapshot import Snapshot
    from scheduler.thought import InThought

    namespace = given["namespace"] or connection.config.namespace
    thought = InThought(lambda resource: _list_all(connection, resource), namespace)
    objects = [obj for _, obj in manifests.read(filenames, recursive=recursive)]
    for obj in objects:
        thought.take(obj)
    pods: list[dict[str, Any]] = []
    for obj in objects:
        made = thought.pods_of(obj, given["replicas"])
        pods += thought.completed(obj, _as_admitted(connection, made)) if made else []
    if not pods:
        raise click.ClickException("nothing in the manifests makes pods")
    thought.settle()
    profile = next(iter(_profiles(given["scheduler_config"]).values()))
    try:
        answer = simulate(Snapshot(thought.listed), profile, pods, like=like, more=nodes)
    except KeyError as error:
        raise NotFound(f'nodes "{like}" not found') from error
    click.echo(json.dumps(answer, indent=2) if output == "json" else "\n".join(_simulated(answer, like)))
    sys.exit(1 if answer["failed"] else 0)


def _as_admitted(connection: Connection, pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return pods as the server would store them: with defaults, priorities, and what admission adds.

    It is asked about the first in a dry run; who may not create pods has to do with what the manifest says.
    """
    first = pods[0]
    metadata = {name: value for name, value in first["metadata"].items() if name not in ("uid", "ownerReferences")}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods"
    body = json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": first["spec"]}).encode()
    try:
        spec = json.loads(connection.request("POST", path, params={"dryRun": "All"}, body=body))["spec"]
    except (Forbidden, NotFound, AlreadyExists):
        return pods
    return [{**pod, "spec": spec} for pod in pods]


def _profiles(path: Path | None) -> dict[str, Any]:
    from scheduler.config import default_config, read_config

    config = read_config(path) if path is not None else default_config()
    return {one.name: one for one in config.profiles}


def _list_all(connection: Connection, resource: Resource) -> Iterable[dict[str, Any]]:
    try:
        items: list[dict[str, Any]] = connection.json("GET", resource.path())["items"]
    except (NotFound, Forbidden):
        return []  # what the cluster does not have, or we may not see, plays no part
    return items


def _told(answer: dict[str, Any]) -> list[str]:
    total, fits = answer["nodes"], answer["fits"]
    where = f"is on {answer['node']}" if answer["node"] else "is on no node"
    lines = [f"{answer['pod']} {where}; {fits} of {total} nodes would take it"]
    if answer["waits"]:
        lines.append(f"it is not tried yet: {answer['waits']}")
    if answer["message"]:
        lines.append(answer["message"])
    if answer["rejected"]:
        lines += ["", "Rejected by"]
        for one in answer["rejected"]:
            named = ", ".join(one["nodes"]) + (" …" if one["count"] > len(one["nodes"]) else "")
            lines.append(f"  {one['plugin']:<20} {one['count']:>5}  {one['reason']}: {named}")
    if answer.get("best"):
        lines += ["", "Best nodes"]
        for one in answer["best"]:
            scores = ", ".join(f"{name} {score}" for name, score in one["scores"].items())
            mark = "*" if one["node"] == answer["node"] else " "
            lines.append(f" {mark}{one['place']:>3}. {one['node']:<24} {one['total']:>5}  {scores}")
    if answer.get("changes"):
        lines += ["", "What would help", *(f"  {change}" for change in answer["changes"])]
    return lines


def _simulated(answer: dict[str, Any], like: str) -> list[str]:
    lines = [f"{len(answer['placed'])} of {len(answer['placed']) + len(answer['failed'])} pods would be placed"]
    lines += [f"  {name:<32} {number}" for name, number in answer["by_node"].items()]
    if answer["nodes_added"]:
        lines.append(f"{answer['nodes_added']} more nodes like {like} would be needed")
    reasons: dict[str, int] = {}
    for _, reason in answer["failed"]:
        reasons[reason] = reasons.get(reason, 0) + 1
    lines += [f"{number} would wait: {reason}" for reason, number in reasons.items()]
    return lines
