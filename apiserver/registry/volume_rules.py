"""What a pod's volumes may be, and how its containers may mount them.

Sources whose fields the schema can judge by itself (a name that must be there) have no rules here.
Source: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume/
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apiserver.registry import names
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, not_found, required, unsupported
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

_MODE_RULE = "must be a number between 0 and 0777 (octal), both inclusive"
_HOST_PATHS = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")
_RECURSIVE = ("Disabled", "Enabled", "IfPossible")
_MIN_TOKEN_SECONDS, _MAX_TOKEN_SECONDS = 600, 2**32
_FILE_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_BLOCK = ("persistentVolumeClaim", "ephemeral")
# As upstream looks through them: of two, the later one is told of.
_ORDER = ("emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs")


def volumes_of(spec: Object, path: str) -> tuple[dict[str, Object], list[Cause]]:
    """Return a pod's volumes by name, and what is wrong with them."""
    found: dict[str, Object] = {}
    causes: list[Cause] = []
    for index, volume in enumerate(spec.get("volumes") or ()):
        at, name = f"{path}.volumes[{index}]", volume.get("name", "")
        causes += _source_causes(volume, at)
        if not name:
            continue  # the schema asks for it
        if wrong := names.dns_label(name):
            causes.append(invalid(f"{at}.name", name, wrong))
        elif name in found:
            causes.append(duplicate(f"{at}.name", name))
        found[name] = volume
    return found, causes


def _source_causes(volume: Object, path: str) -> Iterator[Cause]:
    sources = sorted((one for one in volume if one != "name"), key=lambda one: (one not in _ORDER, one))
    for extra in sources[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    if sources and (judge := _JUDGES.get(sources[0])) is not None:
        yield from judge(volume[sources[0]], f"{path}.{sources[0]}")


def _empty_dir(source: Object, path: str) -> Iterator[Cause]:
    if "sizeLimit" in source and parse_quantity(source["sizeLimit"]) < 0:
        yield forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def host_path_causes(source: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a folder or file of a node, as a volume."""
    yield from _no_steps_back(source.get("path", ""), f"{path}.path")
    if source.get("type", "") not in _HOST_PATHS:
        yield unsupported(f"{path}.type", source["type"], _HOST_PATHS)


def _nfs(source: Object, path: str) -> Iterator[Cause]:
    if (place := source.get("path", "")) and not place.startswith("/"):
        yield invalid(f"{path}.path", place, "must be an absolute path")


def _named(field: str) -> Callable[[Object, str], Iterator[Cause]]:
    def judge(source: Object, path: str) -> Iterator[Cause]:
        if not source.get(field):
            yield required(f"{path}.{field}")
        yield from _mode_causes(source, "defaultMode", path)
        for index, item in enumerate(source.get("items") or ()):
            yield from _item_causes(item, f"{path}.items[{index}]")

    return judge


def _downward(source: Object, path: str) -> Iterator[Cause]:
    yield from _mode_causes(source, "defaultMode", path)
    for item in source.get("items") or ():
        yield from _file_causes(item, path)


def _projected(source: Object, path: str) -> Iterator[Cause]:
    yield from _mode_causes(source, "defaultMode", path)
    seen: set[str] = set()
    for index, one in enumerate(source.get("sources") or ()):
        at = f"{path}.sources[{index}]"
        if len(one) > 1:
            yield forbidden(at, "may not specify more than 1 volume type")
        for kind, part in one.items():
            yield from _part_causes(kind, part, f"{at}.{kind}", path)
            for place in [item.get("path", "") for item in part.get("items") or ()] or [part.get("path", "")]:
                if place and place in seen:
                    yield invalid(path, place, "conflicting duplicate paths")
                seen.add(place)


def _part_causes(kind: str, part: Object, path: str, whole: str) -> Iterator[Cause]:
    match kind:
        case "secret" | "configMap":
            if not part.get("name"):
                yield required(f"{path}.name")
            for index, item in enumerate(part.get("items") or ()):
                yield from _item_causes(item, f"{path}.items[{index}]")
        case "downwardAPI":
            for item in part.get("items") or ():
                yield from _file_causes(item, path)
        case "serviceAccountToken":
            seconds = part.get("expirationSeconds", _MIN_TOKEN_SECONDS)
            if seconds < _MIN_TOKEN_SECONDS:
                yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
            if seconds > _MAX_TOKEN_SECONDS:
                why = "may not specify a duration larger than 2^32 seconds"
                yield invalid(f"{path}.expirationSeconds", seconds, why)
            yield from _local_path(part.get("path", ""), f"{whole}.path")
        case "clusterTrustBundle":
            yield from _local_path(part.get("path", ""), f"{path}PEM.path")


def _item_causes(item: Object, path: str) -> Iterator[Cause]:
    yield from _local_path(item.get("path", ""), f"{path}.path")
    yield from _mode_causes(item, "mode", path)


def _file_causes(item: Object, path: str) -> Iterator[Cause]:
    yield from _local_path(item.get("path", ""), f"{path}.path")
    if "fieldRef" in item and "resourceFieldRef" in item:
        yield invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
    elif "fieldRef" in item:
        field = item["fieldRef"].get("fieldPath", "")
        if field and field.partition("[")[0] not in _FILE_FIELDS:
            yield unsupported(f"{path}.fieldRef.fieldPath", field, _FILE_FIELDS)
    elif "resourceFieldRef" not in item:
        yield required(path, "one of fieldRef and resourceFieldRef is required")
    yield from _mode_causes(item, "mode", path)


def _mode_causes(source: Object, field: str, path: str) -> Iterator[Cause]:
    mode = source.get(field)
    if mode is not None and not 0 <= mode <= 0o777:
        yield invalid(f"{path}.{field}", mode, _MODE_RULE)


def _no_steps_back(place: str, path: str) -> Iterator[Cause]:
    if ".." in place.split("/"):
        yield invalid(path, place, "must not contain '..'")


def _descending(place: str, path: str) -> Iterator[Cause]:
    if place.startswith("/"):
        yield invalid(path, place, "must be a relative path")
    yield from _no_steps_back(place, path)


def _local_path(place: str, path: str) -> Iterator[Cause]:
    yield from _descending(place, path)
    if place.startswith("..") and not place.startswith("../") and place != "..":
        yield invalid(path, place, "must not start with '..'")


_JUDGES: Mapping[str, Callable[[Any, str], Iterator[Cause]]] = {
    "emptyDir": _empty_dir, "hostPath": host_path_causes, "nfs": _nfs, "secret": _named("secretName"),
    "configMap": _named("name"), "downwardAPI": _downward, "projected": _projected,
}  # fmt: skip


def mount_causes(container: Object, volumes: Mapping[str, Object], path: str) -> Iterator[Cause]:
    """Yield what is wrong with a container's mounts and devices. Args: `volumes` are the pod's, by name."""
    places: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        at = f"{path}.volumeMounts[{index}]"
        if mount.get("name") and mount["name"] not in volumes:
            yield not_found(f"{at}.name", mount["name"])
        place = mount.get("mountPath", "")
        if place and place in places:
            yield invalid(f"{at}.mountPath", place, "must be unique")
        places.add(place)
        yield from _mount_causes(mount, container, at)
    for index, device in enumerate(container.get("volumeDevices") or ()):
        yield from _device_causes(device, volumes, places, f"{path}.volumeDevices[{index}]")


def _mount_causes(mount: Object, container: Object, path: str) -> Iterator[Cause]:
    for field in ("subPath", "subPathExpr"):
        yield from _descending(mount.get(field, ""), f"{path}.{field}")
    if mount.get("subPath") and mount.get("subPathExpr"):
        yield invalid(f"{path}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive")
    way = mount.get("mountPropagation", "None")
    if way not in _PROPAGATIONS:
        yield unsupported(f"{path}.mountPropagation", way, _PROPAGATIONS)
    if way == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
        why = "Bidirectional mount propagation is available only to privileged containers"
        yield forbidden(f"{path}.mountPropagation", why)
    recursive = mount.get("recursiveReadOnly", "Disabled")
    if recursive not in _RECURSIVE:
        yield unsupported(f"{path}.recursiveReadOnly", recursive, _RECURSIVE)
    elif recursive != "Disabled":
        if not mount.get("readOnly"):
            yield forbidden(f"{path}.recursiveReadOnly", "may only be specified when readOnly is true")
        if way != "None":
            why = "may only be specified when mountPropagation is None or not specified"
            yield forbidden(f"{path}.recursiveReadOnly", why)


def _device_causes(device: Object, volumes: Mapping[str, Object], places: set[str], path: str) -> Iterator[Cause]:
    name, place = device.get("name", ""), device.get("devicePath", "")
    if name and name not in volumes:
        yield not_found(f"{path}.name", name)
    elif name and volumes[name] and not any(source in volumes[name] for source in _BLOCK):
        why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
        yield invalid(f"{path}.name", name, why)
    if place in places:
        yield invalid(f"{path}.devicePath", place, "must not already exist as a path in volumeMounts")
    if ".." in place.split("/"):
        yield invalid(f"{path}.devicePath", place, "can not contain backsteps ('..')")
