"""The runtime process: puts the parts together and serves CRI on a Unix socket until it is cancelled.

Ending it, gently or not, leaves containers running; the next one takes them up again.
"""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from agent.cri import api_pb2_grpc
from agent.runtime import cni, host, kernel, processes
from agent.runtime import root as root_folder
from agent.runtime.config import RuntimeConfig
from agent.runtime.container import ContainerManager
from agent.runtime.errors import RuntimeFailure
from agent.runtime.exec import Executor
from agent.runtime.handlers import OciRuntimes
from agent.runtime.image_service import ImageService
from agent.runtime.images.busybox import import_busybox
from agent.runtime.images.pull import Puller
from agent.runtime.images.store import ImageStore
from agent.runtime.local_service import LocalService
from agent.runtime.monitor import Monitor
from agent.runtime.rootfs import RootFilesystems
from agent.runtime.runtime_service import Parts, RuntimeService
from agent.runtime.sandbox import SandboxManager
from agent.runtime.state import ContainerRecord, Records, SandboxRecord
from agent.runtime.stats_service import Statistics
from agent.runtime.streaming import StreamingServer

if TYPE_CHECKING:
    from agent.runtime.metrics_service import Metrics

_log = logging.getLogger(__name__)
# ExecSync answers with up to twice 16 MiB, and lists of a full node pass gRPC's usual 4 MiB.
_MESSAGE_BYTES = 64 << 20


@contextlib.contextmanager
def _sole_owner(state: Path) -> Iterator[None]:
    """Hold the state folder: two runtimes on one would undo each other's work.

    Raises: RuntimeFailure if another process has it.
    """
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeFailure(f"another runtime uses {state}") from None
        yield
    finally:
        os.close(fd)


async def run(config: RuntimeConfig) -> None:
    """Serve until cancelled.

    Raises: RuntimeFailure if another runtime has the same state folder; OSError if the folders can't be made.
    """
    if sys.version_info < (3, 12):  # later versions use pidfds by themselves; before, a thread waits for each child
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.get_event_loop_policy().set_child_watcher(watcher)
    for folder in (config.root, config.state, config.socket.parent):
        folder.mkdir(parents=True, exist_ok=True)
    root, state = config.root.resolve(), config.state.resolve()
    with _sole_owner(state):
        kernel.become_subreaper()
        await _serve(config, root, state)


async def _serve(config: RuntimeConfig, root: Path, state: Path) -> None:
    complaint = await asyncio.to_thread(root_folder.prepare, root)
    if complaint:
        _log.warning(complaint)
    parts, images = await _assemble(config, root, state, [complaint] if complaint else [])
    server = grpc.aio.server(
        options=[("grpc.max_send_message_length", _MESSAGE_BYTES), ("grpc.max_receive_message_length", _MESSAGE_BYTES)]
    )
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(RuntimeService(parts), server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(ImageService(images, Puller(images)), server)
    server.add_generic_rpc_handlers((LocalService(images).handler(),))
    _listen(server, config.socket)
    await server.start()
    _log.info("serving CRI at %s", config.socket)
    background = [asyncio.create_task(processes.reap_strays())]
    try:
        await server.wait_for_termination()
    finally:
        for task in background:
            task.cancel()
        await server.stop(grace=None)
        await parts.streaming.close()


async def _assemble(config: RuntimeConfig, root: Path, state: Path, warnings: list[str]) -> tuple[Parts, ImageStore]:
    """Make the parts, and have them take up what a former process left."""
    sandboxes = Records(state / "sandboxes", SandboxRecord, "sandbox")
    containers = Records(state / "containers", ContainerRecord, "container")
    sandboxes.load()
    containers.load()
    images = ImageStore(root, lambda: (layer for record in containers.all() for layer in record.layers))
    images.load()
    runtimes = OciRuntimes(_program(config.oci_runtime), state)
    filesystems = RootFilesystems(root / "containers")
    filesystems.folder.mkdir(mode=0o700, exist_ok=True)
    monitor = Monitor(_program(config.conmon))
    container_manager = ContainerManager(containers, sandboxes, images, filesystems, runtimes, monitor, host.probe())
    system = None if config.cni_conf_dir else cni.SYSTEM_DIR
    network = cni.Network(config.network_dir, config.cni_bin_dirs, config.bridge, state / "cni", system)
    if config.pod_cidr and not (config.network_dir / cni.OWN_FILE).exists():
        network.write_bridge_list(config.pod_cidr)
    sandbox_manager = SandboxManager(
        sandboxes, network, container_manager.remove_of_sandbox, config.cgroup_root, runtimes.names
    )
    (state / "tty").mkdir(mode=0o700, exist_ok=True)
    await container_manager.recover()
    await sandbox_manager.recover()
    leaked = await asyncio.to_thread(network.forget_leaked, {record.id for record in sandboxes.all()})
    warnings.extend(f"{address} was the address of a sandbox that is no more: it is free again" for address in leaked)
    if config.import_busybox:
        await import_busybox(images)
    parts = Parts(
        sandboxes,
        containers,
        sandbox_manager,
        container_manager,
        Executor(runtimes, state / "tty"),
        network,
        StreamingServer(state / "tty"),
        Statistics(sandboxes, containers, sandbox_manager, filesystems),
        functools.cache(lambda: _metrics(sandboxes, containers, sandbox_manager, filesystems)),
        warnings,
    )
    return parts, images


def _metrics(
    sandboxes: Records[SandboxRecord],
    containers: Records[ContainerRecord],
    sandbox_manager: SandboxManager,
    filesystems: RootFilesystems,
) -> "Metrics":
    # Not imported before: few ask for metrics in CRI's form.
    from agent.runtime.metrics_service import Metrics

    return Metrics(sandboxes, containers, sandbox_manager, filesystems)


def _program(name: str) -> str:
    """The path of a program; conmon doesn't search for the OCI runtime itself.

    Raises: RuntimeFailure if it isn't installed.
    """
    path = shutil.which(name)
    if path is None:
        raise RuntimeFailure(f"{name} is not installed")
    return path


def _listen(server: grpc.aio.Server, socket: Path) -> None:
    socket.unlink(missing_ok=True)
    mask = os.umask(0o177)  # the socket is ours alone from the start
    try:
        server.add_insecure_port(f"unix:{socket}")
    finally:
        os.umask(mask)
    socket.chmod(0o600)
