"""Claims of devices: a pod goes where the devices it claims are free, and gets them before it is bound.

What is decided for a node is written into the claims only when the pod is about to be bound there; until then it is
promised, so that no other pod is given the same. A claim that keeps its pod from every node is given back.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.allocator import AllocationError, Allocator, Choice, TooHard
from scheduler.devices.binding import ClaimBinder, is_ready, is_reserved_for, is_timed_out
from scheduler.devices.extended import Wanted, claim_of, classes_by_resource, is_made_for, wanted_of
from scheduler.devices.matching import matches
from scheduler.devices.places import Places
from scheduler.devices.pools import PoolReader, taken_by_claims
from scheduler.devices.results import allocation_of
from scheduler.framework.plugin import (
    ClusterPlugin,
    Codes,
    Cycle,
    Happening,
    PostFilterPlugin,
    Reason,
    Rejected,
    Rescue,
    default_normalize,
)
from scheduler.nodeselect import selector_mask
from scheduler.pods import Pod
from scheduler.table import Ints, Mask, Node, NodeTable

Object = Mapping[str, Any]
_ELSEWHERE, _NONE_FREE, _INVALID, _TOO_HARD, _STALE = 1, 2, 3, 4, 5
_TEXTS = {
    _ELSEWHERE: "resourceclaim not available on the node",
    _NONE_FREE: "cannot allocate all claims",
    _INVALID: "invalid resource pools were encountered",
    _TOO_HARD: "timed out trying to allocate devices",
    _STALE: "cannot schedule extended resource claim",
}
_MEMO = "devices"
_MAX_RESERVED = 256
_MAX_ALTERNATIVES = 8
BINDING_TIMEOUT_SECONDS = 600.0


@dataclass(slots=True)
class _Decided:
    """What a node would give to the claims that have nothing yet."""

    chosen: list[list[Choice]]
    wanted: Wanted | None


@dataclass(slots=True)
class _State:
    """What is known of one pod's claims in one cycle."""

    claims: list[Object]
    backed: dict[str, Object] = field(default_factory=dict)
    """Classes of the extended resources the pod asks for, where there is one."""
    stale: Object | None = None
    """A claim for extended resources that an earlier attempt has left."""
    decided: dict[int, _Decided] = field(default_factory=dict)  # by row
    unavailable: list[Object] = field(default_factory=list)
    made: Object | None = None
    """The claim for extended resources, once there is one."""
    promised: list[str] = field(default_factory=list)

    @property
    def open(self) -> list[Object]:
        """Those that have no devices yet."""
        return [one for one in self.claims if not (one.get("status") or {}).get("allocation")]


class DynamicResources(ClusterPlugin, PostFilterPlugin):
    """Rejects nodes where the devices a pod claims are not to be had; allocates and reserves them."""

    name = "DynamicResources"

    def __init__(self, binding_timeout_seconds: float = BINDING_TIMEOUT_SECONDS) -> None:
        self._reader = PoolReader()
        self._timeout_seconds = binding_timeout_seconds

    # ---- filter

    def pre_filter(self, cycle: Cycle) -> None:
        """See ClusterPlugin."""
        needs = cycle.needs
        if not needs.claims and not needs.devices:
            return
        state = _State([_usable(cycle, name, claim) for name, claim in cycle.pod.claims])
        if needs.devices:
            classes = classes_by_resource(cycle.cluster.device_classes())
            names = {name for ask in needs.devices for name, _, _ in ask.wants}
            state.backed = {name: classes[name] for name in names if name in classes}
            if state.backed:
                made = (one for one in cycle.cluster.device_claims() if is_made_for(one, cycle.pod.uid))
                state.stale = next(made, None)
        if not state.claims and not state.backed:
            return
        for claim in state.open:
            if claim["metadata"]["uid"] in cycle.cluster.promised:
                raise Rejected(f"resource claim {_name(claim)} is in the process of being allocated")
            _check_classes(cycle, claim)
        cycle.memo[_MEMO] = state

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        state: _State | None = cycle.memo.get(_MEMO)
        if state is None:
            return None
        codes = np.zeros(cycle.table.size, dtype=np.uint8)
        if state.stale is not None:
            codes[:] = _STALE
            return codes
        state.unavailable = []
        for claim in state.claims:
            self._judge_allocated(cycle.table, state, claim, codes)
        state.decided = {}
        if state.open or state.backed:
            try:
                self._try_rows(cycle, state, codes)
            except AllocationError as error:
                cycle.memo["rejected_by"] = self.name
                raise Rejected(str(error)) from error
        return codes

    def _judge_allocated(self, table: NodeTable, state: _State, claim: Object, codes: Any) -> None:
        allocation = (claim.get("status") or {}).get("allocation")
        if not allocation:
            return
        out: Mask = np.zeros(table.size, dtype=bool)
        if allocation.get("nodeSelector"):
            out = ~selector_mask(table, allocation["nodeSelector"])
        try:
            if not is_ready(claim) and is_timed_out(claim, self._timeout_seconds):
                out[:] = True
        except Rejected:
            out[:] = True
        codes[out] = _ELSEWHERE
        if (out & table.alive).any():
            state.unavailable.append(claim)

    def _try_rows(self, cycle: Cycle, state: _State, codes: Any) -> None:
        table, cluster = cycle.table, cycle.cluster
        pools = self._reader.pools(cluster.device_slices())
        allocator = Allocator(cluster.device_class, matches, taken_by_claims(cluster), pools)
        invalid = {pool.key for pool in pools if pool.invalid}
        resources = sorted(state.backed)
        without = {name: table.allocatable(name) == 0 for name in resources}
        rows = table.alive & (codes == 0)
        for members, devices in Places(table, pools).alike(rows, [without[name] for name in resources]):
            asked = [name for name in resources if without[name][members[0]]]
            wanted = wanted_of(cycle.needs.devices, asked, state.backed) if asked else None
            claims = [*state.open]
            if wanted is not None:
                claims.append(claim_of(cycle.pod.name, cycle.pod.uid, cycle.pod.key.namespace, wanted))
            if not claims:
                continue
            try:
                chosen = allocator.allocate(claims, devices)
            except TooHard:
                codes[members] = _TOO_HARD
                continue
            if chosen is None:
                codes[members] = _INVALID if any(one.pool in invalid for one in devices) else _NONE_FREE
            else:
                state.decided.update(dict.fromkeys(members.tolist(), _Decided(chosen, wanted)))

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return (Reason(_TEXTS[code]),)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        match happening.kind, happening.action:
            case "ResourceClaim", action:
                return _frees(happening) or (action != "delete" and _is_about(happening, pod))
            case "AssignedPod", "delete":  # one that did not get there after all gives its devices back
                needs = happening.old.shape.needs
                return bool(needs.claims or needs.devices)
            case "Node" | "ResourceSlice" | "DeviceClass", action:
                return action != "delete"
            case "Pod", _:
                return True
        return False

    def scores(self, cycle: Cycle) -> bool:
        """See ClusterPlugin."""
        state: _State | None = cycle.memo.get(_MEMO)
        return state is not None and any(map(_has_alternatives, state.open))

    def score(self, cycle: Cycle, passed: NDArray[np.intp]) -> Ints | None:
        """See ClusterPlugin: a node whose devices are better liked by those who said what they like is better."""
        if not self.scores(cycle):
            return None
        state: _State = cycle.memo[_MEMO]
        found = [_liking(state.decided.get(row)) for row in passed.tolist()]
        return default_normalize(np.array(found, dtype=np.int64))

    # ---- when no node passed

    def post_filter(self, cycle: Cycle, resolvable: Mask) -> Rescue:
        """See PostFilterPlugin: give back a claim that is in nobody's use."""
        state: _State | None = cycle.memo.get(_MEMO)
        if state is None:
            was_asked = cycle.memo.get("rejected_by", self.name) == self.name
            return Rescue("no new claims to deallocate" if was_asked else "")
        binder = ClaimBinder(cycle)
        for claim in state.unavailable:
            users = (claim.get("status") or {}).get("reservedFor") or ()
            if all(one["uid"] == cycle.pod.uid for one in users):
                cycle.cluster.background(binder.deallocate(claim))
                return Rescue("deallocation of ResourceClaim completed")
        if state.stale is not None:
            cycle.cluster.background(binder.delete(state.stale))
            return Rescue("deletion of ResourceClaim completed")
        return Rescue("still not schedulable")

    # ---- once a node is chosen

    def reserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        state: _State | None = cycle.memo.get(_MEMO)
        if state is None or (not state.open and not state.backed):
            return
        decided = state.decided.get(node.row)
        if decided is None:
            if state.open:
                raise Rejected("claim allocation not found for node")
            return  # the node has the resources of its own
        claims = [*state.open]
        if decided.wanted is not None:
            pod = cycle.pod
            made = claim_of(pod.name, pod.uid, pod.key.namespace, decided.wanted)
            made["metadata"]["uid"] = f"extended/{pod.uid}"
            state.made = made
            claims.append(made)
        for claim, chosen in zip(claims, decided.chosen, strict=True):
            uid = claim["metadata"]["uid"]
            cycle.cluster.promised[uid] = allocation_of(claim, chosen, node.name)
            state.promised.append(uid)

    def unreserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        state: _State | None = cycle.memo.get(_MEMO)
        if state is None:
            return
        self._forget(cycle)
        cycle.cluster.background(ClaimBinder(cycle).give_back(state.claims, state.made))

    def post_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        self._forget(cycle)  # by now the claims say so themselves

    def _forget(self, cycle: Cycle) -> None:
        state: _State | None = cycle.memo.get(_MEMO)
        for uid in state.promised if state is not None else ():
            cycle.cluster.promised.pop(uid, None)

    def needs_pre_bind(self, cycle: Cycle) -> bool:
        """See Plugin."""
        state: _State | None = cycle.memo.get(_MEMO)
        return state is not None and bool(state.claims or state.made)

    async def pre_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        state: _State = cycle.memo[_MEMO]
        binder = ClaimBinder(cycle)
        if state.made is not None:
            promise = cycle.cluster.promised.pop(state.made["metadata"]["uid"])
            state.made = await binder.make(state.made, promise)
            state.promised.append(state.made["metadata"]["uid"])
        claims = [*state.claims, *([state.made] if state.made is not None else [])]
        for claim in claims:
            await binder.reserve(claim, cycle.cluster.promised.get(claim["metadata"]["uid"]))
        if state.made is not None:
            await binder.tell_of(state.made, state.decided[node.row].wanted)
        await binder.settle(claims, node.name, self._timeout_seconds)


def _usable(cycle: Cycle, name: str, claim_name: str) -> Object:
    """Return a claim that the pod may have. Raises: Rejected."""
    pod = cycle.pod
    claim = cycle.cluster.device_claim(pod.key.namespace, claim_name) if claim_name else None
    if claim is None:
        raise Rejected(f'waiting for resourceclaim of pod claim "{name}" to be created')
    if claim["metadata"].get("deletionTimestamp"):
        raise Rejected(f'resourceclaim "{claim_name}" is being deleted')
    owners = claim["metadata"].get("ownerReferences") or ()
    if name in pod.made_claims and not any(one.get("uid") == pod.uid for one in owners):
        text = f"ResourceClaim {_name(claim)} was not created for Pod {pod.key.namespace}/{pod.name}"
        raise Rejected(f"{text} (Pod is not owner)")
    users = (claim.get("status") or {}).get("reservedFor") or ()
    if len(users) >= _MAX_RESERVED and not is_reserved_for(claim, pod):
        raise Rejected("resourceclaim in use")
    return claim


def _check_classes(cycle: Cycle, claim: Object) -> None:
    for request in (claim["spec"].get("devices") or {}).get("requests") or ():
        wishes = [(request["name"], request["exactly"])] if request.get("exactly") else []
        wishes += [(f"{request['name']}/{one['name']}", one) for one in request.get("firstAvailable") or ()]
        for name, wish in wishes:
            if cycle.cluster.device_class(wish["deviceClassName"]) is None:
                raise Rejected(f"request {name}: device class {wish['deviceClassName']} does not exist")


def _name(claim: Object) -> str:
    return f"{claim['metadata'].get('namespace', '')}/{claim['metadata']['name']}"


def _frees(happening: Happening) -> bool:
    """Say whether a claim gave its devices back."""
    had = ((happening.old or {}).get("status") or {}).get("allocation")
    has = ((happening.new or {}).get("status") or {}).get("allocation")
    return bool(had) and not has


def _is_about(happening: Happening, pod: Pod) -> bool:
    """Say whether something happened to a claim that the pod waits for."""
    claim = happening.new
    own = claim["metadata"]["name"] in {name for _, name in pod.claims} or is_made_for(claim, pod.uid)
    return own and (happening.old is None or happening.old.get("status") != claim.get("status"))


def _has_alternatives(claim: Object) -> bool:
    requests: Sequence[Object] = (claim["spec"].get("devices") or {}).get("requests") or ()
    return any(one.get("firstAvailable") for one in requests)


def _liking(decided: _Decided | None) -> int:
    return sum(_ranks(decided.chosen)) if decided is not None else 0


def _ranks(chosen: Sequence[Sequence[Choice]]) -> Iterator[int]:
    for of_claim in chosen:
        places = {one.part.name: one.part.place for one in of_claim if "/" in one.part.name}
        yield sum(_MAX_ALTERNATIVES - place for place in places.values())
