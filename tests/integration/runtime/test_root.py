"""A runtime whose data folder lies on a file system that can't hold overlays."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cri import api_pb2 as cri_pb
from agent.runtime import kernel, root
from tests.integration.runtime.harness import RuntimeProcess, connect


@pytest.fixture
def folder_on_overlay() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="wr-", dir="/tmp"))
    for name in ("lower", "upper", "work", "merged"):
        (base / name).mkdir()
    data = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    kernel.mount("overlay", base / "merged", "overlay", data=data)
    try:
        yield base / "merged"
    finally:
        kernel.unmount(base / "merged" / "root")
        kernel.unmount(base / "merged")
        shutil.rmtree(base)


@pytest.mark.parametrize("tools", ["all", "no mkfs"])
async def test_it_mounts_a_file_system_of_its_own_over_it(
    folder_on_overlay: Path, tools: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if tools == "no mkfs":  # a path on which there is everything but mkfs
        for name in ("runc", "conmon", "busybox", "ip"):
            (tmp_path / name).symlink_to(shutil.which(name) or "/nowhere")
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not root.takes_overlays(folder_on_overlay)
    process = RuntimeProcess(folder_on_overlay)
    process.start()
    try:
        async with connect(process) as client:
            container = await client.run(await client.run_sandbox(), "sleep", "1000")
            assert await client.output(container, "sh", "-c", "echo x > /x; cat /x") == "x\n"
            conditions = (await client.runtime.Status(cri_pb.StatusRequest())).status.conditions
            message = next(row.message for row in conditions if row.type == "RuntimeReady")
            assert ("ext4 is mounted over it" if tools == "all" else "kept in memory") in message
            await client.remove_all()
    finally:
        process.kill(15)
        kernel.unmount(folder_on_overlay / "root")
        await asyncio.to_thread(process.close)
