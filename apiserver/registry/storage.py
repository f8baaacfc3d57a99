"""Volumes, claims and what provides them: parts of the core group, and the group storage.k8s.io.

Defaults and rules: https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from collections.abc import Iterator
from posixpath import normpath
from typing import Any

from apiserver.registry import csi_rules, names
from apiserver.registry.affinity_rules import label_selector_causes
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
from apiserver.registry.volume_rules import host_path_causes
from machinery.api import resources
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

CORE, STORAGE = "io.k8s.api.core.v1.", "io.k8s.api.storage.v1."
_MODES = {
    "ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP",
}  # fmt: skip
_FIXED_CLAIM = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
# The fields of a volume's spec that are no source.
_NO_SOURCE = frozenset(
    {"accessModes", "capacity", "claimRef", "mountOptions", "nodeAffinity", "persistentVolumeReclaimPolicy",
     "storageClassName", "volumeAttributesClassName", "volumeMode"}
)  # fmt: skip


def _modes_text(modes: Any) -> str:
    return ",".join(short for mode, short in _MODES.items() if mode in (modes or ()))


def _mode_causes(spec: Object, path: str) -> Iterator[Cause]:
    modes = spec.get("accessModes") or []
    if not modes:
        yield required(f"{path}.accessModes", "at least 1 access mode is required")
    for mode in modes:
        if mode not in _MODES:
            yield unsupported(f"{path}.accessModes", mode, sorted(_MODES))
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        why = "may not use ReadWriteOncePod with other access modes"
        yield forbidden(f"{path}.accessModes", why)
    if (mode := spec.get("volumeMode", "Filesystem")) not in ("Block", "Filesystem"):
        yield unsupported(f"{path}.volumeMode", mode, ("Block", "Filesystem"))


def _class_name_causes(spec: Object, path: str) -> Iterator[Cause]:
    if (name := spec.get("storageClassName")) and (wrong := names.dns_subdomain(name)):
        yield invalid(f"{path}.storageClassName", name, wrong)


# -- persistent volumes


def _default_volume(volume: Object) -> None:
    spec = volume.setdefault("spec", {})
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")


def _volume_causes(volume: Object) -> Iterator[Cause]:
    spec = volume["spec"]
    yield from _mode_causes(spec, "spec")
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield required("spec.capacity")
    elif set(capacity) != {"storage"}:
        yield unsupported("spec.capacity", capacity, ("storage",))
    elif parse_quantity(capacity["storage"]) <= 0:
        yield invalid("spec.capacity[storage]", capacity["storage"], "must be greater than zero")
    sources = [field for field in spec if field not in _NO_SOURCE]
    if not sources:
        yield required("spec", "must specify a volume type")
    for extra in sources[1:]:
        yield forbidden(f"spec.{extra}", "may not specify more than 1 volume type")
    if "local" in sources and not spec.get("nodeAffinity"):
        yield required("spec.nodeAffinity", "Local volume requires node affinity")
    policies = ("Delete", "Recycle", "Retain")
    if spec["persistentVolumeReclaimPolicy"] not in policies:
        yield unsupported("spec.persistentVolumeReclaimPolicy", spec["persistentVolumeReclaimPolicy"], policies)
    if "hostPath" in spec:
        place = spec["hostPath"].get("path", "")
        yield from host_path_causes(spec["hostPath"], "spec.hostPath")
        if place and normpath(place).strip("/") == "" and spec["persistentVolumeReclaimPolicy"] == "Recycle":
            why = "may not be 'recycle' for a hostPath mount of '/'"
            yield forbidden("spec.persistentVolumeReclaimPolicy", why)
    yield from _class_name_causes(spec, "spec")


def _volume_update(new: Object, old: Object) -> list[Cause]:
    def source(obj: Object) -> Object:
        return {field: value for field, value in obj["spec"].items() if field not in _NO_SOURCE}

    causes = [] if source(new) == source(old) else [
        forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    ]  # fmt: skip
    causes += immutable("spec.volumeMode", new["spec"].get("volumeMode"), old["spec"].get("volumeMode"))
    if old["spec"].get("nodeAffinity"):
        causes += immutable("spec.nodeAffinity", new["spec"].get("nodeAffinity"), old["spec"]["nodeAffinity"])
    return causes


def _claim_of(volume: Object) -> str:
    claim = volume["spec"].get("claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _status_of(obj: Object) -> str:
    phase = (obj.get("status") or {}).get("phase") or ""
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else phase


def _class_of(obj: Object) -> str:
    annotations = obj["metadata"].get("annotations") or {}
    return annotations.get(_CLASS_ANNOTATION) or obj["spec"].get("storageClassName") or ""


# -- claims


def default_claim(claim: Object) -> None:
    """Fill in what a claim, or a template of one, leaves open."""
    claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def claim_spec_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the spec of a claim."""
    yield from _mode_causes(spec, path)
    if spec.get("selector"):
        yield from label_selector_causes(spec["selector"], f"{path}.selector")
    yield from _class_name_causes(spec, path)
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        yield required(f"{path}.resources[storage]")
    elif parse_quantity(storage) <= 0:
        yield invalid(f"{path}.resources[storage]", storage, "must be greater than zero")


def _claim_update(new: Object, old: Object) -> list[Cause]:
    def fixed(spec: Object) -> Object:
        kept = {
            field: value for field, value in spec.items() if field not in ("resources", "volumeAttributesClassName")
        }
        if not old["spec"].get("volumeName"):
            kept.pop("volumeName", None)
        if not old["spec"].get("storageClassName"):
            kept.pop("storageClassName", None)
        return kept

    causes: list[Cause] = []
    if fixed(new["spec"]) != fixed(old["spec"]):
        why = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        causes.append(forbidden("spec", why))
    asked, had = (value_at(obj, "spec", "resources", "requests", "storage") for obj in (new, old))
    granted = value_at(old, "status", "capacity", "storage") or "0"
    if asked and had and parse_quantity(asked) < parse_quantity(had):
        if parse_quantity(asked) <= parse_quantity(granted):
            why = "field can not be less than status.capacity"
            causes.append(forbidden("spec.resources.requests.storage", why))
    elif asked != had and value_at(old, "status", "phase") != "Bound":
        why = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        causes.append(forbidden("spec", why))
    return causes


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
        validate_update=_claim_update, prepare_create=_pending, returns_deleted=True,
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
