"""Ways out of containers that were found in the field: each test fails if the hole is there.

Sources: the CVEs named at each.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from agent.cri import api_pb2 as cri_pb
from agent.runtime.images.layout import File, make_layer
from tests.integration.runtime.harness import CriClient
from tests.support.images import Registry


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


async def test_a_local_seccomp_profile_without_a_path_is_not_no_profile(cri: CriClient) -> None:
    """CVE-2023-2431."""
    sandbox = await cri.run_sandbox()
    for path in ("", "localhost/", "/", "/nowhere.json"):
        config = cri.container_config("true")
        config.linux.security_context.seccomp.profile_type = cri_pb.SecurityProfile.Localhost
        config.linux.security_context.seccomp.localhost_ref = path
        with pytest.raises(grpc.aio.AioRpcError, match="seccomp"):
            await cri.create(sandbox, config)


async def test_capabilities_are_not_handed_on_to_programs_of_other_users(cri: CriClient) -> None:
    """CVE-2022-24769: with inheritable capabilities, files' capabilities gave others what only root should have."""
    container = await cri.run(await cri.run_sandbox(), "sleep", "1000")
    for command in (("cat", "/proc/1/status"), ("cat", "/proc/self/status")):
        shown = dict(
            line.split(":\t", 1) for line in (await cri.output(container, *command)).splitlines() if ":\t" in line
        )
        assert int(shown["CapInh"], 16) == int(shown["CapAmb"], 16) == 0


async def test_a_pod_on_the_hosts_network_finds_no_socket_of_ours(cri: CriClient) -> None:
    """CVE-2020-15257: shims listened on abstract sockets, which belong to the network namespace."""
    config = cri.sandbox_config()
    config.linux.security_context.namespace_options.network = cri_pb.NODE
    container = cri.container_config("sleep", "1000")
    container.linux.security_context.namespace_options.network = cri_pb.NODE
    running = await cri.run(await cri.run_sandbox(config), config=container)
    lines = (await cri.output(running, "cat", "/proc/net/unix")).splitlines()[1:]
    abstract = {line.split()[6] for line in lines if len(line.split()) > 7 and line.split()[7].startswith("@")}
    ours = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_ours(pid, cri)]
    assert ours
    held = {os.readlink(f"/proc/{pid}/fd/{fd}") for pid in ours for fd in os.listdir(f"/proc/{pid}/fd")}
    assert not held & {f"socket:[{inode}]" for inode in abstract}


def _is_ours(pid: str, cri: CriClient) -> bool:
    """Whether a process is the runtime, or a monitor of one of its containers."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        return pid == str(cri.process.pid) or (b"conmon" in words and str(cri.process.folder).encode() in words)
    except OSError:
        return False


async def test_users_of_the_host_cannot_enter_containers_files(cri: CriClient) -> None:
    """CVE-2021-41103: programs with set-user-ID bits in images could be run by any user of the host."""
    await cri.run(await cri.run_sandbox(), "sleep", "1000")
    for base in (cri.process.folder / "root", cri.process.folder / "state"):
        found = subprocess.run(
            ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "find", base, "-name", "busybox"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert found.stdout == "", found.stdout


async def test_an_image_whose_proc_is_a_link_is_not_run(cri: CriClient, registry: Registry) -> None:
    """CVE-2019-19921, CVE-2023-27561: masked paths were applied to another place than the real /proc."""
    layer = make_layer([File("proc", link="/tmp"), File("sys", link="/tmp")])
    name = await registry.push("links:1", layers=[layer])
    await cri.images.PullImage(cri_pb.PullImageRequest(image=cri_pb.ImageSpec(image=name)))
    container = await cri.create(await cri.run_sandbox(), cri.container_config("sleep", "1000", image=name))
    with pytest.raises(grpc.aio.AioRpcError):
        await cri.start(container)


async def test_a_volume_in_an_image_brings_nothing_of_the_host(cri: CriClient, registry: Registry) -> None:
    """CVE-2022-23648: VOLUME with a path that leads out had the host's files copied into the container."""
    name = await registry.push("volume:1", config={"Volumes": {"/../../../../../../../../etc": {}, "/v": {}}})
    await cri.images.PullImage(cri_pb.PullImageRequest(image=cri_pb.ImageSpec(image=name)))
    config = cri.container_config("sh", "-c", "cat /etc/shadow 2>/dev/null; ls -A /v 2>/dev/null; echo end", image=name)
    _, log = await cri.run_to_end(config=config)
    assert log == "end"
