"""Rotation of logs, and what containers use."""

import asyncio
import gzip
import os
import time
from pathlib import Path

import pytest

from agent.cri import api_pb2 as cri_pb
from agent.log_rotation import LogRotator
from agent.settings import Settings
from tests.integration.runtime.harness import CriClient, log_text

COUNTER = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done"


async def reopen(cri: CriClient, container: str) -> None:
    await cri.runtime.ReopenContainerLog(cri_pb.ReopenContainerLogRequest(container_id=container))


async def test_a_reopened_log_goes_on_in_a_new_file_without_a_gap(cri: CriClient) -> None:
    container = await cri.run(await cri.run_sandbox(), "sh", "-c", COUNTER)
    path = Path((await cri.status(container)).log_path)
    aside = path.with_name("0.log.1")
    await cri.output(container, "sleep", "0.1")
    await asyncio.to_thread(path.rename, aside)
    await reopen(cri, container)
    await cri.output(container, "sleep", "0.1")
    await cri.stop(container)
    before, after = [log_text(await asyncio.to_thread(file.read_text)).splitlines() for file in (aside, path)]
    assert len(before) > 1
    assert len(after) > 1
    assert before + after == [f"line {number}" for number in range(1, len(before + after) + 1)]


async def test_long_logs_are_put_aside_compressed_and_at_last_deleted(cri: CriClient) -> None:
    container = await cri.run(await cri.run_sandbox(), "sh", "-c", COUNTER)
    path = Path((await cri.status(container)).log_path)

    async def reopen_log(container_id: str) -> None:
        await reopen(cri, container_id)

    rotator = LogRotator(lambda: [(container, path)], reopen_log, settings=Settings(log_max_bytes=100, log_max_files=3))
    names: list[str] = []
    deadline = time.monotonic() + 20
    seen: set[str] = set()
    while len(seen) < 4:  # names hold seconds, so each rotation is in one of its own
        assert time.monotonic() < deadline
        await rotator.look()
        names = sorted(await asyncio.to_thread(os.listdir, path.parent))
        seen.update(name.removesuffix(".gz") for name in names if name != "0.log")
        await asyncio.sleep(0.3)
    assert len(names) == 3
    assert names[0] == "0.log"
    assert names[1].endswith(".gz")
    assert not names[2].endswith(".gz")  # the last one is still being read, maybe
    text = gzip.decompress(await asyncio.to_thread((path.parent / names[1]).read_bytes)).decode()
    assert log_text(text).startswith("line ")
    await cri.stop(container)


@pytest.mark.parametrize("size", [0, 50])
async def test_short_and_missing_logs_are_left_alone(tmp_path: Path, size: int) -> None:
    async def refuse(_: str) -> None:
        raise AssertionError

    if size:
        (tmp_path / "0.log").write_text("x" * size)
    await LogRotator(
        lambda: [("id", tmp_path / "0.log")], refuse, settings=Settings(log_max_bytes=100, log_max_files=3)
    ).look()
    assert len(os.listdir(tmp_path)) == bool(size)


async def test_statistics_grow_with_use(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    config = cri.container_config("sh", "-c", "head -c 3000000 /dev/zero > /file; while :; do :; done")
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    container = await cri.run(sandbox, config=config)
    await cri.output(container, "sh", "-c", "until [ $(stat -c %s /file) = 3000000 ]; do sleep 0.02; done")

    async def stats() -> cri_pb.ContainerStats:
        return (await cri.runtime.ContainerStats(cri_pb.ContainerStatsRequest(container_id=container))).stats

    first = await stats()
    assert first.attributes.id == container
    assert first.writable_layer.used_bytes.value >= 3_000_000
    assert 0 < first.memory.working_set_bytes.value <= first.memory.usage_bytes.value < 64 << 20
    assert first.memory.available_bytes.value < 64 << 20
    async with asyncio.timeout(10):
        while not (later := await stats()).cpu.HasField("usage_nano_cores"):
            await cri.output(container, "sleep", "0.1")
    assert later.cpu.usage_core_nano_seconds.value > first.cpu.usage_core_nano_seconds.value
    assert 50_000_000 < later.cpu.usage_nano_cores.value < 2_000_000_000  # a loop takes a good part of one core


async def test_a_pod_s_statistics_hold_its_containers_network_and_processes(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "sleep", "1000")
    await cri.exec(container, "ping", "-c", "1", "-w", "1", cri.process.pod_cidr.replace("0/24", "1"))
    request = cri_pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox)
    found = (await cri.runtime.PodSandboxStats(request)).stats
    assert [row.attributes.id for row in found.linux.containers] == [container]
    assert found.linux.network.default_interface.name == "eth0"
    assert found.linux.network.default_interface.tx_bytes.value > 0
    assert found.linux.process.process_count.value == 1
    listed = (await cri.runtime.ListPodSandboxStats(cri_pb.ListPodSandboxStatsRequest())).stats
    assert [row.attributes.id for row in listed] == [sandbox]
    containers = (await cri.runtime.ListContainerStats(cri_pb.ListContainerStatsRequest())).stats
    assert [row.attributes.id for row in containers] == [container]


async def test_the_image_file_system_is_measured(cri: CriClient) -> None:
    answer = await cri.images.ImageFsInfo(cri_pb.ImageFsInfoRequest())
    (usage,) = answer.image_filesystems
    assert usage.used_bytes.value > 2_000_000  # busybox, at the least
    assert usage.inodes_used.value > 100
    assert Path(usage.fs_id.mountpoint).is_mount()  # noqa: ASYNC240 - one call
