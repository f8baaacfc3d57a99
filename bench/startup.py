"""How long `wherry up` takes: to a ready API server alone, and to a Ready node."""

import os
from statistics import median

from bench.clusters import running, serving

RUNS = 3


def main() -> dict[str, object]:
    """Return seconds, the median of several starts on empty folders."""
    alone, whole = [], []
    for _ in range(RUNS):
        with serving() as (_, _, took):
            alone.append(took)
        if os.geteuid() == 0:
            with running() as (_, _, took):
                whole.append(took)
    found: dict[str, object] = {"api_ready_s": round(median(alone), 2), "budget_api_ready_s": 1.0}
    if whole:
        found |= {"node_ready_s": round(median(whole), 2), "budget_node_ready_s": 3.0}
    return found
