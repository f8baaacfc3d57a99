"""The cluster's own etcd: one member, its data in the data folder, reached through a Unix socket alone."""

import shutil

from cluster.layout import Layout
from cluster.processes import Component

# Room for a large cluster's objects; etcd's own default of 2 GiB is soon full of events.
_QUOTA_BYTES = 8 * 1024**3


def is_installed() -> bool:
    """Whether there is an etcd to start."""
    return shutil.which("etcd") is not None


def component(layout: Layout) -> Component:
    """Return how to start it."""
    # etcd insists on host:port, and makes a socket of that name in its working folder.
    client, peer = f"unix://{layout.etcd_socket.name}", "unix://etcd-peer:1"
    argv = [
        "etcd", "--name", "wherry", "--data-dir", str(layout.etcd),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"wherry={peer}",
        "--quota-backend-bytes", str(_QUOTA_BYTES), "--max-request-bytes", str(4 * 1024**2), "--log-level", "warn",
        "--logger", "zap",
    ]  # fmt: skip
    return Component("etcd", argv, cwd=layout.run, stale=[layout.etcd_socket, layout.run / "etcd-peer:1"])
