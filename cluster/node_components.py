"""The commands that run a node's agent, and simulated nodes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.addresses import node_address
from cluster.components import (
    POD_CIDR,
    SERVICE_CIDR,
    client_config,
    config_option,
    data_dir_option,
    kubeconfig_option,
    run_component,
    verbose_option,
)
from cluster.layout import Layout

if TYPE_CHECKING:
    from agent.settings import Settings as AgentSettings


def simulation_options(command: Any) -> Any:
    """Add the options that say how simulated containers behave."""
    rows = (
        ("--pull-seconds", 0.0, "How long an image takes to come."),
        ("--start-seconds", 0.0, "How long a container takes to start."),
        ("--stop-seconds", 0.0, "How long a container takes to end."),
        ("--run-seconds", -1.0, "Containers end by themselves after this long; never by default."),
        ("--start-failures", 0.0, "How many in a hundred starts of containers fail."),
        ("--sandbox-failures", 0.0, "How many in a hundred sandboxes can't be made."),
    )
    for name, default, text in reversed(rows):
        command = click.option(name, default=default, help=text)(command)
    return click.option("--tell-events", is_flag=True, help="Write the pods' events.")(command)


def _simulate(config: Any, count: int, given: dict[str, Any], *, verbose: bool, pools: bool = False) -> None:
    from dataclasses import fields

    from agent.simulated.nodes import Simulation, run_simulated_nodes
    from agent.simulated.runtime import Behaviour

    names = {one.name for one in fields(Behaviour)}
    behaviour = Behaviour(**{name: value for name, value in given.items() if name in names})
    simulation = Simulation(count, behaviour, tell_events=given["tell_events"])
    if pools:
        from agent.simulated.pools import run_pool_nodes

        run_component(lambda: run_pool_nodes(config, simulation), verbose=verbose)
        return
    run_component(lambda: run_simulated_nodes(config, simulation), verbose=verbose)


@click.command("agent")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--node-name", default="", help="This machine's name in the cluster.")
@click.option("--node-ip", default="", help="The address this node is reached at.")
@click.option("--port", default=10250, show_default=True)
@click.option(
    "--cri-endpoint",
    "--runtime-endpoint",
    "cri_endpoint",
    default="",
    help="The runtime's CRI socket, any runtime's.",
)
@click.option("--pod-cidr", default=POD_CIDR, show_default=True)
@click.option(
    "--node-network", type=click.Choice(["auto", "direct", "vxlan", "wireguard", "none"]), default="auto",
    help="How pods of other nodes are reached: by plain routes, through a tunnel, or by means that are not ours.",
)  # fmt: skip
@click.option("--load-balancer", default="", help="Announce load balancers' addresses of this range on this link.")
@click.option("--cluster-cidr", default="", help="The range of all nodes' pods.")
@click.option("--service-cidr", default=SERVICE_CIDR, show_default=True)
@click.option("--bridge", default="wherry0", show_default=True)
@click.option("--cluster-dns", default="", help="The resolver pods use.")
@click.option("--static-pods", type=click.Path(path_type=Path), help="A folder of pod manifests to run.")
@click.option("--proxy/--no-proxy", default=True, help="Route services on this node.")
@click.option(
    "--image-credential-provider-config", "provider_config", type=click.Path(path_type=Path, exists=True),
    help="A CredentialProviderConfig: programs that know credentials for images.",
)  # fmt: skip
@click.option(
    "--image-credential-provider-bin-dir", "provider_folder", type=click.Path(path_type=Path, exists=True),
    help="Where these programs are.",
)  # fmt: skip
@click.option("--rotate-certificates", is_flag=True, help="Ask for new certificates before this node's run out.")
@click.option("--cpu-manager-policy", type=click.Choice(["none", "static"]), default="none")
@click.option(
    "--kubelet-config", type=click.Path(path_type=Path),
    help="A KubeletConfiguration; kubelet.yaml in the data folder when left out. Followed while the agent runs.",
)  # fmt: skip
@click.option(
    "--config-dir", type=click.Path(path_type=Path),
    help="A folder of *.conf files laid over it; kubelet.conf.d in the data folder when left out.",
)  # fmt: skip
@click.option(
    "--shutdown-grace-period", default=30, show_default=True,
    help="Seconds that pods have to end when SIGUSR1 tells that the machine is about to stop; 0 for no such care.",
)  # fmt: skip
@click.option(
    "--shutdown-grace-period-critical-pods", default=10, show_default=True,
    help="The part of them that is kept for critical pods, which end last.",
)  # fmt: skip
@click.option("--simulate", default=0, help="Be this many nodes that only say they run what they are given.")
@simulation_options
def agent(data_dir: Path, kubeconfig: Path | None, verbose: bool, **given: Any) -> None:
    """Run the pods of this node."""
    if given["simulate"]:
        simulated = client_config(Layout(data_dir), "simulated-nodes", kubeconfig)
        _simulate(simulated, given["simulate"], given, verbose=verbose)
        return
    from agent.app import run
    from agent.config import AgentConfig
    from cluster.credentials import agent_hosts
    from cluster.settings import node_name

    layout = Layout(data_dir)
    layout.make()
    name = given["node_name"] or node_name()
    cert, key = layout.pki / "agent.crt", layout.pki / "agent.key"
    if not (cert.exists() and key.exists()):  # `wherry up` makes them; reading certificates takes 10 MB for good
        from cluster.pki import Pki

        cert, key = Pki(layout.pki).server("agent", f"system:node:{name}", agent_hosts(name), ["system:nodes"])
    files, body, settings, fixed = _configuration(data_dir, given)
    static = given["static_pods"] or data_dir / "static-pods"
    client = client_config(layout, "agent", kubeconfig)
    if given["rotate_certificates"] and not client.cert_file:  # machines that joined long ago have them inline
        own, key_of_own = layout.pki / "node-client.crt", layout.pki / "node-client.key"
        client = replace(client, cert_data=b"", key_data=b"", cert_file=str(own), key_file=str(key_of_own))
    config = AgentConfig(
        client=client, node_name=name, node_ip=given["node_ip"] or node_address(),
        data_dir=data_dir / "agent", runtime_socket=_socket(given["cri_endpoint"]) or layout.runtime_socket,
        cert_file=cert, key_file=key, ca_file=layout.pki / "ca.crt", port=given["port"], pod_cidr=given["pod_cidr"],
        node_network=given["node_network"], load_balancer=given["load_balancer"],
        cluster_cidr=given["cluster_cidr"], bridge=given["bridge"],
        service_cidr=given["service_cidr"],
        static_pod_dir=static, proxy=given["proxy"], cpu_manager_policy=given["cpu_manager_policy"],
        rotate_certificates=given["rotate_certificates"],
        credential_providers=_providers(given["provider_config"], given["provider_folder"]),
        settings=settings, config_file=files[0], config_dir=files[1], configuration=body, fixed_settings=fixed,
    )  # fmt: skip
    config = replace(config, **_from_file(body))
    run_component(lambda: run(config), verbose=verbose)


# Flags that say what a KubeletConfiguration may say, too: they win where they are given.
_SETTING_FLAGS = {
    "cluster_dns": "cluster_dns", "shutdown_grace_period": "shutdown_seconds",
    "shutdown_grace_period_critical_pods": "shutdown_critical_seconds",
}  # fmt: skip
_START_FLAGS = {"static_pod_dir": "static_pods", "runtime_socket": "cri_endpoint"}


def _is_given(flag: str) -> bool:
    source = click.get_current_context().get_parameter_source(flag)
    return source not in (None, click.core.ParameterSource.DEFAULT)


def _configuration(
    data_dir: Path, given: dict[str, Any]
) -> tuple[tuple[Path, Path], dict[str, Any], "AgentSettings", dict[str, Any]]:
    """Return the node's configuration files, what they hold, the settings in force and those that flags fix."""
    from agent import kubelet_config

    file = given["kubelet_config"] or data_dir / "kubelet.yaml"
    folder = given["config_dir"] or data_dir / "kubelet.conf.d"
    fixed = {name: given[flag] for flag, name in _SETTING_FLAGS.items() if _is_given(flag)}
    if "cluster_dns" in fixed:
        fixed["cluster_dns"] = tuple(part.strip() for part in fixed["cluster_dns"].split(",") if part.strip())
    try:
        body = kubelet_config.read(file, folder)
        settings = kubelet_config.settings(body, fixed)
        kubelet_config.at_start(body)
    except kubelet_config.BadConfiguration as error:
        raise click.ClickException(f"the node's configuration: {error}") from error
    if names := kubelet_config.left_out(body):
        click.echo(f"not taken from the node's configuration: {', '.join(names)}", err=True)
    return (file, folder), body, settings, fixed


def _from_file(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of the agent's start, where no flag says otherwise."""
    from agent import kubelet_config

    found = kubelet_config.at_start(body)
    return {name: value for name, value in found.items() if not _is_given(_START_FLAGS.get(name, name))}


@click.command("dns")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--listen", "addresses", multiple=True, help="Listen here; at the pods' gateway when left out.")
@click.option("--port", default=53, show_default=True)
@click.option("--pod-cidr", default=POD_CIDR, show_default=True)
@click.option("--service-cidr", default=SERVICE_CIDR, show_default=True)
@click.option("--node-name", default="", help="This machine's name in the cluster.")
@click.option("--domain", default="cluster.local", show_default=True)
@click.option("--upstream", "upstreams", multiple=True, help="Ask here about other names; resolv.conf's when left out.")
@click.option("--status-port", default=0, help="Tell health and metrics on this port of loopback.")
def dns(data_dir: Path, kubeconfig: Path | None, verbose: bool, **given: Any) -> None:
    """Answer names of Services and pods."""
    import ipaddress

    from cluster.settings import dns_address, node_name
    from clusterdns.app import Config, run
    from clusterdns.settings import parse_server

    layout = Layout(data_dir)
    layout.make()
    gateways = [str(ipaddress.ip_network(part)[1]) for part in given["pod_cidr"].split(",")]
    config = Config(
        client=client_config(layout, "dns", kubeconfig), addresses=given["addresses"] or tuple(gateways),
        cluster_address=dns_address(given["service_cidr"]), node=given["node_name"] or node_name(), port=given["port"],
        domain=given["domain"], upstreams=tuple(map(parse_server, given["upstreams"])),
        status_port=given["status_port"],
    )  # fmt: skip
    run_component(lambda: run(config), verbose=verbose)


def _providers(config: Path | None, folder: Path | None) -> tuple[Path, Path] | None:
    if (config is None) != (folder is None):
        raise click.UsageError("--image-credential-provider-config and --image-credential-provider-bin-dir go together")
    return (config, folder) if config is not None and folder is not None else None


def _socket(endpoint: str) -> Path | None:
    """Return the path of a CRI endpoint, which may be written as a URL; None for none."""
    return Path(endpoint.removeprefix("unix://")) if endpoint else None


@click.command("ingress")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--http-port", default=80, show_default=True)
@click.option("--https-port", default=443, show_default=True)
@click.option("--address", default="", help="The address told in the status of Ingresses.")
def ingress(data_dir: Path, kubeconfig: Path | None, verbose: bool, **given: Any) -> None:
    """Serve Ingresses with HAProxy on this machine."""
    from operators.ingress.app import Config, run
    from operators.ingress.haproxy import Listen

    layout = Layout(data_dir)
    layout.make()
    listen = Listen(given["http_port"], given["https_port"], layout.run / "ingress")
    addresses = (given["address"] or node_address(),)
    config = Config(client_config(layout, "ingress", kubeconfig), listen, addresses)
    run_component(lambda: run(config), verbose=verbose, starts_processes=True)


@click.command("simulated-nodes")
@config_option
@data_dir_option
@verbose_option
@kubeconfig_option
@click.option("--count", default=1, show_default=True)
@click.option("--pools", is_flag=True, help="Be the nodes that NodePools ask for (the add-on nodepool).")
@simulation_options
def simulated_nodes(
    data_dir: Path, kubeconfig: Path | None, count: int, verbose: bool, pools: bool, **given: Any
) -> None:
    """Be nodes that only say they run what they are given."""
    config = client_config(Layout(data_dir), "simulated-nodes", kubeconfig)
    _simulate(config, count, given, verbose=verbose, pools=pools)
