"""What a pod's security context asks of the runtime, and what the node refuses of it.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.cri import api_pb2 as cri
from agent.environment import ConfigError

Pod = Mapping[str, Any]
_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# An empty list can't be told from none over gRPC, and without one runtimes mask what is usual; this path is nowhere.
_NONE = ("/proc/.nothing-is-masked",)
# Set in a namespace of the pod's own, bounded by its own limits: https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
    }
)  # fmt: skip
ID_COUNT = 65536


def merged(pod: Pod, container: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's security context; what it leaves open is the pod's."""
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    return {key: value for part in (of_pod, own) for key, value in part.items() if value is not None}


def verify_user(pod: Pod, container: Mapping[str, Any], image: Any) -> None:
    """Hold a container to runAsNonRoot. Raises: ConfigError in the words users know.

    Args: `image` is the CRI image, None when it is gone.
    """
    asked = merged(pod, container)
    if not asked.get("runAsNonRoot"):
        return
    metadata = pod["metadata"]
    whose = f'(pod: "{metadata["name"]}_{metadata["namespace"]}({metadata["uid"]})", container: {container["name"]})'
    if "runAsUser" in asked:
        if asked["runAsUser"] == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {whose}")
        return
    if image is None:
        return
    if image.HasField("uid"):
        if image.uid.value == 0:
            raise ConfigError(f"container has runAsNonRoot and image will run as root {whose}")
    elif image.username:
        text = f"image has non-numeric user ({image.username}), cannot verify user is non-root {whose}"
        raise ConfigError(f"container has runAsNonRoot and {text}")
    else:
        raise ConfigError(f"container has runAsNonRoot and image will run as root {whose}")


def forbidden_sysctl(pod: Pod, allows: Callable[[str], bool] = lambda _: False) -> str:
    """Return why a pod's sysctls are refused, "" when they are not.

    Args: `allows` tells whether an administrator allowed one that is not safe by itself.
    """
    spec = pod["spec"]
    for one in (spec.get("securityContext") or {}).get("sysctls") or ():
        name = one["name"].replace("/", ".")
        if name not in SAFE_SYSCTLS and not allows(name):
            return f'forbidden sysctl: "{one["name"]}" not allowlisted'
        if name.startswith("net.") and spec.get("hostNetwork"):
            return f'forbidden sysctl: "{one["name"]}" not allowed with host net enabled'
        if not name.startswith("net.") and spec.get("hostIPC"):
            return f'forbidden sysctl: "{one["name"]}" not allowed with host ipc enabled'
    return ""


def namespaces(pod: Pod, id_base: int, target_id: str = "") -> Any:
    """Return which namespaces are the host's, the pod's, the container's own or another container's.

    Args: `id_base` is the first host id of the pod's user namespace.
    """
    spec = pod["spec"]
    options = cri.NamespaceOption(
        network=cri.NODE if spec.get("hostNetwork") else cri.POD,
        pid=cri.NODE if spec.get("hostPID") else cri.POD if spec.get("shareProcessNamespace") else cri.CONTAINER,
        ipc=cri.NODE if spec.get("hostIPC") else cri.POD,
    )
    if target_id and options.pid == cri.CONTAINER:
        options.pid, options.target_id = cri.TARGET, target_id
    if spec.get("hostUsers") is False:
        options.userns_options.mode = cri.POD
        for ids in (options.userns_options.uids, options.userns_options.gids):
            ids.add(host_id=id_base, container_id=0, length=ID_COUNT)
    return options


def seccomp(profile: Mapping[str, Any] | None, root: Path) -> Any:
    """The runtime's own profile unless the pod asks for another, or for none. Raises: ConfigError."""
    kind = (profile or {}).get("type", "RuntimeDefault")
    if kind == "Unconfined":
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    if kind == "Localhost":
        name = (profile or {}).get("localhostProfile") or ""
        if not name:  # CVE-2023-2431: no profile must not mean no filter
            raise ConfigError("localhostProfile must be set if seccompProfile type is Localhost.")
        if name.startswith("/") or ".." in Path(name).parts:
            raise ConfigError(f"localhostProfile {name!r} must be a relative path below the node's folder of profiles")
        path = root / name
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=str(path))
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)


def supplemental_groups(of_pod: Mapping[str, Any]) -> list[int]:
    """Return the groups a pod's processes have beside their own."""
    groups = list(of_pod.get("supplementalGroups") or ())
    return groups + ([of_pod["fsGroup"]] if of_pod.get("fsGroup") is not None else [])


def sandbox_security(pod: Pod, root: Path, id_base: int) -> Any:
    """Return a sandbox's security context."""
    spec = pod["spec"]
    security = spec.get("securityContext") or {}
    context = cri.LinuxSandboxSecurityContext(
        namespace_options=namespaces(pod, id_base), seccomp=seccomp(security.get("seccompProfile"), root),
        supplemental_groups=supplemental_groups(security),
        privileged=any((one.get("securityContext") or {}).get("privileged") for one in spec.get("containers") or ()),
    )  # fmt: skip
    _set_user(context, security)
    return context


def container_security(pod: Pod, container: Mapping[str, Any], root: Path, target_id: str, id_base: int) -> Any:
    """Return a container's security context."""
    of_pod = pod["spec"].get("securityContext") or {}
    own, asked = container.get("securityContext") or {}, merged(pod, container)
    privileged = bool(own.get("privileged", False))
    context = cri.LinuxContainerSecurityContext(
        privileged=privileged, readonly_rootfs=own.get("readOnlyRootFilesystem", False),
        namespace_options=namespaces(pod, id_base, target_id), supplemental_groups=supplemental_groups(of_pod),
        no_new_privs=own.get("allowPrivilegeEscalation") is False,
        seccomp=seccomp({"type": "Unconfined"} if privileged else asked.get("seccompProfile"), root),
        supplemental_groups_policy=cri.Strict if of_pod.get("supplementalGroupsPolicy") == "Strict" else cri.Merge,
    )  # fmt: skip
    if not privileged:
        masked = (own.get("procMount") or "Default") == "Default"
        context.masked_paths.extend(_MASKED if masked else _NONE)
        context.readonly_paths.extend(_READONLY if masked else _NONE)
    capabilities = own.get("capabilities") or {}
    context.capabilities.add_capabilities.extend(capabilities.get("add") or ())
    context.capabilities.drop_capabilities.extend(capabilities.get("drop") or ())
    _set_apparmor(context, asked.get("appArmorProfile"))
    if options := asked.get("seLinuxOptions"):
        context.selinux_options.CopyFrom(cri.SELinuxOption(**{key: str(value) for key, value in options.items()}))
    _set_user(context, asked)
    return context


def _set_apparmor(context: Any, profile: Mapping[str, Any] | None) -> None:
    if profile is None:
        return
    kinds = {
        "RuntimeDefault": cri.SecurityProfile.RuntimeDefault, "Unconfined": cri.SecurityProfile.Unconfined,
        "Localhost": cri.SecurityProfile.Localhost,
    }  # fmt: skip
    context.apparmor.profile_type = kinds[profile["type"]]
    context.apparmor.localhost_ref = profile.get("localhostProfile", "")


def _set_user(context: Any, security: Mapping[str, Any]) -> None:
    if security.get("runAsUser") is not None:
        context.run_as_user.value = security["runAsUser"]
    if security.get("runAsGroup") is not None:
        context.run_as_group.value = security["runAsGroup"]
