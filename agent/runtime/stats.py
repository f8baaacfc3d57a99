"""What containers and pods use, read from cgroups of version 1 or 2 and from network namespaces."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import cgroups, kernel

_NANOSECONDS = 1_000_000_000
NO_LIMIT = 1 << 62  # version 1 shows "none" as a number near 2**63
_RATE_SECONDS = 1.0  # rates over less than this jump about
_DISK_SECONDS = 30.0  # walking a container's files costs; so often at most


@dataclass(frozen=True)
class Memory:
    """Memory of a cgroup in bytes; limit 0 is none."""

    usage: int
    limit: int
    inactive_file: int
    rss: int
    page_faults: int
    major_page_faults: int

    @property
    def working_set(self) -> int:
        """What can't be given back easily; eviction goes by this."""
        return max(self.usage - self.inactive_file, 0)


@dataclass(frozen=True)
class DiskUsage:
    """Bytes and inodes below some folders, and when they were counted (nanoseconds since 1970)."""

    used: int
    inodes: int
    at: int


def read_text(path: Path) -> str:
    """A file of the kernel's, "" if it isn't there."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = read_text(path).strip()
    return int(text) if text.isdigit() else 0


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in read_text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


def cpu_nanoseconds(cgroup: str) -> int:
    """CPU time that a cgroup has used, all cores together."""
    if cgroups.is_v2():
        return _table(cgroups.folder("cpu", cgroup) / "cpu.stat").get("usage_usec", 0) * 1000
    return _number(cgroups.folder("cpuacct", cgroup) / "cpuacct.usage")


def memory(cgroup: str) -> Memory:
    """Memory that a cgroup uses."""
    folder = cgroups.folder("memory", cgroup)
    table = _table(folder / "memory.stat")
    if cgroups.is_v2():
        return Memory(
            usage=_number(folder / "memory.current"),
            limit=_number(folder / "memory.max"),
            inactive_file=table.get("inactive_file", 0),
            rss=table.get("anon", 0),
            page_faults=table.get("pgfault", 0),
            major_page_faults=table.get("pgmajfault", 0),
        )
    limit = _number(folder / "memory.limit_in_bytes")
    return Memory(
        usage=_number(folder / "memory.usage_in_bytes"),
        limit=limit if limit < NO_LIMIT else 0,
        inactive_file=table.get("total_inactive_file", 0),
        rss=table.get("total_rss", 0),
        page_faults=table.get("total_pgfault", 0),
        major_page_faults=table.get("total_pgmajfault", 0),
    )


def process_count(cgroup: str) -> int:
    """Processes in a cgroup and all below it."""
    base = cgroups.folder("pids", cgroup)
    return sum(len(read_text(Path(path) / "cgroup.procs").split()) for path, _, _ in os.walk(base))


def disk_usage(folders: Iterable[Path]) -> DiskUsage:
    """Count what lies below some folders. Blocks for long: call it in a thread."""
    used = inodes = 0
    for folder in folders:
        for base, names, files in os.walk(folder):
            inodes += len(names) + len(files)
            for name in files:
                try:
                    used += os.lstat(os.path.join(base, name)).st_blocks * 512
                except OSError:
                    continue
    return DiskUsage(used, inodes, time.time_ns())


def interfaces(netns: Path) -> list[cri.NetworkInterfaceUsage]:
    """Counters of a network namespace's interfaces, without lo. For a thread of its own."""
    kernel.enter_namespace(netns, kernel.CLONE_NEWNET)
    found = []
    for line in read_text(Path("/proc/thread-self/net/dev")).splitlines()[2:]:
        name, _, counters = line.partition(":")
        numbers = [int(number) for number in counters.split()]
        if name.strip() != "lo":
            found.append(
                cri.NetworkInterfaceUsage(
                    name=name.strip(),
                    rx_bytes=_value(numbers[0]),
                    rx_errors=_value(numbers[2]),
                    tx_bytes=_value(numbers[8]),
                    tx_errors=_value(numbers[10]),
                )
            )
    return found


def network_usage(found: Sequence[cri.NetworkInterfaceUsage]) -> cri.NetworkUsage:
    """The first interface is the pod's own."""
    usage = cri.NetworkUsage(timestamp=time.time_ns(), interfaces=found[1:])
    if found:
        usage.default_interface.CopyFrom(found[0])
    return usage


class Sampler:
    """Turns counters into CRI's messages; remembers the last ones, since a rate needs two."""

    def __init__(self) -> None:
        self._cpu: dict[str, tuple[int, int, int]] = {}
        self._disk: dict[str, DiskUsage] = {}

    def forget_all_but(self, keep: set[str]) -> None:
        """Drop what is remembered of containers and cgroups that are gone."""
        for memory_of in (self._cpu, self._disk):
            for key in memory_of.keys() - keep:
                del memory_of[key]

    def cpu(self, cgroup: str) -> cri.CpuUsage:
        """CPU time of a cgroup, and its rate since the sample before (over a second ago)."""
        now, total = time.time_ns(), cpu_nanoseconds(cgroup)
        before, total_before, rate = self._cpu.get(cgroup, (0, 0, -1))
        if now - before >= _RATE_SECONDS * _NANOSECONDS:
            rate = (total - total_before) * _NANOSECONDS // (now - before) if before and total >= total_before else -1
            self._cpu[cgroup] = (now, total, rate)
        usage = cri.CpuUsage(timestamp=now, usage_core_nano_seconds=_value(total))
        if rate >= 0:
            usage.usage_nano_cores.value = rate
        return usage

    def memory(self, cgroup: str) -> cri.MemoryUsage:
        """Memory of a cgroup."""
        found = memory(cgroup)
        usage = cri.MemoryUsage(
            timestamp=time.time_ns(),
            working_set_bytes=_value(found.working_set),
            usage_bytes=_value(found.usage),
            rss_bytes=_value(found.rss),
            page_faults=_value(found.page_faults),
            major_page_faults=_value(found.major_page_faults),
        )
        if found.limit:
            usage.available_bytes.value = max(found.limit - found.working_set, 0)
        return usage

    def disk(self, key: str, folders: Sequence[Path]) -> cri.FilesystemUsage:
        """Disk space below `folders`, which are on one file system; counted anew after a while."""
        known = self._disk.get(key)
        if known is None or time.time_ns() - known.at > _DISK_SECONDS * _NANOSECONDS:
            known = self._disk[key] = disk_usage(folders)
        return cri.FilesystemUsage(
            timestamp=known.at,
            fs_id=cri.FilesystemIdentifier(mountpoint=_mount_point(folders[0])),
            used_bytes=_value(known.used),
            inodes_used=_value(known.inodes),
        )


def _mount_point(path: Path) -> str:
    """Where the file system is mounted that holds a path."""
    place = path
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return str(place)


def _value(number: int) -> cri.UInt64Value:
    return cri.UInt64Value(value=number)
