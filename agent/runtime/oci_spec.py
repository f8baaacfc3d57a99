"""From CRI's words to an OCI runtime spec. Pure: all it needs to know of the machine is handed in.

Specification: https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from agent.cri import api_pb2 as cri
from agent.runtime import capabilities, cdi, seccomp
from agent.runtime.errors import InvalidArgument
from agent.runtime.host import HostLimits
from agent.runtime.selinux import Labels
from agent.runtime.users import User

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What Kubernetes masks with procMount: Default.
_MASKED = (
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list "
    "/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
)
MASKED_PATHS = _MASKED.split()
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_PROPAGATION = {
    cri.PROPAGATION_PRIVATE: "rprivate",
    cri.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    cri.PROPAGATION_BIDIRECTIONAL: "rshared",
}
_NOFILE_SOFT, _NOFILE_HARD = 65536, 1048576


@dataclass(frozen=True)
class DeviceNode:
    """A device file: `kind` is "c" or "b", access a subset of "rwm"."""

    path: str
    kind: str
    major: int
    minor: int
    access: str = "rwm"
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class SpecInputs:
    """All that a spec is made from.

    Attributes:
        image: the image's config (`config` of an OCI image configuration).
        rootfs: the mounted root file system, absolute and without symbolic links.
        namespaces: path of each namespace the pod lends; a kind mapped to "" is made new, one absent is the host's.
        files: the pod's own files by the place they are seen at, such as /etc/resolv.conf; a mount asked for wins.
        sources: real path of what each mount shows, by its container_path.
        devices: nodes asked for, or all of the host's for a privileged container.
        edits: containerEdits of the CDI devices asked for.
        labels: what SELinux is to know processes and files by; None to leave that to the host.
    """

    container: cri.ContainerConfig
    image: Mapping[str, Any]
    user: User
    host: HostLimits
    rootfs: str
    cgroup: str
    namespaces: Mapping[str, str]
    hostname: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    devices: Sequence[DeviceNode] = ()
    edits: Sequence[Mapping[str, Any]] = ()
    labels: Labels | None = None


def build(inputs: SpecInputs) -> dict[str, Any]:
    """Make the spec.

    Raises: InvalidArgument for a request that contradicts itself.
    """
    security = inputs.container.linux.security_context
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": _process(inputs),
        "root": {"path": inputs.rootfs, "readonly": security.readonly_rootfs},
        "mounts": _mounts(inputs),
        "linux": {
            "cgroupsPath": inputs.cgroup,
            "namespaces": _namespaces(inputs),
            "resources": resources(inputs.container.linux.resources, inputs.host)
            | {"devices": _device_rules(inputs, privileged=security.privileged)},
            "devices": [_device(node) for node in inputs.devices],
            "rootfsPropagation": _rootfs_propagation(inputs.container.mounts),
        },
    }
    if inputs.labels is not None:
        spec["process"]["selinuxLabel"] = inputs.labels.process
        spec["linux"]["mountLabel"] = inputs.labels.file
    if "user" in inputs.namespaces:
        users = security.namespace_options.userns_options
        spec["linux"]["uidMappings"] = [_mapping(one) for one in users.uids]
        spec["linux"]["gidMappings"] = [_mapping(one) for one in users.gids]
    for edit in inputs.edits:
        cdi.apply(spec, edit)
    if not security.privileged:
        spec["linux"]["maskedPaths"] = list(security.masked_paths) or MASKED_PATHS
        spec["linux"]["readonlyPaths"] = list(security.readonly_paths) or READONLY_PATHS
        profile = _seccomp(security, spec["process"]["capabilities"]["bounding"])
        if profile is not None and inputs.host.seccomp:
            spec["linux"]["seccomp"] = profile
    return spec


def arguments(container: cri.ContainerConfig, image: Mapping[str, Any]) -> list[str]:
    """The command line: CRI's command displaces the image's entrypoint and command, CRI's args its command alone.

    Raises: InvalidArgument if nothing is left to run.
    """
    command, args = list(container.command), list(container.args)
    if not command:
        command = list(image.get("Entrypoint") or ())
        args = args or list(image.get("Cmd") or ())
    if not command + args:
        raise InvalidArgument("no command specified")
    return command + args


def environment(container: cri.ContainerConfig, image: Mapping[str, Any], hostname: str) -> list[str]:
    """Environment of the first process: the image's, then CRI's over it."""
    variables = dict(entry.partition("=")[::2] for entry in (DEFAULT_PATH, f"HOSTNAME={hostname}"))
    if container.tty:
        variables["TERM"] = "xterm"
    variables.update(entry.partition("=")[::2] for entry in image.get("Env") or ())
    variables.update({entry.key: entry.value for entry in container.envs})
    return [f"{key}={value}" for key, value in variables.items()]


def _process(inputs: SpecInputs) -> dict[str, Any]:
    container, host = inputs.container, inputs.host
    security = container.linux.security_context
    asked = security.capabilities
    allowed = capabilities.effective(
        [*asked.add_capabilities, *asked.add_ambient_capabilities],
        asked.drop_capabilities,
        host.capabilities,
        privileged=security.privileged,
    )
    sets = {"bounding": allowed, "effective": allowed, "permitted": allowed}
    ambient = capabilities.effective(asked.add_ambient_capabilities, ["ALL"], host.capabilities, privileged=False)
    if ambient:
        sets |= {"ambient": ambient, "inheritable": ambient}
    process: dict[str, Any] = {
        "terminal": container.tty,
        "args": arguments(container, inputs.image),
        "env": environment(container, inputs.image, inputs.hostname),
        "cwd": container.working_dir or inputs.image.get("WorkingDir") or "/",
        "user": {"uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": list(inputs.user.groups)},
        "capabilities": sets,
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": max(container.linux.resources.oom_score_adj, host.min_oom_score_adj),
        "rlimits": [
            {
                "type": "RLIMIT_NOFILE",
                "soft": min(_NOFILE_SOFT, host.nofile),
                "hard": min(_NOFILE_HARD, host.nofile),
            }
        ],
    }
    profile = _apparmor(security, host)
    if profile:
        process["apparmorProfile"] = profile
    return process


def apparmor_profile(security: cri.LinuxContainerSecurityContext) -> str:
    """The profile of the host that a container asks for, "" for none.

    CRI's older field says "localhost/NAME", "runtime/default" or "unconfined"; the newer one goes before it.
    """
    if security.privileged:
        return ""
    if security.HasField("apparmor"):
        asked = security.apparmor
        is_local = asked.profile_type == cri.SecurityProfile.Localhost
        return asked.localhost_ref.removeprefix("localhost/") if is_local else ""
    kind, _, name = security.apparmor_profile.partition("/")
    return name if kind == "localhost" else ""


def _apparmor(security: cri.LinuxContainerSecurityContext, host: HostLimits) -> str:
    profile = apparmor_profile(security)
    if profile and not host.apparmor:
        raise InvalidArgument("apparmor is not supported")
    return profile


def _seccomp(security: cri.LinuxContainerSecurityContext, allowed: Sequence[str]) -> dict[str, Any] | None:
    """Without a profile a container is unconfined, as CRI's other runtimes have it; the agent always names one."""
    asked = security.seccomp
    if not security.HasField("seccomp") or asked.profile_type == cri.SecurityProfile.Unconfined:
        return None
    if asked.profile_type == cri.SecurityProfile.Localhost:
        return seccomp.load_profile(asked.localhost_ref.removeprefix("localhost/"))
    return seccomp.default_profile(frozenset(allowed))


def _namespaces(inputs: SpecInputs) -> list[dict[str, str]]:
    listed = [{"type": kind, "path": path} if path else {"type": kind} for kind, path in inputs.namespaces.items()]
    return [*listed, {"type": "mount"}]


def _mounts(inputs: SpecInputs) -> list[dict[str, Any]]:
    container = inputs.container
    privileged = container.linux.security_context.privileged
    asked = {str(PurePosixPath("/") / mount.container_path) for mount in container.mounts}
    mounts = [mount for mount in _system_mounts(privileged=privileged) if mount["destination"] not in asked]
    for destination, source in inputs.files.items():
        if destination not in asked:
            # As the root file system: a pod that may not write to / may not change these either.
            mode = "ro" if container.linux.security_context.readonly_rootfs and destination != "/dev/shm" else "rw"  # noqa: S108 - inside the container
            options = ["rbind", "rprivate", mode]
            mounts.append({"destination": destination, "type": "bind", "source": source, "options": options})
    volumes = [_volume(mount, inputs.sources) for mount in container.mounts]
    # A volume inside another must be mounted after it.
    volumes.sort(key=lambda mount: len(PurePosixPath(mount["destination"]).parts))
    return mounts + volumes


def _system_mounts(*, privileged: bool) -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    mode = "rw" if privileged else "ro"
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    rows = (
        ("/proc", "proc", "proc", quiet),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", pts),
        ("/dev/mqueue", "mqueue", "mqueue", quiet),
        ("/sys", "sysfs", "sysfs", [*quiet, mode]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*quiet, "relatime", mode]),
    )
    return [
        {"destination": place, "type": kind, "source": source, "options": options}
        for place, kind, source, options in rows
    ]


def _volume(mount: cri.Mount, sources: Mapping[str, str]) -> dict[str, Any]:
    if mount.recursive_read_only and (not mount.readonly or mount.propagation != cri.PROPAGATION_PRIVATE):
        raise InvalidArgument("recursive_read_only needs readonly and private propagation")
    mode = "rro" if mount.recursive_read_only else "ro" if mount.readonly else "rw"
    return {
        "destination": str(PurePosixPath("/") / mount.container_path),
        "type": "bind",
        "source": sources.get(mount.container_path, mount.host_path),
        "options": ["rbind", _PROPAGATION[mount.propagation], mode],
    }


def _rootfs_propagation(mounts: Sequence[cri.Mount]) -> str:
    """Events reach a volume only if no mount above it keeps them out."""
    modes = {mount.propagation for mount in mounts}
    if cri.PROPAGATION_BIDIRECTIONAL in modes:
        return "rshared"
    return "rslave" if cri.PROPAGATION_HOST_TO_CONTAINER in modes else "rprivate"


def _mapping(ids: cri.IDMapping) -> dict[str, int]:
    return {"containerID": ids.container_id, "hostID": ids.host_id, "size": ids.length}


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _device_rules(inputs: SpecInputs, *, privileged: bool) -> list[dict[str, Any]]:
    """The device cgroup: all for the privileged, else what is asked for beside the runtime's own few."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {"allow": True, "type": node.kind, "major": node.major, "minor": node.minor, "access": node.access}
        for node in inputs.devices
    ]
    return rules


def resources(asked: cri.LinuxContainerResources, host: HostLimits) -> dict[str, Any]:
    """linux.resources of a spec, less the devices: what is not asked for or has no controller here is left out."""
    cpu: dict[str, Any] = {}
    if "cpu" in host.controllers:
        cpu = {"shares": asked.cpu_shares, "quota": asked.cpu_quota, "period": asked.cpu_period}
    if "cpuset" in host.controllers:
        cpu |= {"cpus": asked.cpuset_cpus, "mems": asked.cpuset_mems}
    memory: dict[str, Any] = {}
    if "memory" in host.controllers and asked.memory_limit_in_bytes:
        memory["limit"] = asked.memory_limit_in_bytes
        if host.swap_accounting:
            # The sum of memory and swap; as much as memory alone means no swap, which is what Kubernetes expects.
            memory["swap"] = asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes
    found: dict[str, Any] = {}
    cpu = {key: value for key, value in cpu.items() if value}
    if cpu:
        found["cpu"] = cpu
    if memory:
        found["memory"] = memory
    if "hugetlb" in host.controllers and asked.hugepage_limits:
        found["hugepageLimits"] = [{"pageSize": row.page_size, "limit": row.limit} for row in asked.hugepage_limits]
    if host.cgroup_v2 and asked.unified:
        found["unified"] = dict(asked.unified)
    return found
