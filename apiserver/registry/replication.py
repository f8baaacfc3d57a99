"""The core group's older workload kinds: replication controllers and pod templates.

Defaults and rules: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/replication-controller-v1/
"""

from collections.abc import Iterator

from apiserver.registry import templates
from apiserver.registry.columns import (
    AGE,
    NAME,
    container_images,
    container_names,
    count,
    labels_text,
    number_at,
    value_at,
)  # fmt: skip
from apiserver.registry.kind import SCALE, Column, Kind, Object, invalid, required, status_judged
from apiserver.registry.pods import default_pod_spec
from apiserver.registry.workload_status_rules import REPLICATED, counted
from machinery.api import resources
from machinery.errors import Cause

CORE = "io.k8s.api.core.v1."


def _default_controller(controller: Object) -> None:
    spec = controller.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    templates.default_template(spec)
    if labels := templates.template_labels(spec):
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not controller["metadata"].get("labels"):
            controller["metadata"]["labels"] = dict(labels)


def _controller_causes(controller: Object) -> Iterator[Cause]:
    spec = controller["spec"]
    yield from templates.non_negative(spec, "replicas", "minReadySeconds")
    selector, labels = spec.get("selector") or {}, templates.template_labels(spec)
    if not selector:
        yield required("spec.selector")
    elif any(labels.get(key) != value for key, value in selector.items()):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from templates.lasting_template_causes(spec, "ReplicationController")


def _template_spec(obj: Object) -> Object:
    return {"spec": {"template": obj.get("template") or {}}}


def _template_causes(obj: Object) -> Iterator[Cause]:
    template = obj.get("template") or {}
    if template.get("spec"):
        yield from templates.template_causes(template, "template", ("Always", "Never", "OnFailure"))


def _default_pod_template(obj: Object) -> None:
    default_pod_spec(obj.setdefault("template", {}).setdefault("spec", {}))


KINDS = (
    Kind(
        resources.REPLICATION_CONTROLLERS, CORE + "ReplicationController", "replicationcontroller", ("rc",), ("all",),
        subresources={"status": status_judged(counted(REPLICATED, REPLICATED[1:], "readyReplicas")), "scale": SCALE},
        columns=(
            NAME,
            Column("Desired", number_at("spec", "replicas"), type="integer"),
            Column("Current", number_at("status", "replicas"), type="integer"),
            Column("Ready", number_at("status", "readyReplicas"), type="integer"), AGE,
            Column("Containers", container_names, priority=1), Column("Images", container_images, priority=1),
            Column("Selector", lambda obj: labels_text(obj["spec"].get("selector")), priority=1),
        ),
        selectable={"status.replicas": lambda obj: str(count(obj, "status", "replicas"))},
        default=_default_controller, validate=lambda obj: list(_controller_causes(obj)),
        prepare_create=lambda obj: obj.update(status={"replicas": 0}), has_generation=True,
    ),
    Kind(
        resources.POD_TEMPLATES, CORE + "PodTemplate", "podtemplate",
        columns=(
            NAME, Column("Containers", lambda obj: container_names(_template_spec(obj))),
            Column("Images", lambda obj: container_images(_template_spec(obj))),
            Column("Pod Labels", lambda obj: labels_text(value_at(obj, "template", "metadata", "labels"))),
        ),
        default=_default_pod_template, validate=lambda obj: list(_template_causes(obj)), has_generation=True,
        returns_deleted=True,
    ),
)  # fmt: skip
