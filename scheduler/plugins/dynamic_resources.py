"""Claims of devices: a pod goes where the devices it claims are free, and gets them before it is bound.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from machinery.api.meta import now
from machinery.api.resources import RESOURCE_CLAIMS
from scheduler.devices import Allocator, Device, DeviceKey, devices_of
from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Happening, Reason, Rejected
from scheduler.nodeselect import selector_mask
from scheduler.pods import Pod
from scheduler.table import Mask, Node, NodeTable

Object = Mapping[str, Any]
_ELSEWHERE, _NONE_FREE = 1, 2
_CLAIMS, _DECIDED = "devices.claims", "devices.decided"
_FINALIZER = "resource.kubernetes.io/delete-protection"
_MAX_RESERVED = 256


class DynamicResources(ClusterPlugin):
    """Rejects nodes where the devices a pod claims are not to be had; allocates and reserves them."""

    name = "DynamicResources"

    def __init__(self) -> None:
        self._promised: dict[str, list[dict[str, Any]]] = {}  # by uid of claim: results that are not written yet

    # ---- filter

    def pre_filter(self, cycle: Cycle) -> None:
        """See ClusterPlugin."""
        pod = cycle.pod
        if not cycle.needs.claims:
            return
        claims = []
        for name, claim_name in pod.claims:
            claim = cycle.cluster.device_claim(pod.key.namespace, claim_name) if claim_name else None
            if claim is None:
                raise Rejected(f'waiting for resourceclaim of pod claim "{name}" to be created')
            if claim["metadata"].get("deletionTimestamp"):
                raise Rejected("resourceclaim is being deleted")
            reserved = (claim.get("status") or {}).get("reservedFor") or ()
            if len(reserved) >= _MAX_RESERVED and not any(one["uid"] == pod.uid for one in reserved):
                raise Rejected("resourceclaim in use")
            claims.append(claim)
        cycle.memo[_CLAIMS] = claims

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        claims = cycle.memo.get(_CLAIMS)
        if not claims:
            return None
        table = cycle.table
        codes = np.zeros(table.size, dtype=np.uint8)
        open_claims = []
        for claim in claims:
            allocation = (claim.get("status") or {}).get("allocation")
            if allocation is None and claim["metadata"]["uid"] in self._promised:
                codes[:] = _NONE_FREE  # it is being written for another pod: where, will be seen in a moment
            elif allocation is None:
                open_claims.append(claim)
            elif allocation is not None and allocation.get("nodeSelector"):
                codes[~selector_mask(table, allocation["nodeSelector"])] = _ELSEWHERE
        decided: dict[int, list[list[dict[str, Any]]]] = {}
        if open_claims:
            self._try_rows(cycle, open_claims, codes, decided)
        cycle.memo[_DECIDED] = (open_claims, decided)
        return codes

    def _try_rows(self, cycle: Cycle, claims: Sequence[Object], codes: Any, decided: dict[int, Any]) -> None:
        table, cluster = cycle.table, cycle.cluster
        allocator = Allocator(cluster.device_class, _matches, self._in_use(cycle))
        known: dict[tuple[int, ...], Any] = {}
        reachable = [(device, _reach(table, place)) for device, place in devices_of(cluster.device_slices())]
        for row in np.flatnonzero(table.alive & (codes == 0)).tolist():
            there = tuple(at for at, (_, rows) in enumerate(reachable) if rows[row])
            # Nodes that see the same devices get the same answer; most see none.
            if there not in known:
                known[there] = allocator.allocate(claims, [reachable[at][0] for at in there])
            if known[there] is None:
                codes[row] = _NONE_FREE
            else:
                decided[row] = known[there]

    def _in_use(self, cycle: Cycle) -> frozenset[DeviceKey]:
        results: list[Object] = []
        for claim in cycle.cluster.device_claims():
            allocation = (claim.get("status") or {}).get("allocation") or {}
            results += (allocation.get("devices") or {}).get("results") or ()
        results += [result for promised in self._promised.values() for result in promised]
        return frozenset((one["driver"], one["pool"], one["device"]) for one in results if not one.get("adminAccess"))

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        if code == _ELSEWHERE:
            return (Reason("resourceclaim not available on the node"),)
        return (Reason("cannot allocate all claims", resolvable=True),)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind == "ResourceClaim" and happening.action != "delete":
            status = happening.new.get("status") or {}
            own = {name for _, name in pod.claims}
            return happening.new["metadata"]["name"] in own or not status.get("allocation")
        return happening.kind in ("Node", "ResourceClaim", "ResourceSlice", "DeviceClass", "Pod")

    # ---- once a node is chosen

    def reserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        decided: tuple[list[Object], dict[int, list[list[dict[str, Any]]]]] | None = cycle.memo.get(_DECIDED)
        if decided is None:
            return
        for claim, results in zip(decided[0], decided[1].get(node.row, []), strict=True):
            self._promised[claim["metadata"]["uid"]] = results

    def unreserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        for claim in (cycle.memo.get(_DECIDED) or ((), {}))[0]:
            self._promised.pop(claim["metadata"]["uid"], None)

    def post_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        self.unreserve(cycle, node)  # by now the claims say so themselves

    def needs_pre_bind(self, cycle: Cycle) -> bool:
        """See Plugin."""
        return bool(cycle.memo.get(_CLAIMS))

    async def pre_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        for claim in cycle.memo.get(_CLAIMS) or ():
            await self._write(cycle, claim, node)
        keys = [(claim["metadata"]["namespace"], claim["metadata"]["name"]) for claim in cycle.memo[_CLAIMS]]
        await cycle.cluster.until(lambda: all(_is_reserved(cycle, key) for key in keys))

    async def _write(self, cycle: Cycle, claim: Object, node: Node) -> None:
        """Say in a claim's status what it got and that the pod uses it. Raises: Conflict when somebody was faster."""
        client, metadata = cycle.cluster.client, claim["metadata"]
        status = dict(claim.get("status") or {})
        results = self._promised.get(metadata["uid"])
        version = metadata["resourceVersion"]
        if not status.get("allocation"):
            if _FINALIZER not in (metadata.get("finalizers") or ()):
                patch = {"metadata": {
                    "resourceVersion": version, "finalizers": [*(metadata.get("finalizers") or ()), _FINALIZER],
                }}  # fmt: skip
                written = await client.patch(RESOURCE_CLAIMS, metadata["name"], patch, metadata["namespace"])
                version = written["metadata"]["resourceVersion"]
            status["allocation"] = _allocation(claim, results or [], node)
        pod = cycle.pod
        reserved = list(status.get("reservedFor") or ())
        if not any(one["uid"] == pod.uid for one in reserved):
            reserved.append({"resource": "pods", "name": pod.name, "uid": pod.uid})
        patch = {"metadata": {"resourceVersion": version}, "status": {**status, "reservedFor": reserved}}
        await client.patch(RESOURCE_CLAIMS, metadata["name"], patch, metadata["namespace"], subresource="status")


def _allocation(claim: Object, results: list[dict[str, Any]], node: Node) -> dict[str, Any]:
    config = [{"source": "FromClaim", **one} for one in (claim["spec"].get("devices") or {}).get("config") or ()]
    rule = {"key": "metadata.name", "operator": "In", "values": [node.name]}
    return {
        "devices": {"results": results, **({"config": config} if config else {})},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [rule]}]},
        "allocationTimestamp": now(),
    }


def _is_reserved(cycle: Cycle, key: tuple[str, str]) -> bool:
    """Whether we have seen what we wrote. Raises: Rejected when the claim is gone."""
    claim = cycle.cluster.device_claim(*key)
    if claim is None:
        raise Rejected(f'resourceclaim "{key[1]}" not found')
    reserved = (claim.get("status") or {}).get("reservedFor") or ()
    return any(one["uid"] == cycle.pod.uid for one in reserved)


def _reach(table: NodeTable, place: Object) -> Mask:
    """Return the rows from which the devices of a slice can be used."""
    if place.get("allNodes"):
        return np.ones(table.size, dtype=bool)
    if place.get("nodeSelector"):
        return selector_mask(table, place["nodeSelector"])
    found: Mask = np.zeros(table.size, dtype=bool)
    if place.get("nodeName") in table.by_name:
        found[table.by_name[place["nodeName"]].row] = True
    return found


def _matches(device: Device, expression: str) -> bool:
    """Whether a device meets an expression; one that fails on it does not."""
    from machinery.cel.program import CompileError, EvaluationError, compile_expression

    try:
        return compile_expression(expression, {"device": "dyn"}).evaluate({"device": device.variables()}) is True
    except (CompileError, EvaluationError):
        return False
