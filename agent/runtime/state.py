"""What the runtime remembers: one JSON file for each sandbox and container, replaced whole.

A file is written before the work it speaks of begins and after it ended, so that after SIGKILL at any moment the
files say what may be half done (`recover` in sandbox.py and container.py finishes or undoes it).
"""

import base64
import contextlib
import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from agent.runtime.errors import NotFound
from machinery.files import write_atomically


@dataclass
class SandboxRecord:
    """A sandbox; times in nanoseconds since 1970.

    Attributes:
        config: the PodSandboxConfig it was made from, serialized.
        cgroup: the cgroup that holds the pod's containers.
        state: "creating", "ready", "stopping" or "notready".
        network: the CNI result (JSON), None without a network of its own.
        made_cgroup: the pod's cgroup was not there before, so it goes with the sandbox.
        pause_pid: the process that holds a shared PID namespace, 0 without one.
    """

    id: str
    config: bytes
    created_at: int
    boot_id: str
    cgroup: str
    runtime_handler: str = ""
    state: str = "creating"
    ips: list[str] = field(default_factory=list)
    network: dict[str, Any] | None = None
    made_cgroup: bool = False
    pause_pid: int = 0
    pause_start_ticks: int = 0


@dataclass
class ContainerRecord:
    """A container; times in nanoseconds since 1970, 0 while they are to come.

    Attributes:
        config: the ContainerConfig it was made from, serialized.
        state: "creating", "created", "starting", "running", "exited".
        layers: the image's layers, lowest first, by their names in the layer store.
        start_ticks: see kernel.process_start_ticks.
        user: uid, gid and supplementary groups of the first process.
        resources: the LinuxContainerResources in force, serialized.
        stop_signal: number of the signal that asks it to end.
        handler: the OCI runtime it is run by, its sandbox's.
    """

    id: str
    sandbox_id: str
    config: bytes
    created_at: int
    boot_id: str
    image_id: str = ""
    image_ref: str = ""
    layers: list[str] = field(default_factory=list)
    state: str = "creating"
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    pid: int = 0
    start_ticks: int = 0
    user: list[int] = field(default_factory=list)
    resources: bytes = b""
    stop_signal: int = 15
    cgroup: str = ""
    log_path: str = ""
    handler: str = ""


R = TypeVar("R", bound=SandboxRecord | ContainerRecord)


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _decode(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value


class Records(Generic[R]):
    """All records of one kind, in memory and on disk; `folder`/ID/record.json each."""

    def __init__(self, folder: Path, kind: type[R], noun: str) -> None:
        self.folder = folder
        self._kind = kind
        self._fields = {field.name for field in fields(kind)}
        self._noun = noun
        self._by_id: dict[str, R] = {}

    def load(self) -> None:
        """Read all records; a folder without one was made just before a crash and is removed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self.folder.iterdir():
            try:
                stored = json.loads((path / "record.json").read_bytes(), object_hook=_decode)
            except FileNotFoundError:
                shutil.rmtree(path, ignore_errors=True)
                continue
            # Fields of a later version are left out: it may be gone back from.
            record = self._kind(**{key: value for key, value in stored.items() if key in self._fields})
            self._by_id[record.id] = record

    def path(self, record_id: str) -> Path:
        """The folder of one record."""
        return self.folder / record_id

    def save(self, record: R) -> None:
        """Write a record."""
        self.path(record.id).mkdir(mode=0o700, exist_ok=True)
        data = json.dumps(asdict(record), default=_encode, separators=(",", ":")).encode()
        write_atomically(self.path(record.id) / "record.json", data)
        self._by_id[record.id] = record

    def remove(self, record_id: str) -> None:
        """Forget a record and remove its folder; what was mounted in it must be gone."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path(record_id))
        self._by_id.pop(record_id, None)

    def find(self, prefix: str) -> R | None:
        """The record whose id is or begins with `prefix`; None if there is none or more than one."""
        if prefix in self._by_id:
            return self._by_id[prefix]
        matches = [record for key, record in self._by_id.items() if prefix and key.startswith(prefix)]
        return matches[0] if len(matches) == 1 else None

    def get(self, record_id: str) -> R:
        """The record with this id, or with an id that begins so.

        Raises: NotFound.
        """
        record = self.find(record_id)
        if record is None:
            raise NotFound(f'{self._noun} "{record_id}": not found')
        return record

    def all(self) -> list[R]:
        """All records, oldest first."""
        return sorted(self._by_id.values(), key=lambda record: record.created_at)
