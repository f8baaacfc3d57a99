"""Horizontal pod autoscalers as autoscaling/v1 shows them; they are stored as v2.

v1 has a field for the use of CPU alone. What else there is goes into annotations, so that nothing is lost on the way.
Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v1/
"""

from typing import Any

import orjson

from apiserver.registry import autoscaling
from apiserver.registry.columns import AGE, NAME, UNKNOWN, number_at, value_at
from apiserver.registry.kind import STATUS, Alternate, Column, Kind, Object
from machinery.api import resources

_PREFIX = "autoscaling.alpha.kubernetes.io/"
_METRICS, _CURRENT, _CONDITIONS, _BEHAVIOR = (
    _PREFIX + name for name in ("metrics", "current-metrics", "conditions", "behavior")
)  # fmt: skip
_ANNOTATIONS = (_METRICS, _CURRENT, _CONDITIONS, _BEHAVIOR)


def _is_cpu(metric: Object, part: str) -> bool:
    """Whether a metric is what v1 has a field for."""
    resource = metric.get("resource") or {}
    return (
        metric.get("type") == "Resource" and resource.get("name") == "cpu"
        and value_at(resource, part, "averageUtilization") is not None
    )  # fmt: skip


def _split(metrics: list[Object], part: str) -> tuple[int | None, list[Object]]:
    """Return the use of CPU in percent, if it is there, and the other metrics."""
    cpu = next((metric for metric in metrics if _is_cpu(metric, part)), None)
    others = [metric for metric in metrics if metric is not cpu]
    return (cpu["resource"][part]["averageUtilization"] if cpu is not None else None), others


def from_v2(autoscaler: Object) -> Object:
    """Return an autoscaler of v2 as v1 shows it."""
    spec, status = dict(autoscaler.get("spec") or {}), dict(autoscaler.get("status") or {})
    percent, metrics = _split(spec.pop("metrics", None) or [], "target")
    present, current = _split(status.pop("currentMetrics", None) or [], "current")
    kept = {
        _METRICS: metrics, _CURRENT: current, _CONDITIONS: status.pop("conditions", None),
        _BEHAVIOR: spec.pop("behavior", None),
    }  # fmt: skip
    if percent is not None:
        spec["targetCPUUtilizationPercentage"] = percent
    if present is not None:
        status["currentCPUUtilizationPercentage"] = present
    status.setdefault("currentReplicas", 0)
    status.setdefault("desiredReplicas", 0)
    texts = {name: orjson.dumps(value).decode() for name, value in kept.items() if value}
    return _remade(autoscaler, "autoscaling/v1", texts, spec, status)


def to_v2(autoscaler: Object) -> Object:
    """Return an autoscaler of v1 as it is stored."""
    spec, status = dict(autoscaler.get("spec") or {}), dict(autoscaler.get("status") or {})
    annotations = autoscaler["metadata"].get("annotations") or {}
    kept = {name: _read(annotations[name]) for name in _ANNOTATIONS if name in annotations}
    metrics, current = list(kept.get(_METRICS) or []), list(kept.get(_CURRENT) or [])
    percent, present = (
        spec.pop("targetCPUUtilizationPercentage", None), status.pop("currentCPUUtilizationPercentage", None)
    )  # fmt: skip
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics.insert(0, {"type": "Resource", "resource": {"name": "cpu", "target": target}})
    if present is not None:
        used = {"averageUtilization": present}
        current.insert(0, {"type": "Resource", "resource": {"name": "cpu", "current": used}})
    if metrics:
        spec["metrics"] = metrics
    if kept.get(_BEHAVIOR):
        spec["behavior"] = kept[_BEHAVIOR]
    status["currentMetrics"] = current or None
    if kept.get(_CONDITIONS):
        status["conditions"] = kept[_CONDITIONS]
    made = _remade(autoscaler, "autoscaling/v2", {}, spec, status)
    autoscaling.default(made)
    return made


def _read(text: str) -> Any:
    """Return what an annotation holds; one that a user broke holds nothing."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _remade(given: Object, version: str, texts: dict[str, str], spec: Object, status: Object) -> Object:
    metadata = dict(given["metadata"])
    annotations = {k: v for k, v in (metadata.pop("annotations", None) or {}).items() if k not in _ANNOTATIONS}
    if annotations or texts:
        metadata["annotations"] = annotations | texts
    return {**given, "apiVersion": version, "metadata": metadata, "spec": spec, "status": status}


def _default(autoscaler: Object) -> None:
    autoscaler.setdefault("spec", {}).setdefault("minReplicas", 1)


def _targets(autoscaler: Object) -> str:
    wanted = value_at(autoscaler, "spec", "targetCPUUtilizationPercentage")
    used = value_at(autoscaler, "status", "currentCPUUtilizationPercentage")
    return f"{UNKNOWN if used is None else f'{used}%'}/{UNKNOWN if wanted is None else f'{wanted}%'}"


KINDS = (
    Kind(
        resources.HORIZONTAL_POD_AUTOSCALERS_V1, "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        "horizontalpodautoscaler", ("hpa",), ("all",), subresources={"status": STATUS},
        columns=(
            NAME, Column("Reference", autoscaling.reference), Column("Targets", _targets),
            Column("MinPods", autoscaling.minimum), Column("MaxPods", number_at("spec", "maxReplicas"), type="integer"),
            Column("Replicas", number_at("status", "currentReplicas"), type="integer"), AGE,
        ),
        default=_default, validate=lambda obj: autoscaling.validate(to_v2(obj)),
        prepare_create=lambda obj: obj.update(status={"currentReplicas": 0, "desiredReplicas": 0}),
        alternate=Alternate(resources.HORIZONTAL_POD_AUTOSCALERS, from_v2, to_v2),
    ),
)  # fmt: skip
