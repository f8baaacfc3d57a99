"""Containers: created → running → exited, each step on disk before it is taken."""

import asyncio
import json
import logging
import os
import secrets
import signal
import time
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import cgroups, kernel, oci_spec, processes
from agent.runtime.bundle import BundleMaker, refuse_what_we_lack
from agent.runtime.checkpoint import checkpoint
from agent.runtime.errors import FailedPrecondition, InvalidArgument, RuntimeFailure
from agent.runtime.events import Broadcaster
from agent.runtime.handlers import OciRuntimes
from agent.runtime.host import HostLimits
from agent.runtime.images.store import ImageStore
from agent.runtime.monitor import REOPEN_LOG, Monitor, Stdio, was_oom_killed
from agent.runtime.rootfs import RootFilesystems
from agent.runtime.sandbox import config_of
from agent.runtime.state import ContainerRecord, Records, SandboxRecord
from machinery.files import write_atomically

_log = logging.getLogger(__name__)

START_ERROR_CODE = 128  # what containerd reports for a process that could not be started
UNKNOWN_CODE = 255  # … and for one of which nobody knows how it ended
_KILL_SECONDS = 30
_REOPEN_SECONDS = 5


def container_config(record: ContainerRecord) -> cri.ContainerConfig:
    """The configuration a container was made from."""
    return cri.ContainerConfig.FromString(record.config)


class ContainerManager:
    """Makes, starts, stops and removes containers, and notices when they end."""

    def __init__(
        self,
        records: Records[ContainerRecord],
        sandboxes: Records[SandboxRecord],
        images: ImageStore,
        filesystems: RootFilesystems,
        runtimes: OciRuntimes,
        monitor: Monitor,
        host: HostLimits,
    ) -> None:
        self._records = records
        self._sandboxes = sandboxes
        self._images = images
        self._filesystems = filesystems
        self._runtimes = runtimes
        self._monitor = monitor
        self._host = host
        self._bundles = BundleMaker(records, images, filesystems, host)
        self._locks: dict[str, asyncio.Lock] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._watched: dict[str, processes.ProcessHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.events: Broadcaster[tuple[str, cri.ContainerEventType]] = Broadcaster()

    def folder(self, container_id: str) -> Path:
        """The bundle and all that conmon keeps."""
        return self._records.path(container_id)

    def _lock(self, container_id: str) -> asyncio.Lock:
        return self._locks.setdefault(container_id, asyncio.Lock())

    # --- after a restart ---

    async def recover(self) -> None:
        """Take up the containers again that a former runtime process left."""
        boot_id = kernel.boot_id()
        for record in self._records.all():
            try:
                await self._recover_one(record, boot_id)
            except (RuntimeFailure, OSError):  # it stays as it is, and whoever removes it is told why
                _log.exception("container %s could not be taken up again", record.id)
        known = {record.id for record in self._records.all()}
        for stray in set(self._filesystems.ids()) - known:
            await asyncio.to_thread(self._filesystems.remove, stray)

    async def _recover_one(self, record: ContainerRecord, boot_id: str) -> None:
        if record.state == "creating":
            await self._clean_up(record)
            await self._forget(record)
        elif record.state in ("created", "starting", "running") and record.boot_id != boot_id:
            record.state, record.exit_code, record.finished_at = "exited", UNKNOWN_CODE, time.time_ns()
            record.reason, record.message = "Unknown", "the machine was rebooted"
            self._records.save(record)
            await self._clean_up(record)
        elif record.state == "starting":
            await self._recover_start(record)
        elif record.state == "running":
            self._watch(record)
        elif record.state == "exited":
            await self._clean_up(record)

    async def _recover_start(self, record: ContainerRecord) -> None:
        """We were killed while starting it: either its process runs, or it never will."""
        status = await self._runtimes.of(record.handler).status(record.id)
        has_run = status in ("running", "stopped") and self._read_pid(record)
        if has_run or self._monitor.exit_of(record.id, self.folder(record.id)):
            record.state, record.started_at = "running", record.started_at or time.time_ns()
            self._records.save(record)
            self._watch(record)
        else:
            await self._fail_start(record, "the runtime was restarted while it started the container")

    def _read_pid(self, record: ContainerRecord) -> bool:
        try:
            record.pid = int((self.folder(record.id) / "pid").read_text())
        except (OSError, ValueError):
            return False
        record.start_ticks = kernel.process_start_ticks(record.pid)
        return record.start_ticks > 0

    # --- create ---

    async def create(
        self, sandbox: SandboxRecord, config: cri.ContainerConfig, sandbox_folder: Path
    ) -> ContainerRecord:
        """Mount the root file system and write the bundle; nothing runs yet.

        Raises: InvalidArgument, NotFound (the image), FailedPrecondition, RuntimeFailure.
        """
        if sandbox.state != "ready":
            raise FailedPrecondition(f'sandbox container "{sandbox.id}" is not running')
        if not config.metadata.name:
            raise InvalidArgument("container config must include metadata with name")
        refuse_what_we_lack(config, self._host)
        image = self._images.get(config.image.image)
        volume_layers = self._bundles.layers_of_volumes(config)
        container_id = secrets.token_hex(32)
        sandbox_config = config_of(sandbox)
        record = ContainerRecord(
            id=container_id,
            sandbox_id=sandbox.id,
            config=config.SerializeToString(),
            created_at=time.time_ns(),
            boot_id=kernel.boot_id(),
            image_id=image.id,
            image_ref=image.digests[0] if image.digests else image.id,
            layers=[*image.layers, *volume_layers],
            resources=config.linux.resources.SerializeToString(),
            stop_signal=stop_signal(config, image.config.get("StopSignal", "")),
            cgroup=f"{sandbox.cgroup}/{container_id}",
            handler=sandbox.runtime_handler,
        )
        if sandbox_config.log_directory and config.log_path:
            record.log_path = log_path(sandbox_config.log_directory, config.log_path)
        self._records.save(record)
        try:
            await asyncio.to_thread(self._bundles.make, record, config, sandbox, sandbox_folder)
        except (OSError, RuntimeFailure) as error:
            await self._clean_up(record)
            await self._forget(record)
            if isinstance(error, RuntimeFailure):
                raise
            raise RuntimeFailure(f"failed to create container: {error}") from error
        record.state = "created"
        self._records.save(record)
        self._publish(record, cri.CONTAINER_CREATED_EVENT)
        return record

    # --- start ---

    async def start(self, container_id: str) -> None:
        """Run a created container.

        Raises: NotFound, FailedPrecondition, RuntimeFailure with the OCI runtime's message; the container has exited
            with code 128 and reason StartError then.
        """
        record = self._records.get(container_id)
        async with self._lock(record.id):
            if record.state != "created":
                raise FailedPrecondition(f'container "{record.id}" is in {record.state.upper()} state')
            if self._sandboxes.get(record.sandbox_id).state != "ready":
                raise FailedPrecondition(f'sandbox container "{record.sandbox_id}" is not running')
            record.state = "starting"
            self._records.save(record)
            try:
                await self._run(record)
            except (OSError, RuntimeFailure, TimeoutError) as error:
                message = (
                    f"failed to create containerd task: failed to create shim task: OCI runtime create failed: {error}"
                )
                message += ": unknown"
                await self._fail_start(record, message)
                raise RuntimeFailure(message) from error
            record.state = "running"
            self._records.save(record)
            self._watch(record)
        self._publish(record, cri.CONTAINER_STARTED_EVENT)

    async def _run(self, record: ContainerRecord) -> None:
        config, folder = container_config(record), self.folder(record.id)
        log = Path(record.log_path or os.devnull)
        if record.log_path:
            await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
        stdio = Stdio(config.tty, config.stdin, config.stdin_once)
        runtime = self._runtimes.of(record.handler)
        record.pid = await self._monitor.create(runtime, record.id, folder, log, stdio)
        record.start_ticks = kernel.process_start_ticks(record.pid)
        await runtime.start(record.id, record.pid)
        record.started_at = time.time_ns()

    async def _fail_start(self, record: ContainerRecord, message: str) -> None:
        now = time.time_ns()
        record.state, record.exit_code, record.reason = "exited", START_ERROR_CODE, "StartError"
        record.message, record.finished_at, record.pid = message, now, 0
        await self._clean_up(record)
        self._records.save(record)
        self._publish(record, cri.CONTAINER_STOPPED_EVENT)

    # --- the end ---

    def _watch(self, record: ContainerRecord) -> None:
        """Have `_on_end` called when the container's monitor ends; if that was killed, when its process does."""
        self._ended.setdefault(record.id, asyncio.Event())
        handle = self._monitor.process(record.id, self.folder(record.id)) or processes.find(
            record.pid, record.start_ticks
        )
        if handle is None:
            self._spawn_end(record)
            return
        self._watched[record.id] = handle
        handle.on_exit(lambda: self._spawn_end(record))

    def _spawn_end(self, record: ContainerRecord) -> None:
        task = asyncio.get_running_loop().create_task(self._on_end(record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_end(self, record: ContainerRecord) -> None:
        handle = self._watched.pop(record.id, None)
        if handle:
            handle.reap()
            handle.close()
        ended = self._monitor.exit_of(record.id, self.folder(record.id))
        if ended is None and processes_alive(record):
            _log.warning("the monitor of container %s is gone; its output is lost", record.id)
            self._watch(record)
            return
        record.state = "exited"
        # The monitor may see the end before it hears of the kill (cgroup v1), the counter tells it at once.
        starved = was_oom_killed(self.folder(record.id)) or cgroups.killed_for_memory(record.cgroup)
        if ended:
            # It may have ended before its start was noted.
            record.exit_code, record.finished_at = ended.code, max(ended.at, record.started_at)
            record.reason = "Completed" if ended.code == 0 else "Error"
        else:
            processes.reap(record.pid)  # orphaned with its monitor, it fell to us
            record.exit_code, record.finished_at, record.reason = UNKNOWN_CODE, time.time_ns(), "Unknown"
            record.message = "the container's monitor was killed, so its exit code is lost"
        if starved:
            record.reason = "OOMKilled"
        record.pid = 0
        try:
            self._records.save(record)
        except OSError as error:  # a full disk; who waits for the end must hear of it all the same
            _log.error("container %s has ended, which could not be written down: %s", record.id, error)
        self._ended.setdefault(record.id, asyncio.Event()).set()
        self._publish(record, cri.CONTAINER_STOPPED_EVENT)
        async with self._lock(record.id):
            if self._records.find(record.id) is record:
                await self._clean_up(record)

    async def stop(self, container_id: str, timeout_seconds: float) -> None:
        """Ask a container to end, then kill it; returns when it has ended. Unknown and ended ones are fine.

        Raises: RuntimeFailure if even SIGKILL doesn't end it.
        """
        record = self._records.find(container_id)
        if record is None:
            return
        async with self._lock(record.id):
            pass  # a start under way comes to its end first
        if record.state != "running":
            return
        ended = self._ended.setdefault(record.id, asyncio.Event())
        if timeout_seconds > 0:
            self._signal(record, record.stop_signal)
            try:
                async with asyncio.timeout(timeout_seconds):
                    await ended.wait()
                return
            except TimeoutError:
                pass
        self._signal(record, signal.SIGKILL)
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await ended.wait()
        except TimeoutError:
            raise RuntimeFailure(f'container "{record.id}" does not end after SIGKILL') from None

    def _signal(self, record: ContainerRecord, number: int) -> None:
        handle = processes.find(record.pid, record.start_ticks)
        if handle:
            handle.kill(number)
            handle.close()

    async def remove(self, container_id: str) -> None:
        """Remove a container, killing it first; unknown ones are fine."""
        record = self._records.find(container_id)
        if record is None:
            return
        await self.stop(record.id, 0)
        async with self._lock(record.id):
            if self._records.find(record.id) is not record:
                return
            await self._clean_up(record)
            await self._forget(record)
        self._locks.pop(record.id, None)
        self._ended.pop(record.id, None)
        self._publish(record, cri.CONTAINER_DELETED_EVENT)

    async def remove_of_sandbox(self, sandbox_id: str, for_good: bool) -> None:
        """Kill the containers of a sandbox, and remove them too if told so."""
        ids = [record.id for record in self._records.all() if record.sandbox_id == sandbox_id]
        if for_good:
            await asyncio.gather(*(self.remove(container_id) for container_id in ids))
        else:
            await asyncio.gather(*(self.stop(container_id, 0) for container_id in ids))

    async def _clean_up(self, record: ContainerRecord) -> None:
        """Give back what only a running container needs: cgroup, mounts. Exit code and logs stay."""
        monitor = self._monitor.process(record.id, self.folder(record.id))
        try:
            await self._runtimes.of(record.handler).delete(record.id)
        except RuntimeFailure as error:
            _log.warning("deleting container %s: %s", record.id, error)
        if monitor:
            # Its process is dead, so it is about to end; what is left of one killed in creation is not waited for.
            monitor.kill(signal.SIGKILL)
            await monitor.wait()
            monitor.reap()
            monitor.close()
        await asyncio.to_thread(self._filesystems.unmount, record.id)

    async def _forget(self, record: ContainerRecord) -> None:
        def remove() -> None:
            self._filesystems.remove(record.id)
            cgroups.remove(record.cgroup)
            self._records.remove(record.id)

        await asyncio.to_thread(remove)

    # --- changes ---

    async def update(self, container_id: str, asked: cri.LinuxContainerResources) -> None:
        """Change a container's limits; the running process feels them at once.

        Raises: NotFound, FailedPrecondition, OciError.
        """
        record = self._records.get(container_id)
        async with self._lock(record.id):
            if record.state == "exited":
                raise FailedPrecondition(f'container "{record.id}" is in EXITED state')
            merged = cri.LinuxContainerResources.FromString(record.resources)
            for name, value in asked.ListFields():
                if name.name not in ("unified", "hugepage_limits"):
                    setattr(merged, name.name, value)
            merged.unified.update(asked.unified)
            limits = oci_spec.resources(merged, self._host)
            if record.state == "running":
                await self._runtimes.of(record.handler).update(record.id, limits)
            path = self.folder(record.id) / "config.json"
            spec = json.loads(await asyncio.to_thread(path.read_bytes))
            spec["linux"]["resources"].update(limits)
            write_atomically(path, json.dumps(spec).encode())
            record.resources = merged.SerializeToString()
            self._records.save(record)

    async def checkpoint(self, container_id: str, location: str, seconds: int) -> None:
        """Write a running container's state to an archive: checkpoint.py.

        Raises: NotFound, InvalidArgument, FailedPrecondition, DeadlineExceeded.
        """
        record = self._records.get(container_id)
        async with self._lock(record.id):
            if record.state != "running":
                raise FailedPrecondition(f'container "{record.id}" is not running')
            config = container_config(record)
            about = {
                "id": record.id, "name": config.metadata.name, "rootfsImageName": config.image.image,
                "rootfsImageRef": record.image_id, "runtime": record.handler or "runc",
            }  # fmt: skip
            oci, upper = self._runtimes.of(record.handler), self._filesystems.upper(record.id)
            await checkpoint(oci, record.id, about, self.folder(record.id), upper, location, seconds)

    async def reopen_log(self, record: ContainerRecord) -> None:
        """Have a running container's output go to a new file at its log's path, after that was renamed.

        Raises: RuntimeFailure if that file doesn't come.
        """
        await self._monitor.control(self.folder(record.id), REOPEN_LOG)
        async with asyncio.timeout(_REOPEN_SECONDS):
            while not await asyncio.to_thread(os.path.exists, record.log_path):  # noqa: ASYNC110 - conmon doesn't answer
                await asyncio.sleep(0.005)

    def running(self) -> list[ContainerRecord]:
        """The containers that run."""
        return [record for record in self._records.all() if record.state == "running"]

    def _publish(self, record: ContainerRecord, kind: cri.ContainerEventType) -> None:
        self.events.publish((record.id, kind))


def log_path(folder: str, path: str) -> str:
    """Return where a log goes: below its pod's folder. Raises: InvalidArgument for a path that leads out."""
    full = os.path.normpath(os.path.join(folder, path))
    if not full.startswith(os.path.normpath(folder) + "/"):
        raise InvalidArgument(f'log path "{path}" leads out of the log directory "{folder}"')
    return full


def processes_alive(record: ContainerRecord) -> bool:
    """Whether the container's first process lives."""
    return record.pid > 0 and kernel.process_start_ticks(record.pid) == record.start_ticks


def stop_signal(config: cri.ContainerConfig, image_signal: str) -> int:
    """The number of the signal that ends a container: CRI's, else the image's STOPSIGNAL, else SIGTERM."""
    text = image_signal.upper()
    if config.stop_signal != cri.RUNTIME_DEFAULT:
        text = cri.Signal.Name(config.stop_signal).replace("PLUS", "+").replace("MINUS", "-")
    if text.isdigit():
        return int(text)
    name, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    name = name if name.startswith("SIG") else f"SIG{name}"
    number = getattr(signal, name, None)
    if not isinstance(number, signal.Signals):
        return signal.SIGTERM
    return number + int(f"{sign}{offset}") if offset.isdigit() else number
