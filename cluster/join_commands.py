"""`wherry token` and `wherry join`."""

import sys
from pathlib import Path
from typing import Any

import click

from cluster.layout import Layout, default_data_dir

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder."
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: str) -> int:
    if text == "0":
        return 0
    try:
        return int(text[:-1]) * _UNITS[text[-1]]
    except (ValueError, KeyError, IndexError) as error:
        raise click.BadParameter(f"{text} is no length of time such as 24h") from error


@click.group()
def token() -> None:
    """Tokens by which other machines join this cluster."""


@token.command("create")
@_data_dir
@click.option("--ttl", default="24h", show_default=True, help="How long it is good; 0 for ever.")
@click.option("--description", default="", help="What it is for.")
@click.option("--server", default="", help="The URL other machines reach the API server at.")
def token_create(data_dir: Path, ttl: str, description: str, server: str) -> None:
    """Make a token and print the command that joins with it."""
    from cli.connection import Connection
    from cluster import tokens
    from cluster.addresses import node_address
    from cluster.settings import load, shared_settings
    from machinery.client.kubeconfig import load_config

    layout = Layout(data_dir.absolute())
    settings = load(layout)
    if settings is None or settings.join:
        raise click.ClickException(f"no control plane in {layout.root}")
    connection = Connection(load_config(str(layout.kubeconfig)))
    server = server or f"https://{settings.node_ip or node_address()}:{settings.api_port}"
    ca_file = layout.pki / "ca.crt"
    tokens.make_joinable(connection, server, ca_file, shared_settings(settings))
    made = tokens.new_token()
    tokens.create(connection, made, ttl_seconds=_seconds(ttl), description=description)
    click.echo(f"wherry join {server} --token {made} --ca-hash {tokens.ca_hash(ca_file.read_bytes())}")


@token.command("list")
@_data_dir
def token_list(data_dir: Path) -> None:
    """Show the tokens there are."""
    from cli.connection import Connection
    from cluster import tokens
    from machinery.client.kubeconfig import load_config

    connection = Connection(load_config(str(Layout(data_dir.absolute()).kubeconfig)))
    click.echo(f"{'TOKEN':<8} {'EXPIRES':<22} DESCRIPTION")
    for one in tokens.listed(connection):
        expires, what = one.get("expiration", "<never>"), one.get("description", "")
        click.echo(f"{one.get('token-id', ''):<8} {expires:<22} {what}".rstrip())


@token.command("delete")
@_data_dir
@click.argument("identity")
def token_delete(data_dir: Path, identity: str) -> None:
    """Revoke a token, by its id or the whole of it."""
    from cli.connection import Connection
    from cluster import tokens
    from machinery.client.kubeconfig import load_config

    tokens.delete(Connection(load_config(str(Layout(data_dir.absolute()).kubeconfig))), identity)
    click.echo(f"bootstrap token {identity.partition('.')[0]} deleted")


@click.command()
@click.argument("url")
@click.option("--token", "secret", required=True, help="As `wherry token create` printed it.")
@click.option("--ca-hash", required=True, help="What the cluster's CA must have: sha256:…")
@_data_dir
@click.option("--node-name", default="", help="This machine's name in the cluster; its host name by default.")
@click.option("--node-ip", default="", help="The address others reach this machine at; its default route's by default.")
@click.option("--bridge", default="wherry0", show_default=True, help="The pods' bridge.")
@click.option("--agent-port", default=10250, show_default=True)
@click.option(
    "--node-network", default="auto", show_default=True, help="auto, direct, vxlan, wireguard, or none of ours."
)
@click.option("--detach", is_flag=True, help="Return when the node is started, and leave it running.")
def join(url: str, secret: str, ca_hash: str, data_dir: Path, detach: bool, **given: Any) -> None:
    """Make this machine a node of the cluster at URL."""
    import asyncio
    import logging

    from cluster import join as joining
    from cluster.down import take_over
    from cluster.processes import SUPERVISOR, running_pid
    from cluster.settings import missing_for_agent, node_name, node_settings, save
    from cluster.up import serve, start_detached

    layout = Layout(data_dir.absolute())
    layout.make()
    if running_pid(layout, SUPERVISOR) is not None:
        raise click.ClickException(f"a cluster or node runs in {layout.root} already")
    if missing := missing_for_agent():
        raise click.ClickException(f"this machine lacks: {', '.join(missing)}")
    name = given["node_name"] or node_name()
    try:
        found = joining.discover(url, ca_hash)
        joining.enrol(layout, found, secret, name)
    except joining.JoinError as error:
        raise click.ClickException(str(error)) from error
    settings = node_settings(url, name, found.settings, given)
    take_over(layout)
    save(layout, settings)
    if detach:
        start_detached(layout, [], command="serve-node")
        click.echo(f"{name} has joined the cluster at {url}.")
        return
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(layout, settings, announce=False))


@click.command("serve-node", hidden=True)
@_data_dir
def serve_node(data_dir: Path) -> None:
    """Run what a machine that has joined runs, as it did before."""
    import asyncio
    import logging

    from cluster.down import take_over
    from cluster.settings import load
    from cluster.up import serve

    layout = Layout(data_dir.absolute())
    settings = load(layout)
    if settings is None or not settings.join:
        click.echo(f"{layout.root} has not joined a cluster", err=True)
        sys.exit(1)
    take_over(layout)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(layout, settings, announce=False))
