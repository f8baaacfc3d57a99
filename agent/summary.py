"""What the node, its pods and their containers use: the kubelet's stats summary and its resource metrics.

Sources: https://kubernetes.io/docs/reference/instrumentation/node-metrics/ (the summary API),
https://kubernetes.io/docs/reference/instrumentation/metrics/ (the names at /metrics/resource)
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.cri.client import Runtime

Object = dict[str, Any]
_NANOSECONDS = 1_000_000_000
# A rate needs a while between its two samples.
_RATE_NANOSECONDS = 1 * _NANOSECONDS
_NO_RATE = -1


class Summary:
    """Looks at the node and asks the runtime; remembers the node's last CPU time, since a rate needs two."""

    def __init__(self, runtime: Runtime, node_name: str) -> None:
        self._runtime = runtime
        self._node_name = node_name
        self._sample: tuple[int, int, int] = (0, 0, _NO_RATE)  # when, CPU time, rate

    async def read(self) -> Object:
        """Return the Summary of the kubelet's API. Raises: RuntimeFailure."""
        stats = await self._runtime.stats()
        node = await asyncio.to_thread(self._node)
        return {"node": node, "pods": list(_pods(stats))}

    def _node(self) -> Object:
        now, cpu = time.time_ns(), _cpu_nanoseconds()
        at, before, rate = self._sample
        if now - at >= _RATE_NANOSECONDS:
            rate = (cpu - before) * _NANOSECONDS // (now - at) if at and cpu >= before else _NO_RATE
            self._sample = (now, cpu, rate)
        memory = _memory()
        used = memory["MemTotal"] - memory["MemFree"]
        working = max(used - memory.get("Inactive(file)", 0), 0)
        return {
            "nodeName": self._node_name, "startTime": _text(_boot_nanoseconds()),
            "cpu": _cpu(now, cpu, rate),
            "memory": {
                "time": _text(now), "availableBytes": memory["MemTotal"] - working, "usageBytes": used,
                "workingSetBytes": working, "rssBytes": memory.get("AnonPages", 0),
            },
        }  # fmt: skip


def _cpu(at: int, total: int, rate: int) -> Object:
    found = {"time": _text(at), "usageCoreNanoSeconds": total}
    return found if rate == _NO_RATE else {**found, "usageNanoCores": rate}


def _pods(stats: Iterable[Any]) -> Iterator[Object]:
    """Yield what each pod and its containers use, from the runtime's list of containers."""
    found: dict[str, Object] = {}
    for one in stats:
        labels = one.attributes.labels
        uid = labels.get("io.kubernetes.pod.uid", "")
        reference = {
            "name": labels.get("io.kubernetes.pod.name", ""), "uid": uid,
            "namespace": labels.get("io.kubernetes.pod.namespace", ""),
        }  # fmt: skip
        pod = found.setdefault(uid, {"podRef": reference, "containers": []})
        pod["containers"].append(_container(one, labels.get("io.kubernetes.container.name", "")))
    for pod in found.values():
        yield {**pod, **_sum(pod["containers"])}


def _container(one: Any, name: str) -> Object:
    rate = one.cpu.usage_nano_cores.value if one.cpu.HasField("usage_nano_cores") else _NO_RATE
    memory = one.memory
    return {
        "name": name, "cpu": _cpu(one.cpu.timestamp, one.cpu.usage_core_nano_seconds.value, rate),
        "memory": {
            "time": _text(memory.timestamp), "workingSetBytes": memory.working_set_bytes.value,
            "usageBytes": memory.usage_bytes.value, "rssBytes": memory.rss_bytes.value,
        },
        "rootfs": {
            "time": _text(one.writable_layer.timestamp), "usedBytes": one.writable_layer.used_bytes.value,
            "inodesUsed": one.writable_layer.inodes_used.value,
        },
    }  # fmt: skip


def _sum(containers: Iterable[Object]) -> Object:
    """Return what the containers of a pod use together; no rate where one of them has none yet."""
    listed = list(containers)
    cpu: Object = {"time": max(one["cpu"]["time"] for one in listed)}
    for field in ("usageCoreNanoSeconds", "usageNanoCores"):
        if all(field in one["cpu"] for one in listed):
            cpu[field] = sum(one["cpu"][field] for one in listed)
    memory: Object = {"time": max(one["memory"]["time"] for one in listed)}
    for field in ("workingSetBytes", "usageBytes", "rssBytes"):
        memory[field] = sum(one["memory"][field] for one in listed)
    return {"cpu": cpu, "memory": memory}


def resource_metrics(summary: Mapping[str, Any]) -> str:
    """Return a summary in the form of /metrics/resource."""
    node, pods = summary["node"], summary["pods"]
    families: dict[str, list[str]] = {
        "node_cpu_usage_seconds_total counter": [_line("", node["cpu"]["usageCoreNanoSeconds"] / _NANOSECONDS)],
        "node_memory_working_set_bytes gauge": [_line("", node["memory"]["workingSetBytes"])],
    }
    for pod in pods:
        where = f'namespace="{pod["podRef"]["namespace"]}",pod="{pod["podRef"]["name"]}"'
        for prefix, labels, used in [
            ("pod", where, pod),
            *(("container", f'container="{one["name"]}",{where}', one) for one in pod["containers"]),
        ]:
            seconds = used["cpu"].get("usageCoreNanoSeconds", 0) / _NANOSECONDS
            families.setdefault(f"{prefix}_cpu_usage_seconds_total counter", []).append(_line(labels, seconds))
            bytes_ = used["memory"]["workingSetBytes"]
            families.setdefault(f"{prefix}_memory_working_set_bytes gauge", []).append(_line(labels, bytes_))
    families["resource_scrape_error gauge"] = [_line("", 0)]
    lines = []
    for family, rows in families.items():
        name = family.partition(" ")[0]
        lines += [f"# TYPE {family}", *(f"{name}{row}" for row in rows)]
    return "\n".join(lines) + "\n"


def _line(labels: str, value: float) -> str:
    return f"{{{labels}}} {value}" if labels else f" {value}"


def _cpu_nanoseconds() -> int:
    """Return the CPU time of all that ran on this machine, idle time left out."""
    fields = [int(one) for one in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    user, nice, system, _, _, irq, soft_irq, steal = fields
    return (user + nice + system + irq + soft_irq + steal) * _NANOSECONDS // os.sysconf("SC_CLK_TCK")


def _memory() -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found


def _boot_nanoseconds() -> int:
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(line.split()[1]) * _NANOSECONDS


def _text(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / _NANOSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
