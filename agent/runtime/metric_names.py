"""The metrics the runtime tells by CRI: their names, what they mean and their labels, one row a metric.

Names and meanings are cAdvisor's, so that dashboards made for it go on:
https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md
"""

from dataclasses import dataclass

from agent.cri import api_pb2 as cri

# What all have; a pod's own rows have no container.
BASE_LABELS = ("id", "name", "image", "container", "namespace", "pod")


@dataclass(frozen=True)
class Family:
    """One metric: `labels` are those beside BASE_LABELS."""

    name: str
    help: str
    kind: cri.MetricType
    labels: tuple[str, ...] = ()

    def descriptor(self) -> cri.MetricDescriptor:
        """As CRI's message."""
        return cri.MetricDescriptor(name=self.name, help=self.help, label_keys=[*BASE_LABELS, *self.labels])


# name | c for counter, g for gauge | further labels | help
_TABLE = """
blkio_device_usage_total|c|device,major,minor,operation|Bytes that block devices carried.
cpu_cfs_periods_total|c||Enforcement periods of the CPU quota that have passed.
cpu_cfs_throttled_periods_total|c||Periods in which the quota ran out.
cpu_cfs_throttled_seconds_total|c||Time spent waiting for the next period.
cpu_system_seconds_total|c||CPU time spent in the kernel.
cpu_usage_seconds_total|c|cpu|CPU time.
cpu_user_seconds_total|c||CPU time spent outside the kernel.
file_descriptors|g||Open file descriptors of all processes.
fs_inodes_free|g||Inodes left on the file system of the writable layer.
fs_inodes_total|g||Inodes of that file system.
fs_limit_bytes|g||Size of that file system.
fs_reads_bytes_total|c|device|Bytes read.
fs_reads_total|c|device|Reads completed.
fs_usage_bytes|g||Size of the writable layer.
fs_writes_bytes_total|c|device|Bytes written.
fs_writes_total|c|device|Writes completed.
hugetlb_max_usage_bytes|g|pagesize|Most memory in huge pages so far.
hugetlb_usage_bytes|g|pagesize|Memory in huge pages.
last_seen|g||When this was measured, in seconds since 1970.
memory_cache|g||Memory that caches files.
memory_failcnt|c||Times that the memory limit was met.
memory_failures_total|c|failure_type,scope|Page faults, by kind.
memory_kernel_usage|g||Memory the kernel holds for the processes.
memory_mapped_file|g||Memory that maps files.
memory_max_usage_bytes|g||Most memory used so far.
memory_rss|g||Memory that is no file's.
memory_swap|g||Swap used.
memory_usage_bytes|g||Memory used, caches included.
memory_working_set_bytes|g||Memory used, less the caches that are given back first.
network_receive_bytes_total|c|interface|Bytes received.
network_receive_errors_total|c|interface|Errors while receiving.
network_receive_packets_dropped_total|c|interface|Packets dropped while receiving.
network_receive_packets_total|c|interface|Packets received.
network_transmit_bytes_total|c|interface|Bytes sent.
network_transmit_errors_total|c|interface|Errors while sending.
network_transmit_packets_dropped_total|c|interface|Packets dropped while sending.
network_transmit_packets_total|c|interface|Packets sent.
oom_events_total|c||Processes killed for want of memory.
pressure_cpu_stalled_seconds_total|c||Time in which all processes waited for a CPU.
pressure_cpu_waiting_seconds_total|c||Time in which some process waited for a CPU.
pressure_io_stalled_seconds_total|c||Time in which all processes waited for disks.
pressure_io_waiting_seconds_total|c||Time in which some process waited for disks.
pressure_memory_stalled_seconds_total|c||Time in which all processes waited for memory.
pressure_memory_waiting_seconds_total|c||Time in which some process waited for memory.
processes|g||Processes.
sockets|g||Open sockets of all processes.
spec_cpu_period|g||Period of the CPU quota in microseconds.
spec_cpu_quota|g||CPU time in each period in microseconds; absent without a limit.
spec_cpu_shares|g||Weight where CPUs are short.
spec_memory_limit_bytes|g||Memory limit; 0 is none.
spec_memory_reservation_limit_bytes|g||Memory that is protected; 0 is none.
spec_memory_swap_limit_bytes|g||Limit of memory and swap together; 0 is none.
start_time_seconds|g||When it started, in seconds since 1970.
threads|g||Threads.
threads_max|g||Most threads there may be; 0 is no limit.
ulimits_soft|g|ulimit|Soft limits of the first process.
"""
# Told only where the kernel counts it; a descriptor without values would be a promise broken.
PRESSURE = "container_pressure_"
HUGE_PAGES = "container_hugetlb_"


def _read(line: str) -> Family:
    name, kind, labels, text = line.split("|")
    return Family(
        f"container_{name}", text, cri.COUNTER if kind == "c" else cri.GAUGE, tuple(filter(None, labels.split(",")))
    )


FAMILIES = {family.name: family for family in map(_read, _TABLE.strip().splitlines())}
