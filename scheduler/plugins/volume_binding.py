"""Volumes that a pod's claims are bound to, and those they are to be bound to on the node that is chosen.

A claim of a class that waits for its first consumer is bound here: to a volume that is there and reaches the node, or,
where none does, to one its provisioner makes there. What is decided is written before the pod is bound, and the pod
waits until the claims are bound.
Source: https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from machinery.api.quantity import parse_quantity
from machinery.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from machinery.api.selectors import from_label_selector
from scheduler.claims import (
    SELECTED_NODE,
    capacity,
    claims_of,
    class_of,
    existing_claim,
    is_bound,
    requested,
    waits_for_consumer,
)  # fmt: skip
from scheduler.framework.plugin import ClusterPlugin, Codes, Cycle, Happening, Reason, Rejected
from scheduler.nodeselect import requirement_mask, selector_mask
from scheduler.pods import Pod
from scheduler.table import Mask, Node, NodeTable

Object = Mapping[str, Any]
_AFFINITY, _NONE_TO_BIND, _NO_SPACE, _NOT_THERE = 1, 2, 4, 8
_TEXTS = {
    _AFFINITY: "node(s) didn't match PersistentVolume's node affinity",
    _NONE_TO_BIND: "node(s) didn't find available persistent volumes to bind",
    _NO_SPACE: "node(s) did not have enough free storage",
    _NOT_THERE: "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
}
_NO_PROVISIONER = "kubernetes.io/no-provisioner"
_BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
_BOUND, _WAITING, _CHOSEN, _DECIDED = "volumes.bound", "volumes.waiting", "volumes.chosen", "volumes.decided"
TIMEOUT_SECONDS = 600.0


class VolumeBinding(ClusterPlugin):
    """Rejects nodes a pod's volumes cannot be used on; binds its claims to volumes of the node that is chosen."""

    name = "VolumeBinding"

    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Args: how long a pod waits for its claims to be bound."""
        self._timeout_seconds = timeout_seconds
        self._taken: dict[str, str] = {}  # volume: uid of the claim it was promised to

    # ---- filter

    def pre_filter(self, cycle: Cycle) -> None:
        """See ClusterPlugin."""
        if not cycle.needs.volumes:
            return
        bound, waiting, immediate = [], [], False
        for name, own in claims_of(cycle.pod):
            claim = existing_claim(cycle, name, own=own)
            if is_bound(claim):
                bound.append(claim)
            elif not claim["spec"].get("volumeName") and waits_for_consumer(claim, cycle.cluster):
                waiting.append(claim)
            else:
                immediate = True
        if immediate:
            raise Rejected("pod has unbound immediate PersistentVolumeClaims")
        cycle.memo[_BOUND], cycle.memo[_WAITING] = bound, sorted(waiting, key=requested)

    def filter(self, cycle: Cycle) -> Codes | None:
        """See ClusterPlugin."""
        bound, waiting = cycle.memo.get(_BOUND), cycle.memo.get(_WAITING)
        if not bound and not waiting:
            return None
        codes = np.zeros(cycle.table.size, dtype=np.uint8)
        for claim in bound or ():
            volume = cycle.cluster.volume(claim["spec"]["volumeName"])
            if volume is None:
                codes |= _NOT_THERE
            else:
                codes[~reach(cycle.table, volume)] |= _AFFINITY
        chosen: list[tuple[Object, list[str], NDArray[np.int64]]] = []
        for claim in waiting or ():
            names, picks = self._choose(cycle, claim, chosen)
            chosen.append((claim, names, picks))
            missing = picks < 0
            if missing.any():
                possible, enough = _could_be_made(cycle, claim)
                codes[missing & ~possible] |= _NONE_TO_BIND
                codes[missing & possible & ~enough] |= _NO_SPACE
        cycle.memo[_CHOSEN] = chosen
        return codes

    def _choose(self, cycle: Cycle, claim: Object, before: list[Any]) -> tuple[list[str], NDArray[np.int64]]:
        """Return the volumes that suit a claim, and which of them it would get on each row; -1 for none."""
        table = cycle.table
        picks: NDArray[np.int64] = np.full(table.size, -1, dtype=np.int64)
        suited = sorted(
            (one for one in cycle.cluster.volumes() if self._suits(one, claim)),
            key=lambda one: (not _is_kept_for(one, claim), capacity(one), one["metadata"]["name"]),
        )
        names = [one["metadata"]["name"] for one in suited]
        for at, volume in enumerate(suited):
            free = (picks < 0) & reach(table, volume)
            for _, others, theirs in before:
                if names[at] in others:
                    free &= theirs != others.index(names[at])
            picks[free] = at
        return names, picks

    def _suits(self, volume: Object, claim: Object) -> bool:
        spec, wanted = volume["spec"], claim["spec"]
        promised = self._taken.get(volume["metadata"]["name"])
        if promised is not None and promised != claim["metadata"]["uid"]:
            return False
        if volume["metadata"].get("deletionTimestamp") or class_of(volume) != class_of(claim):
            return False
        if (spec.get("volumeMode") or "Filesystem") != (wanted.get("volumeMode") or "Filesystem"):
            return False
        if not set(wanted.get("accessModes") or ()) <= set(spec.get("accessModes") or ()):
            return False
        if capacity(volume) < requested(claim):
            return False
        if _is_kept_for(volume, claim):
            return True
        free = not spec.get("claimRef") and (volume.get("status") or {}).get("phase") == "Available"
        selector = wanted.get("selector")
        matches = selector is None or from_label_selector(selector).matches(volume["metadata"].get("labels") or {})
        return free and matches

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """See ClusterPlugin."""
        return tuple(Reason(text) for bit, text in _TEXTS.items() if code & bit)

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """See Plugin."""
        if happening.kind == "PersistentVolumeClaim":
            names = {name for name, _ in claims_of(pod)}
            metadata = (happening.new or happening.old)["metadata"]
            return metadata["name"] in names and metadata["namespace"] == pod.key.namespace
        return happening.kind in ("Node", "PersistentVolume", "StorageClass", "CSIStorageCapacity", "CSIDriver")

    # ---- once a node is chosen

    def reserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        decided = []
        for claim, names, picks in cycle.memo.get(_CHOSEN) or ():
            pick = int(picks[node.row])
            volume = names[pick] if pick >= 0 else ""
            if volume:
                self._taken[volume] = claim["metadata"]["uid"]
            decided.append((claim, volume))
        cycle.memo[_DECIDED] = decided

    def unreserve(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        for claim, volume in cycle.memo.get(_DECIDED) or ():
            if self._taken.get(volume) == claim["metadata"]["uid"]:
                del self._taken[volume]

    def post_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        self.unreserve(cycle, node)  # by now the volumes say themselves whose they are

    def needs_pre_bind(self, cycle: Cycle) -> bool:
        """See Plugin."""
        return bool(cycle.memo.get(_DECIDED))

    async def pre_bind(self, cycle: Cycle, node: Node) -> None:
        """See Plugin."""
        decided: list[tuple[Object, str]] = cycle.memo.get(_DECIDED) or []
        for claim, volume in decided:
            await (_give(cycle, claim, volume) if volume else _ask_for(cycle, claim, node.name))
        keys = [(claim["metadata"]["namespace"], claim["metadata"]["name"]) for claim, _ in decided]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await cycle.cluster.until(lambda: all(_settled(cycle, key, node.name) for key in keys))
        except TimeoutError:
            raise Rejected("binding volumes: context deadline exceeded") from None


def _settled(cycle: Cycle, key: tuple[str, str], node: str) -> bool:
    """Whether a claim is bound. Raises: Rejected when it never will be, here."""
    claim = cycle.cluster.claim(*key)
    if claim is None:
        raise Rejected(f'binding volumes: persistentvolumeclaim "{key[1]}" not found')
    if is_bound(claim):
        return True
    selected = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
    if selected not in (None, node):
        raise Rejected(f'binding volumes: provisioning failed for PVC "{key[1]}"')
    return False


async def _give(cycle: Cycle, claim: Object, volume: str) -> None:
    """Promise a volume to a claim; whoever binds volumes does the rest."""
    metadata = claim["metadata"]
    reference = {
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": metadata["namespace"],
        "name": metadata["name"], "uid": metadata["uid"], "resourceVersion": metadata.get("resourceVersion", ""),
    }  # fmt: skip
    known = cycle.cluster.volume(volume) or {"metadata": {}}
    patch = {
        # A volume that somebody else took meanwhile is newer than the one that was looked at.
        "metadata": {
            "resourceVersion": known["metadata"].get("resourceVersion"), "annotations": {_BOUND_BY_CONTROLLER: "yes"},
        },
        "spec": {"claimRef": reference},
    }  # fmt: skip
    await cycle.cluster.client.patch(PERSISTENT_VOLUMES, volume, patch)


async def _ask_for(cycle: Cycle, claim: Object, node: str) -> None:
    """Have a volume made where the pod goes."""
    patch = {"metadata": {"annotations": {SELECTED_NODE: node}}}
    metadata = claim["metadata"]
    await cycle.cluster.client.patch(PERSISTENT_VOLUME_CLAIMS, metadata["name"], patch, metadata["namespace"])


def _is_kept_for(volume: Object, claim: Object) -> bool:
    reference = volume["spec"].get("claimRef")
    metadata = claim["metadata"]
    if not reference or (reference.get("namespace"), reference.get("name")) != (
        metadata["namespace"],
        metadata["name"],
    ):
        return False
    return not reference.get("uid") or reference["uid"] == metadata["uid"]


def reach(table: NodeTable, volume: Object) -> Mask:
    """Return the rows on which a volume can be used."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return np.ones(table.size, dtype=bool) if required is None else selector_mask(table, required)


def _could_be_made(cycle: Cycle, claim: Object) -> tuple[Mask, Mask]:
    """Return the rows where a claim's provisioner could make a volume, and those where it has the space for it."""
    table, found = cycle.table, cycle.cluster.storage_class(class_of(claim))
    nowhere: Mask = np.zeros(table.size, dtype=bool)
    if found is None or found.get("provisioner") in (None, "", _NO_PROVISIONER):
        return nowhere, nowhere
    allowed: Mask = ~nowhere
    topologies = found.get("allowedTopologies") or ()
    if topologies:
        allowed = nowhere.copy()
        for term in topologies:
            mask: Mask = ~nowhere
            for rule in term.get("matchLabelExpressions") or ():
                mask = mask & requirement_mask(table, {**rule, "operator": "In"})
            allowed |= mask
    return allowed, _with_space(cycle, claim, found)


def _with_space(cycle: Cycle, claim: Object, storage_class: Object) -> Mask:
    table, wanted = cycle.table, requested(claim)
    driver = cycle.cluster.csi_driver(storage_class["provisioner"])
    if driver is None or not driver["spec"].get("storageCapacity"):
        return np.ones(table.size, dtype=bool)
    enough: Mask = np.zeros(table.size, dtype=bool)
    for one in cycle.cluster.capacities():
        limit = one.get("maximumVolumeSize") or one.get("capacity")
        if one.get("storageClassName") != storage_class["metadata"]["name"] or limit is None:
            continue
        if parse_quantity(str(limit)) < wanted or one.get("nodeTopology") is None:
            continue
        enough |= _topology_mask(table, one["nodeTopology"])
    return enough


def _topology_mask(table: NodeTable, selector: Object) -> Mask:
    rules = [
        {"key": key, "operator": "In", "values": [value]} for key, value in (selector.get("matchLabels") or {}).items()
    ]
    mask: Mask = np.ones(table.size, dtype=bool)
    for rule in (*rules, *(selector.get("matchExpressions") or ())):
        mask = mask & requirement_mask(table, rule)
    return mask
