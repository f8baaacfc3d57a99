"""What this node and its pods use, as the kubelet's Summary API and its metrics tell it.

Sources: https://kubernetes.io/docs/reference/instrumentation/node-metrics/,
https://kubernetes.io/docs/reference/instrumentation/metrics/ (metrics/resource, metrics/cadvisor)
"""

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.container_config import log_folder
from agent.cri.client import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from agent.metrics import Row, metric
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.pod_runtime import PodRuntime
from agent.volumes.statistics import VolumeStatistics

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
        self._volumes = VolumeStatistics(services.volumes)
        self._cpu: tuple[int, int, int] = (0, 0, _NO_RATE)  # when, CPU time, rate

    async def summary(self) -> Stats:
        """Return the Summary API's answer (v1alpha1)."""
        pods = [await self._pod(one) for one in await self._services.runtime.sandbox_stats()]
        node = await asyncio.to_thread(self._node)
        node["systemContainers"] = await asyncio.to_thread(self._system_containers, pods)
        return {"node": node, "pods": pods}

    async def claimed_volumes(self) -> list[Stats]:
        """Return the statistics of the volumes that are claims', each claim once."""
        found: dict[tuple[str, str], Stats] = {}
        for one in list(self._pods.runtimes()):
            if one.seen.sandbox_ready:
                told = [each for each in await self._volumes.of_pod(one.pod) if "pvcRef" in each]
                found |= {(each["pvcRef"]["namespace"], each["pvcRef"]["name"]): each for each in told}
        return list(found.values())

    def _system_containers(self, pods: list[Stats]) -> list[Stats]:
        """What the agent, the runtime and all pods together use."""
        stamp = _when(time.time_ns())
        cpu = {"time": stamp, "usageCoreNanoSeconds": sum(one["cpu"]["usageCoreNanoSeconds"] for one in pods)}
        cpu["usageNanoCores"] = sum(one["cpu"].get("usageNanoCores", 0) for one in pods)
        sizes = ("workingSetBytes", "usageBytes", "rssBytes")
        memory = {"time": stamp, **{size: sum(one["memory"].get(size, 0) for one in pods) for size in sizes}}
        found = [{"name": "pods", "startTime": _boot_time(), "cpu": cpu, "memory": memory}]
        for name, pid in (("kubelet", os.getpid()), ("runtime", _served_by(self._services.config.runtime_socket))):
            with contextlib.suppress(OSError):  # it may just have ended
                found.append({"name": name, **_process(pid)})
        return found

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
            "memory": _node_memory(stamp), "swap": _node_swap(stamp),
            "network": _node_network(stamp), "fs": file_system,
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
            "containers": [],
            "cpu": _cpu(one.linux.cpu), "memory": _memory(one.linux.memory),
        }  # fmt: skip
        if one.linux.HasField("network"):
            found["network"] = _network(one.linux.network)
        if one.linux.HasField("process"):
            found["process_stats"] = {"process_count": one.linux.process.process_count.value}
        if one.linux.memory.HasField("working_set_bytes"):
            found["swap"] = {"time": found["memory"]["time"], "swapUsageBytes": 0}
        pod = self._pods.find(namespace, name)
        found["containers"] = await asyncio.to_thread(self._containers, one.linux.containers, pod)
        if pod is not None:
            found["startTime"] = (pod.pod.get("status") or {}).get("startTime")
            used = await asyncio.to_thread(self._written, pod.pod)
            layers = sum(each["rootfs"]["usedBytes"] for each in found["containers"])
            disk = self._file_system(time.time_ns())
            files = sum(each["rootfs"]["inodesUsed"] for each in found["containers"])
            found["ephemeral-storage"] = {**disk, "usedBytes": used + layers, "inodesUsed": files}
            found["volume"] = await self._volumes.of_pod(pod.pod)
        return found

    def _written(self, pod: Mapping[str, Any]) -> int:
        """Return the bytes of a pod's logs and emptyDirs on disk."""
        folders = [log_folder(self._services.config.logs_dir, pod)]
        volumes = [one for one in pod["spec"].get("volumes") or () if "emptyDir" in one]
        on_disk = [one for one in volumes if not (one["emptyDir"] or {}).get("medium")]
        folders += [self._services.volumes.path(pod, one) for one in on_disk]
        return sum(disk_usage(folder) for folder in folders)

    def _containers(self, stats: Any, pod: PodRuntime | None) -> list[Stats]:
        return [self._container(one, pod) for one in stats]

    def _container(self, one: Any, pod: PodRuntime | None) -> Stats:
        layer, now = one.writable_layer, time.time_ns()
        name = one.attributes.labels.get(CONTAINER_NAME, one.attributes.metadata.name)
        disk = self._file_system(now)
        used = {"usedBytes": layer.used_bytes.value, "inodesUsed": layer.inodes_used.value}
        found: Stats = {
            "name": name, "cpu": _cpu(one.cpu), "memory": _memory(one.memory),
            "swap": {"time": _when(now), "swapUsageBytes": one.swap.swap_usage_bytes.value},
            "rootfs": {**disk, "time": _when(layer.timestamp or now), **used},
        }  # fmt: skip
        if pod is not None:
            folder = log_folder(self._services.config.logs_dir, pod.pod) / name
            files = len(list(folder.iterdir())) if folder.is_dir() else 0
            found["logs"] = {**disk, "usedBytes": disk_usage(folder), "inodesUsed": files}
            last = pod.seen.newest(name)
            started = last.started_at if last is not None else 0.0
            found["startTime"] = _when(int((started or time.time()) * _NANOSECONDS))
        return found

    def _file_system(self, now: int) -> Stats:
        """The disk that holds this node's pods, less what is used of it."""
        found = os.statvfs(self._services.config.data_dir)
        return {
            "time": _when(now), "availableBytes": found.f_bavail * found.f_frsize,
            "capacityBytes": found.f_blocks * found.f_frsize, "inodesFree": found.f_favail, "inodes": found.f_files,
        }  # fmt: skip

    async def resource_metrics(self) -> str:
        """Return /metrics/resource: what autoscalers and `kubectl top` read."""
        summary = await self.summary()
        node = summary["node"]
        rows = [
            *metric("node_cpu_usage_seconds_total", "counter", [({}, _seconds(node["cpu"]))]),
            *metric("node_memory_working_set_bytes", "gauge", [({}, node["memory"]["workingSetBytes"])]),
            *metric("node_swap_usage_bytes", "gauge", [({}, node["swap"]["swapUsageBytes"])]),
        ]
        for kind, read in (("cpu_usage_seconds_total", _cpu_of), ("memory_working_set_bytes", _memory_of)):
            type_ = "counter" if kind.startswith("cpu") else "gauge"
            rows += metric(f"container_{kind}", type_, list(_of_containers(summary, read)))
            rows += metric(f"pod_{kind}", type_, [(_pod_labels(pod), read(pod)) for pod in summary["pods"]])
        rows += metric("container_start_time_seconds", "gauge", list(_of_containers(summary, _started)))
        rows += metric("resource_scrape_error", "gauge", [({}, 0)])
        rows += metric("scrape_error", "gauge", [({}, 0)])
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
            rows += metric(name, type_, values)
        layers = _of_containers(summary, lambda one: one["rootfs"]["usedBytes"])
        rows += metric("container_fs_usage_bytes", "gauge", list(layers))
        for name, key in (("receive", "rxBytes"), ("transmit", "txBytes")):
            networks = [(pod, pod["network"]) for pod in summary["pods"] if "network" in pod]
            values = [
                ({"interface": one.get("name", ""), **_pod_labels(pod)}, one.get(key, 0)) for pod, one in networks
            ]
            rows += metric(f"container_network_{name}_bytes_total", "counter", values)
        return "\n".join([*rows, *self.machine_metrics()]) + "\n"

    @staticmethod
    def machine_metrics() -> list[str]:
        """Return the lines of /metrics/cadvisor that tell what the machine has."""
        info = _meminfo()
        values = (
            ("machine_cpu_cores", os.cpu_count() or 1), ("machine_memory_bytes", info["MemTotal"]),
            ("machine_swap_bytes", info.get("SwapTotal", 0)),
        )  # fmt: skip
        return [line for name, value in values for line in metric(name, "gauge", [({}, value)])]


def _pod_labels(pod: Stats) -> dict[str, str]:
    return {"namespace": pod["podRef"]["namespace"], "pod": pod["podRef"]["name"]}


def _of_containers(summary: Stats, read: Any) -> Iterator[Row]:
    for pod in summary["pods"]:
        for one in pod["containers"]:
            yield {"container": one["name"], **_pod_labels(pod)}, read(one)


def cpu_and_memory(summary: Stats) -> Stats:
    """Return of a summary what scrapers of these two alone ask for."""
    kept = ("name", "nodeName", "startTime", "podRef", "cpu", "memory", "swap")

    def only(one: Stats) -> Stats:
        return {key: value for key, value in one.items() if key in kept}

    node = only(summary["node"]) | {"systemContainers": summary["node"]["systemContainers"]}
    pods = [only(pod) | {"containers": [only(one) for one in pod["containers"]]} for pod in summary["pods"]]
    return {"node": node, "pods": pods}


def _started(one: Stats) -> float:
    text = one.get("startTime") or "1970-01-01T00:00:00Z"
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


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


def _node_swap(stamp: str) -> Stats:
    info = _meminfo()
    total, free = info.get("SwapTotal", 0), info.get("SwapFree", 0)
    return {"time": stamp, "swapAvailableBytes": free, "swapUsageBytes": total - free}


def _served_by(path: Path) -> int:
    """Return the id of the process that serves a socket. Raises: OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[0])


def _process(pid: int) -> Stats:
    """What one process uses. Raises: OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    stamp, ticks = _when(time.time_ns()), os.sysconf("SC_CLK_TCK")
    used = int((int(fields[11]) + int(fields[12])) * _NANOSECONDS / ticks)
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    started = boot_time_seconds() + int(fields[19]) / ticks
    return {
        "startTime": _when(int(started * _NANOSECONDS)), "cpu": {"time": stamp, "usageCoreNanoSeconds": used},
        "memory": {"time": stamp, "workingSetBytes": resident, "usageBytes": resident, "rssBytes": resident},
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
    return _when(int(boot_time_seconds() * _NANOSECONDS))


def boot_time_seconds() -> float:
    """Return when the machine started, in seconds since 1970."""
    return time.time() - float(Path("/proc/uptime").read_text().split()[0])


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
