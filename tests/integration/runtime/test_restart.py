"""The runtime may be killed at any moment: containers run on, and the next runtime knows what happened."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as cri_pb
from agent.runtime import kernel
from tests.integration.runtime.harness import CriClient, RuntimeProcess, connect


async def test_containers_keep_their_process_and_times_when_the_runtime_is_killed(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime) as client:
        config = client.sandbox_config()
        sandbox = await client.run_sandbox(config)
        script = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done"
        container = await client.run(sandbox, "sh", "-c", script)
        before, pid = await client.status(container), await client.pid(container)
        address = (await client.sandbox_status(sandbox)).network.ip
    started = kernel.process_start_ticks(pid)
    own_runtime.kill()
    size = await asyncio.to_thread(os.path.getsize, before.log_path)
    own_runtime.start()
    async with connect(own_runtime) as client:
        after = await client.status(container)
        assert (after.state, after.started_at) == (cri_pb.CONTAINER_RUNNING, before.started_at)
        assert await client.pid(container) == pid
        assert kernel.process_start_ticks(pid) == started
        assert (await client.sandbox_status(sandbox)).network.ip == address
        assert await client.output(container, "echo", "still here") == "still here\n"
        assert await asyncio.to_thread(os.path.getsize, before.log_path) > size  # written while nobody was there
        await client.stop(container)
        assert (await client.status(container)).exit_code == 137


async def test_what_exits_while_the_runtime_is_down_is_reported_with_code_and_time(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime) as client:
        sandbox = await client.run_sandbox()
        container = await client.run(sandbox, "sh", "-c", "trap 'exit 9' USR2; while :; do sleep 0.02; done")
        await client.output(container, "true")
        pid = await client.pid(container)
    own_runtime.kill()
    killed_at = time.time_ns()
    os.kill(pid, signal.SIGUSR2)
    exit_file = own_runtime.folder / "state" / "containers" / container / "exits" / container
    await asyncio.to_thread(wait_for_file, exit_file)
    down_until = time.time_ns()
    own_runtime.start()
    async with connect(own_runtime) as client:
        status = await client.exited(container)
        assert (status.exit_code, status.reason) == (9, "Error")
        # Times of files have the resolution of the kernel's tick, 10 ms at most.
        assert killed_at - 10_000_000 <= status.finished_at <= down_until


async def test_a_container_whose_monitor_was_killed_ends_with_unknown_exit_code(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime) as client:
        sandbox = await client.run_sandbox()
        container = await client.run(sandbox, "sleep", "1000")
        folder = own_runtime.folder / "state" / "containers" / container
        os.kill(int(await asyncio.to_thread((folder / "conmon.pid").read_text)), signal.SIGKILL)
        await client.stop(container)
        status = await client.exited(container)
        assert (status.exit_code, status.reason) == (255, "Unknown")


@pytest.mark.parametrize("moment", range(6))
async def test_a_kill_while_pods_are_made_leaves_nothing_that_cannot_be_removed(
    own_runtime: RuntimeProcess, moment: int
) -> None:
    async def make_pods(client: CriClient) -> None:
        while True:
            sandbox = await client.run_sandbox()
            await client.run(sandbox, "sleep", "1000")

    async with connect(own_runtime) as client:
        task = asyncio.create_task(make_pods(client))
        # Another point of the work each time, 5 to 80 ms into it: making a pod takes about 60.
        await asyncio.sleep(0.005 + moment * 0.015)
        own_runtime.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await task
    own_runtime.start()
    async with connect(own_runtime) as client:
        for item in (await client.runtime.ListContainers(cri_pb.ListContainersRequest())).containers:
            assert item.state in (cri_pb.CONTAINER_RUNNING, cri_pb.CONTAINER_CREATED, cri_pb.CONTAINER_EXITED)
        fresh = await client.run_sandbox()
        container = await client.run(fresh, "sleep", "1000")
        assert await client.output(container, "echo", "works") == "works\n"
    # The fixture removes what is there and compares mounts, cgroups, links and processes.


@pytest.mark.parametrize("moment", range(6))
async def test_a_kill_while_pods_are_taken_down_leaves_nothing_that_cannot_be_removed(
    own_runtime: RuntimeProcess, moment: int
) -> None:
    async with connect(own_runtime) as client:
        sandboxes = [await client.run_sandbox(client.sandbox_config(f"pod-{n}")) for n in range(4)]
        for sandbox in sandboxes:
            await client.run(sandbox, "sleep", "1000")
        task = asyncio.gather(*(remove(client, sandbox) for sandbox in sandboxes), return_exceptions=True)
        await asyncio.sleep(0.02 + moment * 0.02)  # taking four down at once takes about 150 ms
        own_runtime.kill()
        await task
    own_runtime.start()
    async with connect(own_runtime) as client:
        for sandbox in sandboxes:
            await remove(client, sandbox)
        assert not (await client.runtime.ListPodSandbox(cri_pb.ListPodSandboxRequest())).items


async def remove(client: CriClient, sandbox: str) -> None:
    await client.runtime.StopPodSandbox(cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    await client.runtime.RemovePodSandbox(cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


async def test_a_sandbox_whose_namespaces_were_already_given_back_is_stopped_at_the_next_start(
    own_runtime: RuntimeProcess,
) -> None:
    async with connect(own_runtime) as client:
        sandbox = await client.run_sandbox()
    own_runtime.kill()
    folder = own_runtime.folder / "state" / "sandboxes" / sandbox
    kernel.unmount(folder / "net")  # and then it was killed, before it could note that
    record = json.loads(await asyncio.to_thread((folder / "record.json").read_bytes))
    await asyncio.to_thread((folder / "record.json").write_text, json.dumps({**record, "state": "stopping"}))
    own_runtime.start()
    async with connect(own_runtime) as client:
        assert (await client.sandbox_status(sandbox)).state == cri_pb.SANDBOX_NOTREADY


async def test_one_sandbox_that_cannot_be_stopped_keeps_no_other_from_being_served(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime) as client:
        stuck, sound = await client.run_sandbox(), await client.run_sandbox(client.sandbox_config("other"))
    own_runtime.kill()
    path = own_runtime.folder / "state" / "sandboxes" / stuck / "record.json"
    record = json.loads(await asyncio.to_thread(path.read_bytes))
    await asyncio.to_thread(path.write_text, json.dumps({**record, "state": "stopping"}))
    kept = {one: one.read_text() for one in own_runtime.folder.rglob("*.conflist")}
    assert kept
    for one in kept:
        one.write_text("{")  # so that no network can be given back
    own_runtime.start()
    async with connect(own_runtime) as client:
        assert (await client.sandbox_status(sound)).state == cri_pb.SANDBOX_READY
        for one, text in kept.items():
            one.write_text(text)
        await remove(client, stuck)


async def test_after_a_reboot_pods_are_not_ready_and_containers_have_ended(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime) as client:
        sandbox = await client.run_sandbox()
        container = await client.run(sandbox, "sleep", "1000")
        pid = await client.pid(container)
    own_runtime.kill()
    os.kill(pid, signal.SIGKILL)  # as a reboot would; the rest is told by the boot id
    await asyncio.to_thread(_pretend_other_boot, own_runtime.folder / "state")
    own_runtime.start()
    async with connect(own_runtime) as client:
        assert (await client.sandbox_status(sandbox)).state == cri_pb.SANDBOX_NOTREADY
        status = await client.status(container)
        assert (status.state, status.exit_code, status.reason) == (cri_pb.CONTAINER_EXITED, 255, "Unknown")


def wait_for_file(path: Path, seconds: float = 10) -> None:
    """Wait for what conmon writes; there is nothing else to wait on while no runtime is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _pretend_other_boot(state: Path) -> None:
    for path in state.glob("*/*/record.json"):
        record = json.loads(path.read_bytes())
        record["boot_id"] = "another"
        path.write_text(json.dumps(record))


async def test_a_second_runtime_on_the_same_state_refuses_to_start(own_runtime: RuntimeProcess) -> None:
    async with connect(own_runtime):
        second = RuntimeProcess(own_runtime.folder)
        second.socket = own_runtime.folder / "other.sock"
        second.start()
        assert await asyncio.to_thread(second.wait) != 0
        assert "another runtime uses" in second.log
