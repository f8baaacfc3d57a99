"""Rules of what may be told of a job's work: whoever looks after it, what has ended stays ended.

A rule holds for what a change touches: what was wrong before may be followed by what does not concern it.
Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/#terminal-job-conditions
"""

from collections.abc import Iterator

from apiserver.registry import templates
from apiserver.registry.job_rules import count_indexes
from apiserver.registry.kind import Object, duplicate, invalid, required
from machinery.api.meta import parse_time
from machinery.errors import Cause

_COUNTERS = ("active", "succeeded", "failed", "ready", "terminating")


def job_status_causes(new: Object, old: Object) -> list[Cause]:
    """Return what is wrong with a job's new status."""
    fresh, before = new.get("status") or {}, old.get("status") or {}
    return [
        *templates.non_negative(fresh, *_COUNTERS, path="status"),
        *_uncounted_causes(fresh.get("uncountedTerminatedPods") or {}),
        *_condition_causes(fresh, before),
        *_completion_time_causes(fresh, before),
        *_finished_causes(fresh, before),
        *_index_causes(new["spec"], fresh, before),
        *_change_causes(new["spec"], fresh, before),
    ]


def _true(status: Object) -> set[str]:
    return {one["type"] for one in status.get("conditions") or () if one.get("status") == "True"}


def _condition(why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {why}", "status.conditions")


def _uncounted_causes(uncounted: Object) -> Iterator[Cause]:
    seen = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(uncounted.get(field) or ()):
            path = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                yield invalid(path, uid, "must not be empty")
            elif uid in seen:
                yield duplicate(path, uid)
            seen.add(uid)


def _condition_causes(fresh: Object, before: Object) -> Iterator[Cause]:
    now, then = _true(fresh), _true(before)
    changed = now ^ then
    for one, other, told in (
        ("Complete", "Failed", "Complete=True and Failed=true"),
        ("Complete", "FailureTarget", "Complete=True and FailureTarget=true"),
        ("SuccessCriteriaMet", "Failed", "SuccessCriteriaMet=True and Failed=true"),
        ("SuccessCriteriaMet", "FailureTarget", "SuccessCriteriaMet=True and FailureTarget=true"),
    ):
        if {one, other} <= now and (one == "SuccessCriteriaMet" or changed & {one, other}):
            yield _condition(f"cannot set {told} conditions")
    for verdict, reason in (("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")):
        touched = (
            fresh.get("failedIndexes") != before.get("failedIndexes") if verdict == "Failed" else reason in changed
        )
        if verdict in now and reason not in now and (verdict in changed or touched):
            yield _condition(f"cannot set {verdict}=True condition without the {reason}=true condition")
    for one in ("Failed", "Complete", "FailureTarget"):
        if one in then - now:
            yield _condition(f"cannot disable the terminal {one}=True condition")
    if "SuccessCriteriaMet" in then - now:
        yield _condition("cannot disable the SuccessCriteriaMet=True condition")
    if "Complete" in then and "SuccessCriteriaMet" in now - then:
        yield _condition("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")


def _completion_time_causes(fresh: Object, before: Object) -> Iterator[Cause]:
    path, ended, started = "status.completionTime", fresh.get("completionTime"), fresh.get("startTime")
    complete = "Complete" in _true(fresh)
    moved = ended != before.get("completionTime")
    if moved or complete != ("Complete" in _true(before)):
        if ended and not complete:
            yield invalid(path, ended, "cannot set completionTime when there is no Complete=True condition")
        if complete and not ended:
            yield required(path, "completionTime is required for Complete jobs")
    if ended and started and (moved or started != before.get("startTime")) and parse_time(ended) < parse_time(started):
        yield invalid(path, ended, "completionTime cannot be set before startTime")
    if ended and moved and before.get("completionTime"):
        yield invalid(path, ended, "completionTime cannot be mutated")


def _finished_causes(fresh: Object, before: Object) -> Iterator[Cause]:
    verdicts = {"Complete", "Failed"}
    if not verdicts & _true(fresh):
        return
    first = not verdicts & _true(before)

    def concerns(field: str) -> bool:
        return first or fresh.get(field) != before.get(field)

    for field in ("active", "terminating"):
        if fresh.get(field, 0) > 0 and concerns(field):
            yield invalid(f"status.{field}", fresh[field], f"{field}>0 is invalid for finished job")
    if not fresh.get("startTime") and concerns("startTime"):
        yield required("status.startTime", "startTime is required for finished job")
    uncounted = fresh.get("uncountedTerminatedPods") or {}
    if any(uncounted.values()) and concerns("uncountedTerminatedPods"):
        why = "uncountedTerminatedPods needs to be empty for finished job"
        yield invalid("status.uncountedTerminatedPods", uncounted, why)


def _index_causes(spec: Object, fresh: Object, before: Object) -> Iterator[Cause]:
    completions, indexed = spec.get("completions"), spec.get("completionMode") == "Indexed"
    completed, failed = fresh.get("completedIndexes") or "", fresh.get("failedIndexes")
    for field, text, told in (
        ("completedIndexes", completed, True),
        ("failedIndexes", failed, spec.get("backoffLimitPerIndex") is not None),
    ):
        if completions is None or not text or not told or fresh.get(field) == before.get(field):
            continue
        try:
            count_indexes(text, completions)
        except ValueError as error:
            yield invalid(f"status.{field}", text, f"error parsing {field}: {error}")
    if completed and not indexed and completed != before.get("completedIndexes"):
        why = "cannot set non-empty completedIndexes when non-indexed completion mode"
        yield invalid("status.completedIndexes", completed, why)
    if failed is None:
        return
    if spec.get("backoffLimitPerIndex") is None and failed != before.get("failedIndexes"):
        why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        yield invalid("status.failedIndexes", failed, why)
    changed = any(fresh.get(field) != before.get(field) for field in ("completedIndexes", "failedIndexes"))
    if completions is not None and changed and (both := _overlap(completed, failed)) is not None:
        why = f"failedIndexes and completedIndexes overlap at index: {both}"
        yield invalid("status.failedIndexes", failed, why)


def _overlap(some: str, others: str) -> int | None:
    """Return the first number that both texts such as "1,3-5" name."""
    found = [
        max(first, begin)
        for first, last in _intervals(some)
        for begin, end in _intervals(others)
        if first <= end and begin <= last
    ]
    return min(found, default=None)


def _intervals(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(",") if text else ():
        bounds = part.split("-")
        if len(bounds) <= 2 and all(bound.isascii() and bound.isdigit() for bound in bounds):
            yield int(bounds[0]), int(bounds[-1])


def _change_causes(spec: Object, fresh: Object, before: Object) -> Iterator[Cause]:
    shrinks = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    for field in ("failed", "succeeded"):
        if fresh.get(field, 0) < before.get(field, 0) and not (field == "succeeded" and shrinks):
            yield invalid(f"status.{field}", fresh.get(field, 0), f"cannot decrease the {field} counter")
    started = fresh.get("startTime")
    if before.get("startTime") and started != before["startTime"] and not spec.get("suspend"):
        yield required("status.startTime", "startTime cannot be removed for unsuspended job")
    ready, active = fresh.get("ready"), fresh.get("active", 0)
    touched = ready != before.get("ready") or active != before.get("active", 0)
    if ready is not None and ready > active and touched:
        yield invalid("status.ready", ready, "cannot set more ready pods than active")
