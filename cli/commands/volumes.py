"""Docker's verbs for volumes and networks: `wherry volume`, and `wherry network`, which has only what the cluster has."""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.containers.formatting import formatted
from cli.containers.naming import DockerError, Pod, all_containers, pod_id, state_of
from cli.containers.volumes import VOLUMES, cluster_id, own, owners
from cli.framework import verb_group
from cli.printers import json_text, rows_text
from cli.session import Session
from machinery.errors import APIError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NETWORKS = {"bridge": "bridge", "host": "host", "none": "null"}
_ONE_NETWORK = (
    "pods have one network, the cluster's: Services give them names, NetworkPolicies hold them apart, and "
    "`wherry compose` makes a namespace for each project"
)


@verb_group()
def volume() -> None:
    """Named volumes of this node."""


def known_volumes() -> list[str]:
    """Return the names of this node's volumes."""
    return (
        sorted(entry.name for entry in VOLUMES.iterdir() if _NAME.fullmatch(entry.name) and entry.is_dir())
        if VOLUMES.is_dir()
        else []
    )


def _view(name: str) -> dict[str, Any]:
    made = datetime.fromtimestamp((VOLUMES / name).stat().st_ctime, UTC)
    return {
        "CreatedAt": f"{made:%Y-%m-%dT%H:%M:%SZ}", "Driver": "local", "Labels": None, "Mountpoint": str(VOLUMES / name),
        "Name": name, "Options": None, "Scope": "local",
    }  # fmt: skip


def _users(session: Session) -> dict[str, list[str]]:
    """Return which containers use each volume, those that have ended too."""
    found: dict[str, list[str]] = {}
    pods = session.connection.json("GET", "/api/v1/pods")["items"]
    for pod in pods:
        for one in pod["spec"].get("volumes") or ():
            path = Path((one.get("hostPath") or {}).get("path") or "/")
            if path.parent == VOLUMES:
                found.setdefault(path.name, []).append(pod_id(pod))
    return found


def _mounted() -> set[str]:
    """Return the volumes that some process of this machine has mounted.

    Clusters on one machine share the folder, and one's API server knows nothing of another's pods: mounts tell.
    """
    known = {name: os.stat(VOLUMES / name) for name in known_volumes()}
    return {
        name
        for process in _one_process_a_mount_namespace()
        for name, place in _mounts_named(process, known)
        if _is_same(process / "root" / place.lstrip("/"), known[name])
    }


def _one_process_a_mount_namespace() -> list[Path]:
    found: dict[str, Path] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.setdefault(os.readlink(process / "ns/mnt"), process)
        except OSError:
            continue  # it has ended meanwhile
    return list(found.values())


def _mounts_named(process: Path, names: Collection[str]) -> list[tuple[str, str]]:
    """Return the mounts whose source is a folder of one of these names: (name, mount point)."""
    try:
        lines = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    rows = [line.split(" ", 5) for line in lines]
    return [(row[3].rpartition("/")[2], row[4]) for row in rows if row[3].rpartition("/")[2] in names]


def _is_same(path: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), known)
    except OSError:
        return False


@volume.command("ls")
@options.reachable
@click.option("-q", "--quiet", is_flag=True)
@click.option("-f", "--filter", "filters", multiple=True, help="name=, dangling=true.")
@click.option("--format", "template", default="")
def volume_ls(quiet: bool, filters: Sequence[str], template: str, **given: Any) -> None:
    """List volumes."""
    names = [name for name in known_volumes() if all(part[5:] in name for part in filters if part.startswith("name="))]
    for part in filters:
        key, _, value = part.partition("=")
        if key not in ("name", "dangling"):
            raise DockerError(f"invalid filter '{key}'")
        if key == "dangling":
            used = _users(Session(dict(given)))
            names = [name for name in names if (name not in used) == (value in ("true", "1"))]
    if quiet:
        text = "\n".join(names)
    elif template:
        text = formatted(template, [_view(name) for name in names], {"Name": "VOLUME NAME"})
    else:
        text = rows_text(["DRIVER", "VOLUME NAME"], [["local", name] for name in names])
    if text:
        click.echo(text)


@volume.command("create")
@click.argument("name", required=False)
@click.option("-d", "--driver", default="local")
@click.option("--label", multiple=True, hidden=True)
@click.option("-o", "--opt", multiple=True, hidden=True)
@options.reachable
def volume_create(name: str | None, driver: str, **given: Any) -> None:
    """Make a volume; one that is there stays as it is."""
    import secrets

    if driver != "local" or given.pop("opt"):
        raise DockerError(f'create {name}: volumes here are folders of this node: driver "local" without options')
    name = name or secrets.token_hex(32)
    if not _NAME.fullmatch(name):
        raise DockerError(f'create {name}: "{name}" includes invalid characters for a local volume name')
    (VOLUMES / name).mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(click.ClickException, APIError):  # a volume can be made before there is a cluster
        own(name, owners(name) | {cluster_id(Session(dict(given)))})
    click.echo(name)


@volume.command("rm")
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Also those of other clusters that nothing has mounted.")
@options.reachable
def volume_rm(names: Sequence[str], force: bool, **given: Any) -> None:
    """Remove volumes with what is in them."""
    session = Session(dict(given))
    used, mounted, here, failed = _users(session), _mounted(), cluster_id(session), False
    for name in names:
        others = owners(name) - {here}
        problem = ""
        if name in used:
            problem = f"remove {name}: volume is in use - [{', '.join(used[name])}]"
        elif name in mounted:
            problem = f"remove {name}: volume is in use by a container of another cluster on this machine"
        elif name not in known_volumes():
            problem = "" if force else f"get {name}: no such volume"
        elif others and not force:
            problem = f"remove {name}: volume belongs to another cluster on this machine (--force removes it)"
        else:
            _remove(name)
            click.echo(name)
        if problem:
            click.echo(f"Error response from daemon: {problem}", err=True)
            failed = True
    sys.exit(1 if failed else 0)


def _remove(name: str) -> None:
    shutil.rmtree(VOLUMES / name)
    own(name, set())


@volume.command("inspect")
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--format", "template", default="")
def volume_inspect(names: Sequence[str], template: str) -> None:
    """Tell all of volumes, as JSON."""
    _tell([_view(name) for name in names if name in known_volumes()], template)
    if missing := [name for name in names if name not in known_volumes()]:
        click.echo("\n".join(f"Error response from daemon: get {name}: no such volume" for name in missing), err=True)
        sys.exit(1)


def _tell(views: Sequence[dict[str, Any]], template: str) -> None:
    click.echo(formatted(template, views) if template else json_text(list(views)))


@volume.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Those with names of their own too.")
@click.option("-f", "--force", is_flag=True)
@options.reachable
def volume_prune(everything: bool, force: bool, **given: Any) -> None:
    """Remove volumes that no container uses: those nobody named, or all."""
    what = "all local volumes" if everything else "anonymous local volumes"
    if not force:
        click.confirm(
            f"WARNING! This will remove {what} not used by at least one container.\nAre you sure you want to continue?",
            abort=True,
        )
    session = Session(dict(given))
    used, here = _users(session).keys() | _mounted(), cluster_id(session)
    unused = [
        name for name in known_volumes() if name not in used and (everything or re.fullmatch("[0-9a-f]{64}", name))
    ]
    gone = [name for name in unused if not owners(name) - {here}]
    free = sum(_bytes(VOLUMES / name) for name in gone)
    for name in gone:
        _remove(name)
    for name in set(unused) - set(gone):  # others may use it in containers that have stopped: it is theirs alone now
        own(name, owners(name) - {here})
    if gone:
        click.echo("Deleted Volumes:\n" + "\n".join(gone) + "\n")
    from cli.commands.images import _size

    click.echo(f"Total reclaimed space: {_size(free)}")


def _bytes(folder: Path) -> int:
    return sum(
        os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names
    )  # fmt: skip


@verb_group()
def network() -> None:
    """Networks: what the cluster has of them."""


def _identity(name: str) -> str:
    import hashlib

    return hashlib.sha256(f"wherry network {name}".encode()).hexdigest()


@network.command("ls")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--no-trunc", is_flag=True)
@click.option("--format", "template", default="")
def network_ls(quiet: bool, no_trunc: bool, template: str) -> None:
    """List networks."""
    views = [
        {"ID": _identity(name)[: None if no_trunc else 12], "Name": name, "Driver": driver, "Scope": "local"}
        for name, driver in _NETWORKS.items()
    ]
    if quiet:
        click.echo("\n".join(str(one["ID"]) for one in views))
    elif template:
        click.echo(formatted(template, views, {"ID": "NETWORK ID"}))
    else:
        click.echo(rows_text(["NETWORK ID", "NAME", "DRIVER", "SCOPE"], [list(one.values()) for one in views]))


@network.command("inspect")
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--format", "template", default="")
@options.reachable
@options.in_namespace
def network_inspect(names: Sequence[str], template: str, **given: Any) -> None:
    """Tell all of networks, as JSON."""
    session = Session(dict(given))
    _tell([_network(session, name) for name in names if name in _NETWORKS], template)
    if missing := [name for name in names if name not in _NETWORKS]:
        click.echo("\n".join(f"Error response from daemon: network {name} not found" for name in missing), err=True)
        sys.exit(1)


def _network(session: Session, name: str) -> dict[str, Any]:
    ranges: list[str] = []
    if name == "bridge":
        nodes = session.connection.json("GET", "/api/v1/nodes")["items"]
        ranges = [one for node in nodes for one in node["spec"].get("podCIDRs") or ()]
    return {
        "Name": name, "Id": _identity(name), "Scope": "local", "Driver": _NETWORKS[name],
        "IPAM": {"Driver": "default", "Config": [{"Subnet": one} for one in ranges]},
        "Containers": {pod_id(pod): told for pod, told in _members(session, name)},
    }  # fmt: skip


def _members(session: Session, name: str) -> Iterator[tuple[Pod, dict[str, str]]]:
    for pod in all_containers(session):
        shares = bool(pod["spec"].get("hostNetwork"))
        if state_of(pod) == "running" and name == ("host" if shares else "bridge"):
            address = "" if shares else (pod.get("status") or {}).get("podIP", "")
            yield pod, {"Name": pod["metadata"]["name"], "IPv4Address": address}


def _refused(command: str) -> click.Command:
    def refuse(words: Sequence[str]) -> None:
        raise DockerError(f"network {command}: {_ONE_NETWORK}")

    refuse.__doc__ = f"There is no {command}: pods have one network."
    settings = {"ignore_unknown_options": True}
    return click.command(command, context_settings=settings)(click.argument("words", nargs=-1)(refuse))


for _command in ("create", "connect", "disconnect", "rm", "prune"):
    network.add_command(_refused(_command))
