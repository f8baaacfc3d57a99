"""Where a cluster keeps what: one data folder holds all of it."""

import os
from dataclasses import dataclass
from pathlib import Path


def default_data_dir() -> Path:
    """Return the data folder used when none is given: the system's for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/wherry")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "wherry"


ROOT_DIR_MARK = ".wherry"
"""In an agent's folder outside the data folder: whose it is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster."""

    root: Path

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def run(self) -> Path:
        """Sockets and process ids of what runs now."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One log a component."""
        return self.root / "log"

    @property
    def etcd(self) -> Path:
        """The data of the cluster's own etcd."""
        return self.root / "etcd"

    @property
    def etcd_socket(self) -> Path:
        """The only listener of the cluster's own etcd."""
        return self.run / "etcd:1"

    @property
    def sqlite(self) -> Path:
        """The embedded store."""
        return self.root / "store.sqlite"

    @property
    def runtime_socket(self) -> Path:
        """Where the runtime serves CRI."""
        return self.run / "runtime.sock"

    @property
    def settings(self) -> Path:
        """The options of the last `wherry up`."""
        return self.root / "cluster.json"

    @property
    def addons_installed(self) -> Path:
        """There when the supervisor has put in the add-ons it was asked for."""
        return self.run / "addons-installed"

    def own_root_dir(self, folder: Path) -> Path:
        """Make a folder elsewhere the agent's, and return it. Raises: FileExistsError where others have files in it."""
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        mark = folder / ROOT_DIR_MARK
        if not mark.exists():
            if any(folder.iterdir()):
                raise FileExistsError(f"{folder} is in use: it holds files that no agent of Wherry put there")
            mark.write_text(f"{self.root}\n")
        elif mark.read_text().strip() != str(self.root):
            raise FileExistsError(f"{folder} is in use by the node of {mark.read_text().strip()}")
        return folder

    def component_kubeconfig(self, component: str) -> Path:
        """The kubeconfig of a component."""
        return self.root / "kubeconfigs" / component

    def pid_file(self, component: str) -> Path:
        """Where a running component's process id stands."""
        return self.run / f"{component}.pid"

    def log_file(self, component: str) -> Path:
        """Where a component's output goes."""
        return self.logs / f"{component}.log"

    def make(self) -> None:
        """Make the folders; only the owner may look into them.

        One may pass through the first of them, though, on the way to a container's root: where a pod has users of its
        own (hostUsers: false), even its root is a stranger here.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)
        if self.root.stat().st_mode & 0o777 == 0o700:
            self.root.chmod(0o711)
        for folder in (self.run, self.logs, self.root / "kubeconfigs", self.root / "agent", self.root / "volumes"):
            folder.mkdir(exist_ok=True, mode=0o700)
