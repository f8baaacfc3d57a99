"""The group resource.k8s.io: claims of devices, their classes, and the slices drivers publish.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from dataclasses import replace
from typing import Any

from apiserver.registry.columns import AGE, NAME, text_at, value_at
from apiserver.registry.device_rules import claim_causes, class_causes, status_causes
from apiserver.registry.kind import STATUS, Column, Kind, Object, default_text, immutable
from apiserver.registry.slice_rules import slice_causes
from machinery.api import resources
from machinery.api.meta import now
from machinery.errors import Cause

DEVICES = "io.k8s.api.resource.v1."
# Zero where they are absent; told by the rules.
_COUNTS = frozenset({"spec.pool.generation", "spec.pool.resourceSliceCount"})


def _default_requests(spec: Any) -> None:
    for request in value_at(spec or {}, "devices", "requests") or ():
        for one in [request["exactly"]] if request.get("exactly") else request.get("firstAvailable") or ():
            if default_text(one, "allocationMode", "ExactCount") == "ExactCount":
                one.setdefault("count", 1)
            for toleration in one.get("tolerations") or ():
                default_text(toleration, "operator", "Equal")


def _default_slice(resource_slice: Object) -> None:
    """Say of each taint since when it is there: from then on the time counts that it is tolerated."""
    for device in value_at(resource_slice, "spec", "devices") or ():
        for taint in device.get("taints") or ():
            taint.setdefault("timeAdded", now())


def _default_claim(claim: Object) -> None:
    _default_requests(claim.setdefault("spec", {}))


def _default_template(template: Object) -> None:
    _default_requests(template.setdefault("spec", {}).setdefault("spec", {}))


def _claim_causes(claim: Object) -> list[Cause]:
    return list(claim_causes(claim.get("spec") or {}, "spec"))


def _template_causes(template: Object) -> list[Cause]:
    return list(claim_causes(value_at(template, "spec", "spec") or {}, "spec.spec"))


def _claim_state(claim: Object) -> str:
    if claim["metadata"].get("deletionTimestamp"):
        return "deleted,pending"
    states = []
    if value_at(claim, "status", "allocation"):
        states.append("allocated")
    if value_at(claim, "status", "reservedFor"):
        states.append("reserved")
    return ",".join(states) or "pending"


def _status_update(new: Object, old: Object) -> list[Cause]:
    return list(status_causes(new, old))


def _fixed_spec(new: Object, old: Object) -> list[Cause]:
    return immutable("spec", new.get("spec"), old.get("spec"))


def _fixed_slice(new: Object, old: Object) -> list[Cause]:
    """The pool of a slice may grow; whose it is and where stays."""
    return [
        cause
        for path in (("driver",), ("pool", "name"), ("nodeName",))
        for cause in immutable(".".join(("spec", *path)), value_at(new, "spec", *path), value_at(old, "spec", *path))
    ]


KINDS = (
    Kind(
        resources.DEVICE_CLASSES, DEVICES + "DeviceClass", "deviceclass", columns=(NAME, AGE), has_generation=True,
        validate=lambda obj: list(class_causes(obj)), returns_deleted=True,
    ),
    Kind(
        resources.RESOURCE_CLAIMS, DEVICES + "ResourceClaim", "resourceclaim",
        subresources={"status": replace(STATUS, validate_update=_status_update)},
        columns=(NAME, Column("State", _claim_state), AGE),
        default=_default_claim, validate=_claim_causes, validate_update=_fixed_spec,
        returns_deleted=True,
    ),
    Kind(
        resources.RESOURCE_CLAIM_TEMPLATES, DEVICES + "ResourceClaimTemplate", "resourceclaimtemplate",
        columns=(NAME, AGE), default=_default_template, validate=_template_causes,
        validate_update=_fixed_spec, returns_deleted=True,
    ),
    Kind(
        resources.RESOURCE_SLICES, DEVICES + "ResourceSlice", "resourceslice",
        columns=(
            NAME, Column("Node", text_at("spec", "nodeName", absent="<unset>")),
            Column("Driver", text_at("spec", "driver")), Column("Pool", text_at("spec", "pool", "name")), AGE,
        ),
        selectable={"spec.nodeName": text_at("spec", "nodeName"), "spec.driver": text_at("spec", "driver")},
        default=_default_slice, validate=lambda obj: list(slice_causes(obj)), optional_required=_COUNTS,
        validate_update=_fixed_slice, has_generation=True, returns_deleted=True,
    ),
)  # fmt: skip
