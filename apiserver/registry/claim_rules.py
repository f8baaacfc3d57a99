"""What claims of volumes may say, and what of them may change; templates of claims are held to the same.

Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#persistentvolumeclaims
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.columns import value_at
from apiserver.registry.kind import Object, forbidden, immutable, invalid, required, unsupported
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

MODES = {
    "ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP",
}  # fmt: skip
"""Access modes, and how tables abbreviate them."""
CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_FIXED = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
_SIZE = "spec.resources.requests.storage"


def mode_causes(spec: Object, path: str, why: str = "") -> Iterator[Cause]:
    """Yield what is wrong with how a volume may be used. Args: `why` says why there has to be a mode."""
    modes = spec.get("accessModes") or []
    if not modes:
        yield required(f"{path}.accessModes", why)
    for mode in modes:
        if mode not in MODES:
            yield unsupported(f"{path}.accessModes", mode, sorted(MODES))
    if "ReadWriteOncePod" in modes and any(mode in MODES and mode != "ReadWriteOncePod" for mode in modes):
        yield forbidden(f"{path}.accessModes", "may not use ReadWriteOncePod with other access modes")
    if (mode := spec.get("volumeMode", "Filesystem")) not in ("Block", "Filesystem"):
        yield unsupported(f"{path}.volumeMode", mode, ("Block", "Filesystem"))


def class_name_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the names of classes."""
    for field in ("storageClassName", "volumeAttributesClassName"):
        if (name := spec.get(field)) and (wrong := names.dns_subdomain(name)):
            yield invalid(f"{path}.{field}", name, wrong)


def claim_spec_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the spec of a claim."""
    yield from mode_causes(spec, path, "at least 1 access mode is required")
    if spec.get("selector"):
        yield from label_selector_causes(spec["selector"], f"{path}.selector")
    yield from class_name_causes(spec, path)
    storage = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if storage is None:
        yield required(f"{path}.resources[storage]")
    elif parse_quantity(storage) <= 0:
        yield invalid(f"{path}.resources[storage]", storage, "must be greater than zero")
    yield from _source_causes(spec, path)


def _source_causes(spec: Object, path: str) -> Iterator[Cause]:
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, one in (("dataSource", source), ("dataSourceRef", reference)):
        if one is not None:
            yield from _reference_causes(one, f"{path}.{field}")
    namespace = (reference or {}).get("namespace")
    if namespace and (wrong := names.dns_label(namespace)):
        yield invalid(f"{path}.dataSourceRef.namespace", namespace, wrong)
    if source is None or reference is None:
        return
    if namespace:
        yield invalid(path, f"{path}.dataSource", "may not be specified when dataSourceRef.namespace is specified")
    elif any(source.get(field) != reference.get(field) for field in ("apiGroup", "kind", "name")):
        yield invalid(path, f"{path}.dataSource", "must match dataSourceRef")


def _reference_causes(reference: Object, path: str) -> Iterator[Cause]:
    group, kind = reference.get("apiGroup") or "", reference.get("kind") or ""
    if not group and kind != "PersistentVolumeClaim":
        yield invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
    if group and (wrong := names.dns_subdomain(group)):
        yield invalid(f"{path}.apiGroup", group, wrong)


def claim_update_causes(new: Object, old: Object) -> list[Cause]:
    """Return what changed of a claim that may not."""
    causes = list(_annotation_causes(new, old))
    is_bound = value_at(new, "status", "phase") == "Bound"
    if _fixed_part(new, old, new, is_bound=is_bound) != _fixed_part(old, old, new, is_bound=is_bound):
        causes.append(forbidden("spec", _FIXED))
    asked, had = (value_at(obj, "spec", "resources", "requests", "storage") for obj in (new, old))
    granted = value_at(old, "status", "capacity", "storage") or "0"
    if (
        asked
        and had
        and parse_quantity(asked) < parse_quantity(had)
        and parse_quantity(asked) <= parse_quantity(granted)
    ):
        causes.append(forbidden(_SIZE, "field can not be less than status.capacity"))
    causes += immutable("volumeMode", new["spec"].get("volumeMode"), old["spec"].get("volumeMode"))
    wanted, before = (obj["spec"].get("volumeAttributesClassName") for obj in (new, old))
    if before is not None and wanted is None:
        causes.append(forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden"))
    elif before is not None and wanted == "" and before != "":
        why = "update from non-nil value to an empty string is forbidden"
        causes.append(forbidden("spec.volumeAttributesClassName", why))
    return causes


def _annotation_causes(new: Object, old: Object) -> Iterator[Cause]:
    after, before = ((obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION) for obj in (new, old))
    moved = before is not None and old["spec"].get("storageClassName") is None
    if moved and new["spec"].get("storageClassName") == before and after in (None, before):
        return  # from the annotation to the field
    if (after or "") != (before or ""):
        yield invalid(f"metadata.annotations[{CLASS_ANNOTATION}]", after or "", "field is immutable")


def _fixed_part(obj: Object, old: Object, new: Object, *, is_bound: bool) -> Object:
    """Return what of a claim's spec has to be the same in both."""
    spec = {**obj["spec"]}
    if not old["spec"].get("volumeName"):
        spec.pop("volumeName", None)
    annotated = (old["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    wanted = new["spec"].get("storageClassName")
    if old["spec"].get("storageClassName") is None and wanted is not None and annotated in (None, wanted):
        spec.pop("storageClassName", None)
    if is_bound:
        resources = {**(spec.get("resources") or {})}
        resources["requests"] = {k: v for k, v in (resources.get("requests") or {}).items() if k != "storage"}
        spec["resources"] = resources
        spec.pop("volumeAttributesClassName", None)
    return spec
