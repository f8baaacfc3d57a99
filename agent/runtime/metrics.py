"""Reads the metrics of containers and pods from their cgroups (version 1 or 2), processes and network namespaces.

A sample is (name without "container_", value, further labels); metrics_service.py puts them into CRI's words. What the
kernel doesn't count is left out. All of this blocks.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import cgroups, kernel, stats

Sample = tuple[str, int, tuple[str, ...]]
_NANOSECONDS = 1_000_000_000
_MICROSECONDS = 1_000_000
_CPU_PERIOD, _CPU_SHARES = 100_000, 1024  # the kernel's own, where a container asks for nothing


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in stats.read_text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _first(*paths: Path) -> int:
    """The number in the first file that there is; "max" and absence are 0."""
    for path in paths:
        text = stats.read_text(path).strip()
        if text:
            return int(text) if text.isdigit() else 0
    return 0


def of_cgroup(cgroup: str) -> Iterator[Sample]:
    """CPU, memory, processes, devices: what a cgroup and those below it use."""
    yield from _cpu(cgroup)
    yield from _memory(cgroup)
    yield from _processes(cgroup)
    yield from _devices(cgroup)
    yield from _huge_pages(cgroup)
    yield from _pressure(cgroup)
    yield "last_seen", int(time.time()), ()


def _cpu(cgroup: str) -> Iterator[Sample]:
    folder = cgroups.folder("cpu", cgroup)
    table = _table(folder / "cpu.stat")
    if cgroups.is_v2():
        total, user, system = (table.get(f"{name}_usec", 0) // _MICROSECONDS for name in ("usage", "user", "system"))
        throttled = table.get("throttled_usec", 0) // _MICROSECONDS
    else:
        times = cgroups.folder("cpuacct", cgroup)
        total, user, system = (_first(times / f"cpuacct.usage{name}") // _NANOSECONDS for name in ("", "_user", "_sys"))
        throttled = table.get("throttled_time", 0) // _NANOSECONDS
    yield "cpu_usage_seconds_total", total, ("total",)
    yield "cpu_user_seconds_total", user, ()
    yield "cpu_system_seconds_total", system, ()
    yield "cpu_cfs_periods_total", table.get("nr_periods", 0), ()
    yield "cpu_cfs_throttled_periods_total", table.get("nr_throttled", 0), ()
    yield "cpu_cfs_throttled_seconds_total", throttled, ()


def _memory(cgroup: str) -> Iterator[Sample]:
    folder = cgroups.folder("memory", cgroup)
    found = stats.memory(cgroup)
    table = _table(folder / "memory.stat")
    events = _table(folder / "memory.events") or _table(folder / "memory.oom_control")
    prefix = "" if cgroups.is_v2() else "total_"
    yield "memory_usage_bytes", found.usage, ()
    yield "memory_working_set_bytes", found.working_set, ()
    yield "memory_rss", found.rss, ()
    yield "memory_cache", table.get("file", table.get("total_cache", 0)), ()
    yield "memory_mapped_file", table.get("file_mapped", table.get("total_mapped_file", 0)), ()
    yield "memory_kernel_usage", table.get("kernel", _first(folder / "memory.kmem.usage_in_bytes")), ()
    yield "memory_swap", _first(folder / "memory.swap.current") or table.get("total_swap", 0), ()
    yield "memory_max_usage_bytes", _first(folder / "memory.peak", folder / "memory.max_usage_in_bytes"), ()
    yield "memory_failcnt", events.get("max", _first(folder / "memory.failcnt")), ()
    yield "oom_events_total", events.get("oom_kill", 0), ()
    for kind in ("pgfault", "pgmajfault"):
        yield "memory_failures_total", table.get(kind, 0), (kind, "container")
        yield "memory_failures_total", table.get(prefix + kind, 0), (kind, "hierarchy")


def _processes(cgroup: str) -> Iterator[Sample]:
    base = cgroups.folder("pids", cgroup)
    pids = [pid for path, _, _ in os.walk(base) for pid in stats.read_text(Path(path) / "cgroup.procs").split()]
    descriptors = sockets = 0
    for pid in pids:
        for number in _listed(f"/proc/{pid}/fd"):
            descriptors += 1
            sockets += _target(f"/proc/{pid}/fd/{number}").startswith("socket:")
    yield "processes", len(pids), ()
    yield "threads", _first(base / "pids.current") or sum(len(_listed(f"/proc/{pid}/task")) for pid in pids), ()
    yield "threads_max", _first(base / "pids.max"), ()
    yield "file_descriptors", descriptors, ()
    yield "sockets", sockets, ()


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # it has just ended
        return []


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _devices(cgroup: str) -> Iterator[Sample]:
    folder = cgroups.folder("blkio", cgroup)
    counters: dict[str, dict[str, int]] = {}  # major:minor -> rbytes, wbytes, rios, wios
    if cgroups.is_v2():
        for line in stats.read_text(folder / "io.stat").splitlines():
            number, *pairs = line.split()
            counters[number] = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    else:
        for name, suffix in (("io_service_bytes", "bytes"), ("io_serviced", "ios")):
            for line in stats.read_text(folder / f"blkio.throttle.{name}_recursive").splitlines():
                row = line.split()
                if len(row) == 3 and row[1] in ("Read", "Write"):
                    counters.setdefault(row[0], {})[row[1][0].lower() + suffix] = int(row[2])
    for number, counter in counters.items():
        device = "/dev/" + os.path.basename(_target(f"/sys/dev/block/{number}") or number)
        major, _, minor = number.partition(":")
        for letter, what, operation in (("r", "reads", "Read"), ("w", "writes", "Write")):
            size = counter.get(f"{letter}bytes", 0)
            yield f"fs_{what}_bytes_total", size, (device,)
            yield f"fs_{what}_total", counter.get(f"{letter}ios", 0), (device,)
            yield "blkio_device_usage_total", size, (device, major, minor, operation)


def _huge_pages(cgroup: str) -> Iterator[Sample]:
    folder = cgroups.folder("hugetlb", cgroup)
    for path in sorted(folder.glob("hugetlb.*")):
        _, size, kind, *rest = path.name.split(".")
        if not rest and kind in ("current", "usage_in_bytes"):
            yield "hugetlb_usage_bytes", _first(path), (size,)
        elif not rest and kind == "max_usage_in_bytes":
            yield "hugetlb_max_usage_bytes", _first(path), (size,)


def _pressure(cgroup: str) -> Iterator[Sample]:
    for kind in ("cpu", "io", "memory"):
        path = cgroups.folder(kind, cgroup) / f"{kind}.pressure"
        for line in stats.read_text(path).splitlines():
            word, *pairs = line.split()
            microseconds = int(pairs[-1].partition("=")[2])
            yield (
                f"pressure_{kind}_{'waiting' if word == 'some' else 'stalled'}_seconds_total",
                microseconds // _MICROSECONDS,
                (),
            )


def of_resources(asked: cri.LinuxContainerResources, cgroup: str) -> Iterator[Sample]:
    """What a container was given."""
    folder = cgroups.folder("memory", cgroup)
    yield "spec_cpu_period", asked.cpu_period or _CPU_PERIOD, ()
    yield "spec_cpu_shares", asked.cpu_shares or _CPU_SHARES, ()
    if asked.cpu_quota > 0:
        yield "spec_cpu_quota", asked.cpu_quota, ()
    yield "spec_memory_limit_bytes", asked.memory_limit_in_bytes, ()
    yield "spec_memory_swap_limit_bytes", asked.memory_swap_limit_in_bytes, ()
    reserved = _first(folder / "memory.low", folder / "memory.soft_limit_in_bytes")
    yield "spec_memory_reservation_limit_bytes", reserved if reserved < stats.NO_LIMIT else 0, ()


def of_first_process(pid: int) -> Iterator[Sample]:
    """The soft limits of a container's first process that are numbers."""
    for line in stats.read_text(Path(f"/proc/{pid}/limits")).splitlines()[1:]:
        name, soft = line[:26].strip(), line[26:47].strip()
        if soft.isdigit():
            yield "ulimits_soft", int(soft), (name.lower().replace(" ", "_"),)


def of_file_system(folder: Path, used_bytes: int) -> Iterator[Sample]:
    """The writable layer, and the file system it is on."""
    whole = os.statvfs(folder)
    yield "fs_usage_bytes", used_bytes, ()
    yield "fs_limit_bytes", whole.f_frsize * whole.f_blocks, ()
    yield "fs_inodes_total", whole.f_files, ()
    yield "fs_inodes_free", whole.f_ffree, ()


def of_network(netns: Path) -> list[Sample]:
    """Counters of a network namespace's interfaces, without lo. For a thread of its own."""
    kernel.enter_namespace(netns, kernel.CLONE_NEWNET)
    found: list[Sample] = []
    # Bytes, packets, errors, drops stand first among what was received, and eight columns on among what was sent.
    kinds = ("bytes_total", "packets_total", "errors_total", "packets_dropped_total")
    for line in stats.read_text(Path("/proc/thread-self/net/dev")).splitlines()[2:]:
        name, _, counters = line.partition(":")
        numbers = [int(number) for number in counters.split()]
        if name.strip() != "lo":
            for first, way in ((0, "receive"), (8, "transmit")):
                found += [
                    (f"network_{way}_{kind}", numbers[first + at], (name.strip(),)) for at, kind in enumerate(kinds)
                ]
    return found
