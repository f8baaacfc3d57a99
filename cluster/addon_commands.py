"""`wherry addon`: what a cluster can have beside what it needs, put in and taken out."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.framework import verb_group
from cli.manifests import parse
from cli.resources import display_name
from cli.session import Session
from cluster import addons
from cluster.components import data_dir_option
from cluster.layout import Layout
from machinery.errors import NotFound

_KEPT = ("CustomResourceDefinition", "Namespace", "PersistentVolumeClaim")
"""Kinds whose objects hold what users made: they go only when that is asked for."""
_DASHBOARD = (
    "It is at http://127.0.0.1:8090/ unless --dashboard-port said otherwise; a token to log in with is made by\n"
    "  wherry create token -n kube-system dashboard-viewer"
)
Object = dict[str, Any]


@verb_group()
def addon() -> None:
    """List add-ons, put them into the cluster and take them out."""


def _named(name: str) -> str:
    if name not in addons.names():
        raise click.ClickException(f'there is no add-on "{name}"; there are: {", ".join(addons.names())}')
    return name


def _objects(name: str) -> list[Object]:
    return list(parse(f"addon {name}", addons.text(name)))


def _path(session: Session, obj: Object) -> tuple[str, str]:
    """Return where an object is, and what it is called."""
    known = session.discovery.of_kind(obj["apiVersion"], obj["kind"])
    meta = obj["metadata"]
    path = known.resource.path(meta.get("namespace", ""), meta["name"])
    return path, display_name(known.resource, meta["name"])


@addon.command("list")
@options.connected
def list_(**given: Any) -> None:
    """List add-ons and whether the cluster has them."""
    session = Session(given)
    click.echo(f"{'NAME':<12} {'STATUS':<9} DESCRIPTION")
    for name in addons.names():
        state = "enabled" if _is_there(session, name) else "disabled"
        click.echo(f"{name:<12} {state:<9} {addons.summary(name)}")


def _is_there(session: Session, name: str) -> bool:
    try:
        for obj in _objects(name):
            if obj["kind"] not in _KEPT:
                session.connection.request("GET", _path(session, obj)[0])
    except NotFound:
        return False
    return True


@addon.command()
@click.argument("name")
@options.connected
@data_dir_option
def enable(name: str, data_dir: Path, **given: Any) -> None:
    """Apply an add-on's manifests; a cluster of this machine also starts its operator."""
    session = Session(given)
    install(session, _named(name))
    click.echo(f"addon {name} enabled")
    here = _is_here(session, data_dir) and _set_here(Layout(data_dir), name, wanted=True)
    if name == "dashboard" and here:
        click.echo(_DASHBOARD)
    if name in addons.OPERATED and not here:
        click.echo(
            f"The cluster was not started on this machine (by `wherry up --data-dir {data_dir}`): start the add-on's "
            f"operator by `wherry operator {name} --kubeconfig FILE`, as the user system:wherry-{name}.", err=True,
        )  # fmt: skip


def install(session: Session, name: str) -> None:
    """Apply an add-on's manifests. Raises: APIError."""
    params = {"fieldManager": "wherry-addon", "force": "true"}
    for obj in _objects(name):
        path, shown = _path(session, obj)
        session.connection.request(
            "PATCH", path, params=params, body=obj, content_type="application/apply-patch+yaml"
        )  # fmt: skip
        click.echo(f"{shown} serverside-applied")


@addon.command()
@click.argument("name")
@click.option("--purge", is_flag=True, help="Also delete its kinds and volumes, with all objects and data in them.")
@options.connected
@data_dir_option
def disable(name: str, purge: bool, data_dir: Path, **given: Any) -> None:
    """Take an add-on out; what users made with it stays unless --purge is given."""
    session = Session(given)
    if _is_here(session, data_dir):
        _set_here(Layout(data_dir), _named(name), wanted=False)
    for obj in reversed(_objects(_named(name))):
        path, shown = _path(session, obj)
        if obj["kind"] in _KEPT and not purge:
            click.echo(f"{shown} kept (--purge deletes it)")
            continue
        try:
            session.connection.request("DELETE", path)
            click.echo(f"{shown} deleted")
        except NotFound:
            continue
    click.echo(f"addon {name} disabled")


def _is_here(session: Session, data_dir: Path) -> bool:
    """Whether the cluster spoken to is the one in the data folder: both have the same certificate authority."""
    config = session.connection.config
    try:
        ca = config.ca_data or Path(config.ca_file).read_bytes()
        return ca.strip() == (Layout(data_dir).pki / "ca.crt").read_bytes().strip()
    except OSError:
        return False


def _set_here(layout: Layout, name: str, *, wanted: bool) -> bool:
    """Remember an add-on for the cluster on this machine and have its supervisor act on it; False if none runs."""
    from cluster.credentials import write_operator_credentials
    from cluster.processes import SUPERVISOR, running_pid
    from cluster.settings import load, save

    settings, supervisor = load(layout), running_pid(layout, SUPERVISOR)
    if settings is None or settings.join or supervisor is None:
        return False
    others = [one for one in settings.addons if one != name]
    settings = dataclasses.replace(settings, addons=sorted([*others, name] if wanted else others))
    save(layout, settings)
    write_operator_credentials(layout, settings)
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGHUP)
    return True
