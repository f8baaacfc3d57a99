"""What would become of pods that are not there: where they would go, and how many nodes more they would need. Pure."""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from scheduler.framework.profile import Profile
from scheduler.schedule_one import Chooser, Unschedulable
from scheduler.snapshot import Snapshot

Object = dict[str, Any]
MAX_ADDED = 1000


class NotUnderstood(ValueError):
    """A manifest no pods can be made of."""


def pods_of(obj: Object, namespace: str, replicas: int | None = None) -> Iterator[Object]:
    """Yield the pods that an object would come to: itself, or its template as often as it says."""
    kind, spec = obj.get("kind", ""), obj.get("spec") or {}
    name = obj["metadata"].get("name") or obj["metadata"].get("generateName", "pod-")
    where = obj["metadata"].get("namespace") or namespace
    if kind == "Pod":
        yield _pod(obj["metadata"], spec, name, where)
        return
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    count = spec.get("parallelism", 1) if kind in ("Job", "CronJob") else spec.get("replicas", 1)
    if kind not in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController", "Job", "CronJob"):
        raise NotUnderstood(f"{kind or 'an object without kind'} makes no pods that can be placed in thought")
    template = spec.get("template") or {}
    owner = {"kind": "ReplicaSet" if kind == "Deployment" else kind, "name": name, "uid": f"simulated-{name}"}
    for number in range(count if replicas is None else replicas):
        metadata = {**(template.get("metadata") or {}), "ownerReferences": [{**owner, "controller": True}]}
        yield _pod(metadata, template.get("spec") or {}, f"{name}-{number}", where)


def _pod(metadata: Object, spec: Object, name: str, namespace: str) -> Object:
    metadata = {**metadata, "name": name, "namespace": namespace, "uid": f"simulated-{namespace}-{name}"}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}


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
            try:
                row = chooser.choose(pod)
            except Unschedulable as error:
                if like and added < MAX_ADDED and _helps(snapshot, chooser, pod, like):
                    _add(snapshot, like, f"{like}-added-{added}")
                    added += 1
                    continue
                failed.append((str(pod.key), str(error)))
            else:
                name = table.nodes[row].name
                table.put_pod(pod, name)
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
    return True


def _add(snapshot: Snapshot, like: str, name: str) -> None:
    node = snapshot.table.by_name[like].object
    if node is None:
        raise KeyError(like)
    made = copy.deepcopy(dict(node))
    made["metadata"] = {**made["metadata"], "name": name, "uid": name}
    made["metadata"]["labels"] = {**(made["metadata"].get("labels") or {}), "kubernetes.io/hostname": name}
    snapshot.table.put_node(made)


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
