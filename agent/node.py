"""This machine as a Node object: registered, renewed, and told of.

Source: https://kubernetes.io/docs/reference/node/node-status/
"""

import asyncio
import contextlib
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.config import LEASE_NAMESPACE, AgentConfig
from agent.cri.client import Runtime, RuntimeFailure
from machinery.api import meta
from machinery.api.quantity import cpu_millis, to_bytes
from machinery.api.resources import LEASES, NODES
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import AlreadyExists, APIError, NotFound

log = logging.getLogger(__name__)

_RENEW_PART = 0.25  # of the lease's duration
VERSION = "v1.36.0"
_RETRY_SECONDS = 0.5
_MAX_IMAGES = 50
HUGEPAGES = Path("/sys/kernel/mm/hugepages")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def declared_features(config: AgentConfig) -> list[str]:
    """Return what this agent can do that not every kubelet of the versions that may meet in a cluster can.

    Source: https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
    """
    resizes = ["GuaranteedQoSPodCPUResize"] if config.cpu_manager_policy == "none" else []
    return [*resizes, "RestartAllContainersOnContainerExits"]


class NodeReporter:
    """Keeps the Node object and its Lease."""

    def __init__(
        self, config: AgentConfig, client: Client, runtime: Runtime, runtime_version: str,
        capacity: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Args: `capacity` is what the node has; the machine's own when it is left out."""
        self._config = config
        self._client = client
        self._runtime = runtime
        self._runtime_version = runtime_version
        self._conditions: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Event()
        self._is_shutting_down = False
        self._granted: dict[str, str | None] = {}  # what others gave the node; None for what they took back
        self._settings = config.settings
        self._is_machine = capacity is None
        self.capacity = machine_capacity(config) if capacity is None else capacity
        self.allocatable = _allocatable(config, self.capacity) if capacity is None else capacity

    async def run(self) -> None:
        """Report until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._report())

    async def _report(self) -> None:
        loop = asyncio.get_running_loop()
        told: Any = None
        told_at = 0.0
        while True:
            try:
                status = await self._status()
                plain = _without_heartbeats(status)
                if plain != told or loop.time() - told_at >= self._settings.report_seconds:
                    await self._write(status)
                    told, told_at = plain, loop.time()
                await self._pause(self._settings.status_seconds if self._is_ready() else _RETRY_SECONDS)
            except (APIError, ConnectionFailed) as error:
                log.warning("the node's status was not written: %s", error)
                told = None
                await asyncio.sleep(_RETRY_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until there is news to tell."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    def _is_ready(self) -> bool:
        return self._conditions.get("Ready", {}).get("status") == "True"

    async def _write(self, status: Mapping[str, Any]) -> None:
        name = self._config.node_name
        try:
            await self._client.patch(NODES, name, {"status": status}, type=PatchType.STRATEGIC, subresource="status")
        except NotFound:
            await self._register()
            await self._client.patch(NODES, name, {"status": status}, type=PatchType.STRATEGIC, subresource="status")

    async def _register(self) -> None:
        cidrs = [part.strip() for part in self._config.pod_cidr.split(",") if part.strip()]
        spec: dict[str, Any] = {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}  # else the cluster gives some
        if self._config.taints:
            spec["taints"] = list(self._config.taints)
        node = {
            "kind": "Node", "apiVersion": "v1",
            "metadata": {"name": self._config.node_name, "labels": node_labels(self._config)}, "spec": spec,
        }  # fmt: skip
        try:
            await self._client.create(NODES, node)
        except AlreadyExists:
            return

    def settings_changed(self) -> None:
        """The settings are others: tell what the node has by them."""
        if self._is_machine:
            self.capacity["pods"] = self.allocatable["pods"] = str(self._settings.max_pods)
            self.allocatable.update(_allocatable(self._config, self.capacity))
        self._news.set()

    def reserved(self, name: str) -> int:
        """Return what of a resource is kept from pods, in millicores or bytes."""
        return (cpu_millis if name == "cpu" else to_bytes)(self._settings.reserved.get(name, "0"))

    def set_devices(self, capacity: Mapping[str, str], allocatable: Mapping[str, str]) -> None:
        """Tell of devices that plugins offer; those whose plugin is gone are told as none."""
        for known, found in ((self.capacity, capacity), (self.allocatable, allocatable)):
            known.update(found)
        self._news.set()

    def on_node(self, node: Mapping[str, Any]) -> None:
        """Take over what others wrote into this node's capacity: it can be allocated from then on.

        Source: https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/
        """
        status = node.get("status") or {}
        capacity, told = status.get("capacity") or {}, status.get("allocatable") or {}
        granted: dict[str, str | None] = dict.fromkeys(told.keys() - capacity.keys() - self.allocatable.keys())
        granted |= {name: amount for name, amount in capacity.items() if name not in self.capacity}
        if granted != self._granted:
            self._granted = granted
            self._news.set()

    async def _status(self) -> dict[str, Any]:
        addresses = [
            {"type": "InternalIP", "address": self._config.node_ip},
            {"type": "Hostname", "address": self._config.node_name},
        ]
        handlers: dict[str, Any] = {}
        with contextlib.suppress(RuntimeFailure):
            found, features = await self._runtime.handlers()
            handlers = ({"runtimeHandlers": found} if found else {}) | ({"features": features} if features else {})
        return handlers | {
            "declaredFeatures": declared_features(self._config),
            "addresses": [{"$patch": "replace"}, *addresses],
            "capacity": dict(self.capacity), "allocatable": self._granted | self.allocatable,
            "conditions": await self._make_conditions(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._config.port}},
            "nodeInfo": node_info(self._runtime_version), "images": await self._images(),
        }  # fmt: skip

    async def _make_conditions(self) -> list[dict[str, Any]]:
        left = await asyncio.to_thread(self._left)
        short = {signal for signal, (free, total) in left.items() if free < self._settings.threshold(signal, total)}
        short_memory, pids = "memory.available" in short, "pid.available" in short
        short_disk = bool(short & {"nodefs.available", "nodefs.inodesFree"})
        ready, why, text = await self._readiness()
        self._set("MemoryPressure", short_memory, "KubeletHas", "InsufficientMemory", "SufficientMemory", "memory")
        self._set("DiskPressure", short_disk, "KubeletHas", "DiskPressure", "NoDiskPressure", "disk")
        self._set("PIDPressure", pids, "KubeletHas", "InsufficientPID", "SufficientPID", "PID")
        self._put("Ready", "True" if ready else "False", why, text)
        return list(self._conditions.values())

    def pressures(self) -> dict[str, str]:
        """Return what the node is short of, and in which words that is told."""
        if not any(self._is_set(kind) for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")):
            return {}
        left, found = self._left(), {}
        if self._is_set("MemoryPressure"):
            found["memory"] = self._shortage("memory.available", left, "Ki")
        if self._is_set("DiskPressure"):
            inodes, total = left["nodefs.inodesFree"]
            if inodes < self._settings.threshold("nodefs.inodesFree", total):
                found["inodes"] = self._shortage("nodefs.inodesFree", left, "")
            else:
                found["ephemeral-storage"] = self._shortage("nodefs.available", left, "Ki")
        if self._is_set("PIDPressure"):
            found["pids"] = self._shortage("pid.available", left, "")
        return found

    def _left(self) -> dict[str, tuple[int, int]]:
        """Return how much is left of what eviction looks at, and of how much. Blocks."""
        memory, files = _meminfo(), os.statvfs(self._config.data_dir)
        disk = shutil.disk_usage(self._config.data_dir)
        taken, most = _pids()
        return {
            "memory.available": (memory.get("MemAvailable", 0), memory.get("MemTotal", 0)),
            "nodefs.available": (disk.free, disk.total), "nodefs.inodesFree": (files.f_favail, files.f_files),
            "pid.available": (most - taken, most),
        }  # fmt: skip

    def _shortage(self, signal: str, left: Mapping[str, tuple[int, int]], unit: str) -> str:
        free, total = left[signal]
        threshold = self._settings.eviction_hard.get(signal, "0")
        if threshold.endswith("%"):
            least = self._settings.threshold(signal, total)
            threshold = f"{least // 1024}Ki" if unit else str(least)
        return f"Threshold quantity: {threshold}, available: {f'{free // 1024}Ki' if unit else free}. "

    def _is_set(self, kind: str) -> bool:
        return self._conditions.get(kind, {}).get("status") == "True"

    def disk_free(self) -> int:
        """Return the free bytes of the disk that holds this node's pods."""
        return shutil.disk_usage(self._config.data_dir).free

    def disk_percent(self) -> float:
        """Return how full that disk is."""
        disk = shutil.disk_usage(self._config.data_dir)
        return 100.0 * (1 - disk.free / disk.total)

    def shut_down(self, is_about_to_stop: bool) -> None:
        """The machine is about to stop, or not after all: say so."""
        self._is_shutting_down = is_about_to_stop
        self._news.set()

    async def _readiness(self) -> tuple[bool, str, str]:
        if self._is_shutting_down:
            return False, "KubeletNotReady", "node is shutting down"
        try:
            conditions = await self._runtime.conditions()
        except RuntimeFailure as error:
            return False, "KubeletNotReady", f"container runtime is down: {error}"
        for name in ("RuntimeReady", "NetworkReady"):
            is_good, reason, message = conditions.get(name, (False, "Unknown", "not told"))
            if not is_good:
                text = f"container runtime network not ready: {name}=false reason:{reason} message:{message}"
                return False, "KubeletNotReady", text
        return True, "KubeletReady", "kubelet is posting ready status"

    def _set(self, kind: str, is_short: bool, prefix: str, bad: str, good: str, what: str) -> None:
        texts = {
            "memory": ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
            "disk": ("kubelet has disk pressure", "kubelet has no disk pressure"),
            "PID": ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        }[what]
        self._put(kind, str(is_short), prefix + (bad if is_short else good), texts[0 if is_short else 1])

    def _put(self, kind: str, status: str, reason: str, message: str) -> None:
        old, now = self._conditions.get(kind), meta.now()
        changed = old["lastTransitionTime"] if old is not None and old["status"] == status else now
        self._conditions[kind] = {
            "type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": changed,
            "reason": reason, "message": message,
        }  # fmt: skip

    async def _images(self) -> list[dict[str, Any]]:
        try:
            images = await self._runtime.images()
        except RuntimeFailure:
            return []
        images.sort(key=lambda image: image.size, reverse=True)
        return [
            {"names": [*image.repo_digests, *image.repo_tags], "sizeBytes": int(image.size)}
            for image in images[:_MAX_IMAGES]
        ]

    async def _renew(self) -> None:
        while True:
            try:
                await self._renew_once()
                await asyncio.sleep(self._settings.lease_seconds * _RENEW_PART)
            except (APIError, ConnectionFailed) as error:
                log.warning("the node's lease was not renewed: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _renew_once(self) -> None:
        name, at, seconds = self._config.node_name, meta.now_micro(), self._settings.lease_seconds
        try:
            await self._client.patch(
                LEASES, name, {"spec": {"renewTime": at, "leaseDurationSeconds": seconds}}, LEASE_NAMESPACE
            )
        except NotFound:
            spec = {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": at}
            node = await self._client.get(NODES, name)  # whose it is; it goes with it
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
            metadata = {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
            lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": spec}
            await self._client.create(LEASES, lease, LEASE_NAMESPACE)


def _pids() -> tuple[int, int]:
    """Return how many process ids are taken, and how many there may be."""
    taken = sum(name.isdigit() for name in os.listdir("/proc"))
    return taken, int(Path("/proc/sys/kernel/pid_max").read_text())


def _without_heartbeats(status: Mapping[str, Any]) -> dict[str, Any]:
    plain = [{**one, "lastHeartbeatTime": None} for one in status["conditions"]]
    return {**status, "conditions": plain}


def architecture() -> str:
    """Return the machine's architecture as Go names it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def node_labels(config: AgentConfig) -> dict[str, str]:
    """Return the labels of a new node."""
    return {
        "kubernetes.io/hostname": config.node_name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture(),
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": architecture(), **config.labels,
    }  # fmt: skip


def node_info(runtime_version: str) -> dict[str, Any]:
    """Return what the machine is."""
    release = platform.freedesktop_os_release()
    return {
        "machineID": _first_line("/etc/machine-id"), "systemUUID": _first_line("/sys/class/dmi/id/product_uuid"),
        "bootID": _first_line("/proc/sys/kernel/random/boot_id"), "kernelVersion": platform.release(),
        "osImage": release.get("PRETTY_NAME", "Linux"), "containerRuntimeVersion": runtime_version,
        "kubeletVersion": VERSION, "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": architecture(),
        **_swap(),
    }  # fmt: skip


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _meminfo() -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) == 3}


def machine_capacity(config: AgentConfig) -> dict[str, str]:
    """Return what the machine has."""
    disk = shutil.disk_usage(config.data_dir)
    return {
        "cpu": str(len(os.sched_getaffinity(0))), "memory": f"{_meminfo()['MemTotal'] // 1024}Ki",
        "pods": str(config.settings.max_pods), "ephemeral-storage": f"{disk.total // 1024}Ki", **hugepages(),
    }  # fmt: skip


def hugepages(folder: Path = HUGEPAGES) -> dict[str, str]:
    """Return how much memory is set aside for pages of each size there is, by the names of these resources."""
    found = {}
    for path in sorted(folder.glob("hugepages-*kB")):
        size = int(path.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        with contextlib.suppress(OSError, ValueError):
            count = int((path / "nr_hugepages").read_text())
            found[f"hugepages-{_binary(size)}"] = _binary(count * size)
    return found


def _binary(size: int) -> str:
    """Return bytes in the largest unit that takes them whole."""
    for unit, length in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return str(size)


def _swap() -> dict[str, dict[str, int]]:
    """Return what nodeInfo tells of swap; nothing where there is none."""
    size = _meminfo().get("SwapTotal", 0)
    return {"swap": {"capacity": size}} if size else {}


def _allocatable(config: AgentConfig, has: Mapping[str, str]) -> dict[str, str]:
    settings, found = config.settings, dict(has)
    huge = sum(to_bytes(amount) for name, amount in has.items() if name.startswith("hugepages-"))
    if reserved := cpu_millis(settings.reserved.get("cpu", "0")):
        found["cpu"] = f"{max(int(has['cpu']) * 1000 - reserved, 0)}m"
    for name, signal in (("memory", "memory.available"), ("ephemeral-storage", "")):
        total = to_bytes(has[name])
        kept = to_bytes(settings.reserved.get(name, "0"))
        kept += settings.threshold(signal, total) + huge if signal else 0
        found[name] = f"{max(total - kept, 0) // 1024}Ki"
    return found
