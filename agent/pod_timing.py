"""What is counted and timed of one pod's life: rounds of work, looks at the runtime, its start, its containers' ends.

Source of the names: https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent.metrics import Metrics
from agent.pod_state import ContainerSeen, Pod, Seen, all_specs
from machinery.api.meta import parse_time

CONTAINER_TYPES = {
    "containers": "container", "initContainers": "init_container", "ephemeralContainers": "ephemeral_container",
}  # fmt: skip


class PodTiming:
    """The measures of one pod."""

    def __init__(self, metrics: Metrics, pod: Pod) -> None:
        self._metrics = metrics
        self._pod = pod
        self._began = time.time()
        # One that runs already was started by an agent before this one, and one that is over never starts.
        phase = (pod.get("status") or {}).get("phase")
        self._is_starting = phase in (None, "", "Pending") and bool(pod["spec"].get("containers"))
        self._is_new = self._is_starting
        if self._is_new:
            metrics.observe("kubelet_containers_per_pod_count", len(pod["spec"]["containers"]))

    @contextmanager
    def round(self, kind: str) -> Iterator[None]:
        """Time a round of work; the first one of a new pod counts as its creation."""
        if self._is_new:
            self._metrics.observe("kubelet_pod_worker_start_duration_seconds", time.time() - self._began)
            kind, self._is_new = "create", False
        with self._metrics.timed("kubelet_pod_worker_duration_seconds", kind):
            yield

    @contextmanager
    def look(self) -> Iterator[None]:
        """Time a look at the pod in the runtime: kubelets look at all at once (relist)."""
        name, now = "kubelet_pleg_last_seen_seconds", time.time()
        if before := self._metrics.value(name):
            self._metrics.observe("kubelet_pleg_relist_interval_seconds", now - before)
        self._metrics.set(name, now)
        with self._metrics.timed("kubelet_pleg_relist_duration_seconds"):
            yield

    @contextmanager
    def sandbox(self, handler: str) -> Iterator[None]:
        """Count and time a sandbox being made."""
        try:
            self._metrics.add("kubelet_started_pods_total")
            with self._metrics.timed("kubelet_run_podsandbox_duration_seconds", handler):
                yield
        except Exception:
            self._metrics.add("kubelet_started_pods_errors_total")
            self._metrics.add("kubelet_run_podsandbox_errors_total", handler)
            raise

    def container_ended(self, seen: ContainerSeen) -> None:
        """Count a container that ended."""
        kind = next((CONTAINER_TYPES[group] for group, spec in all_specs(self._pod) if spec["name"] == seen.name), "")
        reason = seen.reason or ("Error" if seen.exit_code else "Completed")
        kind = kind or CONTAINER_TYPES["ephemeralContainers"]  # added after the pod was first seen
        self._metrics.add("kubelet_terminated_containers_total", kind, str(seen.exit_code), reason)

    def seen(self, seen: Seen) -> None:
        """Time the pod's start once all its containers have been started."""
        if not self._is_starting:
            return
        newest: list[Any] = [seen.newest(spec["name"]) for spec in self._pod["spec"]["containers"]]
        if not all(one is not None and one.started_at for one in newest):
            return
        self._is_starting = False
        now, created = time.time(), parse_time(self._pod["metadata"]["creationTimestamp"]).timestamp()
        self._metrics.observe("kubelet_pod_start_duration_seconds", now - self._began)
        self._metrics.observe("kubelet_pod_start_total_duration_seconds", now - created)
        inits = [seen.newest(spec["name"]) for spec in self._pod["spec"].get("initContainers") or ()]
        ends = [one.finished_at for one in inits if one is not None]
        # From when nothing but its own containers was left to wait for: creation times are whole seconds.
        self._metrics.observe("kubelet_pod_start_sli_duration_seconds", max(now - max([created, *ends]), 0.0))
