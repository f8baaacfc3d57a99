"""What this node and its pods use, as the kubelet's Summary API and its metrics tell it.

Sources: https://kubernetes.io/docs/reference/instrumentation/node-metrics/,
https://kubernetes.io/docs/reference/instrumentation/metrics/ (metrics/resource, metrics/cadvisor)
"""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.container_config import log_folder
from agent.cri.client import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from agent.node_services import NodeServices
from agent.pod_manager import PodManager

Stats = dict[str, Any]
_NANOSECONDS = 1e9
# A rate needs a while between its two samples.
_RATE_NANOSECONDS = 1_000_000_000
_NO_RATE = -1


def _when(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / _NANOSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class NodeStatistics:
    """Collects statistics of this node, its pods and their containers."""

    def __init__(self, services: NodeServices, pods: PodManager) -> None:
        self._services = services
        self._pods = pods
        self._cpu: tuple[int, int, int] = (0, 0, _NO_RATE)  # when, CPU time, rate

    async def summary(self) -> Stats:
        """Return the Summary API's answer (v1alpha1)."""
        pods = [await self._pod(one) for one in await self._services.runtime.sandbox_stats()]
        return {"node": await asyncio.to_thread(self._node), "pods": pods}

    def _node(self) -> Stats:
        now = time.time_ns()
        stamp = _when(now)
        disk = shutil.disk_usage(self._services.config.data_dir)
        inodes = os.statvfs(self._services.config.data_dir)
        file_system = {
            "time": stamp, "availableBytes": disk.free, "capacityBytes": disk.total, "usedBytes": disk.used,
            "inodesFree": inodes.f_favail, "inodes": inodes.f_files, "inodesUsed": inodes.f_files - inodes.f_ffree,
        }  # fmt: skip
        return {
            "nodeName": self._services.config.node_name, "startTime": _boot_time(), "cpu": self._node_cpu(now),
            "memory": _node_memory(stamp), "network": _node_network(stamp), "fs": file_system,
            "runtime": {"imageFs": file_system, "containerFs": file_system},
            "rlimit": {"time": stamp, "maxpid": _number("/proc/sys/kernel/pid_max"), "curproc": _process_count()},
        }  # fmt: skip

    def _node_cpu(self, now: int) -> Stats:
        fields = Path("/proc/stat").read_text().split(None, 9)[1:9]
        ticks = sum(map(int, fields)) - int(fields[3]) - int(fields[4])  # all but idle and waiting for disks
        used = int(ticks * _NANOSECONDS / os.sysconf("SC_CLK_TCK"))
        at, before, rate = self._cpu
        if now - at >= _RATE_NANOSECONDS:
            rate = int((used - before) * _NANOSECONDS / (now - at)) if at and used >= before else _NO_RATE
            self._cpu = (now, used, rate)
        found: Stats = {"time": _when(now), "usageCoreNanoSeconds": used}
        return found if rate == _NO_RATE else {**found, "usageNanoCores": rate}

    async def _pod(self, one: Any) -> Stats:
        labels = one.attributes.labels
        name, namespace = labels.get(POD_NAME, ""), labels.get(POD_NAMESPACE, "")
        found: Stats = {
            "podRef": {"name": name, "namespace": namespace, "uid": labels.get(POD_UID, "")},
            "containers": [self._container(each) for each in one.linux.containers],
            "cpu": _cpu(one.linux.cpu), "memory": _memory(one.linux.memory),
        }  # fmt: skip
        if one.linux.HasField("network"):
            found["network"] = _network(one.linux.network)
        if one.linux.HasField("process"):
            found["process_stats"] = {"process_count": one.linux.process.process_count.value}
        pod = self._pods.find(namespace, name)
        if pod is not None:
            found["startTime"] = (pod.pod.get("status") or {}).get("startTime")
            used = await asyncio.to_thread(self._written, pod.pod)
            layers = sum(each["rootfs"]["usedBytes"] for each in found["containers"])
            found["ephemeral-storage"] = {"time": _when(time.time_ns()), "usedBytes": used + layers}
        return found

    def _written(self, pod: Mapping[str, Any]) -> int:
        """Return the bytes of a pod's logs and emptyDirs on disk."""
        folders = [log_folder(self._services.config.logs_dir, pod)]
        volumes = [one for one in pod["spec"].get("volumes") or () if "emptyDir" in one]
        on_disk = [one for one in volumes if not (one["emptyDir"] or {}).get("medium")]
        folders += [self._services.volumes.path(pod, one) for one in on_disk]
        return sum(disk_usage(folder) for folder in folders)

    @staticmethod
    def _container(one: Any) -> Stats:
        layer = one.writable_layer
        return {
            "name": one.attributes.labels.get(CONTAINER_NAME, one.attributes.metadata.name),
            "startTime": _when(time.time_ns()), "cpu": _cpu(one.cpu), "memory": _memory(one.memory),
            "rootfs": {
                "time": _when(layer.timestamp), "usedBytes": layer.used_bytes.value,
                "inodesUsed": layer.inodes_used.value,
            },
        }  # fmt: skip

    async def resource_metrics(self) -> str:
        """Return /metrics/resource: what autoscalers and `kubectl top` read."""
        summary = await self.summary()
        rows = [
            *_row("node_cpu_usage_seconds_total", "counter", [({}, _seconds(summary["node"]["cpu"]))]),
            *_row("node_memory_working_set_bytes", "gauge", [({}, summary["node"]["memory"]["workingSetBytes"])]),
        ]
        for kind, read in (("cpu_usage_seconds_total", _cpu_of), ("memory_working_set_bytes", _memory_of)):
            type_ = "counter" if kind.startswith("cpu") else "gauge"
            rows += _row(f"container_{kind}", type_, list(_of_containers(summary, read)))
            rows += _row(f"pod_{kind}", type_, [(_pod_labels(pod), read(pod)) for pod in summary["pods"]])
        rows += _row("scrape_error", "gauge", [({}, 0)])
        return "\n".join(rows) + "\n"

    async def cadvisor_metrics(self) -> str:
        """Return /metrics/cadvisor: containers' use under the names that dashboards know."""
        summary = await self.summary()
        readers: list[tuple[str, str, Any]] = [
            ("container_cpu_usage_seconds_total", "counter", _cpu_of),
            ("container_memory_working_set_bytes", "gauge", _memory_of),
            ("container_memory_usage_bytes", "gauge", lambda one: one["memory"].get("usageBytes", 0)),
            ("container_memory_rss", "gauge", lambda one: one["memory"].get("rssBytes", 0)),
        ]
        rows: list[str] = []
        for name, type_, read in readers:
            values = list(_of_containers(summary, read))
            values += [({"container": "", **_pod_labels(pod)}, read(pod)) for pod in summary["pods"]]
            rows += _row(name, type_, values)
        layers = _of_containers(summary, lambda one: one["rootfs"]["usedBytes"])
        rows += _row("container_fs_usage_bytes", "gauge", list(layers))
        for name, key in (("receive", "rxBytes"), ("transmit", "txBytes")):
            networks = [(pod, pod["network"]) for pod in summary["pods"] if "network" in pod]
            values = [
                ({"interface": one.get("name", ""), **_pod_labels(pod)}, one.get(key, 0)) for pod, one in networks
            ]
            rows += _row(f"container_network_{name}_bytes_total", "counter", values)
        cores, memory = os.cpu_count() or 1, _meminfo()["MemTotal"]
        rows += _row("machine_cpu_cores", "gauge", [({}, cores)]) + _row(
            "machine_memory_bytes", "gauge", [({}, memory)]
        )
        return "\n".join(rows) + "\n"


Row = tuple[dict[str, str], float]


def _row(name: str, type_: str, values: list[Row]) -> list[str]:
    """Return one metric in the text format of Prometheus."""
    lines = [f"# HELP {name} As kubelets tell it.", f"# TYPE {name} {type_}"]
    for labels, value in values:
        text = ",".join(f'{key}="{_escape(each)}"' for key, each in labels.items())
        lines.append(f"{name}{{{text}}} {value}" if text else f"{name} {value}")
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _pod_labels(pod: Stats) -> dict[str, str]:
    return {"namespace": pod["podRef"]["namespace"], "pod": pod["podRef"]["name"]}


def _of_containers(summary: Stats, read: Any) -> Iterator[Row]:
    for pod in summary["pods"]:
        for one in pod["containers"]:
            yield {"container": one["name"], **_pod_labels(pod)}, read(one)


def _cpu_of(one: Stats) -> float:
    return _seconds(one["cpu"])


def _memory_of(one: Stats) -> float:
    return float(one["memory"].get("workingSetBytes", 0))


def _seconds(cpu: Stats) -> float:
    return float(cpu.get("usageCoreNanoSeconds", 0) / _NANOSECONDS)


def _cpu(usage: Any) -> Stats:
    """A rate is told once there are two samples to tell it from."""
    found = {"time": _when(usage.timestamp), "usageCoreNanoSeconds": usage.usage_core_nano_seconds.value}
    return found | ({"usageNanoCores": usage.usage_nano_cores.value} if usage.HasField("usage_nano_cores") else {})


def _memory(usage: Any) -> Stats:
    found = {
        "time": _when(usage.timestamp), "workingSetBytes": usage.working_set_bytes.value,
        "usageBytes": usage.usage_bytes.value or usage.working_set_bytes.value, "rssBytes": usage.rss_bytes.value,
        "pageFaults": usage.page_faults.value, "majorPageFaults": usage.major_page_faults.value,
    }  # fmt: skip
    return found | ({"availableBytes": usage.available_bytes.value} if usage.HasField("available_bytes") else {})


def _network(usage: Any) -> Stats:
    def interface(one: Any) -> Stats:
        return {
            "name": one.name, "rxBytes": one.rx_bytes.value, "rxErrors": one.rx_errors.value,
            "txBytes": one.tx_bytes.value, "txErrors": one.tx_errors.value,
        }  # fmt: skip

    first = interface(usage.default_interface)
    others = [interface(one) for one in usage.interfaces]
    return {"time": _when(usage.timestamp), **first, "interfaces": [first, *others]}


def _node_memory(stamp: str) -> Stats:
    info = _meminfo()
    used = info["MemTotal"] - info["MemFree"]
    working = max(used - info.get("Inactive(file)", 0), 0)
    return {
        "time": stamp, "availableBytes": info["MemTotal"] - working, "usageBytes": used, "workingSetBytes": working,
        "rssBytes": info.get("AnonPages", 0), "pageFaults": 0, "majorPageFaults": 0,
    }  # fmt: skip


def _node_network(stamp: str) -> Stats:
    interfaces = []
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, counters = line.partition(":")
        numbers = [int(number) for number in counters.split()]
        if name.strip() != "lo" and not name.strip().startswith("veth"):
            interfaces.append(
                {
                    "name": name.strip(), "rxBytes": numbers[0], "rxErrors": numbers[2], "txBytes": numbers[8],
                    "txErrors": numbers[10],
                }
            )  # fmt: skip
    return {"time": stamp, **(interfaces[0] if interfaces else {}), "interfaces": interfaces}


def _meminfo() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) == 3}


def _boot_time() -> str:
    return _when(time.time_ns() - int(float(Path("/proc/uptime").read_text().split()[0]) * _NANOSECONDS))


def _process_count() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))


def _number(path: str) -> int:
    return int(Path(path).read_text())


def disk_usage(folder: Path, *, below: bool = True) -> int:
    """Return the bytes that files in a folder, and `below` it, take on disk. Blocks."""
    used = 0
    for base, _, files in os.walk(folder):
        for name in files:
            try:
                used += os.lstat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                continue
        if not below:
            break
    return used
