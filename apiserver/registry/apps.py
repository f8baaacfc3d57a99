"""The group apps: deployments, replica sets, stateful sets, daemon sets and the revisions of the latter two.

Defaults and rules: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry import templates
from apiserver.registry.claim_rules import claim_spec_causes
from apiserver.registry.columns import AGE, NAME, NONE, WORKLOAD_WIDE, count, labels_text, number_at
from apiserver.registry.kind import (
    SCALE,
    Column,
    Kind,
    Object,
    default_text,
    forbidden,
    immutable,
    invalid,
    required,
    status_judged,
    unsupported,
)  # fmt: skip
from apiserver.registry.storage import default_claim
from apiserver.registry.workload_status_rules import REPLICATED, counted
from machinery.api import resources
from machinery.api.meta import controller_of
from machinery.errors import Cause

APPS = "io.k8s.api.apps.v1."
_DEPLOYED = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")
_ORDERED = ("replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
_PLACED = (
    "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady",
    "updatedNumberScheduled", "numberAvailable", "numberUnavailable",
)  # fmt: skip


def _default_deployment(deployment: Object) -> None:
    spec = deployment.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    default_text(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    templates.default_template(spec)


def _default_replica_set(replica_set: Object) -> None:
    spec = replica_set.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    templates.default_template(spec)


def _workload_causes(obj: Object, kind: str, owner: str = "ReplicaSet") -> Iterator[Cause]:
    spec = obj["spec"]
    yield from templates.non_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from templates.selector_causes(spec, kind)
    yield from templates.lasting_template_causes(spec, owner)


def _deployment_causes(deployment: Object) -> Iterator[Cause]:
    yield from _workload_causes(deployment, "deployment")
    strategy = deployment["spec"]["strategy"]
    if strategy["type"] not in ("Recreate", "RollingUpdate"):
        yield unsupported("spec.strategy", strategy, ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if strategy["type"] == "Recreate" and rolling:
        yield forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif rolling:
        yield from _rolling_causes(rolling, "spec.strategy.rollingUpdate")
    spec = deployment["spec"]
    yield from templates.non_negative(spec, "progressDeadlineSeconds")
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        yield invalid(
            "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be greater than minReadySeconds"
        )


def _rolling_causes(rolling: Object, path: str) -> Iterator[Cause]:
    causes = [
        cause
        for field in ("maxUnavailable", "maxSurge")
        for cause in templates.int_or_percent_causes(rolling.get(field), f"{path}.{field}")
    ]
    yield from causes
    if causes:
        return
    if templates.is_zero(rolling.get("maxUnavailable")) and templates.is_zero(rolling.get("maxSurge")):
        yield invalid(f"{path}.maxUnavailable", rolling.get("maxUnavailable"), "may not be 0 when `maxSurge` is 0")
    if templates.above_hundred(rolling.get("maxUnavailable")):
        yield invalid(f"{path}.maxUnavailable", rolling["maxUnavailable"], "must not be greater than 100%")


def _fixed_selector(new: Object, old: Object) -> list[Cause]:
    return immutable("spec.selector", new["spec"].get("selector"), old["spec"].get("selector"))


# -- stateful sets

_MUTABLE_SET_FIELDS = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
)  # fmt: skip
_FIXED_SET = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def _default_stateful_set(stateful_set: Object) -> None:
    spec = stateful_set.setdefault("spec", {})
    default_text(spec, "podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if default_text(strategy, "type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    policy = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    default_text(policy, "whenDeleted", "Retain")
    default_text(policy, "whenScaled", "Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    templates.default_template(spec)
    for claim in spec.get("volumeClaimTemplates") or ():
        default_text(claim, "kind", "PersistentVolumeClaim")
        default_text(claim, "apiVersion", "v1")
        default_claim(claim)
        claim.setdefault("status", {}).setdefault("phase", "Pending")


def _stateful_set_causes(stateful_set: Object) -> Iterator[Cause]:
    spec = stateful_set["spec"]
    if spec["podManagementPolicy"] not in ("OrderedReady", "Parallel"):
        why = "must be 'OrderedReady' or 'Parallel'"
        yield invalid("spec.podManagementPolicy", spec["podManagementPolicy"], why)
    strategy = spec["updateStrategy"]
    if strategy["type"] not in ("OnDelete", "RollingUpdate"):
        yield invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'")
    rolling = strategy.get("rollingUpdate") or {}
    if strategy["type"] == "OnDelete" and strategy.get("rollingUpdate") is not None:
        yield invalid("spec.updateStrategy.rollingUpdate", rolling, "only allowed for updateStrategy 'RollingUpdate'")
        rolling = {}
    yield from templates.non_negative(rolling, "partition", path="spec.updateStrategy.rollingUpdate")
    unavailable = rolling.get("maxUnavailable")
    path = "spec.updateStrategy.rollingUpdate.maxUnavailable"
    yield from templates.int_or_percent_causes(unavailable, path)
    if unavailable is not None and templates.is_zero(unavailable):
        yield invalid(path, unavailable, "cannot be 0")
    if templates.above_hundred(unavailable):
        yield invalid(path, unavailable, "must not be greater than 100%")
    for field, value in spec["persistentVolumeClaimRetentionPolicy"].items():
        if value not in ("Delete", "Retain"):
            path = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
            yield unsupported(path, value, ("Retain", "Delete"))
    yield from templates.non_negative(spec.get("ordinals") or {}, "start", path="spec.ordinals")
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        yield from claim_spec_causes(claim.get("spec") or {}, f"spec.volumeClaimTemplates[{index}].spec")
    yield from _workload_causes(stateful_set, "statefulset", "StatefulSet")


def _stateful_set_update(new: Object, old: Object) -> list[Cause]:
    def fixed(spec: Object) -> Object:
        return {field: value for field, value in spec.items() if field not in _MUTABLE_SET_FIELDS}

    return [] if fixed(new["spec"]) == fixed(old["spec"]) else [forbidden("spec", _FIXED_SET)]


# -- daemon sets


def _default_daemon_set(daemon_set: Object) -> None:
    spec = daemon_set.setdefault("spec", {})
    strategy = spec.setdefault("updateStrategy", {})
    if default_text(strategy, "type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", 10)
    templates.default_template(spec)
    labels = templates.template_labels(spec)
    if labels and not daemon_set["metadata"].get("labels"):
        daemon_set["metadata"]["labels"] = dict(labels)


def _daemon_set_causes(daemon_set: Object) -> Iterator[Cause]:
    spec = daemon_set["spec"]
    yield from templates.selector_causes(spec, "daemonset")
    yield from templates.lasting_template_causes(spec, "DaemonSet")
    yield from templates.non_negative(spec, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec["updateStrategy"]
    if strategy["type"] not in ("OnDelete", "RollingUpdate"):
        yield unsupported("spec.updateStrategy", strategy, ("RollingUpdate", "OnDelete"))
    elif strategy["type"] == "RollingUpdate":
        rolling, path = strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate"
        unavailable, surge = rolling["maxUnavailable"], rolling["maxSurge"]
        yield from templates.int_or_percent_causes(unavailable, f"{path}.maxUnavailable")
        yield from templates.int_or_percent_causes(surge, f"{path}.maxSurge")
        for field, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
            if templates.above_hundred(value):
                yield invalid(f"{path}.{field}", value, "must not be greater than 100%")
        if templates.is_zero(unavailable) and templates.is_zero(surge):
            yield required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")
        elif not templates.is_zero(unavailable) and not templates.is_zero(surge):
            yield invalid(f"{path}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")


# -- controller revisions


def _revision_causes(revision: Object) -> Iterator[Cause]:
    if revision.get("data") is None:
        yield required("data", "data is mandatory")
    if revision.get("revision", 0) < 0:
        yield invalid("revision", revision["revision"], "must be greater than or equal to 0")


def _fixed_revision(new: Object, old: Object) -> list[Cause]:
    return immutable("data", new.get("data"), old.get("data"))


def _controller_text(obj: Object) -> str:
    owner = controller_of(obj)
    if owner is None:
        return NONE
    group = owner["apiVersion"].rpartition("/")[0]
    return f"{owner['kind'].lower()}{f'.{group}' if group else ''}/{owner['name']}"


def _empty_status(**numbers: int) -> Any:
    return lambda obj: obj.update(status=dict(numbers))


def _numbers(*columns: tuple[str, tuple[str, str]]) -> tuple[Column, ...]:
    return tuple(Column(name, number_at(*path), type="integer") for name, path in columns)


# Told by the rules, with what follows from it.
_SELECTOR = frozenset({"spec.selector"})
KINDS = (
    Kind(
        resources.DEPLOYMENTS, APPS + "Deployment", "deployment", ("deploy",), ("all",),
        subresources={"status": status_judged(counted(_DEPLOYED, _DEPLOYED[1:4], "readyReplicas")), "scale": SCALE},
        columns=(
            NAME,
            Column("Ready", lambda obj: f"{count(obj, 'status', 'readyReplicas')}/{count(obj, 'spec', 'replicas')}"),
            *_numbers(("Up-to-date", ("status", "updatedReplicas")), ("Available", ("status", "availableReplicas"))),
            AGE, *WORKLOAD_WIDE,
        ),
        default=_default_deployment, validate=lambda obj: list(_deployment_causes(obj)),
        validate_update=_fixed_selector, has_generation=True,
        optional_required=_SELECTOR, status_metadata=("annotations", "finalizers"),
    ),
    Kind(
        resources.REPLICA_SETS, APPS + "ReplicaSet", "replicaset", ("rs",), ("all",),
        subresources={"status": status_judged(counted(REPLICATED, REPLICATED[1:], "readyReplicas")), "scale": SCALE},
        columns=(
            NAME,
            *_numbers(
                ("Desired", ("spec", "replicas")), ("Current", ("status", "replicas")),
                ("Ready", ("status", "readyReplicas")),
            ),
            AGE, *WORKLOAD_WIDE,
        ),
        selectable={"status.replicas": lambda obj: str(count(obj, "status", "replicas"))},
        default=_default_replica_set, validate=lambda obj: list(_workload_causes(obj, "deployment")),
        validate_update=_fixed_selector, optional_required=_SELECTOR,
        prepare_create=_empty_status(replicas=0), has_generation=True,
    ),
    Kind(
        resources.STATEFUL_SETS, APPS + "StatefulSet", "statefulset", ("sts",), ("all",),
        subresources={"status": status_judged(counted(_ORDERED, _ORDERED[1:])), "scale": SCALE},
        columns=(
            NAME,
            Column("Ready", lambda obj: f"{count(obj, 'status', 'readyReplicas')}/{count(obj, 'spec', 'replicas')}"),
            AGE, *WORKLOAD_WIDE[:2],
        ),
        default=_default_stateful_set, validate=lambda obj: list(_stateful_set_causes(obj)),
        validate_update=_stateful_set_update, optional_required=_SELECTOR,
        prepare_create=_empty_status(replicas=0, availableReplicas=0),
        has_generation=True,
    ),
    Kind(
        resources.DAEMON_SETS, APPS + "DaemonSet", "daemonset", ("ds",), ("all",),
        subresources={"status": status_judged(counted(_PLACED))},
        columns=(
            NAME,
            *_numbers(
                ("Desired", ("status", "desiredNumberScheduled")), ("Current", ("status", "currentNumberScheduled")),
                ("Ready", ("status", "numberReady")), ("Up-to-date", ("status", "updatedNumberScheduled")),
                ("Available", ("status", "numberAvailable")),
            ),
            Column(
                "Node Selector", lambda obj: labels_text(obj["spec"]["template"].get("spec", {}).get("nodeSelector"))
            ),
            AGE, *WORKLOAD_WIDE,
        ),
        default=_default_daemon_set, validate=lambda obj: list(_daemon_set_causes(obj)),
        validate_update=_fixed_selector, optional_required=_SELECTOR,
        prepare_create=_empty_status(
            currentNumberScheduled=0, numberMisscheduled=0, desiredNumberScheduled=0, numberReady=0
        ),
        has_generation=True,
    ),
    Kind(
        resources.CONTROLLER_REVISIONS, APPS + "ControllerRevision", "controllerrevision",
        columns=(NAME, Column("Controller", _controller_text), Column("Revision", number_at("revision")), AGE),
        validate=lambda obj: list(_revision_causes(obj)), validate_update=_fixed_revision,
        optional_required=frozenset({"revision"}),
    ),
)  # fmt: skip
