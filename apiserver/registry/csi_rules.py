"""Rules of what storage drivers and those who install them say of themselves: the objects of CSI.

Source: https://kubernetes.io/docs/concepts/storage/volumes/#csi
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.kind import Object, duplicate, immutable, invalid, required, unsupported
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

_MAX_DRIVER, _MAX_NODE_ID = 63, 256
_GROUP_POLICIES = ("File", "None", "ReadWriteOnceWithFSType")
_MODES = ("Ephemeral", "Persistent")
_MIN_TOKEN_SECONDS, _MAX_TOKEN_SECONDS = 600, 1 << 32


def driver_name_causes(name: str, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the name of a driver."""
    if not name:
        yield required(path)
        return
    if len(name) > _MAX_DRIVER:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {_MAX_DRIVER} bytes", path)
    if wrong := names.dns_subdomain(name.lower()):
        yield invalid(path, name, wrong)


def driver_causes(driver: Object) -> Iterator[Cause]:
    """Yield what is wrong with a CSIDriver."""
    spec = driver["spec"]
    yield from driver_name_causes(driver["metadata"].get("name", ""), "metadata.name")
    if spec["fsGroupPolicy"] not in _GROUP_POLICIES:
        yield unsupported("spec.fsGroupPolicy", spec["fsGroupPolicy"], _GROUP_POLICIES)
    for mode in spec["volumeLifecycleModes"]:
        if mode not in _MODES:
            yield unsupported("spec.volumeLifecycleModes", mode, _MODES)
    seen = set()
    for index, request in enumerate(spec.get("tokenRequests") or ()):
        path, audience, seconds = (
            f"spec.tokenRequests[{index}]",
            request.get("audience", ""),
            request.get("expirationSeconds"),
        )
        if audience in seen:
            yield duplicate(f"{path}.audience", audience)
        seen.add(audience)
        if seconds is not None and seconds < _MIN_TOKEN_SECONDS:
            yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        elif seconds is not None and seconds > _MAX_TOKEN_SECONDS:
            yield invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")


def driver_update(new: Object, old: Object) -> list[Cause]:
    """Return what may not change of a CSIDriver."""
    return [
        cause
        for field in ("attachRequired", "volumeLifecycleModes")
        for cause in immutable(f"spec.{field}", new["spec"].get(field), old["spec"].get(field))
    ]


def node_causes(node: Object) -> Iterator[Cause]:
    """Yield what is wrong with a CSINode."""
    seen = set()
    for index, driver in enumerate((node.get("spec") or {}).get("drivers") or ()):
        path, name, identity = f"spec.drivers[{index}]", driver.get("name", ""), driver.get("nodeID", "")
        yield from driver_name_causes(name, f"{path}.name")
        if not identity:
            yield required(f"{path}.nodeID")
        elif len(identity) > _MAX_NODE_ID:
            yield invalid(f"{path}.nodeID", identity, f"must be {_MAX_NODE_ID} characters or less")
        count = (driver.get("allocatable") or {}).get("count")
        if count is not None and count < 0:
            yield invalid(f"{path}.allocatable.count", count, "must be greater than or equal to 0")
        yield from _topology_causes(driver.get("topologyKeys") or [], f"{path}.topologyKeys")
        if name in seen:
            yield duplicate(f"{path}.name", name)
        seen.add(name)


def _topology_causes(keys: list[str], path: str) -> Iterator[Cause]:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            yield duplicate(path, key)
        if wrong := names.qualified_name(key):
            yield invalid(path, key, wrong)


def node_update(new: Object, old: Object) -> list[Cause]:
    """Return what may not change of a CSINode: drivers come and go whole, but for what they can take."""

    def fixed(driver: Object) -> Object:
        return {field: value for field, value in driver.items() if field != "allocatable"}

    known = {one["name"]: fixed(one) for one in (old.get("spec") or {}).get("drivers") or ()}
    return [
        invalid(f"spec.drivers[{index}]", driver, "field is immutable")
        for index, driver in enumerate((new.get("spec") or {}).get("drivers") or ())
        if driver["name"] in known and known[driver["name"]] != fixed(driver)
    ]


def attachment_causes(attachment: Object) -> Iterator[Cause]:
    """Yield what is wrong with a VolumeAttachment."""
    spec = attachment.get("spec") or {}
    source, node = spec.get("source") or {}, spec.get("nodeName", "")
    yield from driver_name_causes(spec.get("attacher", ""), "spec.attacher")
    volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
    if volume is None and inline is None:
        yield required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    elif volume is not None and inline is not None:
        yield invalid("spec.source", source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
    elif volume == "":
        yield required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName")
    if wrong := names.dns_subdomain(node):
        yield invalid("spec.nodeName", node, wrong)


def capacity_causes(capacity: Object) -> Iterator[Cause]:
    """Yield what is wrong with a CSIStorageCapacity."""
    name = capacity.get("storageClassName", "")
    if name and (wrong := names.dns_subdomain(name)):
        yield invalid("storageClassName", name, wrong)
    for field in ("capacity", "maximumVolumeSize"):
        amount = capacity.get(field)
        if amount is not None and parse_quantity(amount) < 0:
            yield invalid(field, amount, "must be greater than or equal to 0")
    yield from label_selector_causes(capacity.get("nodeTopology") or {}, "nodeTopology")


def attributes_causes(attributes: Object) -> Iterator[Cause]:
    """Yield what is wrong with a VolumeAttributesClass."""
    yield from driver_name_causes(attributes.get("driverName", ""), "driverName")
    parameters: dict[str, Any] = attributes.get("parameters") or {}
    if not parameters:
        yield required("parameters", "must contain at least one key/value pair")
    if "" in parameters:
        yield invalid("parameters", "", "field can not be empty.")


def topology_causes(terms: list[Object], path: str) -> Iterator[Cause]:
    """Yield what is wrong with the places a StorageClass is allowed in."""
    for index, term in enumerate(terms):
        keys = set()
        for number, one in enumerate(term.get("matchLabelExpressions") or ()):
            at, key, values = (
                f"{path}[{index}].matchLabelExpressions[{number}]",
                one.get("key", ""),
                one.get("values") or [],
            )
            if not values:
                yield required(f"{at}.values")
            for place, value in enumerate(values):
                if value in values[:place]:
                    yield duplicate(f"{at}.values[{place}]", value)
            if wrong := names.qualified_name(key):
                yield invalid(f"{at}.key", key, wrong)
            if key in keys:
                yield duplicate(f"{at}.key", key)
            keys.add(key)
