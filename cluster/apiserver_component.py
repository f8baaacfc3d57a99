"""The command that runs the API server; apart from the others', for its options are many and they do without."""

import mimetypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.addresses import node_address, server_hosts
from cluster.apiserver_options import encrypted, encryption_reloads, server_options, server_settings
from cluster.components import API_PORT, SERVICE_CIDR, config_option, data_dir_option, run_component, verbose_option
from cluster.layout import Layout

if TYPE_CHECKING:
    from cluster.pki import Pki

# The group of certificates that agents let in; it may use what they serve, and nothing else of the API.
AGENT_CLIENTS = "wherry:agent-clients"


@click.command("apiserver")
@config_option
@data_dir_option
@verbose_option
@click.option("--bind-address", default="127.0.0.1", help="Listen here.")
@click.option("--port", default=API_PORT, help="Listen on this port.")
@click.option("--advertise-address", default="", help="The address pods reach the server at.")
@click.option("--store", type=click.Choice(["etcd", "embedded"]), default="etcd")
@click.option("--etcd-servers", default="", help="Endpoints, comma separated; the cluster's own etcd when left out.")
@click.option("--etcd-cafile", type=click.Path(exists=True, path_type=Path))
@click.option("--etcd-certfile", type=click.Path(exists=True, path_type=Path))
@click.option("--etcd-keyfile", type=click.Path(exists=True, path_type=Path))
@click.option("--service-cidr", default=SERVICE_CIDR, help="Where service addresses are taken from.")
@server_options
def apiserver(
    data_dir: Path, bind_address: str, port: int, advertise_address: str, verbose: bool, **given: Any
) -> None:
    """Serve the Kubernetes API."""
    from cluster.processes import begin_apart

    layout = Layout(data_dir)
    layout.make()
    advertise = advertise_address or (bind_address if bind_address not in ("0.0.0.0", "::") else node_address())  # noqa: S104
    hosts = server_hosts(bind_address, advertise, given["service_cidr"])
    certificates = begin_apart(lambda: _server_certificates(layout, hosts))
    mimetypes.knownfiles.clear()  # aiohttp would read the machine's list of types of files, and no file is served
    from apiserver.app import ServerConfig, run

    config = ServerConfig(
        **certificates(), host=bind_address, port=port, advertise_address=advertise, service_cidr=given["service_cidr"],
        **server_settings(given), reuse_port=given["reuse_port"], shutdown_seconds=2.0,
    )  # fmt: skip

    if given["workers"] > 1:  # the certificates are there now: those who come at once must not each make their own
        if given["store"] != "etcd":
            raise click.UsageError("--workers needs etcd: the embedded store is of one process")
        from cluster.workers import run_workers

        workers, own = given["workers"], sys.argv[sys.argv.index("apiserver") + 1 :]
        run_component(lambda: run_workers(workers, own), verbose=verbose, starts_processes=True)
        return

    async def main() -> None:
        store = encrypted(await open_store(layout, given), given["encryption_provider_config"])
        try:
            watched = replace(config, reloads=encryption_reloads(store, given))
            await run(store, watched, sole_writer=not (given["etcd_servers"] or given["reuse_port"]))
        finally:
            await store.close()

    run_component(main, verbose=verbose)


def _server_certificates(layout: Layout, hosts: Sequence[str]) -> dict[str, Any]:
    """Make what is missing of the API server's certificates and keys; returns the settings that name their files."""
    from cluster.pki import Pki

    pki = Pki(layout.pki)
    cert, key = pki.server("apiserver", "apiserver", hosts)
    agent_cert, agent_key = pki.client("apiserver-kubelet-client", "wherry-apiserver-agent-client", [AGENT_CLIENTS])
    return {
        "cert_file": cert, "key_file": key, "client_ca_file": pki.ca_file,
        "token_key_file": pki.signing_key("service-account"), "agent_client_cert_file": agent_cert,
        "agent_client_key_file": agent_key, **front_proxy(pki),
    }  # fmt: skip


def front_proxy(pki: "Pki") -> dict[str, Path]:
    """Return the settings by which this server tells extension API servers who asks, and takes such words itself."""
    front = pki.front_proxy()
    cert, key = front.client("front-proxy-client", "front-proxy-client")
    return {"front_proxy_ca_file": front.ca_file, "front_proxy_cert_file": cert, "front_proxy_key_file": key}


async def open_store(layout: Layout, given: Mapping[str, Any]) -> Any:
    """Return the store that the options name."""
    if given["store"] == "embedded" and not given["etcd_servers"]:
        from apiserver.storage.sqlite import SQLiteStore

        layout.sqlite.touch(mode=0o600)  # before SQLite makes it as the umask says
        return SQLiteStore(layout.sqlite)
    from apiserver.storage.etcd import EtcdStore, EtcdTLS

    if not given["etcd_servers"]:
        return EtcdStore([f"unix://{layout.etcd_socket}"])
    ca = given["etcd_cafile"]
    tls = EtcdTLS(ca, given["etcd_certfile"], given["etcd_keyfile"]) if ca else None
    return EtcdStore(given["etcd_servers"].split(","), tls)
