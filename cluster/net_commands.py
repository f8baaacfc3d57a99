"""`wherry net`: what is broken in the cluster's network, and where connections go."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.layout import Layout, default_data_dir

if TYPE_CHECKING:
    from cli.connection import Connection


@click.group()
def net() -> None:
    """Look at the cluster's network."""


def _connection(layout: Layout, kubeconfig: Path | None) -> "Connection":
    from cli.connection import Connection
    from machinery.client.kubeconfig import load_config

    default = layout.kubeconfig if layout.kubeconfig.exists() else layout.component_kubeconfig("agent")
    return Connection(load_config(str(kubeconfig or default)))


_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder."
)
_kubeconfig = click.option("--kubeconfig", type=click.Path(exists=True, path_type=Path))


@net.command()
@_data_dir
@_kubeconfig
def check(data_dir: Path, kubeconfig: Path | None) -> None:
    """Try the network from this node and a pod of it: nodes, pods, services, DNS.

    The exit code is 1 when something is broken.
    """
    from cluster.net import Check
    from cluster.settings import load, node_name

    layout = Layout(data_dir.absolute())
    settings = load(layout)
    if settings is None:
        raise click.ClickException(f"there is no cluster in {layout.root}")
    node = settings.node_name or node_name()
    looking = Check(_connection(layout, kubeconfig), layout, bridge=settings.bridge, node=node)
    broken = 0
    for finding in looking.run():
        click.echo(f"{'ok    ' if finding.is_good else 'BROKEN'} {finding.what}")
        if not finding.is_good:
            click.echo(f"       {finding.trouble}")
            broken += 1
    click.echo(f"\n{broken} broken." if broken else "\nAll is well.")
    sys.exit(1 if broken else 0)


@net.command()
@_data_dir
@_kubeconfig
@click.option("-n", "--namespace", default="default", show_default=True)
@click.argument("pod")
@click.argument("service")
def trace(data_dir: Path, kubeconfig: Path | None, namespace: str, pod: str, service: str) -> None:
    """Tell where POD's connection to SERVICE goes: which rule, which endpoints, which policies judge it.

    SERVICE may have its namespace before it: other/web.
    """
    from cluster.trace import trace as lines

    connection = _connection(Layout(data_dir.absolute()), kubeconfig)
    for line in lines(connection, namespace, pod, service):
        click.echo(line)
