"""The commands that run one component each, and what all share; `wherry up` starts these commands as processes."""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import click

from cluster.layout import Layout, default_data_dir

API_PORT = 6443
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/24"
_GC_THRESHOLD = (10_000, 20, 50)

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
@click.option("--node-monitor-grace-period", default=40.0, help="How long a node may be silent, in seconds.")
@click.option("--node-eviction-rate", default=0.1, help="Nodes a second whose pods are driven away.")
@click.option("--secondary-node-eviction-rate", default=0.01, help="The same in a large zone that is mostly away.")
@click.option("--large-cluster-size-threshold", default=50, help="A zone of at most so many nodes is small.")
@click.option("--unhealthy-zone-threshold", default=0.55, help="The share of a zone's nodes that is most of them.")
@click.option("--terminated-pod-gc-threshold", default=12_500, help="How many ended pods are kept; 0 keeps all.")
@click.option("--horizontal-pod-autoscaler-sync-period", default=15.0, help="How often metrics are read, in seconds.")
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
    from controllers.node_zones import EvictionRates

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
        "node_monitor_grace_seconds": given["node_monitor_grace_period"],
        "eviction_rates": EvictionRates(
            given["node_eviction_rate"],
            given["secondary_node_eviction_rate"],
            given["large_cluster_size_threshold"],
            given["unhealthy_zone_threshold"],
        ),
        "terminated_pod_threshold": given["terminated_pod_gc_threshold"],
        "autoscaler_sync_seconds": given["horizontal_pod_autoscaler_sync_period"],
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
