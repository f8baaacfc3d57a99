"""Events as the group events.k8s.io shows them; they are stored as those of the core group, under other names.

Sources: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.columns import text_at
from apiserver.registry.core import EVENT_COLUMNS, EVENT_TTL_SECONDS
from apiserver.registry.kind import Alternate, Column, Kind, Object, immutable, invalid, required
from machinery.api import resources
from machinery.errors import Cause

# Core's name for each field that goes by another one here.
_CORE_NAMES = {
    "reportingController": "reportingComponent", "regarding": "involvedObject", "note": "message",
    "deprecatedSource": "source", "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp", "deprecatedCount": "count",
}  # fmt: skip
_OWN_NAMES = {core: own for own, core in _CORE_NAMES.items()}
_MAX_LENGTH, _MAX_NOTE = 128, 1024
_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIXED = (
    "involvedObject", "reason", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime",
    "action", "related", "reportingComponent", "reportingInstance",
)  # fmt: skip


def to_core(event: Object) -> Object:
    """Return an event as the core group has it."""
    found = {_CORE_NAMES.get(name, name): value for name, value in event.items()}
    found.setdefault("involvedObject", {})
    return {**found, "apiVersion": "v1"}


def from_core(event: Object) -> Object:
    """Return an event of the core group as events.k8s.io has it."""
    found = {_OWN_NAMES.get(name, name): value for name, value in event.items()}
    found.setdefault("eventTime", None)
    return {**found, "apiVersion": "events.k8s.io/v1"}


def core_causes(event: Object) -> Iterator[Cause]:
    """Yield what is wrong with an event, by the names of the core group."""
    about = (event.get("involvedObject") or {}).get("namespace", "")
    own = event["metadata"].get("namespace", "")
    if event.get("eventTime"):
        if not about and own not in ("default", "kube-system"):
            yield invalid("involvedObject.namespace", about, "does not match event.namespace")
        yield from _told_causes(event)
    elif own != (about or "default"):
        yield invalid("involvedObject.namespace", about, "does not match event.namespace")


def _told_causes(event: Object) -> Iterator[Cause]:
    controller = event.get("reportingComponent", "")
    if not controller:
        yield required("reportingController")
    if wrong := names.qualified_name(controller):
        yield invalid("reportingController", controller, wrong)
    for field in ("reportingInstance", "action", "reason"):
        value = event.get(field, "")
        if not value:
            yield required(field)
        elif len(value) > _MAX_LENGTH:
            yield invalid(field, "", f"can have at most {_MAX_LENGTH} characters")
    if len(event.get("message", "")) > _MAX_NOTE:
        yield invalid("message", "", f"can have at most {_MAX_NOTE} characters")


def _series_causes(event: Object) -> Iterator[Cause]:
    series = event.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        yield invalid("series.count", "", "should be at least 2")
    if not series.get("lastObservedTime"):
        yield required("series.lastObservedTime")


def _create_causes(event: Object) -> Iterator[Cause]:
    """Yield what is wrong with a new event: this group asks for more than core does."""
    yield from _series_causes(event)
    if not event.get("eventTime"):
        yield required("eventTime")
    if event.get("type") not in ("Normal", "Warning"):
        yield invalid("type", "", f"has invalid value: {event.get('type', '')}")
    for field in ("firstTimestamp", "lastTimestamp", "count"):
        if event.get(field):
            yield invalid(field, "", "needs to be unset")
    if any((event.get("source") or {}).values()):
        yield invalid("source", "", "needs to be unset")


def _validate_update(new: Object, old: Object) -> list[Cause]:
    after, before = to_core(new), to_core(old)
    causes = list(_series_causes(after)) if after.get("series") != before.get("series") else []
    for field in _FIXED:
        causes += immutable(field, after.get(field), before.get(field))
    return causes


def _by_core(column: Column) -> Column:
    return Column(
        column.name, lambda event: column.value(to_core(event)), column.type, column.format, column.description,
        column.priority,
    )  # fmt: skip


KINDS = (
    Kind(
        resources.EVENTS_V1, "io.k8s.api.events.v1.Event", "event", ("ev",),
        columns=tuple(_by_core(column) for column in EVENT_COLUMNS),
        selectable={
            **{f"regarding.{field}": text_at("regarding", field) for field in _REFERENCE},
            "reportingController": text_at("reportingController"), "reason": text_at("reason"),
            "type": text_at("type"),
        },
        validate=lambda event: list(core_causes(to_core(event))),
        validate_create=lambda event: list(_create_causes(to_core(event))), validate_update=_validate_update,
        optional_required=frozenset({"eventTime"}), creates_on_update=True, ttl_seconds=EVENT_TTL_SECONDS,
        alternate=Alternate(resources.EVENTS, from_core, to_core),
    ),
)  # fmt: skip
