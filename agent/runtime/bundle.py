"""Makes a container's bundle: root file system, mounts and the OCI runtime spec, out of what CRI asks for."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import cdi, idmap, kernel, oci_spec, rootfs, selinux, users
from agent.runtime.errors import InvalidArgument
from agent.runtime.host import HostLimits
from agent.runtime.images.store import ImageStore
from agent.runtime.rootfs import RootFilesystems
from agent.runtime.sandbox import config_of, wants_user_namespace
from agent.runtime.state import ContainerRecord, Records, SandboxRecord
from machinery.files import write_atomically

APPARMOR_PROFILES = Path("/sys/kernel/security/apparmor/profiles")


def refuse_what_we_lack(config: cri.ContainerConfig, host: HostLimits) -> None:
    """Say so rather than leave out what would be missed.

    Raises: InvalidArgument.
    """
    # Labels of SELinux are passed over where there is none, as other runtimes do: many manifests bring them everywhere.
    security = config.linux.security_context
    profile = oci_spec.apparmor_profile(security)
    # The file's lines are "NAME (MODE)".
    if profile and host.apparmor and f"\n{profile} (" not in "\n" + APPARMOR_PROFILES.read_text():
        raise InvalidArgument(f'apparmor profile not found "{profile}"')
    if host.cgroup_v2 or not config.linux.resources.unified:
        return
    raise InvalidArgument("cgroup settings by name need cgroup version 2")


class BundleMaker:
    """Writes bundles below the folders of their containers."""

    def __init__(
        self, records: Records[ContainerRecord], images: ImageStore, filesystems: RootFilesystems, host: HostLimits
    ) -> None:
        self._records = records
        self._images = images
        self._filesystems = filesystems
        self._host = host

    def layers_of_volumes(self, config: cri.ContainerConfig) -> list[str]:
        """Return names of the layers of images that the container mounts, and enter the images' ids in its mounts.

        Raises: NotFound; InvalidArgument for one that is to be written to.
        """
        found: list[str] = []
        for mount in config.mounts:
            if mount.HasField("image") and mount.image.image:
                if not mount.readonly:
                    raise InvalidArgument(f'image volume "{mount.container_path}" must be read-only')
                image = self._images.get(mount.image.image)
                mount.image.image_ref = image.id
                found += image.layers
        return found

    def make(
        self, record: ContainerRecord, config: cri.ContainerConfig, sandbox: SandboxRecord, sandbox_folder: Path
    ) -> None:
        """Mount and write all that the container needs. Blocks; whoever calls unmounts it again after a failure.

        Raises: OSError, InvalidArgument, RuntimeFailure.
        """
        image = self._images.get(record.image_id)
        security = config.linux.security_context
        namespace = self._user_namespace(security, sandbox, sandbox_folder)
        layers = [self._images.layer(name) for name in image.layers]
        first_id = security.namespace_options.userns_options.uids[0].host_id if namespace else 0
        labels = _labels(security, sandbox.id)
        root = self._filesystems.mount(record.id, layers, namespace, first_id, labels.file if labels else "")
        user = users.resolve(
            _wanted_user(security),
            image.config.get("User", ""),
            rootfs.read_in(root, "etc/passwd"),
            rootfs.read_in(root, "etc/group"),
        )
        record.user = [user.uid, user.gid, *user.groups]
        devices = rootfs.all_host_devices() if security.privileged else []
        for device in config.devices:
            devices += rootfs.host_device(
                device.host_path, container_path=device.container_path, access=device.permissions
            )
        inputs = oci_spec.SpecInputs(
            container=config,
            image=image.config,
            user=user,
            host=self._host,
            rootfs=str(root),
            cgroup=record.cgroup,
            namespaces=self._namespaces(security, sandbox, sandbox_folder),
            hostname=config_of(sandbox).hostname or os.uname().nodename,
            files=_pod_files(sandbox_folder),
            sources=self._sources(record, config, namespace, labels.file if labels else ""),
            devices=devices,
            labels=labels,
            edits=cdi.edits_for([device.name for device in config.CDI_devices]),
        )
        spec = oci_spec.build(inputs)
        write_atomically(self._records.path(record.id) / "config.json", json.dumps(spec).encode())

    @staticmethod
    def _user_namespace(
        security: cri.LinuxContainerSecurityContext, sandbox: SandboxRecord, sandbox_folder: Path
    ) -> Path | None:
        """The pod's user namespace; a container is in it exactly when its pod is. Raises: InvalidArgument."""
        asked = wants_user_namespace(security.namespace_options)
        of_pod = config_of(sandbox).linux.security_context.namespace_options
        if not asked and not wants_user_namespace(of_pod):
            return None
        if security.namespace_options.userns_options != of_pod.userns_options:
            raise InvalidArgument("a container must have the user namespace of its sandbox")
        return sandbox_folder / "user"

    def _namespaces(
        self, security: cri.LinuxContainerSecurityContext, sandbox: SandboxRecord, sandbox_folder: Path
    ) -> dict[str, str]:
        """The container's namespaces: the pod's by path, its own by ""; the host's are left out."""
        options = security.namespace_options
        found = {"user": "user", "network": "net", "uts": "uts", "ipc": "ipc"}
        namespaces = {
            kind: str(sandbox_folder / name) for kind, name in found.items() if (sandbox_folder / name).exists()
        }
        if options.pid == cri.CONTAINER:
            namespaces["pid"] = ""
        elif options.pid == cri.POD:
            if not sandbox.pause_pid:
                raise InvalidArgument("the sandbox was made without a PID namespace to share")
            namespaces["pid"] = str(sandbox_folder / "pid")
        elif options.pid == cri.TARGET:
            target = self._records.get(options.target_id)
            if target.state != "running" or target.sandbox_id != sandbox.id:
                raise InvalidArgument(f'target container "{options.target_id}" is not running in this sandbox')
            namespaces["pid"] = f"/proc/{target.pid}/ns/pid"
        if not security.privileged:
            namespaces["cgroup"] = ""
        return namespaces

    def _sources(
        self, record: ContainerRecord, config: cri.ContainerConfig, namespace: Path | None, label: str = ""
    ) -> Mapping[str, str]:
        """Where each mount's files are, by its place in the container: links followed, images and owners mounted.

        Args: `label` is the SELinux label of the container's files, "" where there is none.
        """
        found = {}
        for index, mount in enumerate(config.mounts):
            place = self._filesystems.folder / record.id / "mounts" / str(index)
            if mount.HasField("image") and mount.image.image:
                found[mount.container_path] = self._image_source(mount, place)
                continue
            source = _real_path(mount.host_path)
            if label and mount.selinux_relabel:
                selinux.relabel(source, label)
            if namespace is not None and mount.uidMappings:
                place.parent.mkdir(parents=True, exist_ok=True)
                if os.path.isdir(source):
                    place.mkdir()
                else:
                    place.touch()
                idmap.mount(source, place, namespace)
                source = str(place)
            found[mount.container_path] = source
        return found

    def _image_source(self, mount: cri.Mount, place: Path) -> str:
        image = self._images.get(mount.image.image)
        self._filesystems.read_only(place, [self._images.layer(name) for name in image.layers])
        if not mount.image_sub_path:
            return str(place)
        fd = kernel.open_in_root(place, mount.image_sub_path)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


def _labels(security: cri.LinuxContainerSecurityContext, sandbox_id: str) -> selinux.Labels | None:
    """What a container is labelled with where its pod asks for that; the host has what it takes then."""
    asked = security.selinux_options
    if not any((asked.user, asked.role, asked.type, asked.level)) or not selinux.is_enabled():
        return None
    return selinux.labels(asked, sandbox_id, selinux.defaults(), privileged=security.privileged)


def _wanted_user(security: cri.LinuxContainerSecurityContext) -> users.WantedUser:
    return users.WantedUser(
        uid=security.run_as_user.value if security.HasField("run_as_user") else None,
        name=security.run_as_username,
        gid=security.run_as_group.value if security.HasField("run_as_group") else None,
        groups=tuple(security.supplemental_groups),
        merge_image_groups=security.supplemental_groups_policy != cri.Strict,
    )


def _pod_files(folder: Path) -> dict[str, str]:
    """What all containers of a pod see of their sandbox."""
    shm = folder / "shm"
    return {
        "/etc/resolv.conf": str(folder / "resolv.conf"),
        "/etc/hosts": str(folder / "hosts"),
        "/etc/hostname": str(folder / "hostname"),
        "/dev/shm": str(shm) if shm.is_dir() else "/dev/shm",  # noqa: S108 - the host's own, for hostIPC
    }


def _real_path(path: str) -> str:
    """Where a host path leads. Raises: InvalidArgument if it doesn't exist."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise InvalidArgument(f'failed to generate container spec: stat "{path}": {error.strerror}') from error
