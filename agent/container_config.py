"""What the runtime is told of a pod and its containers; pure functions from objects to CRI messages.

Sources: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/,
https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from agent.cri import api_pb2 as cri
from agent.cri.client import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from agent.deviceplugin.manager import Given
from agent.environment import expand
from agent.security import container_security, sandbox_security
from machinery.api.quantity import cpu_millis, to_bytes

Pod = Mapping[str, Any]
HASH = "wherry.container.hash"
SWAPS, MEMSW = Path("/proc/swaps"), Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")
SELINUX = Path("/sys/fs/selinux/enforce")  # on hosts that have SELinux
_PERIOD_MICROSECONDS = 100_000
_MIN_QUOTA = 1000
_LATEST = -997  # the oom_score_adj of what goes last but for the node's own daemons
_NODE_CRITICAL = 2_000_001_000  # the priority of system-node-critical
_NOTHING_GIVEN = Given()
_HUGEPAGES = "hugepages-"
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


def sandbox_config(
    pod: Pod, attempt: int, logs: Path, dns: Any, *, hostname: str, seccomp_root: Path, id_base: int = 0
) -> Any:  # fmt: skip
    """Return a pod's sandbox as the runtime is to make it."""
    metadata, spec = pod["metadata"], pod["spec"]
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=metadata["name"], uid=metadata["uid"], namespace=metadata["namespace"], attempt=attempt
        ),
        hostname=hostname, log_directory=str(log_folder(logs, pod)), dns_config=dns,
        labels={**(metadata.get("labels") or {}), **pod_labels(pod)}, annotations=metadata.get("annotations") or {},
    )  # fmt: skip
    lasting = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for container in (*lasting, *(spec.get("containers") or ())):
        for port in container.get("ports") or ():
            config.port_mappings.add(
                protocol=_PROTOCOLS[port.get("protocol", "TCP")], container_port=port["containerPort"],
                host_port=port.get("hostPort", 0), host_ip=port.get("hostIP", ""),
            )  # fmt: skip
    linux = config.linux
    linux.cgroup_parent = cgroup_parent(pod)
    security = spec.get("securityContext") or {}
    linux.sysctls.update({one["name"]: one["value"] for one in security.get("sysctls") or ()})
    linux.security_context.CopyFrom(sandbox_security(pod, seccomp_root, id_base))
    linux.overhead.CopyFrom(_from_list(spec.get("overhead") or {}))
    return config


def cgroup_parent(pod: Pod) -> str:
    """Return the cgroup a pod's containers lie in."""
    quality = ((pod.get("status") or {}).get("qosClass") or "BestEffort").lower()
    return f"/wherry/{quality}/pod{pod['metadata']['uid']}"


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """What a container is given beside its spec.

    Attributes:
        image: the image's id.
        resources: its cgroup settings.
        target_id: the container whose processes it sees; "" for its own.
        seccomp_root: where Localhost profiles are found.
        id_base: the first host id of the pod's user namespace.
        given: what device plugins gave for the devices it asks for.
        block_devices: volumes that are devices: where the container is to have each, and where it is.
    """

    attempt: int
    image: str
    environment: Mapping[str, str]
    mounts: Sequence[Any]
    resources: Any
    target_id: str = ""
    seccomp_root: Path = Path("/")
    id_base: int = 0
    given: Given = _NOTHING_GIVEN
    block_devices: Sequence[tuple[str, Path]] = ()


def container_config(pod: Pod, container: Mapping[str, Any], given: ContainerOptions) -> Any:
    """Return a container as the runtime is to make it."""
    name = container["name"]
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name, attempt=given.attempt),
        image=cri.ImageSpec(image=given.image, user_specified_image=container.get("image", "")),
        command=[expand(part, given.environment) for part in container.get("command") or ()],
        args=[expand(part, given.environment) for part in container.get("args") or ()],
        working_dir=container.get("workingDir", ""),
        envs=[cri.KeyValue(key=key, value=value) for key, value in given.environment.items()],
        mounts=given.mounts, labels={**pod_labels(pod), CONTAINER_NAME: name},
        annotations={HASH: container_hash(container)},
        log_path=f"{name}/{given.attempt}.log", stdin=container.get("stdin", False),
        stdin_once=container.get("stdinOnce", False), tty=container.get("tty", False),
    )  # fmt: skip
    if signal := (container.get("lifecycle") or {}).get("stopSignal"):
        config.stop_signal = cri.Signal.Value(signal)  # type: ignore[assignment]
    config.linux.resources.CopyFrom(given.resources)
    security = container_security(pod, container, given.seccomp_root, given.target_id, given.id_base)
    users = security.namespace_options.userns_options
    for one in config.mounts if given.id_base else ():
        if one.host_path:  # its owners are shown as the pod's own users
            one.uidMappings.extend(users.uids)
            one.gidMappings.extend(users.gids)
    _add_devices(config, given.given)
    for place, device in given.block_devices:
        config.devices.add(container_path=place, host_path=str(device), permissions="mrw")
    config.linux.security_context.CopyFrom(security)
    return config


def _add_devices(config: Any, given: Given) -> None:
    for one in given.devices:
        config.devices.add(
            container_path=one.container_path, host_path=one.host_path, permissions=one.permissions or "rw"
        )
    for one in given.mounts:
        config.mounts.add(container_path=one.container_path, host_path=one.host_path, readonly=one.read_only)
    config.annotations.update(given.annotations)
    for name in given.cdi_names:
        config.CDI_devices.add(name=name)


def linux_resources(pod: Pod, container: Mapping[str, Any], memory_bytes: int) -> Any:
    """Return cgroup settings out of requests and limits.

    Args: `memory_bytes` is what the node has; the share of it that is asked for says how late the kernel kills.
    """
    resources = container.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    millis = cpu_millis(requests["cpu"]) if "cpu" in requests else cpu_millis(limits.get("cpu", "0"))
    found = cri.LinuxContainerResources(
        cpu_shares=max(millis * 1024 // 1000, 2), cpu_period=_PERIOD_MICROSECONDS,
        oom_score_adj=_oom_score(pod, container, memory_bytes),
    )  # fmt: skip
    if "cpu" in limits:
        found.cpu_quota = max(cpu_millis(limits["cpu"]) * _PERIOD_MICROSECONDS // 1000, _MIN_QUOTA)
    if "memory" in limits:
        found.memory_limit_in_bytes = to_bytes(limits["memory"])
    _without_swap(found)
    if UNIFIED.exists():
        found.unified["memory.oom.group"] = "1"  # a container that is short of memory ends as a whole
    for name, value in limits.items():
        if name.startswith(_HUGEPAGES):
            size = name.removeprefix(_HUGEPAGES).removesuffix("i") + "B"
            found.hugepage_limits.add(page_size=size, limit=to_bytes(value))
    return found


def _without_swap(found: Any) -> None:
    """Have a container's memory not be swapped, on machines that have swap: so do kubelets unless told otherwise.

    Source: https://kubernetes.io/docs/concepts/cluster-administration/swap-memory-management/
    """
    if not SWAPS.exists() or len(SWAPS.read_text().splitlines()) < 2:
        return
    if UNIFIED.exists():
        found.unified["memory.swap.max"] = "0"
    elif MEMSW.exists() and found.memory_limit_in_bytes:
        found.memory_swap_limit_in_bytes = found.memory_limit_in_bytes  # of memory and swap together


def _from_list(amounts: Mapping[str, str]) -> Any:
    """Return a plain list of amounts, such as a pod's overhead, in the runtime's terms."""
    found = cri.LinuxContainerResources()
    if "cpu" in amounts:
        found.cpu_shares = max(cpu_millis(amounts["cpu"]) * 1024 // 1000, 2)
    if "memory" in amounts:
        found.memory_limit_in_bytes = to_bytes(amounts["memory"])
    return found


def _oom_score(pod: Pod, container: Mapping[str, Any], memory_bytes: int) -> int:
    """Return how early the kernel ends a container; the less of its memory was asked for, the earlier.

    Sources: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior;
    a sidecar goes no earlier than the containers it serves (KEP 753).
    """
    if (pod["spec"].get("priority") or 0) >= _NODE_CRITICAL:
        return _LATEST
    quality = (pod.get("status") or {}).get("qosClass", "BestEffort")
    if quality == "Guaranteed":
        return _LATEST
    if quality == "BestEffort":
        return 1000
    score = _share_score(container, memory_bytes)
    if container.get("restartPolicy") == "Always" and container in (pod["spec"].get("initContainers") or ()):
        score = min([score, *(_share_score(one, memory_bytes) for one in pod["spec"].get("containers") or ())])
    return min(max(score, 1000 + _LATEST), 999)


def _share_score(container: Mapping[str, Any], memory_bytes: int) -> int:
    asked = ((container.get("resources") or {}).get("requests") or {}).get("memory", "0")
    return 1000 - 1000 * to_bytes(asked) // max(memory_bytes, 1)


def mount(
    container_path: str, host_path: Path, *, readonly: bool, propagation: str = "", recursive: bool = False,
    relabel: bool = True,
) -> Any:  # fmt: skip
    """Return a bind mount; `recursive` makes what is mounted below it read-only too.

    With `relabel` its files are the pod's own, and get the container's SELinux label on hosts that have SELinux.
    """
    return cri.Mount(
        container_path=container_path, host_path=str(host_path), readonly=readonly,
        propagation=_PROPAGATION.get(propagation, cri.PROPAGATION_PRIVATE), recursive_read_only=recursive,
        selinux_relabel=relabel and SELINUX.exists(),
    )  # fmt: skip


def image_mount(container_path: str, image: Mapping[str, Any], sub_path: str) -> Any:
    """Return a mount of an image's files, always read-only."""
    return cri.Mount(
        container_path=container_path, readonly=True, image=cri.ImageSpec(image=image.get("reference", "")),
        image_sub_path=sub_path,
    )  # fmt: skip
