"""Which pods a node ends so that a critical pod has room; pure.

As few and as small ones as will do, the best-effort ones rather than those that reserved something.
Source: https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/
"""

from collections.abc import Mapping, Sequence

from agent.admission import requested
from agent.pod_state import Pod, is_critical

REASON, MESSAGE = "Preempting", "Preempted in order to admit critical pod"
Needs = Mapping[str, int]  # resource -> how much is missing; `pods` counts pods


def victims(pod: Pod, others: Sequence[Pod], missing: Needs) -> list[Pod] | None:
    """Return the pods to end; None where even all that may be ended would not do."""
    if not is_critical(pod):
        return None
    may_go = [one for one in others if not is_critical(one)]
    if _left(missing, may_go):
        return None
    kinds = ("BestEffort", "Burstable", "Guaranteed")
    best, burst, sure = ([one for one in may_go if _quality(one) == kind] for kind in kinds)
    guaranteed = _nearest(sure, _left(missing, [*best, *burst]))
    burstable = _nearest(burst, _left(missing, [*best, *guaranteed]))
    return [*guaranteed, *burstable, *_nearest(best, _left(missing, [*burstable, *guaranteed]))]


def _quality(pod: Pod) -> str:
    return str((pod.get("status") or {}).get("qosClass") or "BestEffort")


def _gives(pod: Pod, name: str) -> int:
    return 1 if name == "pods" else requested(pod, name)


def _left(missing: Needs, gone: Sequence[Pod]) -> dict[str, int]:
    """Return what is still missing when these pods are gone."""
    left = {name: amount - sum(_gives(one, name) for one in gone) for name, amount in missing.items()}
    return {name: amount for name, amount in left.items() if amount > 0}


def _nearest(pods: Sequence[Pod], missing: Needs) -> list[Pod]:
    """Return pods whose requests come nearest to what is missing, one after the other until nothing is."""
    chosen: list[Pod] = []
    candidates = list(pods)
    while missing and candidates:
        needs = missing

        def distance(one: Pod, needs: Needs = needs) -> tuple[float, int]:
            shares = [max(amount - _gives(one, name), 0) / amount for name, amount in needs.items()]
            return sum(share * share for share in shares), sum(_gives(one, name) for name in needs)

        best = min(candidates, key=distance)
        candidates.remove(best)
        chosen.append(best)
        missing = _left(missing, [best])
    return chosen
