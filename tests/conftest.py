"""How tests share two workers, `scripts/test` has it so: which go to the same one, and a network for each.

Bridges, nftables rules and routes have fixed names; in a network namespace of its own no worker meets another's.
"""

import ctypes
import os
import subprocess
from typing import Any

import pytest

_CLONE_NEWNET = 0x40000000
# An address and a default route, as a machine has; what is sent there goes nowhere.
_NETWORK = (
    "link set lo up", "link add eth0 type veth peer name nowhere", "link set nowhere up", "link set eth0 up",
    "address add 192.0.2.2/24 dev eth0", "route add default via 192.0.2.1",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Give a worker a network of its own."""
    if not hasattr(config, "workerinput") or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise pytest.UsageError(f"no network namespace for a worker: {os.strerror(ctypes.get_errno())}")
    for command in _NETWORK:
        subprocess.run(["ip", *command.split()], check=True)


def group_of(node_id: str) -> str:
    """Return what keeps tests together: the folder or file whose servers they share."""
    path, _, name = node_id.removeprefix("tests/").partition("::")
    folder = path.rpartition("/")[0]
    if folder == "e2e/pods":  # a cluster for each runtime
        return f"{folder} on {'containerd' if '[containerd' in name else 'wherry'}"
    return folder if folder.startswith("e2e") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole groups, the largest first."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)
