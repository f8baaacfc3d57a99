"""The group policy: pod disruption budgets. Evictions are a subresource of pods.

Source: https://kubernetes.io/docs/tasks/run-application/configure-pdb/
"""

from collections.abc import Iterator
from typing import Any

from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.columns import AGE, NAME, number_at, value_at
from apiserver.registry.kind import Column, Kind, Object, invalid, status_judged, unsupported
from apiserver.registry.status_rules import budget_status_causes
from apiserver.registry.templates import above_hundred, int_or_percent_causes
from machinery.api import resources
from machinery.errors import Cause


def _causes(budget: Object) -> Iterator[Cause]:
    spec = budget.get("spec") or {}
    given = [field for field in ("minAvailable", "maxUnavailable") if spec.get(field) is not None]
    if len(given) == 2:
        yield invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for field in given:
        yield from int_or_percent_causes(spec[field], f"spec.{field}")
        if above_hundred(spec[field]):
            yield invalid(f"spec.{field}", spec[field], "must not be greater than 100%")
    if spec.get("selector"):
        yield from label_selector_causes(spec["selector"], "spec.selector")
    policy, known = spec.get("unhealthyPodEvictionPolicy"), ("AlwaysAllow", "IfHealthyBudget")
    if policy is not None and policy not in known:
        yield unsupported("spec.unhealthyPodEvictionPolicy", policy, known)


def _bound(field: str) -> Any:
    def read(budget: Object) -> str:
        value = value_at(budget, "spec", field)
        return "N/A" if value is None else str(value)

    return read


KINDS = (
    Kind(
        resources.POD_DISRUPTION_BUDGETS, "io.k8s.api.policy.v1.PodDisruptionBudget", "poddisruptionbudget", ("pdb",),
        subresources={"status": status_judged(budget_status_causes)},
        columns=(
            NAME, Column("Min Available", _bound("minAvailable")), Column("Max Unavailable", _bound("maxUnavailable")),
            Column("Allowed Disruptions", number_at("status", "disruptionsAllowed"), type="integer"), AGE,
        ),
        validate=lambda obj: list(_causes(obj)),
        prepare_create=lambda obj: obj.update(
            status={"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}
        ),
        has_generation=True, unconditional_update=False,
    ),
)  # fmt: skip
