"""Ways out of containers that were found in the field: each test fails if the hole is there.

Sources: the CVEs named at each.
"""

import hashlib
import os
import shutil
from pathlib import Path

import grpc
import pytest

from agent.cri import api_pb2 as cri_pb
from tests.integration.runtime.harness import CriClient


def runc_digest() -> str:
    path = shutil.which("runc")
    assert path
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("number", range(3, 12))
async def test_a_working_directory_through_a_leaked_descriptor_leads_nowhere(cri: CriClient, number: int) -> None:
    """CVE-2024-21626."""
    config = cri.container_config("cat", "../../../../../../../../etc/hostname")
    config.working_dir = f"/proc/self/fd/{number}"
    sandbox = await cri.run_sandbox()
    container = await cri.create(sandbox, config)
    with pytest.raises(grpc.aio.AioRpcError):
        await cri.start(container)
    assert (await cri.status(container)).reason == "StartError"


async def test_a_command_in_a_container_inherits_no_descriptors_but_its_own(cri: CriClient) -> None:
    """CVE-2024-21626, CVE-2016-9962: the init process and those that join later."""
    container = await cri.run(await cri.run_sandbox(), "sleep", "1000")
    shown = await cri.output(container, "sh", "-c", "ls /proc/1/fd; echo -; ls /proc/self/fd")
    init, joined = shown.split("-")
    assert set(init.split()) == {"0", "1", "2"}
    assert set(joined.split()) <= {"0", "1", "2", "3"}  # 3 is the folder ls reads


async def test_the_oci_runtime_cannot_be_overwritten_through_proc(cri: CriClient) -> None:
    """CVE-2019-5736: the command is a script whose interpreter is the runtime's own binary."""
    before = runc_digest()
    script = "printf '#!/proc/self/exe\\n' > /tmp/evil; chmod +x /tmp/evil; sleep 1000"
    container = await cri.run(await cri.run_sandbox(), "sh", "-c", script)
    for _ in range(3):
        await cri.exec(container, "sh", "-c", "for p in /proc/[0-9]*/exe; do echo x > $p; done 2>/dev/null; true")
        answer = cri.runtime.ExecSync(cri_pb.ExecSyncRequest(container_id=container, cmd=["/tmp/evil"], timeout=5))
        try:
            await answer
        except grpc.aio.AioRpcError:
            continue
    assert runc_digest() == before


async def test_a_link_in_the_image_does_not_lead_mounts_out(cri: CriClient) -> None:
    """CVE-2019-16884, CVE-2021-30465: the mount's place is a link to a place outside."""
    folder = cri.process.folder / "volume"
    folder.mkdir(exist_ok=True)
    (folder / "f").write_text("mine")
    config = cri.container_config("sh", "-c", "ls /etc | wc -l; cat /var/run/x/f")
    config.mounts.append(cri_pb.Mount(container_path="/var/run/x/../../../../../var/run/x", host_path=str(folder)))
    status, log = await cri.run_to_end(config=config)
    assert status.exit_code == 0
    assert log.splitlines()[-1] == "mine"
    assert "x" not in os.listdir("/var/run")


async def test_the_kernels_switches_are_out_of_reach(cri: CriClient) -> None:
    """CVE-2022-0492 (release_agent), and core_pattern, by which the host would run a container's program."""
    script = (
        "mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo mounted; "
        "(echo '|/tmp/x' > /proc/sys/kernel/core_pattern) 2>/dev/null && echo pattern; "
        "find /sys/fs/cgroup -name release_agent -writable 2>/dev/null | head -1; "
        "unshare -r true 2>/dev/null && echo unshared; echo end"
    )
    _, log = await cri.run_to_end("sh", "-c", script)
    released = [line for line in log.splitlines() if line.startswith("/")]
    assert [line for line in log.splitlines() if not line.startswith("/")] == ["end"]
    for path in released:  # root's permission bits say yes; the file system is read-only
        check = f"(echo x > {path}) 2>/dev/null && echo written || echo kept"
        assert (await cri.run_to_end("sh", "-c", check))[1] == "kept"


async def test_a_log_path_cannot_be_steered_out_of_the_pods_folder(cri: CriClient) -> None:
    config = cri.container_config("echo", "x")
    config.log_path = "../../../../../../../../tmp/steered.log"
    with pytest.raises(grpc.aio.AioRpcError, match="log path"):
        await cri.create(await cri.run_sandbox(), config)
