"""What the runtime is told of a pod and its containers; pure functions from objects to CRI messages.

Sources: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/,
https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from agent.cri import api_pb2 as cri
from agent.cri.client import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from agent.environment import expand
from machinery.api.quantity import cpu_millis, to_bytes

Pod = Mapping[str, Any]
HASH = "wherry.container.hash"
_PERIOD_MICROSECONDS = 100_000
_MIN_QUOTA = 1000
_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROTOCOLS = {"TCP": cri.TCP, "UDP": cri.UDP, "SCTP": cri.SCTP}
_PROPAGATION = {
    "HostToContainer": cri.PROPAGATION_HOST_TO_CONTAINER, "Bidirectional": cri.PROPAGATION_BIDIRECTIONAL,
}  # fmt: skip


def pod_labels(pod: Pod) -> dict[str, str]:
    """Return the labels under which the runtime keeps whose a sandbox is."""
    metadata = pod["metadata"]
    return {POD_NAME: metadata["name"], POD_NAMESPACE: metadata["namespace"], POD_UID: metadata["uid"]}


def container_hash(container: Mapping[str, Any]) -> str:
    """Return what changes when a running container must be replaced: its name and image."""
    return hashlib.sha256(orjson.dumps([container["name"], container.get("image")])).hexdigest()[:16]


def log_folder(root: Path, pod: Pod) -> Path:
    """Return where a pod's logs lie."""
    metadata = pod["metadata"]
    return root / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def sandbox_config(pod: Pod, attempt: int, logs: Path, dns: Any) -> Any:
    """Return a pod's sandbox as the runtime is to make it."""
    metadata, spec = pod["metadata"], pod["spec"]
    hostname = "" if spec.get("hostNetwork") else spec.get("hostname") or metadata["name"][:63].rstrip("-.")
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=metadata["name"], uid=metadata["uid"], namespace=metadata["namespace"], attempt=attempt
        ),
        hostname=hostname, log_directory=str(log_folder(logs, pod)), dns_config=dns,
        labels={**(metadata.get("labels") or {}), **pod_labels(pod)}, annotations=metadata.get("annotations") or {},
    )  # fmt: skip
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            config.port_mappings.add(
                protocol=_PROTOCOLS[port.get("protocol", "TCP")], container_port=port["containerPort"],
                host_port=port.get("hostPort", 0), host_ip=port.get("hostIP", ""),
            )  # fmt: skip
    linux = config.linux
    linux.cgroup_parent = cgroup_parent(pod)
    security = spec.get("securityContext") or {}
    linux.sysctls.update({one["name"]: one["value"] for one in security.get("sysctls") or ()})
    context = linux.security_context
    context.namespace_options.CopyFrom(_namespaces(spec))
    context.privileged = any(
        (one.get("securityContext") or {}).get("privileged") for one in spec.get("containers") or ()
    )
    context.seccomp.CopyFrom(_seccomp(security.get("seccompProfile")))
    context.supplemental_groups.extend(_groups(security))
    if security.get("runAsUser") is not None:
        context.run_as_user.value = security["runAsUser"]
    if security.get("runAsGroup") is not None:
        context.run_as_group.value = security["runAsGroup"]
    return config


def cgroup_parent(pod: Pod) -> str:
    """Return the cgroup a pod's containers lie in."""
    quality = ((pod.get("status") or {}).get("qosClass") or "BestEffort").lower()
    return f"/wherry/{quality}/pod{pod['metadata']['uid']}"


def _namespaces(spec: Mapping[str, Any]) -> Any:
    return cri.NamespaceOption(
        network=cri.NODE if spec.get("hostNetwork") else cri.POD,
        pid=cri.NODE if spec.get("hostPID") else cri.POD if spec.get("shareProcessNamespace") else cri.CONTAINER,
        ipc=cri.NODE if spec.get("hostIPC") else cri.POD,
    )


def _seccomp(profile: Mapping[str, Any] | None) -> Any:
    """The runtime's own profile unless the pod asks for another, or for none."""
    kind = (profile or {}).get("type", "RuntimeDefault")
    if kind == "Unconfined":
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    if kind == "Localhost":
        path = (profile or {}).get("localhostProfile", "")
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=path)
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)


def _groups(security: Mapping[str, Any]) -> list[int]:
    groups = list(security.get("supplementalGroups") or ())
    return groups + ([security["fsGroup"]] if security.get("fsGroup") is not None else [])


def container_config(
    pod: Pod, container: Mapping[str, Any], attempt: int, image: str, environment: Mapping[str, str],
    mounts: Sequence[Any], allocatable: Mapping[str, str],
) -> Any:  # fmt: skip
    """Return a container as the runtime is to make it."""
    name = container["name"]
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name, attempt=attempt),
        image=cri.ImageSpec(image=image, user_specified_image=container.get("image", "")),
        command=[expand(part, environment) for part in container.get("command") or ()],
        args=[expand(part, environment) for part in container.get("args") or ()],
        working_dir=container.get("workingDir", ""),
        envs=[cri.KeyValue(key=key, value=value) for key, value in environment.items()],
        mounts=mounts, labels={**pod_labels(pod), CONTAINER_NAME: name},
        annotations={HASH: container_hash(container)},
        log_path=f"{name}/{attempt}.log", stdin=container.get("stdin", False),
        stdin_once=container.get("stdinOnce", False), tty=container.get("tty", False),
    )  # fmt: skip
    if signal := (container.get("lifecycle") or {}).get("stopSignal"):
        config.stop_signal = cri.Signal.Value(signal)  # type: ignore[assignment]
    config.linux.resources.CopyFrom(linux_resources(pod, container, allocatable))
    config.linux.security_context.CopyFrom(_security(pod, container))
    return config


def linux_resources(pod: Pod, container: Mapping[str, Any], allocatable: Mapping[str, str]) -> Any:
    """Return cgroup settings out of requests and limits."""
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    millis = cpu_millis(requests["cpu"]) if "cpu" in requests else cpu_millis(limits.get("cpu", "0"))
    found = cri.LinuxContainerResources(
        cpu_shares=max(millis * 1024 // 1000, 2), cpu_period=_PERIOD_MICROSECONDS,
        oom_score_adj=_oom_score(pod, requests, allocatable),
    )  # fmt: skip
    if "cpu" in limits:
        found.cpu_quota = max(cpu_millis(limits["cpu"]) * _PERIOD_MICROSECONDS // 1000, _MIN_QUOTA)
    if "memory" in limits:
        found.memory_limit_in_bytes = to_bytes(limits["memory"])
    return found


def _oom_score(pod: Pod, requests: Mapping[str, str], allocatable: Mapping[str, str]) -> int:
    """Return how early the kernel ends a container; the less of its memory was asked for, the earlier."""
    quality = (pod.get("status") or {}).get("qosClass", "BestEffort")
    if quality == "Guaranteed":
        return -997
    if quality == "BestEffort":
        return 1000
    share = 1000 * to_bytes(requests.get("memory", "0")) // max(to_bytes(allocatable.get("memory", "1")), 1)
    return int(min(max(1000 - share, 3), 999))


def _security(pod: Pod, container: Mapping[str, Any]) -> Any:
    of_pod = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    merged = {**{key: value for key, value in of_pod.items() if value is not None}, **own}
    privileged = own.get("privileged", False)
    context = cri.LinuxContainerSecurityContext(
        privileged=privileged, readonly_rootfs=own.get("readOnlyRootFilesystem", False),
        namespace_options=_namespaces(pod["spec"]), supplemental_groups=_groups(of_pod),
        no_new_privs=own.get("allowPrivilegeEscalation") is False,
        run_as_username="", seccomp=_seccomp({"type": "Unconfined"} if privileged else merged.get("seccompProfile")),
    )  # fmt: skip
    if not privileged and own.get("procMount", "Default") == "Default":
        context.masked_paths.extend(_MASKED)
        context.readonly_paths.extend(_READONLY)
    capabilities = own.get("capabilities") or {}
    context.capabilities.add_capabilities.extend(capabilities.get("add") or ())
    context.capabilities.drop_capabilities.extend(capabilities.get("drop") or ())
    if merged.get("runAsUser") is not None:
        context.run_as_user.value = merged["runAsUser"]
    if merged.get("runAsGroup") is not None:
        context.run_as_group.value = merged["runAsGroup"]
    return context


def mount(container_path: str, host_path: Path, *, readonly: bool, propagation: str = "") -> Any:
    """Return a bind mount."""
    return cri.Mount(
        container_path=container_path, host_path=str(host_path), readonly=readonly,
        propagation=_PROPAGATION.get(propagation, cri.PROPAGATION_PRIVATE),
    )  # fmt: skip
