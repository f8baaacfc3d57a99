"""Built-in kinds in a second version: stored as the first one, converted on the way in and out.

autoscaling/v1 shows what autoscaling/v2 says, as far as it can; events.k8s.io/v1 shows core events by their new names.
Sources: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v1/,
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apiserver.registry import autoscaling, core
from apiserver.registry.event_rules import changed_event_causes, event_causes, new_event_causes
from apiserver.registry.kind import Column, Kind, Object, required
from apiserver.storage.watch_cache import Entry, Watcher
from machinery.api import resources
from machinery.api.meta import Resource
from machinery.api.schema import Findings, Shape, conform, shape_of
from machinery.errors import Cause

Convert = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class StoredAs(Resource):
    """A resource whose objects are those of another: they share their place and the name in messages."""

    stored_as: str = ""

    @property
    def group_resource(self) -> str:
        """The name of the resource that is stored."""
        return self.stored_as


class Version:
    """What a second version does in its own way; see CustomKind."""

    built_in = True
    warning = ""

    def __init__(
        self, definition: str, show: Convert, store: Convert, causes: Callable[[Object], list[Cause]],
        stored_version: str,
    ) -> None:  # fmt: skip
        """Args: `show` and `store` take an object of one version and return it in the other; `causes` judges ours."""
        self._definition = definition
        self.stored_version = stored_version
        self._show, self._store, self._causes = show, store, causes

    def conform(self, obj: Object) -> Findings:
        """Bring an object to its type's shape. Raises: SchemaMismatch."""
        return conform(obj, shape_of(self._definition))

    def causes(self, new: Object, _: Object | None) -> list[Cause]:
        """Return what is wrong with an object."""
        return self._causes(new)

    def shape(self) -> Shape:
        """Return its type."""
        return shape_of(self._definition)

    def schemas(self) -> Mapping[str, Any]:
        """Return nothing: its schemas are among the public definitions."""
        return {}

    def is_stored_form(self, _: Entry) -> bool:
        """Whether stored bytes need not be written anew; they are of the first version always."""
        return True

    async def view(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return stored objects as this version shows them."""
        return [self._view(entry) for entry in entries]

    def _view(self, entry: Entry) -> Entry:
        if entry.view is self:
            return entry
        if not isinstance(entry.view, dict):
            shown = entry.shown_as(orjson.dumps(self._show(entry.object())))
            shown.view = self
            entry.view = {self: shown}
        found: Entry = entry.view[self]
        return found

    async def to_stored(self, obj: Object) -> Object:
        """Return an object as it is stored."""
        return self._store(obj)

    @contextlib.contextmanager
    def follow(self, _: Watcher) -> Iterator[None]:
        """Do nothing: this version does not go."""
        yield

    def refuse_create(self) -> None:
        """Do nothing: objects can always be made."""

    def scale_of(self, obj: Object) -> tuple[int, int, str]:
        """Raise: these kinds have no scale."""
        raise LookupError(obj["kind"])

    def set_replicas(self, obj: Object, replicas: int) -> None:
        """Raise: these kinds have no scale."""
        raise LookupError(obj["kind"], replicas)


def _seen_as(columns: Sequence[Column], store: Convert) -> tuple[Column, ...]:
    """Return columns of the stored version that read objects of this one."""
    return tuple(replace(one, value=lambda obj, read=one.value: read(store(obj))) for one in columns)  # type: ignore[misc]


# ---- events.k8s.io/v1

# What a field is called in core/v1 -> in events.k8s.io/v1.
_EVENT_NAMES = {
    "involvedObject": "regarding", "message": "note", "reportingComponent": "reportingController",
    "source": "deprecatedSource", "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp", "count": "deprecatedCount",
}  # fmt: skip
_CORE_NAMES = {new: old for old, new in _EVENT_NAMES.items()}


def event_shown(event: Object) -> Object:
    """Return a core event as events.k8s.io/v1 shows it."""
    found = {_EVENT_NAMES.get(name, name): value for name, value in event.items() if value not in (None, "")}
    return {**found, "kind": "Event", "apiVersion": "events.k8s.io/v1", "eventTime": event.get("eventTime")}


def event_stored(event: Object) -> Object:
    """Return an event of events.k8s.io/v1 as a core event."""
    found = {_CORE_NAMES.get(name, name): value for name, value in event.items()}
    found.setdefault("involvedObject", {})
    return {**found, "kind": "Event", "apiVersion": "v1"}


_EVENT = next(kind for kind in core.KINDS if kind.resource == resources.EVENTS)
_EVENT_SELECTABLE = {
    "regarding" + path.removeprefix("involvedObject") if path.startswith("involvedObject.") else path: read
    for path, read in _EVENT.selectable.items()
    if path not in ("source", "reportingComponent")
} | {"reportingController": _EVENT.selectable["reportingComponent"]}

EVENTS = replace(
    _EVENT,
    resource=StoredAs("events.k8s.io", "v1", "events", "Event", stored_as="events"),
    definition="io.k8s.api.events.v1.Event", columns=_seen_as(_EVENT.columns, event_stored),
    selectable={
        path: lambda event, read=read: read(event_stored(event))  # type: ignore[misc]
        for path, read in _EVENT_SELECTABLE.items()
    },
    validate_create=lambda event: list(new_event_causes(event_stored(event))),
    validate_update=lambda new, old: list(changed_event_causes(event_stored(new), event_stored(old))),
    custom=Version(
        "io.k8s.api.events.v1.Event", event_shown, event_stored, lambda event: list(event_causes(event_stored(event))),
        "/v1",
    ),
)  # fmt: skip


# ---- autoscaling/v1

_NOTES = "autoscaling.alpha.kubernetes.io/"


def _is_cpu(metric: Object, part: str) -> bool:
    resource = metric.get("resource") or {}
    utilization = (resource.get(part) or {}).get("averageUtilization")
    return metric.get("type") == "Resource" and resource.get("name") == "cpu" and utilization is not None


def autoscaler_shown(obj: Object) -> Object:
    """Return an autoscaler of v2 as v1 shows it; what v1 can't say is kept in annotations."""
    spec, status, metadata = {**(obj.get("spec") or {})}, {**(obj.get("status") or {})}, {**obj["metadata"]}
    notes: dict[str, Any] = {"behavior": spec.pop("behavior", None), "conditions": status.pop("conditions", None)}
    metrics, current = spec.pop("metrics", None) or [], status.pop("currentMetrics", None) or []
    cpu = next((one for one in metrics if _is_cpu(one, "target")), None)
    if cpu is not None:
        spec["targetCPUUtilizationPercentage"] = cpu["resource"]["target"]["averageUtilization"]
    measured = next((one for one in current if _is_cpu(one, "current")), None)
    if measured is not None:
        status["currentCPUUtilizationPercentage"] = measured["resource"]["current"]["averageUtilization"]
    notes["metrics"] = [one for one in metrics if one is not cpu]
    notes["current-metrics"] = [one for one in current if one is not measured]
    annotations = {**(metadata.get("annotations") or {})}
    annotations |= {_NOTES + name: orjson.dumps(value).decode() for name, value in notes.items() if value}
    if annotations:
        metadata["annotations"] = annotations
    status.setdefault("currentReplicas", 0)
    status.setdefault("desiredReplicas", 0)
    return {"kind": obj["kind"], "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}


def autoscaler_stored(obj: Object) -> Object:
    """Return an autoscaler of v1 as one of v2."""
    spec, status, metadata = {**(obj.get("spec") or {})}, {**(obj.get("status") or {})}, {**obj["metadata"]}
    annotations = {**(metadata.get("annotations") or {})}
    notes = {
        name: _noted(annotations.pop(_NOTES + name, ""))
        for name in ("behavior", "conditions", "metrics", "current-metrics")
    }
    metrics, current = list(notes["metrics"] or ()), list(notes["current-metrics"] or ())
    if (wanted := spec.pop("targetCPUUtilizationPercentage", None)) is not None:
        metrics.insert(0, _cpu("target", {"type": "Utilization", "averageUtilization": wanted}))
    if (measured := status.pop("currentCPUUtilizationPercentage", None)) is not None:
        current.insert(0, _cpu("current", {"averageUtilization": measured}))
    if metrics:
        spec["metrics"] = metrics
    if notes["behavior"]:
        spec["behavior"] = notes["behavior"]
    if notes["conditions"]:
        status["conditions"] = notes["conditions"]
    status["currentMetrics"] = current or None
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    made = {"kind": obj["kind"], "apiVersion": "autoscaling/v2", "metadata": metadata, "spec": spec, "status": status}
    _AUTOSCALER.default(made)
    return made


def _cpu(part: str, value: Object) -> Object:
    return {"type": "Resource", "resource": {"name": "cpu", part: value}}


def _noted(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return orjson.loads(text) if text else None
    return None


def _autoscaler_causes(obj: Object) -> list[Cause]:
    missing = [] if (obj.get("spec") or {}).get("scaleTargetRef") else [required("spec.scaleTargetRef")]
    return missing or list(_AUTOSCALER.validate(autoscaler_stored(obj)))


def _default_autoscaler(obj: Object) -> None:
    obj.setdefault("spec", {}).setdefault("minReplicas", 1)


_AUTOSCALER = next(kind for kind in autoscaling.KINDS if kind.resource == resources.HORIZONTAL_POD_AUTOSCALERS)
_V1 = "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler"
AUTOSCALERS: Kind = replace(
    _AUTOSCALER,
    resource=resources.HORIZONTAL_POD_AUTOSCALERS_V1, definition=_V1, default=_default_autoscaler,
    columns=_seen_as(_AUTOSCALER.columns, autoscaler_stored), prepare_create=lambda obj: obj.pop("status", None),
    custom=Version(_V1, autoscaler_shown, autoscaler_stored, _autoscaler_causes, "autoscaling/v2"),
)  # fmt: skip

KINDS = (EVENTS, AUTOSCALERS)
