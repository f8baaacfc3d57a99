"""The group batch: jobs and cron jobs.

Defaults and rules: https://kubernetes.io/docs/concepts/workloads/controllers/job/,
https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/
"""

import copy
from collections.abc import Iterator

from apiserver.registry import names, templates
from apiserver.registry.affinity_rules import label_selector_causes
from apiserver.registry.columns import (
    AGE,
    NAME,
    NONE,
    WORKLOAD_WIDE,
    container_images,
    container_names,
    count,
    since,
    text_at,
    value_at,
)  # fmt: skip
from apiserver.registry.durations import human_duration
from apiserver.registry.job_rules import hostname_causes, job_spec_causes
from apiserver.registry.job_status_rules import job_status_causes
from apiserver.registry.kind import (
    STATUS,
    Column,
    Kind,
    Object,
    Since,
    default_text,
    immutable,
    invalid,
    required,
    status_judged,
    unsupported,
)  # fmt: skip
from machinery.api import resources
from machinery.api.cron import BadSchedule, Schedule
from machinery.api.meta import parse_time
from machinery.api.selectors import SelectorError, from_label_selector
from machinery.errors import Cause

BATCH = "io.k8s.api.batch.v1."
_CONTROLLER = "batch.kubernetes.io/controller-uid"
_NAME_LABEL = "batch.kubernetes.io/job-name"
_OLD_CONTROLLER, _OLD_NAME = "controller-uid", "job-name"
_FIXED = ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")
_MAX_NAME = 52  # of a cron job: its jobs' names get eleven more letters


# -- jobs


def _default_job_spec(spec: Object) -> None:
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if spec.get("backoffLimitPerIndex") is not None else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault(
        "podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    )  # fmt: skip
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            default_text(pattern, "status", "True")
    templates.default_template(spec)


def _default_job(job: Object) -> None:
    spec = job.setdefault("spec", {})
    _default_job_spec(spec)
    labels = templates.template_labels(spec)
    if labels and not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)


def _prepare_job(job: Object) -> None:
    """Give the job the selector of its own pods, unless its maker brings one."""
    spec, metadata = job["spec"], job["metadata"]
    if spec.get("manualSelector") or "name" not in metadata:  # validation tells of a name that is missing
        return
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for key in (_OLD_CONTROLLER, _CONTROLLER):
        labels.setdefault(key, metadata["uid"])
    for key in (_OLD_NAME, _NAME_LABEL):
        labels.setdefault(key, metadata["name"])
    selector = spec.setdefault("selector", {})
    selector.setdefault("matchLabels", {}).setdefault(_CONTROLLER, metadata["uid"])
    if not metadata.get("labels"):
        metadata["labels"] = dict(labels)


def _job_causes(job: Object) -> Iterator[Cause]:
    spec = job["spec"]
    yield from hostname_causes(job)
    yield from job_spec_causes(spec, "spec")
    selector, labels = spec.get("selector") or {}, templates.template_labels(spec)
    if selector and not spec.get("manualSelector"):
        yield from _generated_causes(job, selector, labels)
    elif not selector and spec.get("manualSelector"):
        yield required("spec.selector")
    wrong = list(label_selector_causes(selector, "spec.selector"))
    yield from wrong
    if selector and not wrong and not from_label_selector(selector).matches(labels):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")


def _generated_causes(job: Object, selector: Object, labels: dict[str, str]) -> Iterator[Cause]:
    """Yield a cause where a job that is to have the selector of its own pods brings another one."""
    uid, name = job["metadata"]["uid"], job["metadata"].get("name", "")
    expected = {_OLD_CONTROLLER: uid, _OLD_NAME: name, _CONTROLLER: uid, _NAME_LABEL: name}
    for key, value in expected.items():
        path = f"spec.template.metadata.labels[{key}]"
        if labels.get(key, value) != value:
            yield invalid(path, labels, f"must be '{value}'")
    try:
        chosen = from_label_selector(selector).matches(expected)
    except SelectorError:
        return
    if not chosen:
        yield invalid("spec.selector", selector, "`selector` not auto-generated")


def _job_update(new: Object, old: Object) -> list[Cause]:
    fresh, before = new["spec"], old["spec"]
    causes = []
    for field in _FIXED:
        causes += immutable(f"spec.{field}", fresh.get(field), before.get(field))
    if fresh["completionMode"] != "Indexed":
        causes += immutable("spec.completions", fresh.get("completions"), before.get("completions"))
    elif fresh.get("completions") not in (None, before.get("completions"), fresh.get("parallelism")):
        why = "can only be modified in tandem with spec.parallelism"
        causes.append(invalid("spec.completions", fresh["completions"], why))
    loose = _is_at_rest(old)
    if _fixed_template(fresh["template"], loose) != _fixed_template(before["template"], loose):
        causes.append(invalid("spec.template", fresh["template"], "field is immutable"))
    return causes


def _is_at_rest(job: Object) -> bool:
    """Whether a job is suspended, none of its pods is at work, and it never began or is known to have stopped."""
    status = job.get("status") or {}
    suspended = any(c["type"] == "Suspended" and c["status"] == "True" for c in status.get("conditions") or ())
    may = bool(job["spec"].get("suspend")) and not status.get("active")
    return may and (suspended or not status.get("startTime"))


def _fixed_template(template: Object, loose: bool) -> Object:
    """Return what of a template may not change; one that is `loose` may still say where its pods go and what they ask.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/#mutable-scheduling-directives
    """
    if not loose:
        return template
    where = ("nodeSelector", "tolerations", "affinity", "schedulingGates")
    spec = {field: value for field, value in template["spec"].items() if field not in where}
    affinity = template["spec"].get("affinity") or {}
    spec["affinity"] = {kind: terms for kind, terms in affinity.items() if kind != "nodeAffinity" and terms}
    for field in ("containers", "initContainers"):
        spec[field] = [
            {name: value for name, value in container.items() if name != "resources"}
            for container in spec.get(field) or ()
        ]
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if k not in ("annotations", "labels")}
    return {**template, "spec": spec, "metadata": metadata}


def _completions(job: Object) -> str:
    spec, succeeded = job["spec"], count(job, "status", "succeeded")
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _duration(job: Object) -> Since | str:
    started, ended = value_at(job, "status", "startTime"), value_at(job, "status", "completionTime")
    if not started:
        return ""
    if not ended:
        return Since(started)
    return human_duration((parse_time(ended) - parse_time(started)).total_seconds())


def _job_status(job: Object) -> str:
    true = {c["type"] for c in (job.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    for kind, text in (
        ("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):  # fmt: skip
        if kind in true:
            return text
    return "Terminating" if job["metadata"].get("deletionTimestamp") else "Running"


# -- cron jobs


def _default_cron_job(cron_job: Object) -> None:
    spec = cron_job.setdefault("spec", {})
    default_text(spec, "concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    template = spec.setdefault("jobTemplate", {}).setdefault("spec", {})
    _default_cron_template(template)


def _default_cron_template(spec: Object) -> None:
    """A cron job keeps its job template as written; only the pod template in it gets defaults."""
    templates.default_template(spec)


def _cron_job_causes(cron_job: Object) -> Iterator[Cause]:
    spec, name = cron_job["spec"], cron_job["metadata"].get("name", "")
    if len(name) > _MAX_NAME:
        yield invalid("metadata.name", name, f"must be no more than {_MAX_NAME} characters")
    yield from _schedule_causes(spec)
    known = ("Allow", "Forbid", "Replace")
    if spec["concurrencyPolicy"] not in known:
        yield unsupported("spec.concurrencyPolicy", spec["concurrencyPolicy"], known)
    numbers = ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    yield from templates.non_negative(spec, *numbers)
    job = spec["jobTemplate"]["spec"]
    if job.get("selector"):
        yield invalid("spec.jobTemplate.spec.selector", job["selector"], "`selector` will be auto-generated")
    if job.get("manualSelector"):
        supported = ("nil", "false")
        yield unsupported("spec.jobTemplate.spec.manualSelector", True, supported)
    job = copy.deepcopy(job)
    _default_job_spec(job)
    yield from job_spec_causes(job, "spec.jobTemplate.spec")


def _is_zone(name: str) -> bool:
    import zoneinfo  # with what it loads 1 MB: only clusters with time zones in their cron jobs pay

    return name in zoneinfo.available_timezones()


def _schedule_causes(spec: Object) -> Iterator[Cause]:
    schedule = spec.get("schedule", "")
    if not schedule:
        return  # the schema asks for it
    if "TZ" in schedule:
        yield invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    else:
        try:
            Schedule(schedule)
        except BadSchedule as error:
            yield invalid("spec.schedule", schedule, str(error))
    yield from _zone_causes(spec.get("timeZone"))


def _zone_causes(zone: str | None) -> Iterator[Cause]:
    if zone is None:
        return
    if zone == "":
        yield invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string")
    elif zone.lower() == "local":
        yield invalid(
            "spec.timeZone",
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        )
    elif not _is_zone(zone):
        yield invalid("spec.timeZone", zone, f"unknown time zone {zone}")


def _active(cron_job: Object) -> int:
    return len((cron_job.get("status") or {}).get("active") or ())


def _job_template(cron_job: Object) -> Object:
    return cron_job["spec"]["jobTemplate"]


KINDS = (
    Kind(
        resources.JOBS, BATCH + "Job", "job", (), ("all",),
        subresources={"status": status_judged(job_status_causes)},
        columns=(
            NAME, Column("Status", _job_status), Column("Completions", _completions), Column("Duration", _duration),
            AGE, *WORKLOAD_WIDE,
        ),
        selectable={"status.successful": lambda obj: str(count(obj, "status", "succeeded"))},
        default=_default_job, validate=lambda obj: list(_job_causes(obj)), validate_update=_job_update,
        prepare_create=_prepare_job, has_generation=True, optional_required=frozenset({"spec.template"}),
    ),
    Kind(
        resources.CRON_JOBS, BATCH + "CronJob", "cronjob", ("cj",), ("all",),
        subresources={"status": STATUS},
        columns=(
            NAME, Column("Schedule", text_at("spec", "schedule")),
            Column("Timezone", text_at("spec", "timeZone", absent=NONE)),
            Column("Suspend", lambda obj: "True" if obj["spec"].get("suspend") else "False"),
            Column("Active", _active, type="integer"),
            Column("Last Schedule", since("status", "lastScheduleTime", absent=NONE)), AGE,
            Column("Containers", lambda obj: container_names(_job_template(obj)), priority=1),
            Column("Images", lambda obj: container_images(_job_template(obj)), priority=1),
            Column("Selector", lambda _: NONE, priority=1),
        ),
        validate_name=names.dns_subdomain,
        default=_default_cron_job, validate=lambda obj: list(_cron_job_causes(obj)),
        has_generation=True,
    ),
)  # fmt: skip
