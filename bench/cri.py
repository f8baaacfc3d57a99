"""What single calls of a runtime take, ours beside the distribution's containerd: one pod after another."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from agent.runtime.cgroups import remove
from bench.clusters import milliseconds

COUNT = 15
CGROUP = "/whbench"
IMAGE = "wherry.local/busybox:latest"
_READY_SECONDS = 30
# What the issue names for containerd 1.6 on the reference machine, in milliseconds.
_REFERENCE = {"run_sandbox": 67, "create": 5, "start": 47, "exec": 28, "stop_and_remove": 90}


def main() -> dict[str, object]:
    """Return p50 and p99 of each call, for each runtime."""
    if os.geteuid() != 0:
        return {"skipped": "needs root"}
    found: dict[str, object] = {"wherry": _with(_ours), "containerd_reference_p50_ms": _REFERENCE}
    if shutil.which("containerd"):
        found["containerd"] = _with(_containerd)
    return found


def _with(runtime: Any) -> dict[str, Any]:
    try:
        with runtime() as socket:
            return _measure(socket)
    finally:
        remove(CGROUP)


@contextmanager
def _ours() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wb-", dir="/var/tmp"))
    socket, bridge = folder / "s.sock", "whbench1"
    argv = [
        sys.executable, "-m", "agent.runtime", "--root", str(folder / "root"), "--state", str(folder / "state"),
        "--socket", str(socket), "--bridge", bridge, "--pod-cidr", "10.247.0.0/24", "--cgroup-root", CGROUP,
    ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield socket
    finally:
        process.terminate()
        process.wait()
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", str(folder / "root")], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _containerd() -> Iterator[Path]:
    from tests.support.containerd import running_containerd

    folder = Path("/var/tmp") / f"wbc-{uuid.uuid4().hex[:6]}"
    with running_containerd(folder, "whbench2", "10.248.0.0/24") as socket:
        yield socket


def _measure(socket: Path) -> dict[str, Any]:
    import grpc

    from agent.cri import api_pb2 as cri
    from agent.cri.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        answer = call()
        times.setdefault(name, []).append(time.perf_counter() - began)
        return answer

    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        runtime, images = RuntimeServiceStub(channel), ImageServiceStub(channel)
        runtime.Version(cri.VersionRequest(), wait_for_ready=True, timeout=_READY_SECONDS)
        deadline = time.monotonic() + _READY_SECONDS
        while not images.ImageStatus(cri.ImageStatusRequest(image=cri.ImageSpec(image=IMAGE))).image.id:
            assert time.monotonic() < deadline, "the image does not come"
            time.sleep(0.05)
        for number in range(COUNT):
            pod, container = _pod(number), _container()
            run = cri.RunPodSandboxRequest(config=pod)
            sandbox = timed("run_sandbox", partial(runtime.RunPodSandbox, run))
            request = cri.CreateContainerRequest(
                pod_sandbox_id=sandbox.pod_sandbox_id, config=container, sandbox_config=pod
            )  # fmt: skip
            made = timed("create", partial(runtime.CreateContainer, request))
            start = cri.StartContainerRequest(container_id=made.container_id)
            timed("start", partial(runtime.StartContainer, start))
            execute = cri.ExecSyncRequest(container_id=made.container_id, cmd=["true"])
            timed("exec", partial(runtime.ExecSync, execute))

            def end(sandbox_id: str = sandbox.pod_sandbox_id) -> None:
                runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
                runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))

            timed("stop_and_remove", end)
    return {name: milliseconds(values) for name, values in times.items()}


def _pod(number: int) -> Any:
    from agent.cri import api_pb2 as cri

    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=f"p{number}", uid=uuid.uuid4().hex, namespace="bench"), hostname="p"
    )
    config.linux.cgroup_parent = CGROUP
    config.linux.security_context.namespace_options.pid = cri.CONTAINER
    return config


def _container() -> Any:
    from agent.cri import api_pb2 as cri

    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"), image=cri.ImageSpec(image=IMAGE), command=["sleep", "3600"]
    )
    config.linux.security_context.namespace_options.pid = cri.CONTAINER
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    return config
