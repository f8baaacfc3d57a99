"""What a runtime process is told at start."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_CNI_BIN_DIRS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))


@dataclass(frozen=True)
class RuntimeConfig:
    """Where a runtime keeps its things and what it calls.

    Attributes:
        root: images and the writable layers of containers; survives a reboot.
        state: what is running now; paths of sockets and mounts lie here, so keep it short (under 60 bytes).
        socket: the Unix socket on which CRI is served, made with mode 0600.
        oci_runtime: an OCI runtime with runc's command line.
        conmon: the monitor that holds each container's output and exit code.
        cni_bin_dirs: where CNI plugins are looked for, in this order.
        cni_conf_dir: CNI network lists; the first by name is used. Default: root/cni/net.d.
        bridge: the bridge of our own network list, at most 15 bytes.
        pod_cidr: the pods' range until UpdateRuntimeConfig names another; "" waits for that.
        cgroup_root: the cgroup below which sandboxes go that name no parent of their own.
        import_busybox: make the image wherry.local/busybox:latest at start.
    """

    root: Path
    state: Path
    socket: Path
    oci_runtime: str = "runc"
    conmon: str = "conmon"
    cni_bin_dirs: tuple[Path, ...] = DEFAULT_CNI_BIN_DIRS
    cni_conf_dir: Path | None = None
    bridge: str = "wherry0"
    pod_cidr: str = "10.244.0.0/24"
    cgroup_root: str = "/wherry"
    import_busybox: bool = True

    @property
    def network_dir(self) -> Path:
        """Where CNI network lists are read from."""
        return self.cni_conf_dir or self.root / "cni" / "net.d"
