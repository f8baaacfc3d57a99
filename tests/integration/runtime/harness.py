"""Starts runtime processes, talks CRI to them, and looks for what they leave behind."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from agent.cri import api_pb2 as cri
from agent.cri import api_pb2_grpc
from agent.runtime import kernel

BUSYBOX = "wherry.local/busybox:latest"
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    # The socket may not be there yet; gRPC would wait a second before it looks again.
    *((f"grpc.{which}_reconnect_backoff_ms", 50) for which in ("initial", "min", "max")),
]
REPOSITORY = Path(__file__).resolve().parents[3]


class RuntimeProcess:
    """`python -m agent.runtime` in a folder; can be killed and started again."""

    def __init__(self, folder: Path, *extra: str) -> None:
        self.folder = folder
        self.socket = folder / "s.sock"
        token = uuid.uuid4()
        self.cgroup_root = f"/wrt-{token.hex[:8]}"
        self.bridge = f"wt{token.hex[:8]}"
        self.pod_cidr = f"10.{200 + token.bytes[0] % 50}.{token.bytes[1]}.0/24"
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "runtime.log").read_text()

    def start(self) -> None:
        with (self.folder / "runtime.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agent.runtime", "--root", self.folder / "root", *self._extra),
                    *("--state", self.folder / "state", "--socket", self.socket),
                    *("--bridge", self.bridge, "--pod-cidr", self.pod_cidr),
                    *("--cgroup-root", self.cgroup_root),
                ],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._process
        self._process.send_signal(number)
        self._process.wait(10)

    def wait(self) -> int:
        """The exit code of a process that ends by itself."""
        assert self._process
        return self._process.wait(10)

    def close(self) -> None:
        """Remove all pods, end the process and delete its bridge; what is left of them then is an error."""
        zombies = []
        try:
            if self._process and self._process.poll() is None:
                asyncio.run(self._remove_pods())
                zombies = self._zombies()
        finally:
            if self._process and self._process.poll() is None:
                self.kill(signal.SIGTERM)
            subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)
        assert zombies == [], (zombies, self.log)
        assert self.traces() == Traces()

    def _zombies(self) -> list[str]:
        """Children that ended but were not reaped within a few seconds."""
        deadline = time.monotonic() + 4
        while found := [pid for pid in _children(self.pid) if kernel.process_start_ticks(pid) == 0]:
            if time.monotonic() > deadline:
                return [Path(f"/proc/{pid}/stat").read_text() for pid in found]
            time.sleep(0.02)
        return []

    def traces(self) -> "Traces":
        """What there is of this runtime's containers on the machine, which others use too."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = {line.split()[4] for line in lines if line.split()[4].startswith(f"{self.folder}/")}
        cgroups = {base for base, _, _ in os.walk("/sys/fs/cgroup") if f"{self.cgroup_root}/" in base}
        shown = subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout
        links = {one["ifname"] for one in json.loads(shown) if self.bridge in (one["ifname"], one.get("master"))}
        return Traces(frozenset(mounts), frozenset(cgroups), frozenset(links), frozenset(self._processes()))

    def _processes(self) -> set[str]:
        """Its containers' processes and their monitors; those that are dead and only unreaped don't count."""
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                about = (path / "cgroup").read_text() + (path / "cmdline").read_text()
                mine = self.cgroup_root in about or str(self.folder) in about
                if mine and path.name != str(self.pid) and kernel.process_start_ticks(int(path.name)):
                    found.add(f"{path.name} {(path / 'comm').read_text().strip()}")
        return found

    async def _remove_pods(self) -> None:
        async with connect(self) as client:
            await client.remove_all()


@contextlib.asynccontextmanager
async def connect(process: RuntimeProcess) -> AsyncIterator["CriClient"]:
    async with grpc.aio.insecure_channel(f"unix:{process.socket}", options=CHANNEL_OPTIONS) as channel:
        client = CriClient(channel, process)
        await client.runtime.Version(cri.VersionRequest(), wait_for_ready=True, timeout=15)
        yield client


class CriClient:
    """CRI calls with what most tests want filled in."""

    def __init__(self, channel: grpc.aio.Channel, process: RuntimeProcess) -> None:
        self.process = process
        self.runtime = api_pb2_grpc.RuntimeServiceStub(channel)
        self.images = api_pb2_grpc.ImageServiceStub(channel)

    def sandbox_config(self, name: str = "pod") -> cri.PodSandboxConfig:
        """A pod of its own network, whose containers have PID namespaces of their own."""
        uid = str(uuid.uuid4())
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace="default"),
            hostname=name,
            log_directory=str(self.process.folder / "logs" / uid),
            labels={"app": name},
        )
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        return config

    async def run_sandbox(self, config: cri.PodSandboxConfig | None = None) -> str:
        request = cri.RunPodSandboxRequest(config=config or self.sandbox_config())
        return (await self.runtime.RunPodSandbox(request)).pod_sandbox_id

    def container_config(self, *command: str, image: str = BUSYBOX) -> cri.ContainerConfig:
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=image),
            command=command,
            log_path="main/0.log",
        )
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
        return config

    async def create(self, sandbox: str, config: cri.ContainerConfig) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox, config=config)
        return (await self.runtime.CreateContainer(request)).container_id

    async def start(self, container: str) -> None:
        await self.runtime.StartContainer(cri.StartContainerRequest(container_id=container))

    async def run(self, sandbox: str, *command: str, config: cri.ContainerConfig | None = None) -> str:
        """Create and start a container."""
        container = await self.create(sandbox, config or self.container_config(*command))
        await self.start(container)
        return container

    async def status(self, container: str) -> cri.ContainerStatus:
        return (await self.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=container))).status

    async def pid(self, container: str) -> int:
        request = cri.ContainerStatusRequest(container_id=container, verbose=True)
        info = (await self.runtime.ContainerStatus(request)).info["info"]
        found = re.search(r'"pid": (\d+)', info)
        assert found
        return int(found[1])

    async def sandbox_status(self, sandbox: str) -> cri.PodSandboxStatus:
        return (await self.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))).status

    async def exited(self, container: str, seconds: float = 15) -> cri.ContainerStatus:
        """The status of a container once it has ended."""
        deadline = time.monotonic() + seconds
        while (status := await self.status(container)).state != cri.CONTAINER_EXITED:
            assert time.monotonic() < deadline, f"still {status.state}"
            await asyncio.sleep(0.01)
        return status

    async def exec(self, container: str, *command: str, timeout: int = 0) -> cri.ExecSyncResponse:
        return await self.runtime.ExecSync(cri.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout))

    async def output(self, container: str, *command: str) -> str:
        """What a command in the container prints; it must succeed."""
        answer = await self.exec(container, *command)
        assert answer.exit_code == 0, answer.stderr.decode()
        return answer.stdout.decode()

    async def log_of(self, sandbox_config: cri.PodSandboxConfig) -> str:
        return (Path(sandbox_config.log_directory) / "main/0.log").read_text()

    async def run_to_end(
        self, *command: str, config: cri.ContainerConfig | None = None
    ) -> tuple[cri.ContainerStatus, str]:
        """Run a container of its own pod to its end; return its status and its log, less the time stamps."""
        sandbox_config = self.sandbox_config()
        sandbox = await self.run_sandbox(sandbox_config)
        container = await self.run(sandbox, *command, config=config)
        status = await self.exited(container)
        return status, log_text(await self.log_of(sandbox_config))

    async def stop(self, container: str, timeout: int = 0) -> None:
        await self.runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=timeout))

    async def remove_all(self) -> None:
        for item in (await self.runtime.ListPodSandbox(cri.ListPodSandboxRequest())).items:
            await self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=item.id))
            await self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=item.id))


@dataclass(frozen=True)
class Traces:
    """What containers may leave on a machine."""

    mounts: frozenset[str] = field(default=frozenset())
    cgroups: frozenset[str] = field(default=frozenset())
    links: frozenset[str] = field(default=frozenset())
    processes: frozenset[str] = field(default=frozenset())


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def log_text(text: str) -> str:
    """What was written to a CRI log, less the last newline."""
    records = [line.split(" ", 3)[2:] for line in text.splitlines()]
    return "".join(words + ("" if tag == "P" else "\n") for tag, words in records).removesuffix("\n")
