"""The group flowcontrol.apiserver.k8s.io: which requests wait for which.

Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
"""

from collections.abc import Iterator

from apiserver.registry.columns import AGE, NAME, NONE, number_at, text_at, value_at
from apiserver.registry.kind import STATUS, Column, Kind, Object, forbidden, invalid, required, unsupported
from machinery.api import resources
from machinery.errors import Cause

FLOW = "io.k8s.api.flowcontrol.v1."
_MAX_PRECEDENCE, _MAX_QUEUES = 10_000, 10_000_000


def _default_schema(schema: Object) -> None:
    schema.setdefault("spec", {}).setdefault("matchingPrecedence", 1000)


def _schema_causes(schema: Object) -> Iterator[Cause]:
    spec = schema["spec"]
    precedence = spec["matchingPrecedence"]
    if precedence < 1:
        yield invalid("spec.matchingPrecedence", precedence, "must be a positive value")
    if precedence > _MAX_PRECEDENCE:
        yield invalid("spec.matchingPrecedence", precedence, f"must not be greater than {_MAX_PRECEDENCE}")
    method, known = spec.get("distinguisherMethod"), ("ByNamespace", "ByUser")
    if method and method.get("type") not in known:
        yield unsupported("spec.distinguisherMethod", method.get("type"), known)
    if not value_at(spec, "priorityLevelConfiguration", "name"):
        yield required("spec.priorityLevelConfiguration.name", "must reference a priority level")
    for index, rule in enumerate(spec.get("rules") or ()):
        if not rule.get("subjects"):
            yield required(f"spec.rules[{index}].subjects", "subjects must contain at least one value")
        if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
            why = "at least one of resourceRules and nonResourceRules has to be non-empty"
            yield required(f"spec.rules[{index}]", why)


def _default_level(level: Object) -> None:
    spec = level.setdefault("spec", {})
    if spec.get("type") == "Exempt":
        exempt = spec.setdefault("exempt", {})
        exempt.setdefault("nominalConcurrencyShares", 0)
        exempt.setdefault("lendablePercent", 0)
    elif "limited" in spec:
        limited = spec["limited"]
        limited.setdefault("nominalConcurrencyShares", 30)
        limited.setdefault("lendablePercent", 0)
        response = limited.get("limitResponse") or {}
        if response.get("type") == "Queue":
            queuing = response.setdefault("queuing", {})
            queuing.setdefault("queues", 64)
            queuing.setdefault("handSize", 8)
            queuing.setdefault("queueLengthLimit", 50)


def _level_causes(level: Object) -> Iterator[Cause]:
    spec, known = level["spec"], ("Exempt", "Limited")
    kind = spec.get("type")
    if kind not in known:
        yield unsupported("spec.type", kind, known)
    elif kind == "Exempt" and spec.get("limited"):
        yield forbidden("spec.limited", "must be nil if the type is not Limited")
    elif kind == "Limited":
        if spec.get("exempt"):
            yield forbidden("spec.exempt", "must be nil if the type is Limited")
        limited = spec.get("limited")
        if not limited:
            yield required("spec.limited", "must not be empty when type is Limited")
        else:
            yield from _limited_causes(limited, "spec.limited")


def _limited_causes(limited: Object, path: str) -> Iterator[Cause]:
    shares, lent = limited["nominalConcurrencyShares"], limited["lendablePercent"]
    borrowed = limited.get("borrowingLimitPercent")
    if shares < 0:
        yield invalid(f"{path}.nominalConcurrencyShares", shares, "must be a non-negative integer")
    if not 0 <= lent <= 100:
        yield invalid(f"{path}.lendablePercent", lent, "must be between 0 and 100, inclusive")
    if borrowed is not None and borrowed < 0:
        yield invalid(f"{path}.borrowingLimitPercent", borrowed, "if specified, must be a non-negative integer")
    response = limited.get("limitResponse") or {}
    kind, queuing, at = response.get("type", ""), response.get("queuing"), f"{path}.limitResponse"
    if kind == "Reject" and queuing is not None:
        yield forbidden(f"{at}.queuing", "must be nil if limited.limitResponse.type is not Limited")
    elif kind not in ("Queue", "Reject"):
        yield unsupported(f"{at}.type", kind, ("Queue", "Reject"))
    elif kind == "Queue":
        yield from _queuing_causes(response["queuing"], f"{at}.queuing")


def _queuing_causes(queuing: Object, path: str) -> Iterator[Cause]:
    for field in ("queueLengthLimit", "queues", "handSize"):
        if queuing[field] <= 0:
            yield invalid(f"{path}.{field}", queuing[field], "must be positive")
    queues, hand = queuing["queues"], queuing["handSize"]
    if queues > _MAX_QUEUES:
        yield invalid(f"{path}.queues", queues, f"must not be greater than {_MAX_QUEUES}")
    if hand > queues:
        yield invalid(f"{path}.handSize", hand, f"should not be greater than queues ({queues})")


def _queuing(field: str) -> Column:
    names = {"queues": "Queues", "handSize": "HandSize", "queueLengthLimit": "QueueLengthLimit"}
    return Column(names[field], text_at("spec", "limited", "limitResponse", "queuing", field, absent=NONE))


def _dangling(schema: Object) -> str:
    conditions = value_at(schema, "status", "conditions") or ()
    return next((c["status"] for c in conditions if c["type"] == "Dangling"), "?")


KINDS = (
    Kind(
        resources.FLOW_SCHEMAS, FLOW + "FlowSchema", "flowschema",
        subresources={"status": STATUS},
        columns=(
            NAME, Column("PriorityLevel", text_at("spec", "priorityLevelConfiguration", "name")),
            Column("MatchingPrecedence", number_at("spec", "matchingPrecedence"), type="integer"),
            Column("DistinguisherMethod", text_at("spec", "distinguisherMethod", "type", absent=NONE)), AGE,
            Column("MissingPL", _dangling),
        ),
        default=_default_schema, validate=lambda obj: list(_schema_causes(obj)),
        has_generation=True,
    ),
    Kind(
        resources.PRIORITY_LEVELS, FLOW + "PriorityLevelConfiguration", "prioritylevelconfiguration",
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Type", text_at("spec", "type")),
            Column("NominalConcurrencyShares", text_at("spec", "limited", "nominalConcurrencyShares", absent=NONE)),
            _queuing("queues"), _queuing("handSize"), _queuing("queueLengthLimit"), AGE,
        ),
        default=_default_level, validate=lambda obj: list(_level_causes(obj)),
        has_generation=True,
    ),
)  # fmt: skip
