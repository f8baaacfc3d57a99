"""What /metrics and its like tell: the numbers the agent keeps, and how things are right now.

Sources: https://kubernetes.io/docs/reference/instrumentation/metrics/,
https://kubernetes.io/docs/reference/instrumentation/node-metrics/
"""

import os
import resource
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cri import api_pb2 as cri
from agent.cri.client import RuntimeFailure
from agent.metrics import Row, metric
from agent.node import VERSION
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_runtime import PodRuntime
from agent.pod_state import is_over, is_static
from agent.statistics import NodeStatistics, boot_time_seconds
from agent.volumes.manager import plugin_name

_VOLUME_STATS = {
    "capacity_bytes": "capacityBytes", "available_bytes": "availableBytes", "used_bytes": "usedBytes",
    "inodes": "inodes", "inodes_free": "inodesFree", "inodes_used": "inodesUsed",
}  # fmt: skip


class MetricPages:
    """The texts of /metrics, /metrics/probes and /metrics/cadvisor."""

    def __init__(self, services: NodeServices, pods: PodManager, statistics: NodeStatistics) -> None:
        self._services = services
        self._pods = pods
        self._statistics = statistics

    async def agent(self) -> str:
        """Return /metrics: the agent's own."""
        lines = [*self._services.metrics.text(), *self._pods_now(), *_process(), *await self._volumes()]
        return "\n".join(lines) + "\n"

    def probes(self) -> str:
        """Return /metrics/probes."""
        lines = list(self._services.metrics.text(probes=True))
        return "\n".join(lines) + "\n" if lines else ""

    async def cadvisor(self) -> str:
        """Return /metrics/cadvisor, as the runtime measures it; of one that can't, what follows from its statistics."""
        try:
            found = await self._services.runtime.pod_metrics()
        except RuntimeFailure as error:
            if error.is_away:
                raise
            return await self._statistics.cadvisor_metrics()
        return "\n".join([*_measured(*found), *self._statistics.machine_metrics()]) + "\n"

    def _pods_now(self) -> Iterator[str]:
        runtimes = list(self._pods.runtimes())
        states = Counter(
            attempts[0].state for one in runtimes for attempts in one.seen.containers.values() if attempts
        )  # fmt: skip
        name = self._services.config.node_name
        yield from metric("kubelet_node_name", "gauge", [({"node": name}, 1)], "The node's name; always 1.")
        yield from metric("kubelet_running_pods", "gauge", [({}, sum(one.seen.sandbox_ready for one in runtimes))])
        rows: list[Row] = [({"container_state": state}, states[state]) for state in ("created", "exited", "running")]
        yield from metric("kubelet_running_containers", "gauge", rows)
        for wanted, told in (("desired", lambda one: not one.deleted), ("active", _is_active)):
            counts = Counter(_is_static(one) for one in runtimes if told(one))
            labelled: list[Row] = [({"static": value}, counts[value]) for value in ("", "true")]
            yield from metric(f"kubelet_{wanted}_pods", "gauge", labelled)
        yield from metric("kubelet_mirror_pods", "gauge", [({}, sum(one.is_mirrored for one in runtimes))])
        yield from metric("kubelet_working_pods", "gauge", _working(runtimes))
        debuggers = sum(len(one.pod["spec"].get("ephemeralContainers") or ()) for one in runtimes)
        yield from metric("kubelet_managed_ephemeral_containers", "gauge", [({}, debuggers)])
        yield from metric("kubelet_metrics_provider", "gauge", [({"provider": "cri"}, 1)])
        yield from self._volume_counts(runtimes)
        major, minor = VERSION.removeprefix("v").split(".")[:2]
        labels = {"git_version": VERSION, "major": major, "minor": minor, "platform": f"linux/{os.uname().machine}"}
        yield from metric("kubernetes_build_info", "gauge", [(labels, 1)])

    def _volume_counts(self, runtimes: list[PodRuntime]) -> Iterator[str]:
        plugins = Counter(
            plugin_name(volume)
            for one in runtimes
            if not is_over(one.pod)
            for volume in one.pod["spec"].get("volumes") or ()
        )
        states = ("actual_state_of_world", "desired_state_of_world")
        rows: list[Row] = [
            ({"plugin_name": plugin, "state": state}, count)
            for plugin, count in sorted(plugins.items())
            for state in states
        ]
        yield from metric("volume_manager_total_volumes", "gauge", rows)

    async def _volumes(self) -> list[str]:
        found = await self._statistics.claimed_volumes()
        lines: list[str] = []
        for name, key in _VOLUME_STATS.items():
            rows: list[Row] = [(_claim(one), one[key]) for one in found if key in one]
            lines += metric(f"kubelet_volume_stats_{name}", "gauge", rows)
        health: list[Row] = [
            (_claim(one), one["volumeHealthStats"]["abnormal"]) for one in found if "volumeHealthStats" in one
        ]
        return [*lines, *metric("kubelet_volume_stats_health_status_abnormal", "gauge", health)]


def _claim(stats: Mapping[str, Any]) -> dict[str, str]:
    return {"namespace": stats["pvcRef"]["namespace"], "persistentvolumeclaim": stats["pvcRef"]["name"]}


def _is_static(one: PodRuntime) -> str:
    return "true" if is_static(one.pod) else ""


def _working(runtimes: list[PodRuntime]) -> list[Row]:
    """Return how many pods there are of each kind: whether somebody wants them, how far they are, whose they are."""
    counts = Counter((_wanted(one), _lifecycle(one), _is_static(one)) for one in runtimes)
    return [
        ({"config": wanted, "lifecycle": lifecycle, "static": static}, counts[wanted, lifecycle, static])
        for wanted in ("desired", "orphan", "runtime_only")
        for lifecycle in ("sync", "terminating", "terminated")
        for static in (("unknown",) if wanted == "runtime_only" else ("", "true"))
    ]


def _wanted(one: PodRuntime) -> str:
    return "orphan" if one.deleted else "desired"


def _is_active(one: PodRuntime) -> bool:
    return not is_over(one.pod) and not one.deleted


def _lifecycle(one: PodRuntime) -> str:
    if is_over(one.pod):
        return "terminated"
    return "terminating" if one.deleted or one.pod["metadata"].get("deletionTimestamp") else "sync"


def _process() -> Iterator[str]:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    values = (
        ("process_cpu_seconds_total", "counter", (int(fields[11]) + int(fields[12])) / ticks),
        ("process_resident_memory_bytes", "gauge", int(fields[21]) * page),
        ("process_virtual_memory_bytes", "gauge", int(fields[20])),
        ("process_start_time_seconds", "gauge", boot_time_seconds() + int(fields[19]) / ticks),
        ("process_open_fds", "gauge", len(os.listdir("/proc/self/fd"))),
        ("process_max_fds", "gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    )
    for name, kind, value in values:
        yield from metric(name, kind, [({}, value)], "Of the agent's process.")


def _measured(descriptors: Mapping[str, Any], pods: list[Any]) -> Iterator[str]:
    """Yield what the runtime measured, one metric after another, as the format wants it."""
    rows: dict[str, list[Row]] = {}
    kinds: dict[str, str] = {}
    for pod in pods:
        for one in (*pod.metrics, *(each for container in pod.container_metrics for each in container.metrics)):
            described = descriptors.get(one.name)
            if described is not None:
                labels = dict(zip(described.label_keys, one.label_values, strict=False))
                rows.setdefault(one.name, []).append((labels, one.value.value))
                kinds[one.name] = "counter" if one.metric_type == cri.COUNTER else "gauge"
    for name, found in sorted(rows.items()):
        yield from metric(name, kinds[name], found, descriptors[name].help)
