"""Docker's verbs for containers: ps, stop, kill, start, restart, rm, port, stats, system."""

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from cli import options
from cli.containers.formatting import formatted
from cli.containers.listing import HEADERS, fields, row
from cli.containers.naming import REMOVE, SPEC, DockerError, Pod, all_containers, find_container, pod_id, state_of
from cli.framework import verb, verb_group
from cli.printers import rows_text
from cli.selection import MERGE, Selected
from cli.session import Session
from cli.streaming import StreamRequest, capture
from cli.watching import watch_one
from machinery.errors import APIError, NotFound

_END_SECONDS = 120.0


def _sweep(session: Session, pods: Sequence[Pod]) -> list[Pod]:
    """Remove those that were to go when they end, and return the others."""
    kept = []
    for pod in pods:
        if (pod["metadata"].get("labels") or {}).get(REMOVE) and state_of(pod) == "exited":
            _delete(session, pod, grace=0)
        else:
            kept.append(pod)
    return kept


def _delete(session: Session, pod: Pod, *, grace: int) -> None:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    session.connection.json("DELETE", path, body={"gracePeriodSeconds": grace})


@verb()
@options.reachable
@options.in_namespace
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended too.")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--no-trunc", is_flag=True)
@click.option("-n", "--last", default=-1)
@click.option("-l", "--latest", is_flag=True)
@click.option("-f", "--filter", "filters", multiple=True, help="name=, status=, label=, ancestor=.")
@click.option("--format", "template", default="")
@click.option("-s", "--size", is_flag=True, hidden=True)
def ps(everything: bool, quiet: bool, no_trunc: bool, last: int, latest: bool, **given: Any) -> None:
    """List containers."""
    session = Session(given)
    found = _sweep(session, all_containers(session))
    asked = [text for text in given["filters"] if text.startswith("status=")]
    if not (everything or last > 0 or latest or asked):
        found = [pod for pod in found if state_of(pod) in ("running", "restarting")]
    found = [pod for pod in found if all(_passes(pod, text) for text in given["filters"])]
    found = found[:1] if latest else found[:last] if last > 0 else found
    if quiet:
        for pod in found:
            click.echo(row(pod, whole=no_trunc)[0])
    elif given["template"]:
        if text := formatted(given["template"], [fields(pod, whole=no_trunc) for pod in found], {"Names": "NAMES"}):
            click.echo(text)
    else:
        click.echo(rows_text(HEADERS, [row(pod, whole=no_trunc) for pod in found]))


def _passes(pod: Pod, text: str) -> bool:
    key, _, value = text.partition("=")
    match key:
        case "name":
            return value in pod["metadata"]["name"]
        case "status":
            return state_of(pod) == value
        case "ancestor":
            return value in pod["spec"]["containers"][0]["image"]
        case "label":
            name, _, wanted = value.partition("=")
            found = {**(pod["metadata"].get("labels") or {})}
            found |= {
                k.removeprefix("label.wherry.dev/"): v for k, v in (pod["metadata"].get("annotations") or {}).items()
            }
            return name in found and (not wanted or found[name] == wanted)
    raise DockerError(f"invalid filter '{key}'")


def _each(session: Session, names: Sequence[str], action: Callable[[Pod], None]) -> None:
    """Do something with each container; tell of those where it fails, and leave with 1 then."""
    failed = False
    for name in names:
        try:
            action(find_container(session, name))
            click.echo(name)
        except (APIError, click.ClickException) as error:
            text = (
                error.format_message()
                if isinstance(error, click.ClickException)
                else f"Error response from daemon: {error}"
            )
            click.echo(text, err=True)
            failed = True
    sys.exit(1 if failed else 0)


def _names(command: Any) -> Any:
    for option in (click.argument("names", nargs=-1, required=True), options.reachable, options.in_namespace):
        command = option(command)
    return command


def _selected(session: Session, pod: Pod) -> Selected:
    return Selected(session.discovery.find("pods"), pod["metadata"]["namespace"], pod["metadata"]["name"])


def end(session: Session, pod: Pod) -> None:
    """End a container and keep its pod, log and exit code: the pod's time is over. Raises: APIError, DockerError."""
    if state_of(pod) == "exited":
        return
    one = _selected(session, pod)
    started = time.monotonic()
    one.patch(session, {"spec": {"activeDeadlineSeconds": 1}}, MERGE)
    for current in watch_one(session, one, _END_SECONDS):
        if current is None or state_of(current) == "exited":
            return
    raise DockerError(f"container {one.name} did not end within {time.monotonic() - started:.0f} s")


@verb()
@_names
@click.option("-t", "--time", "--timeout", "grace", default=10, help="Seconds to end by itself (set when it was run).")
@click.option("-s", "--signal", default="", hidden=True)
def stop(names: Sequence[str], grace: int, signal: str, **given: Any) -> None:
    """Stop containers; they stay, and can be started again."""
    session = Session(given)
    _each(session, names, lambda pod: end(session, pod))


@verb()
@_names
@click.option("-s", "--signal", default="KILL")
def kill(names: Sequence[str], signal: str, **given: Any) -> None:
    """Send a signal to containers; without one, end them at once."""
    session = Session(given)

    def one_by_one(pod: Pod) -> None:
        if state_of(pod) != "running":
            raise DockerError(f"cannot kill container: {pod['metadata']['name']}: container is not running")
        word = signal.upper().removeprefix("SIG")
        if word in ("KILL", "9"):
            end(session, pod)
            return
        request = StreamRequest(
            pod["metadata"]["namespace"], pod["metadata"]["name"], "main", ("kill", f"-{word}", "1")
        )
        code, _, complaint = capture(session.connection, request)
        if code:
            raise DockerError(complaint.decode(errors="replace").strip())

    _each(session, names, one_by_one)


def _again(session: Session, pod: Pod) -> None:
    """Make a container anew from what it was run with: its settings and name are kept, its own files are not."""
    metadata = pod["metadata"]
    spec = json.loads((metadata.get("annotations") or {}).get(SPEC) or "null")
    if spec is None:
        raise DockerError(f"{metadata['name']} was not made by `wherry run`: it can't be started again")
    from cli.deleting import delete_and_wait

    one = _selected(session, pod)
    delete_and_wait(session, [one], grace_seconds=0)
    kept = {key: metadata.get(key) or {} for key in ("labels", "annotations")}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": one.name, **kept}, "spec": spec}
    session.connection.json("POST", one.known.resource.path(one.namespace), body=body)
    for current in watch_one(session, one, _END_SECONDS):
        if current is not None and state_of(current) in ("running", "exited"):
            return


@verb()
@_names
def start(names: Sequence[str], **given: Any) -> None:
    """Start containers that have ended."""
    session = Session(given)
    _each(session, names, lambda pod: None if state_of(pod) == "running" else _again(session, pod))


@verb()
@_names
@click.option("-t", "--time", "--timeout", "grace", default=10, hidden=True)
def restart(names: Sequence[str], grace: int, **given: Any) -> None:
    """Stop containers and start them again."""
    session = Session(given)

    def one_by_one(pod: Pod) -> None:
        end(session, pod)
        _again(session, pod)

    _each(session, names, one_by_one)


@verb()
@_names
@click.option("-f", "--force", is_flag=True, help="Those that run too.")
@click.option("-v", "--volumes", is_flag=True, hidden=True)
def rm(names: Sequence[str], force: bool, volumes: bool, **given: Any) -> None:
    """Remove containers."""
    session = Session(given)

    def one_by_one(pod: Pod) -> None:
        if state_of(pod) == "running" and not force:
            name = pod["metadata"]["name"]
            raise DockerError(
                f'cannot remove container "/{name}": container is running: stop the container before removing or force remove'
            )
        from cli.deleting import delete_and_wait

        delete_and_wait(session, [_selected(session, pod)], grace_seconds=0)

    _each(session, names, one_by_one)


@verb()
@click.argument("name")
@click.argument("private", required=False)
@options.reachable
@options.in_namespace
def port(name: str, private: str | None, **given: Any) -> None:
    """Show which ports of the host lead to a container."""
    pod = find_container(Session(given), name)
    found = False
    for one in pod["spec"]["containers"][0].get("ports") or ():
        inner = f"{one['containerPort']}/{one.get('protocol', 'TCP').lower()}"
        host = f"{one.get('hostIP') or '0.0.0.0'}:{one.get('hostPort')}"  # noqa: S104 - how Docker shows any address
        if private and private not in (inner, str(one["containerPort"])):
            continue
        found = True
        click.echo(host if private else f"{inner} -> {host}")
    if private and not found:
        raise DockerError(f"No public port '{private}' published for {name}")


_STATS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "PIDs")
"""Docker's names of the columns, in JSON."""
_STATS_HEADERS = {"CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "PIDs": "PIDS"}


@verb()
@click.argument("names", nargs=-1)
@options.reachable
@options.in_namespace
@click.option("--no-stream", is_flag=True)
@click.option("-a", "--all", "everything", is_flag=True, hidden=True)
@click.option("--format", "template", default="table", help="table, json, or a template.")
def stats(names: Sequence[str], no_stream: bool, template: str, **given: Any) -> None:
    """Show how much containers use."""
    session = Session(given)
    for sample in itertools.count():
        pods = [find_container(session, name) for name in names] or [
            p for p in all_containers(session) if state_of(p) == "running"
        ]
        rows = [line for pod in pods if (line := _usage(session, pod))]
        if no_stream and not sample and rows:
            time.sleep(1)  # how much CPU is used shows between two looks
            continue
        if template != "table":
            views = [dict(zip(_STATS, line, strict=True)) | {"Container": line[0]} for line in rows]
            click.echo(formatted(template, views, _STATS_HEADERS))
        if not no_stream and template.startswith("table"):
            click.echo("\x1b[2J\x1b[H", nl=False)
        if template == "table":
            click.echo(rows_text(["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS"], rows))
        if no_stream:
            return
        time.sleep(1)


def _usage(session: Session, pod: Pod) -> list[str] | None:
    node = pod["spec"].get("nodeName", "")
    summary = session.connection.json("GET", f"/api/v1/nodes/{node}/proxy/stats/summary")
    for entry in summary.get("pods") or ():
        if entry["podRef"]["uid"] != pod["metadata"]["uid"]:
            continue
        cpu, memory = entry.get("cpu") or {}, entry.get("memory") or {}
        used = int(memory.get("workingSetBytes") or 0)
        from machinery.api.quantity import to_bytes

        limits = (pod["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
        total = (
            to_bytes(limits["memory"])
            if "memory" in limits
            else int((summary["node"].get("memory") or {}).get("availableBytes") or 0) + used
        )
        share = f"{used * 100 / total:.2f}%" if total else "0.00%"
        percent = f"{int(cpu.get('usageNanoCores') or 0) / 1e7:.2f}%"
        pids = str((entry.get("process_stats") or {}).get("process_count", "-"))
        return [pod_id(pod)[:12], pod["metadata"]["name"], percent, f"{_mib(used)} / {_mib(total)}", share, pids]
    return None


def _mib(count: int) -> str:
    return f"{count / (1 << 30):.3g}GiB" if count >= 1 << 30 else f"{count / (1 << 20):.4g}MiB"


@verb_group()
def system() -> None:
    """See and free what containers and images take."""


@system.command()
@options.reachable
@options.in_namespace
def df(**given: Any) -> None:
    """Show what images and containers take."""
    from cli.commands.images import _size
    from cli.containers.node import Images

    session = Session(given)
    pods = all_containers(session)
    with Images() as node:
        found = node.call("List")
    used = {pod["spec"]["containers"][0]["image"] for pod in pods}
    active = [
        one for one in found if used & {*one["tags"], *(tag.removeprefix("docker.io/library/") for tag in one["tags"])}
    ]
    total = sum(one["size"] for one in found)
    free = total - sum(one["size"] for one in active)
    running = sum(state_of(pod) == "running" for pod in pods)
    rows = [
        [
            "Images",
            str(len(found)),
            str(len(active)),
            _size(total),
            f"{_size(free)} ({free * 100 // total if total else 0}%)",
        ],
        ["Containers", str(len(pods)), str(running), "-", "-"],
    ]
    click.echo(rows_text(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows))


@system.command()
@options.reachable
@options.in_namespace
@click.option("-f", "--force", is_flag=True)
@click.option("-a", "--all", "everything", is_flag=True, help="All images that no container uses.")
@click.option("--volumes", is_flag=True, hidden=True)
def prune(force: bool, everything: bool, volumes: bool, **given: Any) -> None:
    """Remove containers that have ended, and images without a name."""
    if not force:
        click.confirm(
            "This will remove all stopped containers and all dangling images. Are you sure you want to continue?",
            abort=True,
        )
    session = Session(given)
    prune_containers(session)
    prune_images(session, everything=everything)


def prune_containers(session: Session) -> None:
    """Remove containers that have ended, and tell of each."""
    for pod in all_containers(session):
        if state_of(pod) == "exited":
            try:
                _delete(session, pod, grace=0)
                click.echo(f"Deleted container: {pod['metadata']['name']}")
            except NotFound:
                continue


def prune_images(session: Session, *, everything: bool) -> None:
    """Remove images without a name, or all that no container uses, and tell of each."""
    from cli.containers.node import Images

    used = {
        one["image"]
        for pod in session.connection.json("GET", "/api/v1/pods")["items"]
        for one in pod["spec"]["containers"]
    }
    with Images() as node:
        for image in node.call("List"):
            named = {*image["tags"], *(tag.removeprefix("docker.io/library/") for tag in image["tags"])}
            if not image["tags"] or (everything and not (named & used)):
                for name in node.call("Remove", name=image["id"], force=True)["deleted"]:
                    click.echo(f"Deleted image: {name}")
