"""The agent's CRI client with another runtime: what containerd 1.6 does differently from ours."""

import asyncio
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cri import api_pb2 as cri
from agent.cri.client import POD_NAME, POD_NAMESPACE, POD_UID, Runtime
from tests.support.containerd import running_containerd

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
CGROUP = "/wherry-test-cri"


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    folder = Path("/var/tmp") / f"wherry-cri-{uuid.uuid4().hex[:8]}"
    with running_containerd(folder, "whcri0", "10.240.9.0/24") as found:
        yield found
    shutil.rmtree(folder, ignore_errors=True)
    for left in Path("/sys/fs/cgroup").glob(f"*{CGROUP}"):
        left.rmdir()


def sandbox(name: str, cgroup_parent: str) -> cri.PodSandboxConfig:
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        labels={POD_NAME: name, POD_NAMESPACE: "default", POD_UID: f"uid-{name}"},
        linux=cri.LinuxPodSandboxConfig(cgroup_parent=cgroup_parent),
    )


async def test_a_sandbox_without_statistics_does_not_hide_those_of_others(socket: Path) -> None:
    runtime = Runtime(socket)
    try:
        await asyncio.wait_for(runtime.wait_until_up(), 10)
        await runtime.run_sandbox(sandbox("told", CGROUP))
        await runtime.run_sandbox(sandbox("none", ""))  # containerd finds no cgroup to read
        told = {one.attributes.labels[POD_NAME]: one for one in await runtime.sandbox_stats()}
        assert list(told) == ["told"]
        assert told["told"].linux.memory.working_set_bytes.value > 0
    finally:
        await runtime.close()
