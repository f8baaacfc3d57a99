"""The pods of a Job as they are made, and how long a Job waits before it makes the next after failures.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from controllers.batch_views import Job
from controllers.job_plan import FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, IndexFailures
from controllers.pod_control import pod_of_template
from controllers.views import Pod
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import JOBS

_FIRST_SECONDS, _MOST_SECONDS = 10.0, 600.0
_ENVIRONMENT = "JOB_COMPLETION_INDEX"
_MAX_HOST_NAME = 63


def plain_pod(job: Job) -> dict[str, Any]:
    """Return the next pod of a Job without indexes."""
    template = job.spec.template
    given = list((template.get("metadata") or {}).get("finalizers") or ())
    return pod_of_template(JOBS, job.metadata, template, finalizers=[*given, FINALIZER])


def indexed_pod(job: Job, index: int, failures: IndexFailures | None) -> dict[str, Any]:
    """Return the pod of an index; `failures` are those of the index, where the Job limits them."""
    body = plain_pod(job)
    metadata, spec = body["metadata"], copy.deepcopy(body["spec"])
    number = str(index)
    metadata["generateName"] = f"{job.metadata.name}-{index}-"
    metadata["labels"] = {**metadata.get("labels", {}), INDEX: number}
    metadata["annotations"] = {**metadata.get("annotations", {}), INDEX: number}
    if failures is not None:
        metadata["annotations"][INDEX_FAILURES] = str(failures.counted)
        if failures.ignored:
            metadata["annotations"][INDEX_IGNORED] = str(failures.ignored)
    spec["hostname"] = f"{job.metadata.name}-{index}"[:_MAX_HOST_NAME]
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        environment = container.setdefault("env", [])
        if all(one["name"] != _ENVIRONMENT for one in environment):
            environment.append({"name": _ENVIRONMENT, "valueFrom": source})
    return {**body, "spec": spec}


def index_wait_seconds(failures: IndexFailures, *, at: datetime) -> float:
    """Return how long the next pod of an index has to wait still after those that failed."""
    count = failures.counted + failures.ignored
    return _left(count, _ended_at(failures.last), at) if failures.last is not None and count else 0.0


def _left(count: int, last: datetime, at: datetime) -> float:
    pause = min(_FIRST_SECONDS * 2 ** (count - 1), _MOST_SECONDS)
    return max(0.0, pause - (at - last).total_seconds())


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: datetime | None = None


class Backoff:
    """How long each Job waits: ten seconds after a failure, twice as long after each more in a row."""

    def __init__(self) -> None:
        self._failures: dict[ObjectKey, _Failures] = {}

    def note(self, key: ObjectKey, succeeded: Sequence[Pod], failed: Sequence[Pod]) -> None:
        """Note pods that ended; a success ends the row of failures before it."""
        if not succeeded and not failed:
            return
        since = max((_ended_at(pod) for pod in succeeded), default=None)
        row = [at for pod in failed if (at := _ended_at(pod)) and (since is None or at > since)]
        known = self._failures.setdefault(key, _Failures())
        if since is not None:
            known.count, known.last = 0, None
        known.count += len(row)
        known.last = max([*row, *([known.last] if known.last is not None else [])], default=None)

    def seconds(self, key: ObjectKey, *, at: datetime) -> float:
        """Return how long to wait still."""
        known = self._failures.get(key)
        if known is None or known.last is None or not known.count:
            return 0.0
        return _left(known.count, known.last, at)

    def forget(self, key: ObjectKey) -> None:
        """Drop a Job that is gone."""
        self._failures.pop(key, None)


def _ended_at(pod: Pod) -> datetime:
    times = [
        parse_time(ended.finishedAt)
        for status in pod.status.containerStatuses
        if (ended := status.state.terminated) is not None and ended.finishedAt
    ]
    if times:
        return max(times)
    ready, metadata = pod.ready_condition, pod.metadata
    if ready is not None and ready.status == "False" and ready.lastTransitionTime:
        return parse_time(ready.lastTransitionTime)
    if metadata.deletionTimestamp:  # the time when it will be over
        return parse_time(metadata.deletionTimestamp) - timedelta(seconds=metadata.deletionGracePeriodSeconds or 0)
    return parse_time(metadata.creationTimestamp) if metadata.creationTimestamp else datetime.now(UTC)
