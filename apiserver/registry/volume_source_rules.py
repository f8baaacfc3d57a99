"""Rules of volumes that other systems hold: disks of clouds, iSCSI, Fibre Channel, drivers.

A node of ours mounts those of storage drivers (csi) and of nfs; the others are stored and told what is wrong with them.
Source: https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume/
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apiserver.registry import names
from apiserver.registry.kind import Object, invalid, required, too_long, unsupported
from machinery.errors import Cause

Judge = Callable[[Any, str], Iterator[Cause]]

_IQN = (
    (re.compile(r"iqn\.\d{4}-\d{2}\.([a-zA-Z0-9.-]+)(:[^,;*&$|\s]+)$"), "iqn"),
    (re.compile(r"eui.[a-zA-Z0-9]{16}$"), "eui"),
    (re.compile(r"naa.[a-zA-Z0-9]{32}$"), "naa"),
)
_MAX_PORTAL, _MAX_TENANT, _MAX_DRIVER = 64, 64, 63
_PARTITION_RULE = "must be between 1 and 255, inclusive"  # as upstream says, though 0 may be
_REGISTRY_RULE = "must be a host:port pair or multiple pairs separated by commas"
_CACHING = ("None", "ReadOnly", "ReadWrite")
_DISKS = ("Dedicated", "Managed", "Shared")
_MANAGED_DISK = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
_BLOB_DISK = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"


def iscsi_causes(source: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a block device that is reached by iSCSI."""
    if iqn := source.get("iqn"):
        for wrong in _initiator_problems(iqn):
            yield invalid(f"{path}.iqn", iqn, wrong)
    if not 0 <= source.get("lun", 0) <= 255:
        yield invalid(f"{path}.lun", source["lun"], "must be between 0 and 255, inclusive")
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and source.get("secretRef") is None:
        yield required(f"{path}.secretRef")
    if (initiator := source.get("initiatorName")) is not None:
        for wrong in _initiator_problems(initiator):
            yield invalid(f"{path}.initiatorname", initiator, wrong)


def _initiator_problems(text: str) -> Iterator[str]:
    known = next(((pattern, kind) for pattern, kind in _IQN if text.startswith(kind)), None)
    if known is None:
        yield "must be valid format starting with iqn, eui, or naa"
    elif not known[0].match(text):
        yield "must be valid format"


def long_portal_causes(source: Object, name: str, path: str, value: str) -> Iterator[Cause]:
    """Yield a cause where the name of an iSCSI volume and its portal are too long together."""
    if source.get("initiatorName") is not None and len(f"{name}:{source.get('targetPortal', '')}") > _MAX_PORTAL:
        why = (
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName "
            "is specified."
        )
        yield invalid(path, value, why)


def _fc(source: Object, path: str) -> Iterator[Cause]:
    targets, wwids, lun = source.get("targetWWNs"), source.get("wwids"), source.get("lun")
    if not targets and not wwids:
        yield required(f"{path}.targetWWNs", "must specify either targetWWNs or wwids, but not both")
    if targets and wwids:
        yield invalid(f"{path}.targetWWNs", targets, "targetWWNs and wwids can not be specified simultaneously")
    if targets and lun is None:
        yield required(f"{path}.lun", "lun is required if targetWWNs is specified")
    elif targets and lun is not None and not 0 <= lun <= 255:
        yield invalid(f"{path}.lun", lun, "must be between 0 and 255, inclusive")


def _partitioned(source: Object, path: str) -> Iterator[Cause]:
    if not 0 <= source.get("partition", 0) <= 255:
        yield invalid(f"{path}.partition", source["partition"], _PARTITION_RULE)


def _gce(source: Object, path: str) -> Iterator[Cause]:
    at = path.removesuffix("gcePersistentDisk") + "persistentDisk"  # as upstream spells it
    if not source.get("pdName"):
        yield required(f"{at}.pdName")
    yield from _partitioned(source, at)


def _git(source: Object, path: str) -> Iterator[Cause]:
    place = source.get("directory") or ""
    if place.startswith("/"):
        yield invalid(f"{path}.directory", place, "must be a relative path")
    if ".." in place.split("/"):
        yield invalid(f"{path}.directory", place, "must not contain '..'")


def _quobyte(source: Object, path: str) -> Iterator[Cause]:
    registry = source.get("registry") or ""
    if not registry:
        yield required(f"{path}.registry", _REGISTRY_RULE)
    elif len(source.get("tenant") or "") > _MAX_TENANT:
        yield required(f"{path}.tenant", "must be a UUID and may not exceed a length of 64 characters")
    else:
        for pair in registry.split(","):
            if not re.fullmatch(r"([^:\[\]]*|\[[^\]]*\]):[^:]*", pair):
                yield invalid(f"{path}.registry", registry, _REGISTRY_RULE)


def _flocker(source: Object, path: str) -> Iterator[Cause]:
    name, uuid = source.get("datasetName") or "", source.get("datasetUUID") or ""
    if not name and not uuid:
        yield required(path, "one of datasetName and datasetUUID is required")
    if name and uuid:
        yield invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously")
    if "/" in name:
        yield invalid(f"{path}.datasetName", name, "must not contain '/'")


def _flex(source: Object, path: str) -> Iterator[Cause]:
    for key in source.get("options") or ():
        domain = "." + key.partition("/")[0].lower()
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            why = "kubernetes.io and k8s.io namespaces are reserved"
            yield invalid(f"{path}.options[{key}]", key, why)


def _azure_disk(source: Object, path: str) -> Iterator[Cause]:
    caching, kind, uri = source.get("cachingMode"), source.get("kind"), source.get("diskURI") or ""
    if caching is not None and caching not in _CACHING:
        yield unsupported(f"{path}.cachingMode", caching, _CACHING)
    if kind is not None and kind not in _DISKS:
        yield unsupported(f"{path}.kind", kind, _DISKS)
    if kind == "Managed" and not uri.startswith("/subscriptions/"):
        yield unsupported(f"{path}.diskURI", uri, (_MANAGED_DISK,))
    if kind not in (None, "Managed") and not uri.startswith("https://"):
        yield unsupported(f"{path}.diskURI", uri, (_BLOB_DISK,))


def _storageos(source: Object, path: str) -> Iterator[Cause]:
    if not source.get("volumeName"):
        yield required(f"{path}.volumeName")
    for field in ("volumeName", "volumeNamespace"):
        if (name := source.get(field)) and (wrong := names.dns_label(name)):
            yield invalid(f"{path}.{field}", name, wrong)


def _secret_named(source: Object, path: str) -> Iterator[Cause]:
    secret = source.get("secretRef")
    if secret is not None and not secret.get("name"):
        yield required(f"{path}.secretRef.name")


def csi_causes(source: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a volume that a storage driver makes for a pod alone."""
    driver, at = source.get("driver") or "", f"{path}.driver"
    if len(driver) > _MAX_DRIVER:
        yield too_long(at, _MAX_DRIVER)
    if driver and (wrong := names.dns_subdomain(driver.lower())):
        yield invalid(at, driver, wrong)
    secret = source.get("nodePublishSecretRef")
    if secret is not None:
        if not secret.get("name"):
            yield required(f"{path}.nodePublishSecretRef.name")
        elif wrong := names.dns_subdomain(secret["name"]):
            yield invalid(f"{path}.name", secret["name"], wrong)


JUDGES: Mapping[str, Judge] = {
    "iscsi": iscsi_causes, "fc": _fc, "gcePersistentDisk": _gce, "awsElasticBlockStore": _partitioned, "gitRepo": _git,
    "quobyte": _quobyte, "flocker": _flocker, "flexVolume": _flex, "azureDisk": _azure_disk, "storageos": _storageos,
    "cinder": _secret_named, "csi": csi_causes,
}  # fmt: skip
"""By the name of the source; sources that are not here have no rules beside what their types require."""
