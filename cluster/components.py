"""The commands that run one component each; `wherry up` starts these same commands as processes."""

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.addresses import node_address, server_hosts
from cluster.apiserver_options import encrypted, encryption_reloads, server_options, server_settings
from cluster.layout import Layout, default_data_dir

if TYPE_CHECKING:
    from cluster.pki import Pki

API_PORT = 6443
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/24"
_GC_THRESHOLD = (10_000, 20, 50)
# The group of certificates that agents let in; it may use what they serve, and nothing else of the API.
AGENT_CLIENTS = "wherry:agent-clients"

data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=default_data_dir, help="The cluster's folder."
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Log more.")


def _config_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take option values from a YAML file; those given on the command line win."""
    if path is None:
        return
    import yaml

    values = yaml.safe_load(path.read_text()) or {}
    if not isinstance(values, Mapping):
        raise click.BadParameter(f"{path} holds no mapping of option names to values")
    known = {parameter.name for parameter in context.command.params}
    if values.get("kind") == "KubeSchedulerConfiguration" and "scheduler_config" in known:
        values = {"scheduler_config": str(path)}  # kube-scheduler's --config is this file
    given = {str(name).replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(given) - known):
        raise click.BadParameter(f"unknown options in {path}: {', '.join(unknown)}")
    context.default_map = {**(context.default_map or {}), **given}


config_option = click.option(
    "--config", type=click.Path(exists=True, path_type=Path), callback=_config_file, is_eager=True, expose_value=False,
    help="A YAML file of these options.",
)  # fmt: skip


def run_component(
    main: Callable[[], Coroutine[Any, Any, None]], *, verbose: bool, starts_processes: bool = False
) -> None:
    """Run a component until it is sent SIGTERM or SIGINT.

    One that starts many processes runs on asyncio's own loop: uvloop now and then closes pipes it was handed for them.
    """
    import signal

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)

    async def until_told() -> None:
        _collect_seldom()
        task = asyncio.ensure_future(main())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    if starts_processes:
        asyncio.run(until_told())
        return
    import uvloop

    uvloop.run(until_told())


def _collect_seldom() -> None:
    """Leave what was loaded out of garbage collection, and look through the rest a tenth as often: caches are large."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


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


def client_config(layout: Layout, component: str, kubeconfig: Path | None) -> Any:
    """Return how a component reaches the API server: by the kubeconfig given, or its own in the data folder."""
    from machinery.client.kubeconfig import load_config

    return load_config(str(kubeconfig or layout.component_kubeconfig(component)))


kubeconfig_option = click.option("--kubeconfig", type=click.Path(exists=True, path_type=Path))


# One that was killed and comes back under its old name holds its lease still, and need not wait for its end.
identity_option = click.option(
    "--identity",
    default=socket.gethostname,
    help="Our name among several that wait for one lease; no two may share it.",
)


@click.command("scheduler")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--leader-elect/--no-leader-elect", default=True)
@identity_option
@click.option(
    "--scheduler-config", type=click.Path(exists=True, path_type=Path),
    help="A KubeSchedulerConfiguration: profiles, plugins and their arguments, extenders.",
)  # fmt: skip
@click.option("--bind-address", default="127.0.0.1", help="Tell health, metrics and reasons here.")
@click.option("--status-port", default=0, help="And on this port; 0 for not at all.")
@click.option("--tls-cert-file", default="", help="Needed on addresses other than loopback, with the two below.")
@click.option("--tls-private-key-file", default="")
@click.option("--client-ca-file", default="", help="Whose certificates clients must show.")
def scheduler(
    data_dir: Path, kubeconfig: Path | None, leader_elect: bool, identity: str, scheduler_config: Path | None,
    verbose: bool, **given: Any,
) -> None:  # fmt: skip
    """Put pods on nodes."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from scheduler.app import run
    from scheduler.config import ConfigError, default_config, read_config
    from scheduler.status import StatusOptions

    try:
        settings = read_config(scheduler_config) if scheduler_config else default_config()
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    path = kubeconfig or (Path(settings.kubeconfig) if settings.kubeconfig else None)
    config = client_config(Layout(data_dir), "scheduler", path)
    elect = leader_elect and settings.leader_elect is not False
    status = StatusOptions(
        given["bind_address"], given["status_port"], given["tls_cert_file"], given["tls_private_key_file"],
        given["client_ca_file"],
    )  # fmt: skip

    async def main() -> None:
        await run(config, leader_elect=elect, identity=identity, settings=settings, status=status)

    run_component(main, verbose=verbose)


@click.command("controller-manager")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--leader-elect/--no-leader-elect", default=True)
@identity_option
@click.option("--load-balancer", default="", help="Where load balancers are reached: nodes, or a range of addresses.")
@click.option("--cluster-cidr", default="", help="Give nodes that name no range for their pods one out of these.")
@click.option("--service-cidr", default=SERVICE_CIDR, help="Where the API server takes service addresses from.")
@click.option(
    "--local-path", default="", help="Where nodes keep the volumes of the class local-path; in the data folder by "
    "default, 'none' for no such class.",
)  # fmt: skip
@click.option("--local-path-image", default="wherry.local/busybox:latest", help="An image with sh, for its helpers.")
@click.option("--cluster-signing-cert-file", type=click.Path(path_type=Path), help="The CA that signs certificates.")
@click.option("--cluster-signing-key-file", type=click.Path(path_type=Path))
@click.option("--metrics-bind-address", default="", help="Serve /metrics and /healthz at HOST:PORT; nowhere if empty.")
@click.option("--leader-elect-lease-duration", default=15.0, help="How long the lease holds, in seconds.")
@click.option("--leader-elect-renew-deadline", default=10.0, help="How long the leader tries to renew it, in seconds.")
@click.option("--leader-elect-retry-period", default=2.0, help="How often it is tried, in seconds.")
def controller_manager(
    data_dir: Path, kubeconfig: Path | None, leader_elect: bool, verbose: bool, **given: Any
) -> None:
    """Run the controllers."""
    from controllers.manager import Options, run

    layout = Layout(data_dir)
    config = client_config(layout, "controller-manager", kubeconfig)
    options = Options(**_manager_options(layout, given))
    run_component(lambda: run(config, leader_elect=leader_elect, options=options), verbose=verbose)


def _manager_options(layout: Layout, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controllers' options; what names no place lies in the data folder."""
    from controllers.certificate_signer import Authority
    from controllers.local_path import Settings

    cert = given["cluster_signing_cert_file"] or layout.pki / "ca.crt"
    key = given["cluster_signing_key_file"] or layout.pki / "ca.key"
    folder = given["local_path"] or str((layout.root / "volumes").absolute())
    return {
        "identity": given["identity"],
        "authority": Authority(cert, key) if cert.exists() and key.exists() else None,
        "local_path": Settings(folder, given["local_path_image"]) if folder != "none" else None,
        "load_balancer": given["load_balancer"],
        "cluster_cidrs": tuple(filter(None, given["cluster_cidr"].split(","))),
        "service_cidrs": tuple(filter(None, given["service_cidr"].split(","))),
        "metrics_address": given["metrics_bind_address"],
        "lease_seconds": tuple(
            given[f"leader_elect_{name}"] for name in ("lease_duration", "renew_deadline", "retry_period")
        ),
    }


@click.command("runtime")
@config_option
@data_dir_option
@verbose_option
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), help="Serve CRI here.")
@click.option("--pod-cidr", default=POD_CIDR)
@click.option("--bridge", default="wherry0")
def runtime(data_dir: Path, socket_path: Path | None, pod_cidr: str, bridge: str, verbose: bool) -> None:
    """Run containers for the agent."""
    from agent.runtime.config import RuntimeConfig
    from agent.runtime.server import run

    layout = Layout(data_dir)
    layout.make()
    config = RuntimeConfig(
        root=data_dir / "runtime", state=layout.run / "runtime", socket=socket_path or layout.runtime_socket,
        pod_cidr=pod_cidr, bridge=bridge,
    )  # fmt: skip
    run_component(lambda: run(config), verbose=verbose, starts_processes=True)
