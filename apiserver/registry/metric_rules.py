"""Rules of the metrics that autoscalers look at.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from apiserver.registry.object_rules import kind_and_name_causes
from machinery.api.quantity import parse_quantity
from machinery.errors import Cause

# Where the metric of each source type lies, in the order in which they are looked at.
SOURCES = {
    "Object": "object", "External": "external", "Pods": "pods", "Resource": "resource",
    "ContainerResource": "containerResource",
}  # fmt: skip


def metric_causes(metric: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with one metric."""
    kind = metric.get("type", "")
    if not kind:
        yield required(f"{path}.type", "must specify a metric source type")
    if kind not in SOURCES:
        yield unsupported(f"{path}.type", kind, sorted(SOURCES))
    given = [field for field in SOURCES.values() if metric.get(field) is not None]
    if given:  # of several, the first is looked at
        yield from _source_causes(metric[given[0]], given[0], f"{path}.{given[0]}")
    wanted = SOURCES.get(kind)
    if wanted and wanted not in given:
        yield required(f"{path}.{wanted}", "must populate information for the given metric source")
    if len(given) != 1:
        for field in given:
            if field != wanted:
                yield forbidden(f"{path}.{field}", "must populate the given metric source only")


def _source_causes(source: Object, field: str, path: str) -> Iterator[Cause]:
    target = source.get("target") or {}
    if field in ("resource", "containerResource"):
        yield from _resource_causes(source, field, path)
    else:
        if field == "object":
            yield from kind_and_name_causes(source.get("describedObject") or {}, f"{path}.describedObject")
        name = (source.get("metric") or {}).get("name", "")
        if not name:
            yield required(f"{path}.metric.name", "must specify a metric name")
        elif wrong := names.path_segment(name):
            yield invalid(f"{path}.metric.name", name, wrong)
    yield from _target_causes(target, f"{path}.target")
    yield from _amount_causes(target, field, f"{path}.target")


def _resource_causes(source: Object, field: str, path: str) -> Iterator[Cause]:
    if not source.get("name"):
        yield required(f"{path}.name", "must specify a resource name")
    if field == "containerResource" and not source.get("container"):
        yield required(f"{path}.container", "must specify a container name")


def _target_causes(target: Object, path: str) -> Iterator[Cause]:
    kind = target.get("type", "")
    if not kind:
        yield required(f"{path}.type", "must specify a metric target type")
    if kind not in ("Utilization", "Value", "AverageValue"):
        yield invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue")
    for field in ("value", "averageValue"):
        if target.get(field) is not None and parse_quantity(target[field]) <= 0:
            yield invalid(f"{path}.{field}", target[field], "must be positive")
    share = target.get("averageUtilization")
    if share is not None and share < 1:
        yield invalid(f"{path}.averageUtilization", share, "must be greater than 0")


def _amount_causes(target: Object, field: str, path: str) -> Iterator[Cause]:
    value, average, share = (target.get(one) for one in ("value", "averageValue", "averageUtilization"))
    if field == "object":
        if value is None and average is None:
            yield required(f"{path}.averageValue", "must set either a value or averageValue")
    elif field == "external":
        if value is None and average is None:
            why = "must set either a target value for metric or a per-pod target"
            yield required(f"{path}.averageValue", why)
        if value is not None and average is not None:
            why = "may not set both a target value for metric and a per-pod target"
            yield forbidden(f"{path}.value", why)
    elif field == "pods":
        if average is None or parse_quantity(average) <= 0:
            yield required(f"{path}.averageValue", "must specify a positive target averageValue")
    else:
        if share is None and average is None:
            why = "must set either a target raw value or a target utilization"
            yield required(f"{path}.averageUtilization", why)
        if share is not None and average is not None:
            yield forbidden(f"{path}.averageValue", "may not set both a target raw value and a target utilization")
