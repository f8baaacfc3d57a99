"""One step from what is to what a NodePool asks; safe to take at any time and any number of times."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from machinery.api.meta import ObjectKey, now, parse_time
from machinery.api.resources import NODES, PODS
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound, TooManyRequests
from operators.nodepool.plan import (
    LABEL,
    NODE_POOLS,
    Object,
    change_of,
    is_ready,
    missing,
    must_leave,
    node_of,
    standing,
    surplus,
)

_DRAINED_SINCE = "wherry.dev/drained-since"


async def reconcile(client: Client, key: ObjectKey) -> bool:
    """Bring a pool's nodes to what it asks; returns whether nothing is left to wait for. Raises: APIError."""
    try:
        pool = await client.get(NODE_POOLS, key.name)
    except NotFound:
        return True
    nodes = (await client.list(NODES, label_selector=f"{LABEL}={key.name}"))["items"]
    draining: dict[str, int] = {}
    for node in surplus(pool, nodes):
        left = await _drain(client, pool, node)
        if left:
            draining[node["metadata"]["name"]] = left
        else:
            await _remove(client, node)
            nodes.remove(node)
    for number in missing(pool, nodes):
        with contextlib.suppress(AlreadyExists):  # somebody else's node of that name: it is not ready for us, ever
            nodes.append(await client.create(NODES, node_of(pool, number)))
    for node in nodes:
        if node["metadata"]["name"] not in draining and (change := change_of(pool, node)):
            await client.patch(NODES, node["metadata"]["name"], change)
    await _tell(client, pool, nodes, draining)
    return not draining


async def _drain(client: Client, pool: Mapping[str, Any], node: Object) -> int:
    """Keep new pods off a node and evict those that are there; returns how many are left.

    Budgets are kept to until `drainSeconds` are over; then pods are deleted.
    """
    meta = node["metadata"]
    if not node["spec"].get("unschedulable") or _DRAINED_SINCE not in (meta.get("annotations") or {}):
        change = {"spec": {"unschedulable": True}, "metadata": {"annotations": {_DRAINED_SINCE: now()}}}
        node.update(await client.patch(NODES, meta["name"], change))
    since = parse_time(node["metadata"]["annotations"][_DRAINED_SINCE]).timestamp()
    patient = time.time() - since < pool["spec"].get("drainSeconds", 300)
    pods = (await client.list(PODS, field_selector=f"spec.nodeName={meta['name']}"))["items"]
    pods = [pod for pod in pods if must_leave(pod)]
    for pod in pods:
        if not pod["metadata"].get("deletionTimestamp"):
            await _ask_to_leave(client, pod["metadata"], patient=patient)
    return len(pods)


async def _ask_to_leave(client: Client, meta: Mapping[str, Any], *, patient: bool) -> None:
    name, namespace = meta["name"], meta["namespace"]
    eviction = {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}
    }  # fmt: skip
    with contextlib.suppress(NotFound, TooManyRequests):  # a budget says no for now
        if patient:
            await client.create(PODS, eviction, namespace, subresource="eviction", name=name)
        else:
            await client.delete(PODS, name, namespace)


async def _remove(client: Client, node: Object) -> None:
    with contextlib.suppress(NotFound):
        await client.delete(NODES, node["metadata"]["name"])


async def _tell(client: Client, pool: Object, nodes: Sequence[Object], draining: Mapping[str, int]) -> None:
    """Write the status where it differs."""
    before = pool.get("status") or {}
    present: Mapping[str, Any] = next(iter(before.get("conditions") or ()), {})
    status, reason, message = standing(pool, nodes, draining)
    changed = present["lastTransitionTime"] if present.get("status") == status else now()
    condition = {"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": changed}
    wanted = {
        "replicas": len(nodes), "readyReplicas": sum(map(is_ready, nodes)), "conditions": [condition],
        "observedGeneration": pool["metadata"]["generation"], "selector": f"{LABEL}={pool['metadata']['name']}",
    }  # fmt: skip
    if any(before.get(name) != value for name, value in wanted.items()):
        with contextlib.suppress(NotFound):
            await client.patch(NODE_POOLS, pool["metadata"]["name"], {"status": wanted}, subresource="status")
