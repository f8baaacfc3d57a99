"""The console script `wherry`: kubectl's verbs and the cluster's own commands, each loaded when it is used."""

import sys

from cli.main import run_cli

COMMANDS = {
    "up": "cluster.commands:up",
    "down": "cluster.commands:down",
    "status": "cluster.commands:status",
    "reset": "cluster.commands:reset",
    "etcd": "cluster.etcd_commands:etcd",
    "apiserver": "cluster.components:apiserver",
    "scheduler": "cluster.components:scheduler",
    "controller-manager": "cluster.components:controller_manager",
    "agent": "cluster.node_components:agent",
    "runtime": "cluster.components:runtime",
    "why": "cluster.scheduling:why",
    "simulate": "cluster.scheduling:simulate",
    "dns": "cluster.node_components:dns",
    "ingress": "cluster.node_components:ingress",
    "net": "cluster.net_commands:net",
    "token": "cluster.join_commands:token",
    "join": "cluster.join_commands:join",
    "serve-node": "cluster.join_commands:serve_node",
    "operator": "cluster.operator_commands:operator",
    "dashboard": "cluster.dashboard_commands:dashboard",
    "addon": "cluster.addon_commands:addon",
    "simulated-nodes": "cluster.node_components:simulated_nodes",
}


def main() -> None:
    """Run one command and exit with its code."""
    sys.exit(run_cli(COMMANDS))


if __name__ == "__main__":
    main()
