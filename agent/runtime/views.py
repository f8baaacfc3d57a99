"""Records as CRI's messages."""

from collections.abc import Mapping

from agent.cri import api_pb2 as cri
from agent.runtime.container import container_config
from agent.runtime.images.store import Image
from agent.runtime.sandbox import config_of
from agent.runtime.state import ContainerRecord, SandboxRecord

_STATES = {
    "created": cri.CONTAINER_CREATED,
    "starting": cri.CONTAINER_CREATED,
    "running": cri.CONTAINER_RUNNING,
    "exited": cri.CONTAINER_EXITED,
}


def sandbox_state(record: SandboxRecord) -> cri.PodSandboxState:
    """Only a sandbox that is wholly there is ready."""
    return cri.SANDBOX_READY if record.state == "ready" else cri.SANDBOX_NOTREADY


def container_state(record: ContainerRecord) -> cri.ContainerState:
    """A container that is being started counts as created."""
    return _STATES.get(record.state, cri.CONTAINER_UNKNOWN)


def sandbox_item(record: SandboxRecord) -> cri.PodSandbox:
    """A sandbox in a list."""
    config = config_of(record)
    return cri.PodSandbox(
        id=record.id,
        metadata=config.metadata,
        state=sandbox_state(record),
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.runtime_handler,
    )


def sandbox_status(record: SandboxRecord) -> cri.PodSandboxStatus:
    """A sandbox in full."""
    config = config_of(record)
    ips = record.ips if record.state == "ready" else []
    network = cri.PodSandboxNetworkStatus(
        ip=ips[0] if ips else "", additional_ips=[cri.PodIP(ip=address) for address in ips[1:]]
    )
    options = config.linux.security_context.namespace_options
    return cri.PodSandboxStatus(
        id=record.id,
        metadata=config.metadata,
        state=sandbox_state(record),
        created_at=record.created_at,
        network=network,
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.runtime_handler,
    )


def container_item(record: ContainerRecord) -> cri.Container:
    """A container in a list."""
    config = container_config(record)
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=config.metadata,
        image=config.image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        state=container_state(record),
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
    )


def container_status(record: ContainerRecord) -> cri.ContainerStatus:
    """A container in full."""
    config = container_config(record)
    user = cri.ContainerUser()
    if record.user:
        uid, gid, *groups = record.user
        user.linux.uid, user.linux.gid = uid, gid
        user.linux.supplemental_groups.extend(groups)
    image = cri.ImageSpec()
    image.CopyFrom(config.image)
    image.image = config.image.user_specified_image or config.image.image
    return cri.ContainerStatus(
        id=record.id,
        metadata=config.metadata,
        state=container_state(record),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        reason=record.reason,
        message=record.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=record.log_path,
        resources=cri.ContainerResources(linux=cri.LinuxContainerResources.FromString(record.resources)),
        user=user,
        stop_signal=config.stop_signal,
    )


def image_item(image: Image) -> cri.Image:
    """An image; its user as a number or a name, whichever it was given."""
    user = image.config.get("User", "").partition(":")[0]
    return cri.Image(
        id=image.id,
        repo_tags=image.tags,
        repo_digests=image.digests,
        size=image.size,
        uid=cri.Int64Value(value=int(user)) if user.isdigit() else None,
        username="" if user.isdigit() else user,
        spec=cri.ImageSpec(image=image.id),
    )


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all of a selector's labels are there."""
    return all(labels.get(key) == value for key, value in selector.items())
