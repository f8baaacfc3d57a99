"""The group apps: deployments and replica sets."""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import names
from apiserver.registry.columns import AGE, NAME, WORKLOAD_WIDE, count
from apiserver.registry.kind import SCALE, STATUS, Column, Kind, Object, forbidden, immutable, invalid, required
from apiserver.registry.kind import unsupported as unsupported_value
from apiserver.registry.pods import default_pod_spec, pod_spec_causes
from machinery.api import resources, selectors
from machinery.errors import Cause

APPS = "io.k8s.api.apps.v1."


def _default_deployment(deployment: Object) -> None:
    spec = deployment.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))


def _default_replica_set(replica_set: Object) -> None:
    spec = replica_set.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    template = spec.setdefault("template", {})
    default_pod_spec(template.setdefault("spec", {}))
    labels = (template.get("metadata") or {}).get("labels")
    if labels and "selector" not in spec:
        spec["selector"] = {"matchLabels": dict(labels)}


def _workload_causes(obj: Object) -> Iterator[Cause]:
    spec = obj["spec"]
    if spec["replicas"] < 0:
        yield invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    selector = spec.get("selector")
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if selector is None:
        yield required("spec.selector")
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield invalid("spec.selector", selector, "empty selector is invalid for deployment")
    else:
        yield from _selector_causes(selector, labels)
    yield from names.label_causes(labels, "spec.template.labels")
    pod_spec = spec["template"]["spec"]
    yield from pod_spec_causes(pod_spec, "spec.template.spec")
    if pod_spec.get("restartPolicy") != "Always":
        yield unsupported_value("spec.template.spec.restartPolicy", pod_spec.get("restartPolicy"), ("Always",))
    if pod_spec.get("activeDeadlineSeconds") is not None:
        yield forbidden(
            "spec.template.spec.activeDeadlineSeconds", "activeDeadlineSeconds in ReplicaSet is not Supported"
        )


def _selector_causes(selector: Object, labels: dict[str, str]) -> Iterator[Cause]:
    try:
        parsed = selectors.from_label_selector(selector)
    except ValueError as error:
        yield invalid("spec.selector", selector, str(error))
        return
    if not parsed.matches(labels):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")


def _deployment_causes(deployment: Object) -> Iterator[Cause]:
    yield from _workload_causes(deployment)
    strategy = deployment["spec"]["strategy"]
    if strategy["type"] not in ("Recreate", "RollingUpdate"):
        yield unsupported_value("spec.strategy.type", strategy["type"], ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if strategy["type"] == "Recreate" and rolling:
        yield forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif rolling:
        yield from _rolling_causes(rolling, "spec.strategy.rollingUpdate")
    spec = deployment["spec"]
    if spec.get("minReadySeconds", 0) < 0:
        yield invalid("spec.minReadySeconds", spec["minReadySeconds"], "must be greater than or equal to 0")
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        yield invalid(
            "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be greater than minReadySeconds"
        )


def _rolling_causes(rolling: Object, path: str) -> Iterator[Cause]:
    zero = []
    for field in ("maxUnavailable", "maxSurge"):
        value = rolling.get(field, 0)
        number = value.removesuffix("%") if isinstance(value, str) else str(value)
        if not number.lstrip("-").isdigit() or (isinstance(value, str) and not value.endswith("%")):
            rule = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
            yield invalid(f"{path}.{field}", value, rule + "regex used for validation is '[0-9]+%')")
            return
        if int(number) < 0:
            yield invalid(f"{path}.{field}", value, "must be greater than or equal to 0")
        zero.append(int(number) == 0)
    if all(zero):
        yield invalid(f"{path}.maxUnavailable", rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0")


def _fixed_selector(new: Object, old: Object) -> list[Cause]:
    return immutable("spec.selector", new["spec"].get("selector"), old["spec"].get("selector"))


def _clear_status(obj: Object) -> None:
    obj["status"] = {}


def _number(*path: str) -> Any:
    return lambda obj: count(obj, *path)


KINDS = (
    Kind(
        resources.DEPLOYMENTS, APPS + "Deployment", "deployment", ("deploy",), ("all",),
        subresources={"status": STATUS, "scale": SCALE},
        columns=(
            NAME,
            Column("Ready", lambda obj: f"{count(obj, 'status', 'readyReplicas')}/{count(obj, 'spec', 'replicas')}"),
            Column("Up-to-date", _number("status", "updatedReplicas"), type="integer"),
            Column("Available", _number("status", "availableReplicas"), type="integer"),
            AGE, *WORKLOAD_WIDE,
        ),
        default=_default_deployment, validate=lambda obj: list(_deployment_causes(obj)),
        validate_update=_fixed_selector, prepare_create=_clear_status, has_generation=True,
    ),
    Kind(
        resources.REPLICA_SETS, APPS + "ReplicaSet", "replicaset", ("rs",), ("all",),
        subresources={"status": STATUS, "scale": SCALE},
        columns=(
            NAME,
            Column("Desired", _number("spec", "replicas"), type="integer"),
            Column("Current", _number("status", "replicas"), type="integer"),
            Column("Ready", _number("status", "readyReplicas"), type="integer"),
            AGE, *WORKLOAD_WIDE,
        ),
        selectable={"status.replicas": lambda obj: str(count(obj, "status", "replicas"))},
        default=_default_replica_set, validate=lambda obj: list(_workload_causes(obj)), validate_update=_fixed_selector,
        prepare_create=lambda obj: obj.update(status={"replicas": 0}), has_generation=True,
    ),
)  # fmt: skip
