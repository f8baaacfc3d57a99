"""Numbers an agent keeps of its own work, under the names of kubelets' metrics, in the text format of Prometheus.

The numbers are plain: a client library would cost memory on each node, and adds suffixes where these names have none.
Source: https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

import bisect
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

Row = tuple[Mapping[str, str], float]

_DEFAULT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_START = (
    0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600,
)  # fmt: skip
_CALL = tuple(round(0.005 * 2.5**exponent, 6) for exponent in range(14))
_PULL = (1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 3600)
_STORAGE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)
_SYNC = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 45, 60)
_REST = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60)
_CONTAINERS = (1, 2, 4, 8, 16)
_BUCKETS = {
    "default": _DEFAULT, "start": _START, "call": _CALL, "pull": _PULL, "storage": _STORAGE, "sync": _SYNC,
    "rest": _REST, "containers": _CONTAINERS,
}  # fmt: skip

# ruff: noqa: E501 - a table
# name | c for counter, g for gauge, or the buckets of a histogram | labels | help
_TABLE = """
csi_operations_seconds|storage|driver_name,grpc_status_code,method_name,migrated|Seconds that calls of storage drivers took.
kubelet_admission_rejections_total|c|reason|Pods that this node refused.
kubelet_certificate_manager_client_expiration_renew_errors|c||Failures to renew the client certificate.
kubelet_certificate_manager_client_ttl_seconds|g||How long the client certificate is still valid.
kubelet_certificate_manager_server_expiration_renew_errors|c||Failures to renew the serving certificate.
kubelet_certificate_manager_server_ttl_seconds|g||How long the serving certificate is still valid.
kubelet_cgroup_manager_duration_seconds|default|operation_type|Seconds that work on pods' cgroups took.
kubelet_containers_per_pod_count|containers||Containers of each pod that came to this node.
kubelet_device_plugin_alloc_duration_seconds|default|resource_name|Seconds that device plugins took to give devices.
kubelet_device_plugin_registration_total|c|resource_name|Registrations of device plugins.
kubelet_evictions|c|eviction_signal|Pods that were evicted, by what was short.
kubelet_graceful_shutdown_end_time_seconds|g||When pods had ended for the last stop of the machine, in seconds since 1970.
kubelet_graceful_shutdown_start_time_seconds|g||When the last stop of the machine was announced, in seconds since 1970.
kubelet_http_requests_duration_seconds|default|method,path,server_type,long_running|Seconds that answers took.
kubelet_http_requests_total|c|method,path,server_type,long_running|Requests to this server.
kubelet_image_garbage_collected_total|c|reason|Images that were removed to make room.
kubelet_image_pull_duration_seconds|pull|image_size_in_bytes|Seconds that images took to be pulled, by their size.
kubelet_orphaned_runtime_pods_total|c||Pods found in the runtime that nobody wanted.
kubelet_pleg_discard_events|c||Events of the runtime that were dropped; none are.
kubelet_pleg_last_seen_seconds|g||When the runtime was looked at last, in seconds since 1970.
kubelet_pleg_relist_duration_seconds|default||Seconds that looks at a pod's containers took.
kubelet_pleg_relist_interval_seconds|default||Seconds between two such looks, at any pod.
kubelet_pod_resources_endpoint_errors_get|c|server_api_version|Calls of Get of the PodResources API that failed.
kubelet_pod_resources_endpoint_requests_get|c|server_api_version|Calls of Get of the PodResources API.
kubelet_pod_resources_endpoint_requests_get_allocatable|c|server_api_version|Calls of GetAllocatableResources of the PodResources API.
kubelet_pod_resources_endpoint_requests_list|c|server_api_version|Calls of List of the PodResources API.
kubelet_pod_resources_endpoint_requests_total|c|server_api_version|Calls of the PodResources API.
kubelet_pod_start_duration_seconds|start||Seconds from first seeing a pod until it runs.
kubelet_pod_start_sli_duration_seconds|start||Seconds from a pod's creation until it runs, without pulls and init containers.
kubelet_pod_start_total_duration_seconds|start||Seconds from a pod's creation until it runs.
kubelet_pod_status_sync_duration_seconds|sync||Seconds that statuses took to be written to the API.
kubelet_pod_worker_duration_seconds|default|operation_type|Seconds that one round of work on a pod took.
kubelet_pod_worker_start_duration_seconds|default||Seconds from seeing a pod until work on it began.
kubelet_run_podsandbox_duration_seconds|default|runtime_handler|Seconds that sandboxes took to be made.
kubelet_run_podsandbox_errors_total|c|runtime_handler|Sandboxes that could not be made.
kubelet_runtime_operations_duration_seconds|call|operation_type|Seconds that calls of the runtime took.
kubelet_runtime_operations_errors_total|c|operation_type|Calls of the runtime that failed.
kubelet_runtime_operations_total|c|operation_type|Calls of the runtime.
kubelet_started_containers_errors_total|c|container_type,code|Containers that could not be started.
kubelet_started_containers_total|c|container_type|Containers that were started.
kubelet_started_pods_errors_total|c||Pods that could not be started.
kubelet_started_pods_total|c||Pods that were started.
kubelet_terminated_containers_total|c|container_type,exit_code,reason|Containers that ended.
kubelet_preemptions|c|preemption_signal|Pods that were ended to make room for a critical one.
prober_probe_duration_seconds|default|probe_type,container,pod,namespace|Seconds that probes took.
prober_probe_total|c|probe_type,result,container,pod,namespace,pod_uid|Probes, by what they came to.
rest_client_request_duration_seconds|rest|verb,host|Seconds until the API server began to answer.
rest_client_requests_total|c|code,method,host|Requests to the API server.
storage_operation_duration_seconds|storage|migrated,operation_name,status,volume_plugin|Seconds that work on volumes took.
"""
_PROBES = "prober_"
_KINDS = {"c": "counter", "g": "gauge"}


@dataclass(slots=True)
class _Family:
    """One metric; values by the values of its labels. A histogram's are its buckets' counts, and then the sum."""

    help: str
    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    histograms: dict[tuple[str, ...], list[float]] = field(default_factory=dict)


def _families() -> dict[str, _Family]:
    found = {}
    for line in _TABLE.strip().splitlines():
        name, kind, labels, text = line.split("|")
        family = _Family(text, _KINDS.get(kind, "histogram"), tuple(filter(None, labels.split(","))))
        family.buckets = _BUCKETS.get(kind, ())
        if not family.labels and kind == "c":
            family.values[()] = 0.0  # so that a rate is there from the first
        found[name] = family
    return found


class Metrics:
    """What one process counts and times. Names that are not in the table raise KeyError."""

    def __init__(self) -> None:
        self._families = _families()

    def add(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Count something; labels in the order of the table."""
        values = self._families[name].values
        values[labels] = values.get(labels, 0.0) + amount

    def set(self, name: str, value: float, *labels: str) -> None:
        """Say how something is now."""
        self._families[name].values[labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Take a value into a histogram."""
        family = self._families[name]
        counts = family.histograms.get(labels)
        if counts is None:
            counts = family.histograms[labels] = [0.0] * (len(family.buckets) + 2)
        counts[bisect.bisect_left(family.buckets, value)] += 1
        counts[-1] += value

    @contextmanager
    def timed(self, name: str, *labels: str) -> Iterator[None]:
        """Time what happens within, whether it succeeds or not."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - began, *labels)

    def value(self, name: str, *labels: str) -> float:
        """Return a counter's or gauge's value, or how often a histogram was given one."""
        family = self._families[name]
        if family.buckets:
            return sum(family.histograms.get(labels, [0.0])[:-1])
        return family.values.get(labels, 0.0)

    def forget(self, prefix: str, **labels: str) -> None:
        """Drop the values with these labels: what they tell of is gone, and they would never be fewer."""
        for name, family in self._families.items():
            if not name.startswith(prefix):
                continue
            places = [(family.labels.index(label), value) for label, value in labels.items() if label in family.labels]
            known: tuple[dict[tuple[str, ...], float] | dict[tuple[str, ...], list[float]], ...]
            known = (family.values, family.histograms)
            for values in known:
                for key in [key for key in values if all(key[at] == value for at, value in places)]:
                    del values[key]

    def text(self, *, probes: bool = False) -> Iterator[str]:
        """Yield the lines of all that has values: of probes, or all others."""
        for name, family in self._families.items():
            if name.startswith(_PROBES) != probes:
                continue
            if family.buckets:
                yield from _histogram(name, family)
            elif family.values:
                rows = [(dict(zip(family.labels, key, strict=True)), value) for key, value in family.values.items()]
                yield from metric(name, family.kind, rows, family.help)


def _histogram(name: str, family: _Family) -> Iterator[str]:
    if not family.histograms:
        return
    yield from _head(name, "histogram", family.help)
    bounds = [*(f"{bound:g}" for bound in family.buckets), "+Inf"]
    for key, counts in family.histograms.items():
        labels = dict(zip(family.labels, key, strict=True))
        total = 0.0
        for bound, count in zip(bounds, counts, strict=False):
            total += count
            yield _line(f"{name}_bucket", {**labels, "le": bound}, total)
        yield _line(f"{name}_sum", labels, counts[-1])
        yield _line(f"{name}_count", labels, total)


def metric(name: str, kind: str, rows: Iterable[Row], text: str = "As kubelets tell it.") -> Sequence[str]:
    """Return one metric's lines; none where there is nothing to tell."""
    lines = [_line(name, labels, value) for labels, value in rows]
    return [*_head(name, kind, text), *lines] if lines else []


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = f"{value:.0f}" if value == int(value) and abs(value) < 2**53 else repr(value)
    text = ",".join(f'{key}="{_escape(each)}"' for key, each in labels.items())
    return f"{name}{{{text}}} {shown}" if text else f"{name} {shown}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
