"""The parts of a pod's spec that are written through subresources: ephemeral containers, and resources of running ones.

Sources: https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/,
https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

from collections.abc import Iterator

from apiserver.registry.kind import Object, Subresource, forbidden, invalid, not_found
from apiserver.registry.pods import qos_class
from machinery.errors import Cause

_MIRROR = "kubernetes.io/config.mirror"
# What an ephemeral container can't have: it is never restarted, and nothing is reserved for it.
_NOT_EPHEMERAL = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy")
_PATH = "spec.ephemeralContainers"
_RESIZED = ("cpu", "memory")


def with_ephemeral_containers(old: Object, new: Object) -> Object:
    """Return a pod with the ephemeral containers of another, and nothing else of it."""
    spec = {**old["spec"]}
    if wanted := (new.get("spec") or {}).get("ephemeralContainers"):
        spec["ephemeralContainers"] = wanted
    else:
        spec.pop("ephemeralContainers", None)
    return {**old, "spec": spec, "metadata": _metadata(old, new)}


def ephemeral_causes(new: Object, old: Object) -> list[Cause]:
    """Return what is wrong with a change of ephemeral containers: they may be added only."""
    if _MIRROR in (old["metadata"].get("annotations") or {}):
        return [forbidden("", "static pods do not support ephemeral containers")]
    wanted = {one["name"]: one for one in new["spec"].get("ephemeralContainers") or ()}
    found = []
    for before in old["spec"].get("ephemeralContainers") or ():
        name = before["name"]
        if name not in wanted:
            found.append(forbidden(_PATH, f'existing ephemeral containers "{name}" may not be removed\n'))
        elif wanted[name] != before:
            found.append(forbidden(_PATH, f'existing ephemeral containers "{name}" may not be changed\n'))
    return [*found, *_shape_causes(new["spec"])]


def _shape_causes(spec: Object) -> Iterator[Cause]:
    known = {one["name"] for group in ("containers", "initContainers") for one in spec.get(group) or ()}
    for index, one in enumerate(spec.get("ephemeralContainers") or ()):
        path = f"{_PATH}[{index}]"
        target = one.get("targetContainerName", "")
        if target and target not in known:
            yield not_found(f"{path}.targetContainerName", target)
        for field in _NOT_EPHEMERAL:
            if one.get(field):
                yield forbidden(f"{path}.{field}", "cannot be set for an Ephemeral Container")
        if one.get("resources"):
            yield forbidden(f"{path}.resources", "cannot be set for an Ephemeral Container")
        for at, mount in enumerate(one.get("volumeMounts") or ()):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    yield forbidden(f"{path}.volumeMounts[{at}].{field}", "cannot be set for an Ephemeral Container")


def with_resources(old: Object, new: Object) -> Object:
    """Return a pod with the resources of another's containers, and nothing else of it.

    Where it has other containers their names are taken over, too, for resize_causes to refuse.
    """
    spec = {**old["spec"]}
    given = new.get("spec") or {}
    for group in ("containers", "initContainers"):
        had, wanted = spec.get(group) or [], given.get(group) or []
        if len(had) != len(wanted):
            spec[group] = wanted
        elif had:
            spec[group] = [_resized(*pair) for pair in zip(had, wanted, strict=True)]
    return {**old, "spec": spec, "metadata": _metadata(old, new)}


def _resized(container: Object, wanted: Object) -> Object:
    found = {**container, "name": wanted.get("name"), "resources": wanted.get("resources") or {}}
    if wanted.get("resizePolicy"):
        found["resizePolicy"] = wanted["resizePolicy"]
    return found


def resize_causes(new: Object, old: Object) -> list[Cause]:
    """Return what is wrong with a change of resources."""
    if _MIRROR in (old["metadata"].get("annotations") or {}):
        return [forbidden("", "static pods cannot be resized")]
    renamed = list(_other_containers(new["spec"], old["spec"]))
    if renamed:
        return renamed
    found = []
    if qos_class(new["spec"]) != qos_class(old["spec"]):
        told = "Pod QOS Class may not change as a result of resizing"
        found.append(invalid("spec", qos_class(new["spec"]), told))
    for group in ("containers", "initContainers"):
        pairs = zip(new["spec"].get(group) or (), old["spec"].get(group) or (), strict=True)
        for index, (after, before) in enumerate(pairs):
            found += _removed(f"spec.{group}[{index}].resources", after, before)
            if _without_sizes(after) != _without_sizes(before):
                told = "only cpu and memory resources for containers and restartable init containers are mutable"
                found.append(forbidden("spec", told))
            elif group == "initContainers" and after != before and before.get("restartPolicy") != "Always":
                found.append(forbidden("spec", "resources for non-sidecar init containers are immutable"))
    return found


def _other_containers(new: Object, old: Object) -> Iterator[Cause]:
    """Yield what is wrong when a resize has other containers than the pod."""
    for group in ("containers", "initContainers"):
        after, before = new.get(group) or [], old.get(group) or []
        if len(after) != len(before):
            yield forbidden("spec", f"{group} may not be added or removed on resize")
            return
        for index, pair in enumerate(zip(after, before, strict=True)):
            if pair[0]["name"] != pair[1]["name"]:
                told = f"{group} may not be renamed or reordered on resize"
                yield forbidden(f"spec.{group}[{index}].name", told)


def _removed(path: str, after: Object, before: Object) -> Iterator[Cause]:
    for part in ("limits", "requests"):
        had, has = ((one.get("resources") or {}).get(part) or {} for one in (before, after))
        if had.keys() - has.keys():
            yield forbidden(f"{path}.{part}", f"resource {part} cannot be removed")


def _without_sizes(container: Object) -> Object:
    resources = container.get("resources") or {}
    kept: Object = {}
    for part, values in resources.items():
        sizes = isinstance(values, dict)
        kept[part] = {name: value for name, value in values.items() if name not in _RESIZED} if sizes else values
    shown = {part: value for part, value in kept.items() if value}
    return {**container, "resources": shown, "resizePolicy": None}


def _metadata(old: Object, new: Object) -> Object:
    metadata = {**old["metadata"]}
    if "managedFields" in (new.get("metadata") or {}):
        metadata["managedFields"] = new["metadata"]["managedFields"]
    return metadata


EPHEMERAL_CONTAINERS = Subresource(
    ("get", "patch", "update"), merge=with_ephemeral_containers, validate_update=ephemeral_causes
)
RESIZE = Subresource(("get", "patch", "update"), merge=with_resources, validate_update=resize_causes)
