"""Containers from creation to removal, on real runc, conmon and CNI."""

import asyncio
import os
import signal
import tarfile
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as cri_pb
from tests.integration.runtime.harness import CriClient


async def test_a_container_goes_from_created_to_running_to_exited(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.create(sandbox, cri.container_config("sh", "-c", "read line; exit 0"))
    assert (await cri.status(container)).state == cri_pb.CONTAINER_CREATED
    before = time.time_ns()
    await cri.start(container)
    status = await cri.exited(container)
    assert (status.exit_code, status.reason) == (0, "Completed")
    assert status.created_at < before < status.started_at <= status.finished_at <= time.time_ns()


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$; sleep 9", 143)],
    ids=["exit", "kill", "term"],
)
async def test_the_exit_code_is_the_process_s_or_128_and_its_signal(cri: CriClient, script: str, code: int) -> None:
    # A PID namespace's first process ignores signals it does not handle, so the one that dies is a child.
    status, _ = await cri.run_to_end("sh", "-c", f"sh -c '{script}'; exit $?")
    assert (status.exit_code, status.reason) == (code, "Error")


async def test_logs_are_lines_with_time_stream_and_tag(cri: CriClient) -> None:
    config = cri.sandbox_config()
    sandbox = await cri.run_sandbox(config)
    await cri.exited(await cri.run(sandbox, "sh", "-c", "echo out; echo err >&2; printf part"))
    lines = [line.split(" ", 3) for line in (await cri.log_of(config)).splitlines()]
    assert sorted(fields[1:] for fields in lines) == [
        ["stderr", "F", "err"],
        ["stdout", "F", "out"],
        ["stdout", "P", "part"],
    ]
    assert all(fields[0].startswith("20") and "T" in fields[0] for fields in lines)


async def test_a_command_that_is_not_there_fails_the_start_with_the_runtime_s_words(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.create(sandbox, cri.container_config("nope"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.start(container)
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert 'exec: "nope": executable file not found in $PATH' in (caught.value.details() or "")
    status = await cri.status(container)
    assert status.state == cri_pb.CONTAINER_EXITED
    assert (status.exit_code, status.reason) == (128, "StartError")
    assert 'exec: "nope": executable file not found in $PATH' in status.message


async def test_a_process_that_outgrows_its_memory_is_reported_as_oom_killed(cri: CriClient) -> None:
    config = cri.container_config("sh", "-c", "tail /dev/zero")
    config.linux.resources.memory_limit_in_bytes = 16 << 20
    status, _ = await cri.run_to_end(config=config)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


async def test_stop_sends_the_stop_signal_and_waits(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
    await cri.output(container, "true")  # by now the shell has come to its trap
    await cri.stop(container, timeout=10)
    assert (await cri.status(container)).exit_code == 7


async def test_stop_kills_what_does_not_end_in_time(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "sleep", "1000")  # as a first process it ignores SIGTERM
    began = time.monotonic()
    await cri.stop(container, timeout=1)
    assert 1 <= time.monotonic() - began < 5
    assert (await cri.status(container)).exit_code == 128 + signal.SIGKILL


async def test_a_custom_stop_signal_is_used(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    config = cri.container_config("sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done")
    config.stop_signal = cri_pb.SIGUSR1
    container = await cri.run(sandbox, config=config)
    await cri.output(container, "true")
    await cri.stop(container, timeout=10)
    assert (await cri.status(container)).exit_code == 5


async def test_stopping_and_removing_may_be_repeated(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "sleep", "1000")
    for _ in range(2):
        await cri.stop(container)
        await cri.runtime.RemoveContainer(cri_pb.RemoveContainerRequest(container_id=container))
    for _ in range(2):
        await cri.runtime.StopPodSandbox(cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    assert (await cri.sandbox_status(sandbox)).state == cri_pb.SANDBOX_NOTREADY
    for _ in range(2):
        await cri.runtime.RemovePodSandbox(cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


@pytest.mark.parametrize("call", ["ContainerStatus", "StartContainer", "ExecSync"])
async def test_unknown_containers_are_not_found(cri: CriClient, call: str) -> None:
    request = getattr(cri_pb, f"{call}Request")(container_id="f" * 64)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(cri.runtime, call)(request)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_removing_a_sandbox_leaves_nothing_of_it(cri: CriClient) -> None:
    before = cri.process.traces()  # the bridge at most: it is the runtime's, not a sandbox's
    config = cri.sandbox_config()
    config.linux.security_context.namespace_options.pid = cri_pb.POD
    sandbox = await cri.run_sandbox(config)
    await cri.run(sandbox, "sleep", "1000")
    during = cri.process.traces()
    assert during.mounts
    assert during.cgroups
    assert during.links > before.links
    assert {name.split()[1] for name in during.processes} >= {"conmon", "sleep"}
    await cri.runtime.StopPodSandbox(cri_pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    await cri.runtime.RemovePodSandbox(cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    after = cri.process.traces()
    assert after.links <= {cri.process.bridge}
    assert (after.mounts, after.cgroups, after.processes) == (frozenset(), frozenset(), frozenset())


async def test_pods_and_containers_are_listed_by_label_and_state(cri: CriClient) -> None:
    web, db = cri.sandbox_config("web"), cri.sandbox_config("db")
    web_id, db_id = await asyncio.gather(cri.run_sandbox(web), cri.run_sandbox(db))
    running, created = await cri.run(web_id, "sleep", "1000"), await cri.create(db_id, cri.container_config("true"))

    async def pods(**selector: str) -> set[str]:
        request = cri_pb.ListPodSandboxRequest(filter=cri_pb.PodSandboxFilter(label_selector=selector))
        return {item.id for item in (await cri.runtime.ListPodSandbox(request)).items}

    async def containers(wanted: cri_pb.ContainerFilter) -> set[str]:
        request = cri_pb.ListContainersRequest(filter=wanted)
        return {item.id for item in (await cri.runtime.ListContainers(request)).containers}

    assert await pods() == {web_id, db_id}
    assert await pods(app="db") == {db_id}
    assert await pods(app="db", tier="x") == set()
    state = cri_pb.ContainerStateValue(state=cri_pb.CONTAINER_RUNNING)
    assert await containers(cri_pb.ContainerFilter(state=state)) == {running}
    assert await containers(cri_pb.ContainerFilter(pod_sandbox_id=db_id)) == {created}


async def test_events_tell_of_each_step_in_order(cri: CriClient) -> None:
    stream = cri.runtime.GetContainerEvents(cri_pb.GetEventsRequest())
    # The call is only subscribed once the server began to answer, which the first event shows.
    seen: list[tuple[str, int]] = []

    async def collect(container_done: asyncio.Event) -> None:
        async for event in stream:
            seen.append((event.container_id, event.container_event_type))
            if event.container_event_type == cri_pb.CONTAINER_DELETED_EVENT:
                container_done.set()

    done = asyncio.Event()
    task = asyncio.create_task(collect(done))
    sandbox = ""
    while not seen:
        sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "true")
    await cri.exited(container)
    await cri.runtime.RemoveContainer(cri_pb.RemoveContainerRequest(container_id=container))
    async with asyncio.timeout(10):
        await done.wait()
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [kind for container_id, kind in seen if container_id == container] == [
        cri_pb.CONTAINER_CREATED_EVENT,
        cri_pb.CONTAINER_STARTED_EVENT,
        cri_pb.CONTAINER_STOPPED_EVENT,
        cri_pb.CONTAINER_DELETED_EVENT,
    ]


async def test_a_checkpoint_is_whole_or_is_told_why_not(cri: CriClient, tmp_path: Path) -> None:
    container = await cri.run(await cri.run_sandbox(), "sleep", "1000")

    async def checkpoint(location: Path) -> None:
        request = cri_pb.CheckpointContainerRequest(container_id=container, location=str(location), timeout=20)
        await cri.runtime.CheckpointContainer(request)

    with pytest.raises(grpc.aio.AioRpcError, match="no path in a folder that is there"):
        await checkpoint(tmp_path / "none" / "a.tar")
    archive = tmp_path / "a.tar"
    (error,) = await asyncio.gather(checkpoint(archive), return_exceptions=True)
    if isinstance(error, grpc.aio.AioRpcError):  # no CRIU here, or a kernel that it does not know
        assert (error.code(), "CRIU" in str(error.details())) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert os.listdir(tmp_path) == []
    else:
        with tarfile.open(archive) as tar:
            assert {"checkpoint", "spec.dump", "config.dump", "rootfs-diff.tar"} <= set(tar.getnames())
    assert (await cri.status(container)).state == cri_pb.CONTAINER_RUNNING
