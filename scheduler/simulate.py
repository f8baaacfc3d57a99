"""What would become of pods that are not there: where they would go, and how many nodes more they would need. Pure."""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

from scheduler.framework.profile import Profile
from scheduler.schedule_one import Chooser, Unschedulable
from scheduler.snapshot import Snapshot

Object = dict[str, Any]
MAX_ADDED = 1000


def simulate(
    snapshot: Snapshot, profile: Profile, objects: Iterable[Object], *, like: str = "", more: int = 0
) -> dict[str, Any]:
    """Place pods in thought, one after the other; the snapshot is changed by it.

    Args: `like` names the node whose copies are added: `more` of them at once, then as many as the pods need.
    Raises: KeyError when there is no node of that name.
    """
    table = snapshot.table
    chooser = Chooser(table, profile, snapshot.cluster)
    for number in range(more):
        _add(snapshot, like, f"{like}-more-{number}")
    placed: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    added = 0
    for obj in objects:
        _give_priority(obj, snapshot)
        pod = snapshot.reader.read_object(obj)
        while True:
            cycle = chooser.cycle(pod)
            try:
                row = chooser.choose_in(cycle)
            except Unschedulable as error:
                if like and added < MAX_ADDED and _helps(snapshot, chooser, pod, like):
                    _add(snapshot, like, f"{like}-added-{added}")
                    added += 1
                    continue
                failed.append((str(pod.key), str(error)))
            else:
                name = table.nodes[row].name
                table.put_pod(pod, name)
                for plugin in profile.reserves:
                    plugin.reserve(cycle, table.nodes[row])
                placed.append((str(pod.key), name))
            break
    return {
        "placed": placed, "by_node": dict(Counter(name for _, name in placed).most_common()), "failed": failed,
        "nodes_added": added,
    }  # fmt: skip


def _helps(snapshot: Snapshot, chooser: Chooser, pod: Any, like: str) -> bool:
    """Say whether one more such node would take the pod."""
    table, name = snapshot.table, f"{like}-trial"
    _add(snapshot, like, name)
    try:
        chooser.choose(pod)
    except Unschedulable:
        return False
    finally:
        table.remove_node(name)
        snapshot.slices[:] = [one for one in snapshot.slices if one["spec"].get("nodeName") != name]
    return True


def _add(snapshot: Snapshot, like: str, name: str) -> None:
    node = snapshot.table.by_name[like].object
    if node is None:
        raise KeyError(like)
    made = copy.deepcopy(dict(node))
    made["metadata"] = {**made["metadata"], "name": name, "uid": name}
    made["metadata"]["labels"] = {**(made["metadata"].get("labels") or {}), "kubernetes.io/hostname": name}
    snapshot.table.put_node(made)
    for one in [one for one in snapshot.slices if one["spec"].get("nodeName") == like]:
        copied = copy.deepcopy(one)
        copied["metadata"]["name"] = f"{one['metadata']['name']}-{name}"
        copied["spec"] |= {
            "nodeName": name,
            "pool": {**one["spec"]["pool"], "name": f"{one['spec']['pool']['name']}-{name}"},
        }
        snapshot.slices.append(copied)


def _give_priority(obj: Object, snapshot: Snapshot) -> None:
    """Do what admission would: read the priority off its class."""
    spec = obj["spec"]
    if spec.get("priority") is not None:
        return
    name = spec.get("priorityClassName")
    default = next((one for one in snapshot.priorities.values() if one.get("globalDefault")), None)
    chosen = snapshot.priorities.get(name) if name else default
    if chosen is not None:
        obj["spec"] = {**spec, "priority": chosen["value"]}
