"""What events are held to, by the names that core's fields have.

Those that tell their eventTime are of the new form, and tell more; the group events.k8s.io asks for that form.
Source: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, immutable, invalid, required
from machinery.errors import Cause

_MAX_LENGTH, _MAX_NOTE = 128, 1024
_FIXED = (
    "involvedObject", "reason", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime",
    "action", "related", "reportingComponent", "reportingInstance",
)  # fmt: skip


def event_causes(event: Object) -> Iterator[Cause]:
    """Yield what is wrong with an event of either group."""
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
    elif wrong := names.qualified_name(controller):
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


def new_event_causes(event: Object) -> Iterator[Cause]:
    """Yield what is wrong with an event that is made in events.k8s.io, beside the rules of both groups."""
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


def changed_event_causes(new: Object, old: Object) -> Iterator[Cause]:
    """Yield what of an event changed in events.k8s.io that may not."""
    if new.get("series") != old.get("series"):
        yield from _series_causes(new)
    for field in _FIXED:
        yield from immutable(field, new.get(field), old.get(field))
