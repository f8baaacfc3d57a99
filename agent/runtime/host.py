"""What this machine grants us, found by asking it: the bounds that specs are clamped to."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

# capability.h, in the order of their numbers.
_CAPABILITY_BITS = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITY_NAMES = tuple(_CAPABILITY_BITS.split())


@dataclass(frozen=True)
class HostLimits:
    """The bounds of this machine.

    Attributes:
        capabilities: names (CAP_…) in our bounding set; runc fails on any other.
        min_oom_score_adj: the lowest value we may give; below it runc fails.
        nofile: hard limit of open files.
        cgroup_v2: the pure version 2 hierarchy is mounted at /sys/fs/cgroup.
        controllers: cgroup controllers there are, such as "memory".
        swap_accounting: memory+swap can be limited.
        seccomp: the kernel has seccomp filters.
        apparmor: AppArmor is on.
    """

    capabilities: frozenset[str]
    min_oom_score_adj: int
    nofile: int
    cgroup_v2: bool
    controllers: frozenset[str]
    swap_accounting: bool
    seccomp: bool
    apparmor: bool


def probe() -> HostLimits:
    """Ask the kernel."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    bounding = int(status["CapBnd"], 16)
    capabilities = frozenset(f"CAP_{name}" for bit, name in enumerate(CAPABILITY_NAMES) if bounding >> bit & 1)
    root = Path("/sys/fs/cgroup")
    cgroup_v2 = (root / "cgroup.controllers").exists()
    if cgroup_v2:
        controllers = frozenset((root / "cgroup.controllers").read_text().split())
        swap = Path("/proc/swaps").exists()
    else:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        controllers = frozenset(name for line in lines for name in line.split(":")[1].split(",") if name)
        swap = (root / "memory" / "memory.memsw.limit_in_bytes").exists()
    return HostLimits(
        capabilities=capabilities,
        min_oom_score_adj=_min_oom_score_adj(may_lower="CAP_SYS_RESOURCE" in capabilities),
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        cgroup_v2=cgroup_v2,
        controllers=controllers,
        swap_accounting=swap,
        seccomp="Seccomp" in status,
        apparmor=Path("/sys/kernel/security/apparmor").is_dir(),
    )


def _min_oom_score_adj(*, may_lower: bool) -> int:
    """Without CAP_SYS_RESOURCE no process may go below the score it has (proc_pid_oom_score_adj(5))."""
    return -1000 if may_lower else int(Path(f"/proc/{os.getpid()}/oom_score_adj").read_text())
