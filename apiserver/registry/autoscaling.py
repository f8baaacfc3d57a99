"""The group autoscaling (v2): horizontal pod autoscalers.

Defaults and rules: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry.columns import AGE, NAME, UNKNOWN, count, number_at, value_at
from apiserver.registry.kind import Column, Kind, Object, invalid, required, status_judged, unsupported
from apiserver.registry.metric_rules import SOURCES, metric_causes
from apiserver.registry.object_rules import kind_and_name_causes
from apiserver.registry.status_rules import autoscaler_status_causes
from machinery.api import resources
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

AUTOSCALING = "io.k8s.api.autoscaling.v2."
_UP = (
    {"type": "Pods", "value": 4, "periodSeconds": 15},
    {"type": "Percent", "value": 100, "periodSeconds": 15},
)
_DOWN = ({"type": "Percent", "value": 100, "periodSeconds": 15},)
_MAX_WINDOW_SECONDS, _MAX_PERIOD_SECONDS = 3600, 1800


def _default(autoscaler: Object) -> None:
    spec = autoscaler.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        utilization = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}]
    behavior = spec.get("behavior")
    if not behavior:
        return
    up = behavior.setdefault("scaleUp", {})
    up.setdefault("stabilizationWindowSeconds", 0)
    up.setdefault("selectPolicy", "Max")
    up.setdefault("policies", [dict(policy) for policy in _UP])
    down = behavior.setdefault("scaleDown", {})
    down.setdefault("selectPolicy", "Max")
    down.setdefault("policies", [dict(policy) for policy in _DOWN])


def _causes(autoscaler: Object) -> Iterator[Cause]:
    spec = autoscaler["spec"]
    least, most = spec["minReplicas"], spec.get("maxReplicas", 0)
    if least < 1:
        yield invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield invalid("spec.maxReplicas", most, "must be greater than 0")
    if most < least:
        yield invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    yield from kind_and_name_causes(spec.get("scaleTargetRef") or {}, "spec.scaleTargetRef")
    for index, metric in enumerate(spec["metrics"]):
        yield from metric_causes(metric, f"spec.metrics[{index}]")
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction)
        if rules:
            yield from _behavior_causes(rules, f"spec.behavior.{direction}")


def _behavior_causes(rules: Object, path: str) -> Iterator[Cause]:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= _MAX_WINDOW_SECONDS:
        limit = "greater than or equal to zero" if window < 0 else f"less than or equal to {_MAX_WINDOW_SECONDS}"
        yield invalid(f"{path}.stabilizationWindowSeconds", window, f"must be {limit}")
    known = ("Disabled", "Max", "Min")
    if rules["selectPolicy"] not in known:
        yield unsupported(f"{path}.selectPolicy", rules["selectPolicy"], known)
    if not rules.get("policies"):
        yield required(f"{path}.policies", "must specify at least one Policy")
    if rules.get("tolerance") is not None and parse_quantity(rules["tolerance"]) < 0:
        yield invalid(f"{path}.tolerance", rules["tolerance"], "must be greater than or equal to 0")
    for index, policy in enumerate(rules.get("policies") or ()):
        at = f"{path}.policies[{index}]"
        if policy.get("type") not in ("Percent", "Pods"):
            yield unsupported(f"{at}.type", policy.get("type"), ("Percent", "Pods"))
        if policy.get("value", 0) <= 0:
            yield invalid(f"{at}.value", policy.get("value", 0), "must be greater than zero")
        if not 0 < policy.get("periodSeconds", 0) <= _MAX_PERIOD_SECONDS:
            period = policy.get("periodSeconds", 0)
            limit = "greater than zero" if period <= 0 else f"less than or equal to {_MAX_PERIOD_SECONDS}"
            yield invalid(f"{at}.periodSeconds", period, f"must be {limit}")


def _reference(autoscaler: Object) -> str:
    target = autoscaler["spec"]["scaleTargetRef"]
    return f"{target['kind']}/{target['name']}"


def _targets(autoscaler: Object) -> str:
    current = (autoscaler.get("status") or {}).get("currentMetrics") or []
    shown = [
        _target_text(metric, current[index] if index < len(current) else {})
        for index, metric in enumerate(autoscaler["spec"].get("metrics") or ())
    ]
    more = f" + {len(shown) - 2} more..." if len(shown) > 2 else ""
    return ", ".join(shown[:2]) + more or "<none>"


def _target_text(metric: Object, now: Object) -> str:
    field = SOURCES.get(metric["type"], "")
    target, current = value_at(metric, field, "target") or {}, value_at(now, field, "current") or {}
    name = f"{metric[field]['name']}: " if field in ("resource", "containerResource") else ""
    if target.get("averageUtilization") is not None:
        used = current.get("averageUtilization")
        return f"{name}{UNKNOWN if used is None else f'{used}%'}/{target['averageUtilization']}%"
    average = " (avg)" if target.get("averageValue") is not None and field in ("external", "object") else ""
    which = "averageValue" if target.get("averageValue") is not None else "value"
    return f"{name}{_or_unknown(current.get(which))}/{target.get(which)}{average}"


def _or_unknown(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _minimum(autoscaler: Object) -> str:
    return str(autoscaler["spec"].get("minReplicas", "<unset>"))


KINDS = (
    Kind(
        resources.HORIZONTAL_POD_AUTOSCALERS, AUTOSCALING + "HorizontalPodAutoscaler", "horizontalpodautoscaler",
        ("hpa",), ("all",),
        subresources={"status": status_judged(autoscaler_status_causes)},
        columns=(
            NAME, Column("Reference", _reference), Column("Targets", _targets), Column("MinPods", _minimum),
            Column("MaxPods", number_at("spec", "maxReplicas"), type="integer"),
            Column("Replicas", lambda obj: count(obj, "status", "currentReplicas"), type="integer"), AGE,
        ),
        optional_required=frozenset({"spec.scaleTargetRef", "spec.maxReplicas"}),  # told by the rules
        default=_default, validate=lambda obj: list(_causes(obj)),
        prepare_create=lambda obj: obj.update(status={"desiredReplicas": 0, "currentMetrics": None}),
    ),
)  # fmt: skip
