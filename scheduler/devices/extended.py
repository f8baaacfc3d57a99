"""Extended resources that devices stand for: a class says which, and a pod that asks for one gets a claim of its own.

A container's request becomes a request for devices of the class. Init containers run before the others and use the same
devices; only what they need beyond that is asked for in addition.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#extended-resource
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from machinery.api.quantity import to_bytes

Object = Mapping[str, Any]
ANNOTATION = "resource.kubernetes.io/extended-resource-claim"
PREFIX = "deviceclass.resource.kubernetes.io/"
"""With a class's name behind it, every class is an extended resource."""


class Ask(NamedTuple):
    """A container that asks for resources devices may stand for."""

    place: int
    """Among init containers and containers."""
    container: str
    lasts: bool
    """False for one that ends before the next begins."""
    wants: tuple[tuple[str, int, int], ...]
    """Resource, number, and place of the resource among all that the container asks for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pod's claim is to ask for, and which of it is for which container."""

    requests: list[dict[str, Any]]
    mappings: list[dict[str, str]]


def is_extended(resource: str) -> bool:
    """Say whether devices may stand for a resource."""
    return resource.startswith(PREFIX) or (
        "/" in resource and "kubernetes.io/" not in resource and not resource.startswith("requests.")
    )


def classes_by_resource(classes: Iterable[Object]) -> dict[str, Object]:
    """Return the class behind each resource; of several that say the same, the newest, then the first by name."""
    by_name = sorted(classes, key=lambda one: str(one["metadata"]["name"]), reverse=True)
    by_age = sorted(by_name, key=lambda one: str(one["metadata"].get("creationTimestamp") or ""))
    found: dict[str, Object] = {PREFIX + one["metadata"]["name"]: one for one in by_age}
    for one in by_age:
        if name := (one.get("spec") or {}).get("extendedResourceName"):
            found[name] = one
    return found


def asks_of(init_containers: Iterable[Any], containers: Iterable[Any]) -> tuple[Ask, ...]:
    """Return which containers ask for resources that devices may stand for."""
    found = []
    lasting = [(one, one.restartPolicy == "Always") for one in init_containers]
    for place, (one, lasts) in enumerate([*lasting, *((one, True) for one in containers)]):
        requests = (one.resources.requests if one.resources else None) or {}
        wants = tuple(
            (name, number, at)
            for at, name in enumerate(sorted(requests))
            if is_extended(name) and (number := to_bytes(requests[name]))
        )
        if wants:
            found.append(Ask(place, one.name, lasts, wants))
    return tuple(found)


def wanted_of(asks: Sequence[Ask], resources: Collection[str], classes: Mapping[str, Object]) -> Wanted:
    """Return what is to be claimed of these resources."""
    requests: list[dict[str, Any]] = []
    mappings: list[dict[str, str]] = []
    for resource in sorted(resources):
        device_class = classes[resource]["metadata"]["name"]
        lasting = [one for one in _requests(asks, resource, device_class) if one[0].lasts]
        requests += [request for _, request in lasting]
        mappings += [_mapping(ask, resource, request) for ask, request in lasting]
        extra, used = _before(asks, resource, device_class, lasting)
        requests += extra
        mappings += used
    requests.sort(key=lambda one: str(one["name"]))
    return Wanted(requests, mappings)


def _before(
    asks: Sequence[Ask], resource: str, device_class: str, lasting: Sequence[tuple[Ask, dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return what init containers need beyond what later containers have, and what they use."""
    most: dict[str, Any] | None = None
    own: set[str] = set()
    mappings: list[dict[str, str]] = []
    for ask, request in _requests(asks, resource, device_class):
        if ask.lasts:
            continue
        missing = request["exactly"]["count"]
        for later, other in lasting:
            if later.place > ask.place and missing > 0:
                mappings.append(_mapping(ask, resource, other))
                missing -= other["exactly"]["count"]
        if missing > 0:
            request["exactly"]["count"] = missing
            own.add(request["name"])
            mappings.append(_mapping(ask, resource, request))
            most = request if most is None or missing > most["exactly"]["count"] else most
    if most is None:
        return [], mappings
    # They run one after the other: the largest of these requests serves all.
    return [most], [{**one, "requestName": most["name"]} if one["requestName"] in own else one for one in mappings]


def _requests(asks: Sequence[Ask], resource: str, device_class: str) -> Iterator[tuple[Ask, dict[str, Any]]]:
    for ask in asks:
        for name, number, at in ask.wants:
            if name == resource:
                exactly = {"deviceClassName": device_class, "allocationMode": "ExactCount", "count": number}
                yield ask, {"name": f"container-{ask.place}-request-{at}", "exactly": exactly}


def _mapping(ask: Ask, resource: str, request: Object) -> dict[str, str]:
    return {"containerName": ask.container, "resourceName": resource, "requestName": request["name"]}


def claim_of(pod_name: str, pod_uid: str, namespace: str, wanted: Wanted) -> dict[str, Any]:
    """Return the claim to be made for a pod."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": pod_uid, "controller": True}
    return {
        "metadata": {
            "generateName": f"{pod_name}-extended-resources-", "namespace": namespace,
            "annotations": {ANNOTATION: "true"}, "ownerReferences": [owner],
        },
        "spec": {"devices": {"requests": wanted.requests}},
    }  # fmt: skip


def is_made_for(claim: Object, pod_uid: str) -> bool:
    """Say whether a claim was made for the extended resources of a pod."""
    metadata = claim["metadata"]
    if (metadata.get("annotations") or {}).get(ANNOTATION) != "true":
        return False
    return any(one.get("controller") and one.get("uid") == pod_uid for one in metadata.get("ownerReferences") or ())
