"""Memory of the processes of an idle cluster, in MB."""

import os
import time

from bench.clusters import memory_mb, running, share_mb
from cluster.processes import running_pid

CONTROL, NODE = ("apiserver", "controller-manager", "scheduler"), ("agent", "runtime")
OTHERS = ("up", "dns")
_SETTLE_SECONDS = 5.0


def main() -> dict[str, object]:
    """Return each component's resident memory, and the sums beside their budgets."""
    with running() as (layout, _, _):
        time.sleep(_SETTLE_SECONDS)
        names = [*CONTROL, *OTHERS, *(NODE if os.geteuid() == 0 else ())]
        found = {name: memory_mb(running_pid(layout, name) or 0) for name in names}
        shares = {name: share_mb(running_pid(layout, name) or 0) for name in names}
    result: dict[str, object] = {**found}
    result |= {
        "control_plane": round(sum(found[name] for name in CONTROL), 1),
        "control_plane_pss": round(sum(shares[name] for name in CONTROL), 1),
        "budget_control_plane": 150,
    }
    if os.geteuid() == 0:
        result |= {
            "agent_and_runtime": round(sum(found[name] for name in NODE), 1),
            "agent_and_runtime_pss": round(sum(shares[name] for name in NODE), 1),
            "budget_agent_and_runtime": 120,
        }
    return result
