"""Which volume suits a claim. Pure.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding
"""

from collections.abc import Iterable
from decimal import Decimal

from controllers.storage_views import PersistentVolume, PersistentVolumeClaim, StorageClass
from controllers.views import Node
from machinery.api.placement import node_selector_matches
from machinery.api.quantity import parse_quantity
from machinery.api.selectors import from_label_selector

WAIT_FOR_CONSUMER = "WaitForFirstConsumer"


def waits_for_consumer(storage_class: StorageClass | None) -> bool:
    """Whether claims of a class are bound only when it is known where their pod goes."""
    return storage_class is not None and storage_class.volumeBindingMode == WAIT_FOR_CONSUMER


def is_meant_for(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether a volume is given to this very claim, or kept for one of its name."""
    found = volume.spec.claimRef
    return (
        found is not None and volume.claim == claim.metadata.key and (not found.uid or found.uid == claim.metadata.uid)
    )


def mismatch(volume: PersistentVolume, claim: PersistentVolumeClaim) -> str:
    """Return why a volume can't hold what a claim asks for; empty when it can."""
    if volume.spec.volumeMode != claim.spec.volumeMode:
        return "incompatible volumeMode"
    if parse_quantity(str(volume.spec.capacity.get("storage", "0"))) < parse_quantity(claim.spec.request):
        return "requested PV is too small"
    if volume.class_name != claim.class_name:
        return "storageClassName does not match"
    if not set(claim.spec.accessModes) <= set(volume.spec.accessModes):
        return "incompatible accessMode"
    return ""


def reaches(volume: PersistentVolume, node: Node) -> bool:
    """Whether a volume can be used on a node."""
    required = (volume.spec.nodeAffinity or {}).get("required")
    return required is None or node_selector_matches(required, node.metadata.name, node.metadata.labels)


def best_volume(
    claim: PersistentVolumeClaim, volumes: Iterable[PersistentVolume], *, node: Node | None = None, kept_only: bool
) -> PersistentVolume | None:
    """Return the volume to bind a claim to: the one kept for it, else the smallest that is large enough.

    Args:
        claim: the claim.
        volumes: all volumes.
        node: where it will be used, when that is known.
        kept_only: look only at volumes that are kept for this claim.
    """
    selector = from_label_selector(claim.spec.selector) if claim.spec.selector else None
    suited: list[PersistentVolume] = []
    for volume in volumes:
        if volume.metadata.deletionTimestamp is not None or mismatch(volume, claim):
            continue
        if is_meant_for(volume, claim):
            return volume
        if kept_only or volume.spec.claimRef is not None or volume.status.phase != "Available":
            continue
        if selector is not None and not selector.matches(volume.metadata.labels):
            continue
        if node is None or reaches(volume, node):
            suited.append(volume)
    return min(suited, key=_size, default=None)


def _size(volume: PersistentVolume) -> tuple[Decimal, str]:
    return parse_quantity(str(volume.spec.capacity.get("storage", "0"))), volume.metadata.name
