"""`wherry etcd`: backups, members and upkeep of the cluster's store.

Talks to etcd by the package etcd3, whose generated code loads in pure Python alone: this process does nothing else.
The embedded store is backed up and brought back by the same commands.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cluster.layout import Layout, default_data_dir

_DIGEST_BYTES = 32  # etcd puts the SHA-256 of a snapshot behind it
_SECONDS = 60
_MEGABYTE = 1024 * 1024
_SQLITE_HEAD = b"SQLite format 3\x00"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _connection(command: _Command) -> _Command:
    """Give a command the options that say where etcd is."""
    options = (
        click.option(
            "--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder."
        ),
        click.option("--etcd-server", default="", help="HOST:PORT of a member; the cluster's own etcd when left out."),
        click.option("--etcd-cafile", type=_FILE),
        click.option("--etcd-certfile", type=_FILE),
        click.option("--etcd-keyfile", type=_FILE),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _client(data_dir: Path, given: dict[str, Any]) -> Any:
    """Return a client of etcd. Raises: ClickException when the cluster's own does not run."""
    os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    import etcd3

    if given["etcd_server"]:
        host, _, port = given["etcd_server"].rpartition(":")
        files = {name: str(given[f"etcd_{file}"]) for name, file in _TLS.items() if given[f"etcd_{file}"]}
        return etcd3.client(
            host=host.removeprefix("https://").removeprefix("http://"), port=int(port), timeout=_SECONDS, **files
        )
    socket = Layout(data_dir.absolute()).etcd_socket
    if not socket.exists():
        raise click.ClickException(f"no etcd runs in {data_dir}")
    return etcd3.client(host=f"unix:{socket.parent}/{socket.name.partition(':')[0]}", port=1, timeout=_SECONDS)


_TLS = {"ca_cert": "cafile", "cert_cert": "certfile", "cert_key": "keyfile"}


@click.group("etcd")
def etcd() -> None:
    """Back up and look after the cluster's store."""


@etcd.group("snapshot")
def snapshot() -> None:
    """Backups of the store."""


@snapshot.command("save")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_connection
def save(file: Path, data_dir: Path, **given: Any) -> None:
    """Write a backup of the running store to FILE."""
    began, layout = time.monotonic(), Layout(data_dir.absolute())
    partial = file.with_name(file.name + ".part")
    if not given["etcd_server"] and not layout.etcd_socket.exists() and layout.sqlite.exists():
        _save_embedded(layout, partial)
    else:
        client = _client(data_dir, given)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            client.snapshot(target)
        client.close()
        _check(partial)
    partial.replace(file)
    size = file.stat().st_size / _MEGABYTE
    click.echo(f"Saved {size:.1f} MB to {file} in {time.monotonic() - began:.1f} s.")


def _save_embedded(layout: Layout, target: Path) -> None:
    import sqlite3

    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    source, copy = sqlite3.connect(f"file:{layout.sqlite}?mode=ro", uri=True), sqlite3.connect(target)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()


def _is_embedded(file: Path) -> bool:
    with file.open("rb") as source:
        return source.read(len(_SQLITE_HEAD)) == _SQLITE_HEAD


def _check(file: Path) -> str:
    """Return the digest of an etcd snapshot. Raises: ClickException when it is not what was written."""
    left, digest = file.stat().st_size - _DIGEST_BYTES, hashlib.sha256()
    if left <= 0:
        raise click.ClickException(f"{file} is no snapshot of etcd")
    with file.open("rb") as source:
        while left > 0:
            block = source.read(min(left, _MEGABYTE))
            digest.update(block)
            left -= len(block)
        if source.read() != digest.digest():
            raise click.ClickException(f"{file} is damaged: its checksum does not match")
    return digest.hexdigest()


@snapshot.command("status")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def snapshot_status(file: Path, output: str) -> None:
    """Say whether FILE is a whole backup, and what is in it."""
    size = file.stat().st_size
    found: dict[str, Any] = {"file": str(file), "sizeBytes": size}
    if _is_embedded(file):
        import sqlite3

        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            found |= {"store": "embedded", "intact": database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"}
    else:
        found |= {"store": "etcd", "sha256": _check(file), "intact": True}
        tool = _tool()
        if tool is not None:
            done = subprocess.run(
                [tool, "snapshot", "status", str(file), "-w", "json"], capture_output=True, check=False
            )
            if done.returncode == 0:
                told = json.loads(done.stdout)
                found |= {"revision": told["revision"], "keys": told["totalKey"]}
    if output == "json":
        click.echo(json.dumps(found))
    else:
        for name, value in found.items():
            click.echo(f"{name}: {value}")
    if not found["intact"]:
        raise SystemExit(1)


def _tool() -> str | None:
    """Return etcd's own tool that can unpack snapshots."""
    return shutil.which("etcdutl") or shutil.which("etcdctl")


@snapshot.command("restore")
@click.argument("file", type=_FILE)
@click.option("--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder.")
def restore(file: Path, data_dir: Path) -> None:
    """Put FILE in the place of a stopped cluster's store; what was there is kept beside it."""
    from cluster.down import statuses

    layout = Layout(data_dir.absolute())
    layout.make()
    if any(pid for _, pid in statuses(layout)):
        raise click.ClickException(f"the cluster in {layout.root} runs: stop it first, with `wherry down`")
    embedded = _is_embedded(file)
    target = layout.sqlite if embedded else layout.etcd
    fresh = target.with_name(target.name + ".restoring")
    _remove(fresh)
    if embedded:
        shutil.copyfile(file, fresh)
        for side in ("-wal", "-shm"):
            target.with_name(target.name + side).unlink(missing_ok=True)
    else:
        _check(file)
        _unpack(file, fresh)
    kept = target.with_name(f"{target.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    if target.exists():
        target.rename(kept)
        click.echo(f"What was there is in {kept}.")
    fresh.rename(target)
    click.echo(f"{file} is restored; start the cluster with `wherry up`.")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unpack(file: Path, folder: Path) -> None:
    tool = _tool()
    if tool is None:
        raise click.ClickException("to restore etcd needs its own tool: install etcd-client (etcdctl) or etcdutl")
    peer = "http://localhost:2380"  # replaced by the flags etcd is started with
    argv = [
        tool, "snapshot", "restore", str(file), "--data-dir", str(folder), "--name", "wherry",
        "--initial-cluster", f"wherry={peer}", "--initial-advertise-peer-urls", peer,
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "ETCDCTL_API": "3"}, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"{tool}: {done.stderr.strip()}")


@etcd.command("status")
@_connection
def status(data_dir: Path, **given: Any) -> None:
    """Show the member that answers: version, size, leader, alarms."""
    client = _client(data_dir, given)
    told = client.status()
    alarms = [_alarm(one) for one in client.list_alarms()]
    client.close()
    click.echo(f"version: {told.version}\nsize: {told.db_size / _MEGABYTE:.1f} MB\nraft index: {told.raft_index}")
    click.echo(f"leader: {told.leader.name if told.leader is not None else 'none'}")
    click.echo(f"alarms: {', '.join(alarms) or 'none'}")
    if alarms:
        raise SystemExit(1)


def _alarm(alarm: Any) -> str:
    return {1: "NOSPACE", 2: "CORRUPT"}.get(alarm.alarm_type, str(alarm.alarm_type))


@etcd.command("members")
@_connection
def members(data_dir: Path, **given: Any) -> None:
    """List etcd's members."""
    client = _client(data_dir, given)
    click.echo(f"{'ID':<18}{'NAME':<12}{'PEERS':<32}CLIENTS")
    for one in client.members:
        click.echo(
            f"{one.id:<18x}{one.name or '(starting)':<12}{','.join(one.peer_urls):<32}{','.join(one.client_urls)}"
        )
    client.close()


@etcd.command("defrag")
@_connection
def defrag(data_dir: Path, **given: Any) -> None:
    """Give disk space that is free within etcd's file back; it answers nobody meanwhile."""
    client = _client(data_dir, given)
    before = client.status().db_size
    client.defragment()
    after = client.status().db_size
    client.close()
    click.echo(f"{before / _MEGABYTE:.1f} MB before, {after / _MEGABYTE:.1f} MB now.")
