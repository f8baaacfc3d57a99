"""Another OCI runtime than the usual one, by its name."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as api
from agent.runtime import cgroups
from tests.integration.runtime.harness import CriClient, log_text


async def run_sandbox(cri: CriClient, handler: str, config: api.PodSandboxConfig | None = None) -> str:
    request = api.RunPodSandboxRequest(config=config or cri.sandbox_config(), runtime_handler=handler)
    return (await cri.runtime.RunPodSandbox(request)).pod_sandbox_id


async def test_the_runtimes_that_are_there_are_told_and_others_refused(cri: CriClient) -> None:
    status = await cri.runtime.Status(api.StatusRequest())
    assert {one.name for one in status.runtime_handlers} == {"", "runc", "crun"}
    with pytest.raises(grpc.aio.AioRpcError, match='no runtime for "kata" is configured'):
        await run_sandbox(cri, "kata")


async def test_containers_live_and_end_by_crun_as_by_runc(cri: CriClient) -> None:
    pod = cri.sandbox_config()
    sandbox = await run_sandbox(cri, "crun", pod)
    config = cri.container_config("sh", "-c", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.05; done")
    limits = config.linux.resources
    limits.cpu_quota, limits.cpu_period, limits.memory_limit_in_bytes = 50_000, 100_000, 32 << 20
    container = await cri.run(sandbox, config=config)
    pid = await cri.pid(container)
    exe = await asyncio.to_thread(lambda: Path(f"/proc/{pid}/cgroup").read_text())
    assert f"/{container}" in exe
    assert (await cri.exec(container, "sh", "-c", "echo out; echo err >&2; exit 4")).exit_code == 4
    assert "CapEff:\t00000000a80425fb" in await cri.output(container, "cat", "/proc/self/status")
    await cri.runtime.UpdateContainerResources(
        api.UpdateContainerResourcesRequest(
            container_id=container, linux=api.LinuxContainerResources(memory_limit_in_bytes=48 << 20)
        )
    )
    cgroup = f"{cri.process.cgroup_root}/{sandbox}/{container}"
    limit = "memory.max" if cgroups.is_v2() else "memory.limit_in_bytes"
    found = await asyncio.to_thread((cgroups.folder("memory", cgroup) / limit).read_text)
    assert int(found) == 48 << 20
    await cri.stop(container, 5)
    assert (await cri.status(container)).exit_code == 3
    assert log_text(await cri.log_of(pod)) == "hello\nbye"


async def test_a_volume_spreads_mounts_to_the_machine_by_crun_too(cri: CriClient, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    config = cri.container_config("sleep", "60")
    config.linux.security_context.privileged = True
    config.mounts.append(
        api.Mount(container_path="/v", host_path=str(tmp_path), propagation=api.PROPAGATION_BIDIRECTIONAL)
    )
    from agent.runtime import kernel

    kernel.mount(str(tmp_path), tmp_path, flags=kernel.MS_BIND)
    kernel.mount("", tmp_path, flags=0x100000)  # MS_SHARED
    try:
        container = await cri.run(await run_sandbox(cri, "crun"), config=config)
        await cri.output(container, "mount", "--bind", "/etc", "/v/below")
        assert list((tmp_path / "below").iterdir())
        await cri.stop(container)
    finally:
        kernel.unmount(tmp_path / "below")
        kernel.unmount(tmp_path)
