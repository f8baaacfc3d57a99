"""Memory of the processes of an idle cluster, in MB."""

import os
import time

from bench.clusters import memory_mb, running
from cluster.processes import running_pid

CONTROL, NODE = ("apiserver", "controller-manager", "scheduler"), ("agent", "runtime")
_SETTLE_SECONDS = 5.0


def main() -> dict[str, object]:
    """Return each component's resident memory, and the sums beside their budgets."""
    with running() as (layout, _, _):
        time.sleep(_SETTLE_SECONDS)
        names = [*CONTROL, *(NODE if os.geteuid() == 0 else ())]
        found = {name: memory_mb(running_pid(layout, name) or 0) for name in names}
    sums: dict[str, object] = {
        "control_plane": round(sum(found[name] for name in CONTROL), 1),
        "budget_control_plane": 150,
    }
    if os.geteuid() == 0:
        sums |= {"agent_and_runtime": round(sum(found[name] for name in NODE), 1), "budget_agent_and_runtime": 120}
    return {**found, **sums}
