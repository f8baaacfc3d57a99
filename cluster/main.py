"""The console script `wherry`: kubectl's verbs and the cluster's own commands, each loaded when it is used."""

import importlib
import os
import sys
from pathlib import Path

from cluster.layout import Layout, default_data_dir

COMMANDS = {
    "up": "cluster.commands:up",
    "down": "cluster.commands:down",
    "status": "cluster.commands:status",
    "reset": "cluster.commands:reset",
    "etcd": "cluster.etcd_commands:etcd",
    "apiserver": "cluster.apiserver_component:apiserver",
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


# These run for as long as the cluster does and do without the command line's frame, which takes 2 MB of each.
PROCESSES = ("apiserver", "scheduler", "controller-manager", "agent", "runtime", "dns", "ingress", "simulated-nodes")


def _prefer_own_cluster() -> None:
    """Without a kubeconfig of the user's, talk to this machine's cluster, if there is one that this user may read."""
    if os.environ.get("KUBECONFIG") or (Path.home() / ".kube/config").exists():
        return
    own = Layout(default_data_dir()).kubeconfig
    if os.access(own, os.R_OK):
        os.environ["KUBECONFIG"] = str(own)


def main() -> None:
    """Run one command and exit with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in PROCESSES:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        command.main(sys.argv[2:], prog_name=f"wherry {name}", help_option_names=["-h", "--help"])
    _prefer_own_cluster()
    from cli.main import run_cli

    sys.exit(run_cli(COMMANDS))


if __name__ == "__main__":
    main()
