"""`wherry up`, `down`, `status` and `reset`."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cluster import addons
from cluster.components import API_PORT, POD_CIDR, SERVICE_CIDR
from cluster.layout import Layout, default_data_dir
from cluster.processes import apart

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder."
)


@click.command()
@_data_dir
@click.option("--store", type=click.Choice(["etcd", "embedded"]), default=None, help="etcd when it is installed.")
@click.option("--etcd-servers", default="", help="Use an etcd cluster that is there: endpoints, comma separated.")
@click.option("--api-port", default=API_PORT, show_default=True)
@click.option("--bind-address", default="", help="Where the API server listens.")
@click.option("--simulated-nodes", default=0, help="Nodes that only say they run what they are given.")
@click.option("--no-agent", is_flag=True, help="Run no containers on this machine.")
@click.option("--node-ip", default="", help="The address others reach this machine at; its default route's by default.")
@click.option("--node-name", default="", help="This machine's name in the cluster; its host name by default.")
@click.option("--service-cidr", default=SERVICE_CIDR, show_default=True)
@click.option("--pod-cidr", default=POD_CIDR, show_default=True)
@click.option("--cluster-cidr", default="", help="The range of all nodes' pods; holds --pod-cidr.")
@click.option(
    "--load-balancer", default="nodes", show_default=True,
    help="Where Services of type LoadBalancer are reached: at the nodes, at addresses of a range, or none.",
)  # fmt: skip
@click.option(
    "--node-network", default="auto", show_default=True, help="auto, direct, vxlan, wireguard, or none of ours."
)
@click.option("--bridge", default="wherry0", show_default=True, help="The pods' bridge.")
@click.option("--agent-port", default=10250, show_default=True)
@click.option("--cri-endpoint", default="", help="The CRI socket of a runtime that is there already.")
@click.option("--ingress", is_flag=True, help="Serve Ingresses with HAProxy at this machine's ports 80 and 443.")
@click.option("--dns/--no-dns", default=True, help="Run cluster DNS.")
@click.option("--dashboard-port", default=8090, help="Where the add-on `dashboard` is served, on loopback.")
@click.option(
    "--addon", "chosen", multiple=True, type=click.Choice(addons.names()), help="Put an add-on in; may be repeated."
)
@click.option("--detach", is_flag=True, help="Return when the cluster is ready, and leave it running.")
def up(
    data_dir: Path, detach: bool, no_agent: bool, store: str | None, chosen: Sequence[str], **given: Any
) -> None:  # fmt: skip
    """Start a cluster on this machine."""
    from cluster.credentials import write_credentials
    from cluster.down import take_over
    from cluster.processes import SUPERVISOR, running_pid
    from cluster.settings import Settings, load, save, settle
    from cluster.up import greeting, serve, start_detached, wait_addons, wait_ready

    layout = Layout(data_dir.absolute())
    layout.make()
    if running_pid(layout, SUPERVISOR) is not None:
        click.echo(f"The cluster in {layout.root} is running already.")
        return
    before = load(layout)
    kept = sorted({*chosen, *(before.addons if before else ())})  # what was put in before is in the store still
    try:
        settings, notes = settle(Settings(store=store or "", agent=not no_agent, addons=kept, **given))
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    for note in notes:
        click.echo(note, err=True)
    take_over(layout)
    save(layout, settings)
    apart(lambda: write_credentials(layout, settings))
    if detach:
        start_detached(layout, _same_options(store, no_agent, given))
        try:
            wait_ready(layout, settings)
            wait_addons(layout, settings)
        except TimeoutError as error:
            raise click.ClickException(f"{error}; see the logs in {layout.logs}") from error
        click.echo(greeting(layout))
        return
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(layout, settings, announce=sys.stdout.isatty()))


def _same_options(store: str | None, no_agent: bool, given: dict[str, Any]) -> list[str]:
    """Return the command line of the same request, to be run by another process."""
    options = ["--store", store] if store else []
    options += ["--no-agent"] if no_agent else []
    options += [] if given.pop("dns", True) else ["--no-dns"]
    options += ["--ingress"] if given.pop("ingress", False) else []
    for name, value in given.items():
        if value:
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options


@click.command()
@_data_dir
def down(data_dir: Path) -> None:
    """Stop the cluster on this machine: its pods and its components. Its data stays."""
    from cluster.down import stop

    layout = Layout(data_dir.absolute())
    if stop(layout):
        click.echo("The cluster is stopped.")
    else:
        click.echo(f"No cluster runs in {layout.root}.")


@click.command()
@_data_dir
def status(data_dir: Path) -> None:
    """Show the components of the cluster on this machine; exit code 1 unless all run and the API is ready."""
    from cluster.down import statuses
    from cluster.probe import Probe
    from cluster.settings import load

    layout = Layout(data_dir.absolute())
    rows = list(statuses(layout))
    if not rows:
        click.echo(f"There is no cluster in {layout.root}.")
        sys.exit(1)
    click.echo(f"{'COMPONENT':<20} {'STATUS':<9} PID")
    for name, pid in rows:
        click.echo(f"{name:<20} {'running' if pid else 'stopped':<9} {pid or '-'}")
    settings = load(layout)
    if settings is not None and settings.join:
        click.echo(f"\nThis machine is {settings.node_name}, a node of the cluster at {settings.join}.")
        sys.exit(0 if all(pid for _, pid in rows) else 1)
    probe = Probe(layout)
    try:
        ready = probe.get("/readyz")[0] == 200
    except OSError:
        ready = False
    finally:
        probe.close()
    click.echo(f"\nThe API server is {'ready' if ready else 'not ready'}. KUBECONFIG={layout.kubeconfig}")
    sys.exit(0 if ready and all(pid for _, pid in rows) else 1)


@click.command()
@_data_dir
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(data_dir: Path, yes: bool) -> None:
    """Stop the cluster on this machine and wipe its data."""
    from cluster.down import stop, wipe

    layout = Layout(data_dir.absolute())
    if not yes:
        click.confirm(f"Wipe everything in {layout.root}?", abort=True)
    stop(layout)
    wipe(layout)
    click.echo(f"{layout.root} is empty.")
