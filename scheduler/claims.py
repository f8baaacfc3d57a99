"""A pod's claims to volumes, and what is known of them; what the volume plugins share. Pure.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from machinery.api.quantity import parse_quantity
from scheduler.cluster import Cluster
from scheduler.framework.plugin import Cycle, Rejected
from scheduler.pods import Pod

Object = Mapping[str, Any]
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
_OLD_CLASS = "volume.beta.kubernetes.io/storage-class"


def claims_of(pod: Pod) -> list[tuple[str, bool]]:
    """Return the names of a pod's claims, and whether each was made for the pod alone."""
    found = ((volume.claim_of(pod.name), volume.ephemeral is not None) for volume in pod.shape.needs.volumes)
    return [(name, own) for name, own in found if name]


def claim_objects(cycle: Cycle) -> Iterator[Object]:
    """Yield a pod's claims that are there."""
    for name, _ in claims_of(cycle.pod):
        claim = cycle.cluster.claim(cycle.pod.key.namespace, name)
        if claim is not None:
            yield claim


def existing_claim(cycle: Cycle, name: str, *, own: bool) -> Object:
    """Return a claim that can be used. Raises: Rejected, in upstream's words."""
    pod = cycle.pod
    claim = cycle.cluster.claim(pod.key.namespace, name)
    if claim is None and own:
        raise Rejected(f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"')
    if claim is None:
        raise Rejected(f'persistentvolumeclaim "{name}" not found')
    if (claim.get("status") or {}).get("phase") == "Lost":
        volume = claim["spec"].get("volumeName", "")
        raise Rejected(f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"')
    if claim["metadata"].get("deletionTimestamp"):
        raise Rejected(f'persistentvolumeclaim "{name}" is being deleted')
    owners = claim["metadata"].get("ownerReferences") or ()
    if own and not any(one.get("controller") and one.get("uid") == pod.uid for one in owners):
        where = pod.key.namespace
        raise Rejected(f"PVC {where}/{name} was not created for pod {where}/{pod.name} (pod is not owner)")
    return claim


def is_bound(claim: Object) -> bool:
    """Whether a claim and its volume belong together for good."""
    return bool(claim["spec"].get("volumeName")) and BIND_COMPLETED in (claim["metadata"].get("annotations") or {})


def class_of(claim: Object) -> str:
    """Return the name of a claim's (or a volume's) storage class."""
    old = (claim["metadata"].get("annotations") or {}).get(_OLD_CLASS)
    return old if old is not None else claim["spec"].get("storageClassName") or ""


def waits_for_consumer(claim: Object, cluster: Cluster) -> bool:
    """Whether a claim is bound only once it is known where its pod goes."""
    found = cluster.storage_class(class_of(claim))
    return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"


def requested(claim: Object) -> Decimal:
    """Return how many bytes a claim asks for."""
    requests = (claim["spec"].get("resources") or {}).get("requests") or {}
    return parse_quantity(str(requests.get("storage", "0")))


def capacity(volume: Object) -> Decimal:
    """Return how many bytes a volume holds."""
    return parse_quantity(str((volume["spec"].get("capacity") or {}).get("storage", "0")))
