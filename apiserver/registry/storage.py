"""Volumes, claims and what provides them: parts of the core group, and the group storage.k8s.io.

Defaults and rules: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from collections.abc import Iterator
from posixpath import normpath
from typing import Any

from apiserver.registry import csi_rules, names
from apiserver.registry.affinity_rules import node_selector_causes
from apiserver.registry.claim_rules import (
    CLASS_ANNOTATION,
    MODES,
    claim_spec_causes,
    claim_update_causes,
    class_name_causes,
    mode_causes,
)  # fmt: skip
from apiserver.registry.columns import AGE, NAME, UNKNOWN, text_at, value_at
from apiserver.registry.kind import (
    STATUS,
    Column,
    Kind,
    Object,
    default_text,
    forbidden,
    immutable,
    invalid,
    required,
    unsupported,
)  # fmt: skip
from apiserver.registry.volume_rules import host_path_causes, nfs_causes
from apiserver.registry.volume_source_rules import JUDGES, csi_causes, long_portal_causes
from machinery.api import resources
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

CORE, STORAGE = "io.k8s.api.core.v1.", "io.k8s.api.storage.v1."
# Labels that had another name once.
_STABLE = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "beta.kubernetes.io/os": "kubernetes.io/os", "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
}  # fmt: skip
# The fields of a volume's spec that are no source.
_NO_SOURCE = frozenset(
    {"accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
     "storageClassName", "volumeAttributesClassName", "volumeMode"}
)  # fmt: skip


def _modes_text(modes: Any) -> str:
    return ",".join(short for mode, short in MODES.items() if mode in (modes or ()))


# -- persistent volumes


def _default_volume(volume: Object) -> None:
    spec = volume.setdefault("spec", {})
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")


def _volume_causes(volume: Object) -> Iterator[Cause]:
    spec = volume["spec"]
    yield from mode_causes(spec, "spec")
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield required("spec.capacity")
    if set(capacity) != {"storage"}:
        yield unsupported("spec.capacity", capacity or None, ("storage",))
    for name, amount in capacity.items():
        if parse_quantity(amount) <= 0:
            yield invalid(f"spec.capacity[{name}]", amount, "must be greater than zero")
    policies, policy = ("Delete", "Recycle", "Retain"), spec["persistentVolumeReclaimPolicy"]
    if policy not in policies:
        yield unsupported("spec.persistentVolumeReclaimPolicy", policy, policies)
    yield from _affinity_causes(spec.get("nodeAffinity"))
    yield from _source_causes(volume)
    yield from class_name_causes(spec, "spec")
    if (attributes := spec.get("volumeAttributesClassName")) is not None:
        if not attributes:
            yield required("spec.volumeAttributesClassName", "an empty string is disallowed")
        if spec.get("csi") is None:
            yield required("spec.csi", "has to be specified when using volumeAttributesClassName")


def _affinity_causes(affinity: Object | None) -> Iterator[Cause]:
    if affinity is None:
        return
    if affinity.get("required") is None:
        yield required("spec.nodeAffinity.required", "must specify required node constraints")
    else:
        yield from node_selector_causes(affinity["required"], "spec.nodeAffinity.required")


def _source_causes(volume: Object) -> Iterator[Cause]:
    """Yield what is wrong with what a volume is made of: one source, and not more."""
    spec = volume["spec"]
    sources = [field for field in spec if field not in _NO_SOURCE]
    if not sources:
        yield required("spec", "must specify a volume type")
        return
    for extra in sources[1:]:
        yield forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
    field = sources[0]
    if (judge := _JUDGES.get(field) or JUDGES.get(field)) is not None:
        yield from judge(spec[field], f"spec.{field}")
    if field == "iscsi":
        name, portal = volume["metadata"].get("name", ""), spec["iscsi"].get("targetPortal", "")
        yield from long_portal_causes(spec["iscsi"], name, "spec.iscsi.targetportal", portal)
    if "local" in sources and spec.get("nodeAffinity") is None:
        yield required("spec.nodeAffinity", "Local volume requires node affinity")
    place = (spec.get("hostPath") or {}).get("path", "")
    if place and normpath(place).strip("/") == "" and spec["persistentVolumeReclaimPolicy"] == "Recycle":
        why = "may not be 'recycle' for a hostPath mount of '/'"
        yield forbidden("spec.persistentVolumeReclaimPolicy", why)


def _local(source: Object, path: str) -> Iterator[Cause]:
    if ".." in (place := source.get("path") or "").split("/"):
        yield invalid(f"{path}.path", place, "must not contain '..'")


def _glusterfs(source: Object, path: str) -> Iterator[Cause]:
    namespace = source.get("endpointsNamespace")
    if namespace == "":
        why = "if the endpointnamespace is set, it must be a valid namespace name"
        yield invalid(f"{path}.endpointsNamespace", namespace, why)
    elif namespace and (wrong := names.dns_label(namespace)):
        yield invalid(f"{path}.endpointsNamespace", namespace, wrong)


def _csi(source: Object, path: str) -> Iterator[Cause]:
    yield from csi_causes({"driver": source.get("driver")}, path)
    for field in ("controllerPublish", "controllerExpand", "nodePublish", "nodeExpand"):
        secret, at = source.get(f"{field}SecretRef"), f"{path}.{field}SecretRef"
        if secret is None:
            continue
        for part, rule in (("name", names.dns_subdomain), ("namespace", names.dns_label)):
            if not secret.get(part):
                yield required(f"{at}.{part}")
            elif wrong := rule(secret[part]):
                yield invalid(f"{at}.{part}", secret[part], wrong)


# Sources that are judged otherwise than a pod's own volumes are.
_JUDGES = {"hostPath": host_path_causes, "nfs": nfs_causes, "local": _local, "glusterfs": _glusterfs, "csi": _csi}


def _volume_update(new: Object, old: Object) -> list[Cause]:
    def source(obj: Object) -> Object:
        found = {field: value for field, value in obj["spec"].items() if field not in _NO_SOURCE}
        if (old["spec"].get("csi") or {}).get("controllerExpandSecretRef") is None and "csi" in found:
            found["csi"] = {k: v for k, v in found["csi"].items() if k != "controllerExpandSecretRef"}
        return found

    causes = [] if source(new) == source(old) else [
        forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    ]  # fmt: skip
    causes += immutable("volumeMode", new["spec"].get("volumeMode"), old["spec"].get("volumeMode"))
    asked, had = new["spec"].get("nodeAffinity"), old["spec"].get("nodeAffinity")
    if had is not None and not _same_but_names(asked, had):
        causes.append(invalid("nodeAffinity", asked, "field is immutable, except for updating from beta label to GA"))
    wanted, before = (obj["spec"].get("volumeAttributesClassName") for obj in (new, old))
    if before is not None and wanted is None:
        causes.append(forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden"))
    return causes


def _same_but_names(new: Any, old: Any) -> bool:
    """Whether two affinities say the same, but for labels that got another name."""
    if isinstance(old, dict) and isinstance(new, dict):
        if "key" in old and _STABLE.get(old["key"]) == new.get("key"):
            old = {**old, "key": new["key"]}
        return old.keys() == new.keys() and all(_same_but_names(new[field], old[field]) for field in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same_but_names, new, old))
    return bool(new == old)


def _claim_of(volume: Object) -> str:
    claim = volume["spec"].get("claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _status_of(obj: Object) -> str:
    phase = (obj.get("status") or {}).get("phase") or ""
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else phase


def _class_of(obj: Object) -> str:
    annotations = obj["metadata"].get("annotations") or {}
    return annotations.get(CLASS_ANNOTATION) or obj["spec"].get("storageClassName") or ""


# -- claims


def default_claim(claim: Object) -> None:
    """Fill in what a claim, or a template of one, leaves open."""
    claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def _pending(obj: Object) -> None:
    obj["status"] = {"phase": "Pending"}


def _claim_capacity(claim: Object) -> str:
    return str(value_at(claim, "status", "capacity", "storage") or "") if claim["spec"].get("volumeName") else ""


# -- storage classes and the objects of CSI


def _default_class(storage_class: Object) -> None:
    storage_class.setdefault("reclaimPolicy", "Delete")
    storage_class.setdefault("volumeBindingMode", "Immediate")


def _class_causes(storage_class: Object) -> Iterator[Cause]:
    for field, known in (
        ("reclaimPolicy", ("Delete", "Retain")),
        ("volumeBindingMode", ("Immediate", "WaitForFirstConsumer")),
    ):
        if storage_class[field] not in known:
            yield unsupported(field, storage_class[field], known)
    if (provisioner := storage_class.get("provisioner")) and (wrong := names.qualified_name(provisioner.lower())):
        yield invalid("provisioner", provisioner, wrong)
    if "" in (storage_class.get("parameters") or {}):
        yield invalid("parameters", "", "field can not be empty.")
    yield from csi_rules.topology_causes(storage_class.get("allowedTopologies") or [], "allowedTopologies")


def _class_update(new: Object, old: Object) -> list[Cause]:
    fixed = ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode")
    return [
        forbidden(field, "updates to " + field + " are forbidden.")
        for field in fixed
        if new.get(field) != old.get(field)
    ]  # fmt: skip


def _class_name(storage_class: Object) -> str:
    name = str(storage_class["metadata"]["name"])
    annotations = storage_class["metadata"].get("annotations") or {}
    keys = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
    return f"{name} (default)" if any(annotations.get(key) == "true" for key in keys) else name


def _default_driver(driver: Object) -> None:
    spec = driver.setdefault("spec", {})
    for field, value in (
        ("attachRequired", True), ("podInfoOnMount", False), ("storageCapacity", False), ("requiresRepublish", False),
        ("seLinuxMount", False), ("fsGroupPolicy", "ReadWriteOnceWithFSType"),
    ):  # fmt: skip
        spec.setdefault(field, value)
    spec.setdefault("volumeLifecycleModes", ["Persistent"])


def _token_requests(driver: Object) -> str:
    found = [request.get("audience", "") for request in driver["spec"].get("tokenRequests") or ()]
    return ",".join(found) or "<unset>"


def _fixed_spec(new: Object, old: Object) -> list[Cause]:
    return immutable("spec", new.get("spec"), old.get("spec"))


_VOLUME_MODE = Column("VolumeMode", text_at("spec", "volumeMode", absent="<unset>"), priority=1)
_ATTRIBUTES_CLASS = Column("VolumeAttributesClass", text_at("spec", "volumeAttributesClassName", absent="<unset>"))


def _fixed_attributes(new: Object, old: Object) -> list[Cause]:
    causes = immutable("driverName", new.get("driverName"), old.get("driverName"))
    if new.get("parameters") != old.get("parameters"):
        causes.append(forbidden("parameters", "updates to parameters are forbidden."))
    return causes


def _fixed_capacity(new: Object, old: Object) -> list[Cause]:
    return [
        cause
        for field in ("nodeTopology", "storageClassName")
        for cause in immutable(field, new.get(field), old.get(field))
    ]


KINDS = (
    Kind(
        resources.PERSISTENT_VOLUMES, CORE + "PersistentVolume", "persistentvolume", ("pv",),
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Capacity", text_at("spec", "capacity", "storage")),
            Column("Access Modes", lambda obj: _modes_text(obj["spec"].get("accessModes"))),
            Column("Reclaim Policy", text_at("spec", "persistentVolumeReclaimPolicy")), Column("Status", _status_of),
            Column("Claim", _claim_of), Column("StorageClass", _class_of), _ATTRIBUTES_CLASS,
            Column("Reason", text_at("status", "reason")), AGE, _VOLUME_MODE,
        ),
        default=_default_volume, validate=lambda obj: list(_volume_causes(obj)), validate_update=_volume_update,
        prepare_create=_pending, returns_deleted=True,
    ),
    Kind(
        resources.PERSISTENT_VOLUME_CLAIMS, CORE + "PersistentVolumeClaim", "persistentvolumeclaim", ("pvc",),
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Status", _status_of), Column("Volume", text_at("spec", "volumeName")),
            Column("Capacity", _claim_capacity),
            Column(
                "Access Modes",
                lambda obj: _modes_text((obj.get("status") or {}).get("accessModes"))
                if obj["spec"].get("volumeName") else "",
            ),
            Column("StorageClass", _class_of), _ATTRIBUTES_CLASS, AGE, _VOLUME_MODE,
        ),
        default=default_claim, validate=lambda obj: list(claim_spec_causes(obj["spec"], "spec")),
        validate_update=claim_update_causes, prepare_create=_pending, returns_deleted=True,
    ),
    Kind(
        resources.STORAGE_CLASSES, STORAGE + "StorageClass", "storageclass", ("sc",),
        columns=(
            Column("Name", _class_name, format="name"), Column("Provisioner", text_at("provisioner")),
            Column("ReclaimPolicy", text_at("reclaimPolicy")),
            Column("VolumeBindingMode", text_at("volumeBindingMode")),
            Column("AllowVolumeExpansion", text_at("allowVolumeExpansion", absent="false")), AGE,
        ),
        default=_default_class, validate=lambda obj: list(_class_causes(obj)), validate_update=_class_update,
        returns_deleted=True,
    ),
    Kind(
        resources.VOLUME_ATTACHMENTS, STORAGE + "VolumeAttachment", "volumeattachment",
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Attacher", text_at("spec", "attacher")),
            Column("PV", text_at("spec", "source", "persistentVolumeName")),
            Column("Node", text_at("spec", "nodeName")),
            Column("Attached", text_at("status", "attached", absent="false")), AGE,
        ),
        validate=lambda obj: list(csi_rules.attachment_causes(obj)), validate_update=_fixed_spec,
        prepare_create=lambda obj: obj.update(status={"attached": False}),
        returns_deleted=True, unconditional_update=False,
    ),
    Kind(
        resources.VOLUME_ATTRIBUTES_CLASSES, STORAGE + "VolumeAttributesClass", "volumeattributesclass", ("vac",),
        columns=(NAME, Column("DriverName", text_at("driverName")), AGE),
        validate=lambda obj: list(csi_rules.attributes_causes(obj)), validate_update=_fixed_attributes,
        returns_deleted=True,
    ),
    Kind(
        resources.CSI_DRIVERS, STORAGE + "CSIDriver", "csidriver",
        columns=(
            NAME, Column("AttachRequired", lambda obj: obj["spec"].get("attachRequired", True), type="boolean"),
            Column("PodInfoOnMount", lambda obj: obj["spec"].get("podInfoOnMount", False), type="boolean"),
            Column("StorageCapacity", lambda obj: obj["spec"].get("storageCapacity", False), type="boolean"),
            Column("TokenRequests", _token_requests),
            Column("RequiresRepublish", lambda obj: obj["spec"].get("requiresRepublish", False), type="boolean"),
            Column("Modes", lambda obj: ",".join(obj["spec"].get("volumeLifecycleModes") or ()) or UNKNOWN), AGE,
        ),
        default=_default_driver, validate=lambda obj: list(csi_rules.driver_causes(obj)),
        validate_update=csi_rules.driver_update, returns_deleted=True, unconditional_update=False,
    ),
    Kind(
        resources.CSI_NODES, STORAGE + "CSINode", "csinode",
        columns=(NAME, Column("Drivers", lambda obj: len(obj["spec"].get("drivers") or ()), type="integer"), AGE),
        validate=lambda obj: list(csi_rules.node_causes(obj)), validate_update=csi_rules.node_update,
        optional_required=frozenset({"spec.drivers"}), returns_deleted=True, unconditional_update=False,
    ),
    Kind(
        resources.CSI_STORAGE_CAPACITIES, STORAGE + "CSIStorageCapacity", "csistoragecapacity",
        columns=(
            NAME, Column("StorageClassName", text_at("storageClassName")), Column("Capacity", text_at("capacity")), AGE,
        ),
        validate=lambda obj: list(csi_rules.capacity_causes(obj)), validate_update=_fixed_capacity,
        unconditional_update=False,
    ),
)  # fmt: skip
