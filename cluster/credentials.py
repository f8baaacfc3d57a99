"""The certificates and kubeconfigs that the components and the administrator use."""

from cluster import addons
from cluster.addresses import node_address
from cluster.kubeconfig import write_kubeconfig
from cluster.layout import Layout
from cluster.settings import Settings, node_name


def write_credentials(layout: Layout, settings: Settings) -> None:
    """Make the certificates and kubeconfigs that the components and the administrator use."""
    from cluster.pki import Pki

    pki = Pki(layout.pki)
    server = f"https://127.0.0.1:{settings.api_port}"
    users = {
        "scheduler": ("system:kube-scheduler", []),
        "controller-manager": ("system:kube-controller-manager", []),
        "simulated-nodes": ("system:simulated-nodes", ["system:masters"]),
        "dns": ("system:wherry-dns", []),
        "ingress": ("system:wherry-ingress", []),
    }
    for component, (user, groups) in users.items():
        cert, key = pki.client(component, user, groups)
        path = layout.component_kubeconfig(component)
        write_kubeconfig(path, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user=user)
    write_operator_credentials(layout, settings)
    name = settings.node_name or node_name()
    hosts = [*agent_hosts(name), *([settings.node_ip] if settings.node_ip else [])]
    cert, key = pki.server("agent", f"system:node:{name}", hosts, ["system:nodes"])
    write_kubeconfig(
        layout.component_kubeconfig("agent"), server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key,
        user=f"system:node:{name}",
    )  # fmt: skip
    cert, key = pki.client("admin", "wherry-admin", ["system:masters"])
    write_kubeconfig(
        layout.kubeconfig, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user="wherry-admin"
    )


def write_operator_credentials(layout: Layout, settings: Settings) -> None:
    """Make the certificates and kubeconfigs of the add-ons' operators."""
    from cluster.pki import Pki

    pki, server = Pki(layout.pki), f"https://127.0.0.1:{settings.api_port}"
    for name in addons.operated(settings.addons):
        user, component = f"system:wherry-{name}", f"{name}-operator"
        cert, key = pki.client(component, user, [])
        path = layout.component_kubeconfig(component)
        write_kubeconfig(path, server=server, ca_file=pki.ca_file, cert_file=cert, key_file=key, user=user)


def agent_hosts(name: str) -> list[str]:
    """Return the names and addresses the agent is reached at."""
    return list(dict.fromkeys([name, "localhost", "127.0.0.1", node_address()]))
