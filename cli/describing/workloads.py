"""Deployments, replica sets, daemon sets, stateful sets, jobs, cron jobs, autoscalers and disruption budgets."""

from typing import Any

from cli.describing.pods import template
from cli.describing.writer import NONE, Object, Writer, annotations, head, mapping, rows, selector, timestamp, truth
from cli.durations import short
from machinery.api.meta import controller_of, parse_time

HASH, REVISION = "pod-template-hash", "deployment.kubernetes.io/revision"


def deployment(out: Writer, obj: Object, sets: list[Object]) -> None:
    """Write a deployment; `sets` are the replica sets it owns."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    out.write(0, f"CreationTimestamp:\t{timestamp(metadata.get('creationTimestamp'))}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    out.write(0, f"Selector:\t{selector(spec.get('selector'))}")
    out.write(
        0,
        f"Replicas:\t{spec.get('replicas', 1)} desired | {status.get('updatedReplicas', 0)} updated | "
        f"{status.get('replicas', 0)} total | {status.get('availableReplicas', 0)} available | "
        f"{status.get('unavailableReplicas', 0)} unavailable",
    )
    strategy = spec.get("strategy") or {}
    out.write(0, f"StrategyType:\t{strategy.get('type', '')}")
    out.write(0, f"MinReadySeconds:\t{spec.get('minReadySeconds', 0)}")
    rolling = strategy.get("rollingUpdate")
    if rolling:
        text = f"{rolling['maxUnavailable']} max unavailable, {rolling['maxSurge']} max surge"
        out.write(0, f"RollingUpdateStrategy:\t{text}")
    template(out, spec["template"])
    if status.get("conditions"):
        out.write(0, "Conditions:\n  Type\tStatus\tReason")
        out.write(1, "----\t------\t------")
        for one in status["conditions"]:
            out.write(1, f"{one['type']} \t{one['status']}\t{one.get('reason', '')}")
    new = next((one for one in sets if _same_template(one, spec["template"])), None)
    older = [one for one in sets if one is not new]
    out.write(0, f"OldReplicaSets:\t{_listed(sorted(older, key=_number))}")
    out.write(0, f"NewReplicaSet:\t{_listed([new] if new else [])}")


def _number(one: Object) -> int:
    return int((one["metadata"].get("annotations") or {}).get(REVISION, 0))


def _listed(sets: list[Object]) -> str:
    texts = [
        f"{one['metadata']['name']} ({(one.get('status') or {}).get('replicas', 0)}/{one['spec'].get('replicas', 0)} replicas created)"
        for one in sets
    ]
    return ", ".join(texts) or NONE


def _same_template(one: Object, wanted: Object) -> bool:
    found = one["spec"]["template"]
    labels = {k: v for k, v in ((found.get("metadata") or {}).get("labels") or {}).items() if k != HASH}
    here = {**found, "metadata": {**(found.get("metadata") or {}), "labels": labels}}
    return bool(here == {**wanted, "metadata": {**(wanted.get("metadata") or {})}})


def _pods_line(counts: dict[str, int]) -> str:
    return (
        f"{counts.get('Running', 0)} Running / {counts.get('Pending', 0)} Waiting / "
        f"{counts.get('Succeeded', 0)} Succeeded / {counts.get('Failed', 0)} Failed"
    )


def _owner(out: Writer, obj: Object) -> None:
    owner = controller_of(obj)
    if owner:
        out.write(0, f"Controlled By:\t{owner['kind']}/{owner['name']}")


def replica_set(out: Writer, obj: Object, counts: dict[str, int]) -> None:
    """Write a replica set; `counts` are its pods by phase."""
    spec, status, metadata = obj["spec"], obj.get("status") or {}, obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    out.write(0, f"Selector:\t{selector(spec.get('selector'))}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    _owner(out, obj)
    out.write(0, f"Replicas:\t{status.get('replicas', 0)} current / {spec.get('replicas', 1)} desired")
    out.write(0, f"Pods Status:\t{_pods_line(counts)}")
    template(out, spec["template"])
    _conditions(out, status)


def _conditions(out: Writer, status: Object) -> None:
    if status.get("conditions"):
        out.write(0, "Conditions:\n  Type\tStatus\tReason")
        out.write(1, "----\t------\t------")
        for one in status["conditions"]:
            out.write(1, f"{one['type']} \t{one['status']}\t{one.get('reason', '')}")


def daemon_set(out: Writer, obj: Object, counts: dict[str, int]) -> None:
    """Write a daemon set."""
    spec, status, metadata = obj["spec"], obj.get("status") or {}, obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    out.write(0, f"Selector:\t{selector(spec.get('selector'))}")
    mapping(out, 0, "Node-Selector", spec["template"]["spec"].get("nodeSelector"))
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    for title, field in (
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ):
        out.write(0, f"{title}: {status.get(field, 0)}")
    out.write(0, f"Pods Status:\t{_pods_line(counts)}")
    template(out, spec["template"])


def stateful_set(out: Writer, obj: Object, counts: dict[str, int]) -> None:
    """Write a stateful set."""
    spec, status, metadata = obj["spec"], obj.get("status") or {}, obj["metadata"]
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    out.write(0, f"CreationTimestamp:\t{timestamp(metadata.get('creationTimestamp'))}")
    out.write(0, f"Selector:\t{selector(spec.get('selector'))}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    out.write(0, f"Replicas:\t{spec.get('replicas', 1)} desired | {status.get('replicas', 0)} total")
    strategy = spec.get("updateStrategy") or {}
    out.write(0, f"Update Strategy:\t{strategy.get('type', '')}")
    if (strategy.get("rollingUpdate") or {}).get("partition") is not None:
        out.write(1, f"Partition:\t{strategy['rollingUpdate']['partition']}")
        if strategy["rollingUpdate"].get("maxUnavailable") is not None:
            out.write(1, f"MaxUnavailable:\t{strategy['rollingUpdate']['maxUnavailable']}")
    out.write(0, f"Pods Status:\t{_pods_line(counts)}")
    template(out, spec["template"])
    _claims(out, spec.get("volumeClaimTemplates") or [])


def _claims(out: Writer, found: list[Object]) -> None:
    if not found:
        out.write(0, f"Volume Claims:\t{NONE}")
        return
    out.write(0, "Volume Claims:")
    for one in found:
        spec = one["spec"]
        out.write(1, f"Name:\t{one['metadata']['name']}")
        out.write(1, f"StorageClass:\t{spec.get('storageClassName', '')}")
        mapping(out, 1, "Labels", one["metadata"].get("labels"))
        annotations(out, 1, "Annotations", one["metadata"].get("annotations"))
        out.write(1, f"Capacity:\t{((spec.get('resources') or {}).get('requests') or {}).get('storage', '<default>')}")
        out.write(1, f"Access Modes:\t[{' '.join(spec.get('accessModes') or ())}]")


def job(out: Writer, obj: Object) -> None:
    """Write a job."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{metadata['name']}")
    out.write(0, f"Namespace:\t{metadata.get('namespace', '')}")
    if spec.get("selector"):
        out.write(0, f"Selector:\t{selector(spec['selector'])}")
    mapping(out, 0, "Labels", metadata.get("labels"))
    annotations(out, 0, "Annotations", metadata.get("annotations"))
    _owner(out, obj)
    out.write(0, f"Parallelism:\t{spec.get('parallelism', '<unset>')}")
    out.write(0, f"Completions:\t{spec.get('completions', '<unset>')}")
    if spec.get("completionMode"):
        out.write(0, f"Completion Mode:\t{spec['completionMode']}")
    if spec.get("suspend") is not None:
        out.write(0, f"Suspend:\t{truth(spec['suspend'])}")
    if spec.get("backoffLimit") is not None:
        out.write(0, f"Backoff Limit:\t{spec['backoffLimit']}")
    if spec.get("ttlSecondsAfterFinished") is not None:
        out.write(0, f"TTL Seconds After Finished:\t{spec['ttlSecondsAfterFinished']}")
    _times(out, status)
    if spec.get("activeDeadlineSeconds"):
        out.write(0, f"Active Deadline Seconds:\t{spec['activeDeadlineSeconds']}s")
    ready = f" ({status['ready']} Ready)" if status.get("ready") is not None else ""
    out.write(
        0,
        f"Pods Statuses:\t{status.get('active', 0)} Active{ready} / {status.get('succeeded', 0)} Succeeded / "
        f"{status.get('failed', 0)} Failed",
    )
    if spec.get("completionMode") == "Indexed":
        out.write(0, f"Completed Indexes:\t{status.get('completedIndexes') or NONE}")
    template(out, spec["template"])


def _times(out: Writer, status: Object) -> None:
    start, end = status.get("startTime"), status.get("completionTime")
    if start:
        out.write(0, f"Start Time:\t{timestamp(start)}")
    if end:
        out.write(0, f"Completed At:\t{timestamp(end)}")
    if start and end:
        out.write(0, f"Duration:\t{short((parse_time(end) - parse_time(start)).total_seconds())}")


def cron_job(out: Writer, obj: Object) -> None:
    """Write a cron job."""
    spec, status = obj["spec"], obj.get("status") or {}
    head(out, obj)
    out.write(0, f"Schedule:\t{spec['schedule']}")
    out.write(0, f"Concurrency Policy:\t{spec.get('concurrencyPolicy', '')}")
    out.write(0, f"Suspend:\t{'True' if spec.get('suspend') else 'False'}")
    for title, field in (
        ("Successful Job History Limit", "successfulJobsHistoryLimit"), ("Failed Job History Limit", "failedJobsHistoryLimit"),
    ):  # fmt: skip
        value = spec.get(field)
        out.write(0, f"{title}:\t{'<unset>' if value is None else value}")
    deadline = spec.get("startingDeadlineSeconds")
    out.write(0, f"Starting Deadline Seconds:\t{'<unset>' if deadline is None else f'{deadline}s'}")
    jobs = spec["jobTemplate"]["spec"]
    if jobs.get("selector"):
        out.write(0, f"Selector:\t{selector(jobs['selector'])}")
    else:
        out.write(0, "Selector:\t<unset>")
    out.write(0, f"Parallelism:\t{jobs.get('parallelism', '<unset>')}")
    out.write(0, f"Completions:\t{jobs.get('completions', '<unset>')}")
    template(out, jobs["template"])
    last = status.get("lastScheduleTime")
    out.write(0, f"Last Schedule Time:\t{timestamp(last) if last else '<unset>'}")
    active = status.get("active") or ()
    out.write(0, "Active Jobs:\t" + (", ".join(one["name"] for one in active) or NONE))


def autoscaler(out: Writer, obj: Object) -> None:
    """Write a horizontal pod autoscaler (autoscaling/v2)."""
    spec, status = obj["spec"], obj.get("status") or {}
    head(out, obj)
    out.write(0, f"CreationTimestamp:\t{timestamp(obj['metadata'].get('creationTimestamp'))}")
    reference = spec["scaleTargetRef"]
    out.write(0, f"Reference:\t{reference['kind']}/{reference['name']}")
    out.write(0, "Metrics:\t( current / target )")
    current = {(one.get("resource") or {}).get("name"): one for one in status.get("currentMetrics") or ()}
    for one in spec.get("metrics") or ():
        _metric(out, one, current)
    out.write(0, f"Min replicas:\t{spec.get('minReplicas', '<unset>')}")
    out.write(0, f"Max replicas:\t{spec['maxReplicas']}")
    _behavior(out, spec.get("behavior"))
    out.write(
        0,
        f"{reference['kind']} pods:\t{status.get('currentReplicas', 0)} current / {status.get('desiredReplicas', 0)} desired",
    )
    if status.get("conditions"):
        out.write(0, "Conditions:")
        rows(out, 1, ("Type", "Status", "Reason", "Message"), [
            (one["type"], one["status"], one.get("reason", ""), one.get("message", "")) for one in status["conditions"]
        ])  # fmt: skip


def _metric(out: Writer, one: Object, current: dict[Any, Object]) -> None:
    kind = one["type"]
    if kind != "Resource":
        body = one.get(kind[0].lower() + kind[1:]) or {}
        name = (body.get("metric") or {}).get("name") or body.get("name", "")
        target = body.get("target") or {}
        aim = target.get("averageValue") or target.get("value") or target.get("averageUtilization", "<auto>")
        out.write(1, f'"{name}" ({kind.lower()}):\t<unknown> / {aim}')
        return
    resource = one["resource"]
    target = resource["target"]
    seen = ((current.get(resource["name"]) or {}).get("resource") or {}).get("current") or {}
    if target.get("averageValue") is not None:
        out.write(
            1,
            f"resource {resource['name']} on pods:\t{seen.get('averageValue', '<unknown>')} / {target['averageValue']}",
        )
        return
    now = (
        f"{seen['averageUtilization']}% ({seen.get('averageValue', '')})"
        if "averageUtilization" in seen
        else "<unknown>"
    )
    out.write(
        1,
        f"resource {resource['name']} on pods  (as a percentage of request):\t{now} / {target.get('averageUtilization', '<auto>')}%",
    )


def _behavior(out: Writer, behavior: Object | None) -> None:
    if not behavior:
        return
    out.write(0, "Behavior:")
    for title, field in (("Scale Up", "scaleUp"), ("Scale Down", "scaleDown")):
        rules = behavior.get(field)
        if not rules:
            continue
        out.write(1, f"{title}:")
        if rules.get("stabilizationWindowSeconds") is not None:
            out.write(2, f"Stabilization Window: {rules['stabilizationWindowSeconds']} seconds")
        out.write(2, f"Select Policy: {rules.get('selectPolicy') or 'Max'}")
        out.write(2, "Policies:")
        for policy in rules.get("policies") or ():
            out.write(
                3, f"- Type: {policy['type']}\tValue: {policy['value']}\tPeriod: {policy['periodSeconds']} seconds"
            )


def disruption_budget(out: Writer, obj: Object) -> None:
    """Write a disruption budget."""
    spec, status = obj["spec"], obj.get("status") or {}
    out.write(0, f"Name:\t{obj['metadata']['name']}")
    out.write(0, f"Namespace:\t{obj['metadata'].get('namespace', '')}")
    if spec.get("minAvailable") is not None:
        out.write(0, f"Min available:\t{spec['minAvailable']}")
    elif spec.get("maxUnavailable") is not None:
        out.write(0, f"Max unavailable:\t{spec['maxUnavailable']}")
    out.write(0, f"Selector:\t{selector(spec.get('selector'), empty='<unset>')}")
    out.write(0, "Status:")
    out.write(2, f"Allowed disruptions:\t{status.get('disruptionsAllowed', 0)}")
    out.write(2, f"Current:\t{status.get('currentHealthy', 0)}")
    out.write(2, f"Desired:\t{status.get('desiredHealthy', 0)}")
    out.write(2, f"Total:\t{status.get('expectedPods', 0)}")
