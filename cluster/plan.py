"""Which processes a cluster is made of, by its settings."""

import sys
from dataclasses import replace

from cluster import addons, etcd
from cluster.layout import Layout
from cluster.processes import Component
from cluster.settings import Settings, cluster_cidr, dns_address, node_name

# The order they are started in; stopped in reverse.
COMPONENTS = (
    "etcd", "apiserver", "runtime", "controller-manager", "scheduler", "agent", "dns", "ingress", "operators",
    "dashboard", "simulated-nodes", "pool-nodes",
)  # fmt: skip
OF_ADDONS = ("operators", "dashboard", "pool-nodes")


def _wherry(layout: Layout, component: str, *arguments: str) -> Component:
    argv = [sys.executable, "-m", "cluster.main", component, "--data-dir", str(layout.root), *arguments]
    return Component(component, argv)


def plan(layout: Layout, settings: Settings) -> list[Component]:
    """Return the processes of a cluster, in the order of their start."""
    if settings.join:
        return _node(layout, settings, settings.cluster_dns)
    found: list[Component] = []
    if settings.store == "etcd" and not settings.etcd_servers:
        found.append(etcd.component(layout))
    server = [
        "--port", str(settings.api_port), "--bind-address", settings.bind_address, "--store", settings.store,
        "--service-cidr", settings.service_cidr,
    ]  # fmt: skip
    if settings.etcd_servers:
        server += ["--etcd-servers", settings.etcd_servers]
    if settings.node_ip:
        server += ["--advertise-address", settings.node_ip]
    found.append(_wherry(layout, "apiserver", *server))
    if settings.agent:
        found += _node(layout, settings, dns_address(settings.service_cidr) if settings.dns else "")
    ranges = ["--service-cidr", settings.service_cidr, "--cluster-cidr", cluster_cidr(settings)]
    if settings.load_balancer != "none":
        ranges += ["--load-balancer", settings.load_balancer]
    found.append(_wherry(layout, "controller-manager", *ranges))
    found.append(_wherry(layout, "scheduler"))
    if settings.agent and settings.dns:
        dns = ["--pod-cidr", settings.pod_cidr, "--service-cidr", settings.service_cidr]
        found.append(_wherry(layout, "dns", *dns, "--node-name", settings.node_name or node_name()))
    return found + _beside(layout, settings)


def _beside(layout: Layout, settings: Settings) -> list[Component]:
    """Return what a cluster can have and does not need."""
    found: list[Component] = []
    if settings.ingress:
        found.append(_wherry(layout, "ingress", *(["--address", settings.node_ip] if settings.node_ip else [])))
    if operated := addons.operated(settings.addons):
        found.append(replace(_wherry(layout, "operator", *operated), name="operators"))
    if "dashboard" in settings.addons:
        where = ["--server", f"https://127.0.0.1:{settings.api_port}", "--port", str(settings.dashboard_port)]
        where += ["--certificate-authority", str(layout.pki / "ca.crt")]
        found.append(Component("dashboard", [sys.executable, "-m", "cluster.main", "dashboard", *where]))
    if "nodepool" in settings.addons:
        found.append(replace(_wherry(layout, "simulated-nodes", "--pools"), name="pool-nodes"))
    if settings.simulated_nodes:
        found.append(_wherry(layout, "simulated-nodes", "--count", str(settings.simulated_nodes)))
    return found


def _node(layout: Layout, settings: Settings, cluster_dns: str) -> list[Component]:
    """Return what makes a machine a node."""
    agent = [
        "--pod-cidr", settings.pod_cidr, "--service-cidr", settings.service_cidr, "--bridge", settings.bridge,
        "--port", str(settings.agent_port), "--cluster-cidr", cluster_cidr(settings),
        "--node-network", settings.node_network,
    ]  # fmt: skip
    if settings.load_balancer not in ("nodes", "none"):
        agent += ["--load-balancer", settings.load_balancer]
    if settings.node_name:
        agent += ["--node-name", settings.node_name]
    if settings.node_ip:
        agent += ["--node-ip", settings.node_ip]
    if cluster_dns:
        agent += ["--cluster-dns", cluster_dns]
    if settings.join:  # there is no CA on this machine to make new ones with
        agent += ["--rotate-certificates"]
    if settings.cri_endpoint:
        return [_wherry(layout, "agent", *agent, "--cri-endpoint", settings.cri_endpoint)]
    runtime = ["--pod-cidr", settings.pod_cidr, "--bridge", settings.bridge]
    return [_wherry(layout, "runtime", *runtime), _wherry(layout, "agent", *agent)]
