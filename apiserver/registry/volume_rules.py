"""What a pod's volumes may be, and how its containers may mount them.

Sources whose fields the schema can judge by itself (a name that must be there) have no rules here.
Source: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume/
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from apiserver.registry import names, volume_source_rules
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.claim_rules import claim_spec_causes
from apiserver.registry.kind import Object, duplicate, forbidden, invalid, not_found, required, unsupported
from apiserver.registry.variable_rules import field_causes, resource_field_causes
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

_MODE_RULE = "must be a number between 0 and 0777 (octal), both inclusive"
_HOST_PATHS = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")
_RECURSIVE = ("Disabled", "Enabled", "IfPossible")
_MIN_TOKEN_SECONDS, _MAX_TOKEN_SECONDS = 600, 2**32
_FILE_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_KEY_TYPES = ("ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096")
_MIN_CERTIFICATE_SECONDS, _MAX_CERTIFICATE_SECONDS = 3600, 91 * 86400
_PULLS = ("Always", "IfNotPresent", "Never")
_BLOCK = ("persistentVolumeClaim", "ephemeral")
# As upstream looks through them: of two, the later one is told of.
_ORDER = ("emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs")


def volumes_of(spec: Object, path: str, pod: Object | None = None) -> tuple[dict[str, Object], list[Cause]]:
    """Return a pod's volumes by name, and what is wrong with them. Args: `pod` is given where it is no template."""
    found: dict[str, Object] = {}
    causes: list[Cause] = []
    own_name = pod["metadata"].get("name", "") if pod is not None else ""
    made = {f"{own_name}-{one.get('name', '')}" for one in spec.get("volumes") or () if own_name and "ephemeral" in one}
    for index, volume in enumerate(spec.get("volumes") or ()):
        at, name = f"{path}.volumes[{index}]", volume.get("name", "")
        causes += _source_causes(volume, at)
        if "image" in volume and pod is not None and not volume["image"].get("reference"):
            causes.append(required(f"{at}.image.reference"))
        if "ephemeral" in volume and own_name and name and (wrong := names.dns_subdomain(f"{own_name}-{name}")):
            causes.append(invalid(f"{at}.name", name, f'PVC name "{own_name}-{name}": {wrong}'))
        if not name:
            continue  # the schema asks for it
        if wrong := names.dns_label(name):
            causes.append(invalid(f"{at}.name", name, wrong))
        elif name in found:
            causes.append(duplicate(f"{at}.name", name))
        found[name] = volume
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim in made:
            why = "must not reference a PVC that gets created for an ephemeral volume"
            causes.append(invalid(f"{at}.persistentVolumeClaim.claimName", claim, why))
    return found, causes


def _source_causes(volume: Object, path: str) -> Iterator[Cause]:
    sources = sorted((one for one in volume if one != "name"), key=lambda one: (one not in _ORDER, one))
    for extra in sources[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    if sources and (judge := _JUDGES.get(sources[0]) or volume_source_rules.JUDGES.get(sources[0])) is not None:
        yield from judge(volume[sources[0]], f"{path}.{sources[0]}")
    if "iscsi" in volume:
        name = volume.get("name", "")
        yield from volume_source_rules.long_portal_causes(volume["iscsi"], name, f"{path}.name", name)


def _empty_dir(source: Object, path: str) -> Iterator[Cause]:
    if "sizeLimit" in source and parse_quantity(source["sizeLimit"]) < 0:
        yield forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def host_path_causes(source: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a folder or file of a node, as a volume."""
    yield from _no_steps_back(source.get("path", ""), f"{path}.path")
    if source.get("type", "") not in _HOST_PATHS:
        yield unsupported(f"{path}.type", source["type"], _HOST_PATHS)


def nfs_causes(source: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a share of a file server."""
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
            yield forbidden(at, "may not specify more than 1 volume type per source")
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
            yield from _token_causes(part, path)
            yield from _local_path(part.get("path", ""), f"{whole}.path")
        case "clusterTrustBundle":
            yield from _bundle_causes(part, path)
            yield from _local_path(part.get("path", ""), f"{path}.path")
        case "podCertificate":
            yield from _certificate_causes(part, path)


def _token_causes(part: Object, path: str) -> Iterator[Cause]:
    seconds = part.get("expirationSeconds", _MIN_TOKEN_SECONDS)
    if seconds < _MIN_TOKEN_SECONDS:
        yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    if seconds > _MAX_TOKEN_SECONDS:
        yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")


def _bundle_causes(part: Object, path: str) -> Iterator[Cause]:
    name, signer = part.get("name"), part.get("signerName")
    if name is not None and signer is not None:
        yield invalid(path, part, "only one of name and signerName may be used")
    elif name is not None:
        if not name:
            yield required(f"{path}.name", "must be a valid object name")
        if wrong := names.dns_subdomain(name.rpartition(":")[2]):
            yield invalid(f"{path}.name", name, f"not a valid clustertrustbundlename: {wrong}")
        if part.get("labelSelector") is not None:
            yield invalid(
                f"{path}.labelSelector", part["labelSelector"], "labelSelector must be unset if name is specified"
            )
    elif signer is not None:
        if not signer:
            yield required(f"{path}.signerName", "must be a valid signer name")
        yield from names.domain_path_causes(signer, f"{path}.signerName")
        yield from label_selector_causes(part.get("labelSelector") or {}, f"{path}.labelSelector")
    else:
        yield required(path, "either name or signerName must be specified")


def _certificate_causes(part: Object, path: str) -> Iterator[Cause]:
    yield from names.domain_path_causes(part.get("signerName") or "", f"{path}.signerName")
    if part.get("keyType") not in _KEY_TYPES:
        yield unsupported(f"{path}.keyType", part.get("keyType"), _KEY_TYPES)
    seconds = part.get("maxExpirationSeconds")
    if seconds is not None and not _MIN_CERTIFICATE_SECONDS <= seconds <= _MAX_CERTIFICATE_SECONDS:
        why = f"must be in the range [{_MIN_CERTIFICATE_SECONDS}, {_MAX_CERTIFICATE_SECONDS}]"
        yield invalid(f"{path}.maxExpirationSeconds", seconds, why)
    places = [field for field in ("credentialBundlePath", "keyPath", "certificateChainPath") if part.get(field)]
    if not places:
        yield required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
    for field in places:
        yield from _local_path(part[field], f"{path}.{field}")


def _ephemeral(source: Object, path: str) -> Iterator[Cause]:
    template = source.get("volumeClaimTemplate")
    if template is None:
        yield required(f"{path}.volumeClaimTemplate")
        return
    at, metadata = f"{path}.volumeClaimTemplate", template.get("metadata") or {}
    yield from names.annotation_causes(metadata.get("annotations") or {}, f"{at}.metadata.annotations")
    yield from names.label_causes(metadata.get("labels") or {}, f"{at}.metadata.labels")
    for field in metadata:
        if field not in ("annotations", "labels") and metadata[field] is not None:
            yield forbidden(f"{at}.metadata.{field}", "cannot be set")
    yield from claim_spec_causes(template.get("spec") or {}, f"{at}.spec")


def _image(source: Object, path: str) -> Iterator[Cause]:
    if (policy := source.get("pullPolicy")) and policy not in _PULLS:
        yield unsupported(f"{path}.pullPolicy", policy, _PULLS)


def _item_causes(item: Object, path: str) -> Iterator[Cause]:
    yield from _local_path(item.get("path", ""), f"{path}.path")
    yield from _mode_causes(item, "mode", path)


def _file_causes(item: Object, path: str) -> Iterator[Cause]:
    yield from _local_path(item.get("path", ""), f"{path}.path")
    if "fieldRef" in item:
        yield from field_causes(item["fieldRef"], f"{path}.fieldRef", _FILE_FIELDS)
        if "resourceFieldRef" in item:
            yield invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
    elif "resourceFieldRef" in item:
        yield from resource_field_causes(item["resourceFieldRef"], f"{path}.resourceFieldRef", of_volume=True)
    else:
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
    "emptyDir": _empty_dir, "hostPath": host_path_causes, "nfs": nfs_causes, "secret": _named("secretName"),
    "configMap": _named("name"), "downwardAPI": _downward, "projected": _projected,
    "ephemeral": _ephemeral, "image": _image,
}  # fmt: skip


def mount_causes(container: Object, volumes: Mapping[str, Object], path: str) -> Iterator[Cause]:
    """Yield what is wrong with a container's mounts and devices. Args: `volumes` are the pod's, by name."""
    mounts, devices = container.get("volumeMounts") or (), container.get("volumeDevices") or ()
    device_names = {one.get("name") for one in devices}
    device_places = {one.get("devicePath") for one in devices}
    places: set[str] = set()
    for index, mount in enumerate(mounts):
        at, name, place = f"{path}.volumeMounts[{index}]", mount.get("name"), mount.get("mountPath", "")
        if name and name not in volumes:
            yield not_found(f"{at}.name", name)
        if place and place in places:
            yield invalid(f"{at}.mountPath", place, "must be unique")
        places.add(place)
        if name in device_names:
            yield invalid(f"{at}.name", name, "must not already exist in volumeDevices")
        if place in device_places:
            yield invalid(f"{at}.mountPath", place, "must not already exist as a path in volumeDevices")
        yield from _mount_causes(mount, container, at, f"{path}.volumeMounts")
    if devices:
        yield from _devices_causes(devices, volumes, mounts, f"{path}.volumeDevices")


def _mount_causes(mount: Object, container: Object, path: str, whole: str) -> Iterator[Cause]:
    """Args: `whole` is the path of all mounts, under which upstream tells of some of these."""
    for field in ("subPath", "subPathExpr"):
        yield from _descending(mount.get(field, ""), f"{whole}.{field}")
    if mount.get("subPath") and mount.get("subPathExpr"):
        yield invalid(f"{path}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive")
    way = mount.get("mountPropagation", "None")
    if way not in _PROPAGATIONS:
        yield unsupported(f"{whole}.mountPropagation", way, _PROPAGATIONS)
    if way == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
        why = "Bidirectional mount propagation is available only to privileged containers"
        yield forbidden(f"{whole}.mountPropagation", why)
    recursive = mount.get("recursiveReadOnly", "Disabled")
    if recursive not in _RECURSIVE:
        yield unsupported(f"{whole}.recursiveReadOnly", recursive, _RECURSIVE)
    elif recursive != "Disabled":
        if not mount.get("readOnly"):
            yield forbidden(f"{whole}.recursiveReadOnly", "may only be specified when readOnly is true")
        if way != "None":
            why = "may only be specified when mountPropagation is None or not specified"
            yield forbidden(f"{whole}.recursiveReadOnly", why)


def _devices_causes(
    devices: Sequence[Object], volumes: Mapping[str, Object], mounts: Sequence[Object], path: str
) -> Iterator[Cause]:
    mounted = {one.get("name"): one.get("mountPath") for one in mounts}
    taken: set[str] = set()
    places: set[str] = set()
    for index, device in enumerate(devices):
        name, place, at = device.get("name", ""), device.get("devicePath", ""), f"{path}[{index}]"
        if name and name in taken:
            yield invalid(f"{at}.name", name, "must be unique")
        if name and name not in volumes:
            yield not_found(f"{at}.name", name)
        elif name and volumes[name] and not any(source in volumes[name] for source in _BLOCK):
            why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            yield invalid(f"{at}.name", name, why)
        if place and place in places:
            yield invalid(f"{at}.devicePath", place, "must be unique")
        if ".." in place.split("/"):
            yield invalid(f"{at}.devicePath", place, "can not contain backsteps ('..')")
        if name in mounted:
            yield invalid(f"{at}.name", name, "must not already exist in volumeMounts")
        if place and place in mounted.values():
            yield invalid(f"{at}.devicePath", place, "must not already exist as a path in volumeMounts")
        taken.add(name)
        places.add(place)
