"""What a container may see, do and use: mounts, user, capabilities, seccomp, limits."""

import os
from pathlib import Path

import grpc
import grpc.aio
import pytest

from agent.cri import api_pb2 as cri_pb
from agent.runtime import capabilities, cgroups, host, kernel
from tests.integration.runtime.harness import BUSYBOX, CriClient

MS_SHARED = 0x100000


def capability_names(status: str) -> set[str]:
    """The names behind the hexadecimal CapEff line of /proc/PID/status."""
    bits = int(status.split()[-1], 16)
    return {name for bit, name in enumerate(capabilities.ALL) if bits >> bit & 1}


async def test_volumes_are_mounted_as_asked(cri: CriClient, tmp_path: Path) -> None:
    for name in ("data", "inner", "fixed"):
        (tmp_path / name).mkdir()
    (tmp_path / "fixed" / "file").write_text("fixed")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    script = (
        "echo x > /data/out; echo y > /data/inner/out; cat /fixed/file; echo; (echo z > /fixed/file) || echo refused"
    )
    config = cri.container_config("sh", "-c", f"({script}) 2>/dev/null")
    config.mounts.extend(
        [
            cri_pb.Mount(container_path="/data/inner", host_path=str(tmp_path / "inner")),
            cri_pb.Mount(container_path="/data", host_path=str(tmp_path / "link")),
            cri_pb.Mount(container_path="/fixed", host_path=str(tmp_path / "fixed"), readonly=True),
        ]
    )
    status, log = await cri.run_to_end(config=config)
    assert status.exit_code == 0
    assert log.splitlines()[0].startswith("fixed")
    assert log.splitlines()[-1] == "refused"
    assert (tmp_path / "data" / "out").read_text() == "x\n"
    assert (tmp_path / "inner" / "out").read_text() == "y\n"
    assert [mount.container_path for mount in status.mounts] == ["/data/inner", "/data", "/fixed"]


async def test_a_mount_of_what_is_not_there_is_refused(cri: CriClient, tmp_path: Path) -> None:
    config = cri.container_config("true")
    config.mounts.append(cri_pb.Mount(container_path="/x", host_path=str(tmp_path / "nope")))
    sandbox = await cri.run_sandbox()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox, config)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "No such file or directory" in (caught.value.details() or "")
    assert not (await cri.runtime.ListContainers(cri_pb.ListContainersRequest())).containers


async def test_the_user_and_groups_asked_for_are_those_of_the_process(cri: CriClient) -> None:
    config = cri.container_config("id")
    security = config.linux.security_context
    security.run_as_user.value, security.run_as_group.value = 1000, 2000
    security.supplemental_groups.append(3000)
    status, log = await cri.run_to_end(config=config)
    assert log == "uid=1000 gid=2000 groups=2000,3000"
    assert list(status.user.linux.supplemental_groups) == [2000, 3000]


async def test_a_user_is_looked_up_in_the_image(cri: CriClient) -> None:
    config = cri.container_config("id")
    config.linux.security_context.run_as_username = "www-data"
    assert (await cri.run_to_end(config=config))[1].startswith("uid=33(www-data) gid=33(www-data)")
    config.linux.security_context.run_as_username = "nosuch"
    sandbox = await cri.run_sandbox()
    with pytest.raises(grpc.aio.AioRpcError, match="unable to find user nosuch: no matching entries in passwd file"):
        await cri.create(sandbox, config)


async def test_a_read_only_root_cannot_be_written_but_shared_memory_can(cri: CriClient) -> None:
    config = cri.container_config(
        "sh", "-c", "touch /x /etc/hosts 2>/dev/null || echo refused; touch /dev/shm/x && echo shm"
    )
    config.linux.security_context.readonly_rootfs = True
    _, log = await cri.run_to_end(config=config)
    assert log.splitlines()[-2:] == ["refused", "shm"]


READ_STATUS = (
    "sh",
    "-c",
    "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; grep NoNew /proc/self/status",
)


async def test_containers_get_the_usual_capabilities_and_a_seccomp_filter(cri: CriClient) -> None:
    _, log = await cri.run_to_end(*READ_STATUS)
    effective, seccomp, no_new_privs = log.splitlines()
    assert capability_names(effective) == set(capabilities.DEFAULT)
    assert (seccomp.split()[-1], no_new_privs.split()[-1]) == ("2", "0")


async def test_capabilities_are_dropped_and_added_as_asked(cri: CriClient) -> None:
    config = cri.container_config(*READ_STATUS)
    security = config.linux.security_context
    security.capabilities.drop_capabilities.append("ALL")
    security.capabilities.add_capabilities.append("NET_ADMIN")
    security.no_new_privs = True
    _, log = await cri.run_to_end(config=config)
    assert capability_names(log.splitlines()[0]) == {"CAP_NET_ADMIN"}
    assert log.splitlines()[2].split()[-1] == "1"


async def test_a_privileged_container_has_all_that_this_machine_grants(cri: CriClient) -> None:
    config = cri.container_config("sh", "-c", "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; ls /dev")
    config.linux.security_context.privileged = True
    _, log = await cri.run_to_end(config=config)
    effective, seccomp, *devices = log.splitlines()
    assert capability_names(effective) == host.probe().capabilities
    assert seccomp.split()[-1] == "0"
    assert {"loop-control", "null"} <= set(devices)


async def test_dangerous_calls_are_refused_by_the_default_profile_even_with_the_capability_dropped(
    cri: CriClient,
) -> None:
    # Unsharing needs no capability for user namespaces: only the filter forbids it.
    script = "unshare -U true 2>/dev/null && echo allowed || echo refused"
    _, log = await cri.run_to_end("sh", "-c", script)
    assert log.splitlines()[-1] == "refused"
    config = cri.container_config("sh", "-c", script)
    config.linux.security_context.seccomp.profile_type = cri_pb.SecurityProfile.Unconfined
    _, log = await cri.run_to_end(config=config)
    assert log.splitlines()[-1] == "allowed"


async def test_kernel_files_are_masked(cri: CriClient) -> None:
    script = "cat /proc/keys | wc -c; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused"
    _, log = await cri.run_to_end("sh", "-c", script)
    assert log.splitlines()[0] == "0"
    assert log.splitlines()[-1] == "refused"


def limits(cgroup: str) -> tuple[int, int]:
    """The memory limit in bytes and the CPU quota in microseconds of a cgroup."""
    if (cgroups.ROOT / "cgroup.controllers").exists():
        folder = cgroups.folder("", cgroup)
        return int((folder / "memory.max").read_text()), int((folder / "cpu.max").read_text().split()[0])
    memory = cgroups.folder("memory", cgroup) / "memory.limit_in_bytes"
    return int(memory.read_text()), int((cgroups.folder("cpu", cgroup) / "cpu.cfs_quota_us").read_text())


async def test_limits_are_cgroups_under_the_pod_s_and_change_while_it_runs(cri: CriClient) -> None:
    sandbox_config = cri.sandbox_config()
    parent = f"{cri.process.cgroup_root}/pod-limits"
    sandbox_config.linux.cgroup_parent = parent
    sandbox = await cri.run_sandbox(sandbox_config)
    config = cri.container_config("sleep", "1000")
    asked = config.linux.resources
    asked.memory_limit_in_bytes, asked.cpu_period, asked.cpu_quota, asked.cpu_shares = 64 << 20, 100_000, 50_000, 512
    container = await cri.run(sandbox, config=config)
    cgroup = f"{parent}/{container}"
    assert limits(cgroup) == (64 << 20, 50_000)
    assert await cri.pid(container) in cgroups.processes(cgroup)
    request = cri_pb.UpdateContainerResourcesRequest(container_id=container)
    request.linux.memory_limit_in_bytes, request.linux.cpu_quota = 96 << 20, 20_000
    await cri.runtime.UpdateContainerResources(request)
    assert limits(cgroup) == (96 << 20, 20_000)
    resources = (await cri.status(container)).resources.linux
    assert (resources.memory_limit_in_bytes, resources.cpu_quota, resources.cpu_shares) == (96 << 20, 20_000, 512)
    await cri.runtime.RemovePodSandbox(cri_pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    assert not cgroups.exists(parent)  # it was not there before the sandbox
    cgroups.remove(cri.process.cgroup_root)


def in_user_namespace(options: cri_pb.NamespaceOption, first: int) -> None:
    mapping = cri_pb.IDMapping(host_id=first, container_id=0, length=65536)
    options.userns_options.CopyFrom(cri_pb.UserNamespace(mode=cri_pb.POD, uids=[mapping], gids=[mapping]))


async def test_a_pod_in_a_user_namespace_is_root_inside_and_nobody_outside(cri: CriClient) -> None:
    cri.process.folder.chmod(0o711)
    first = 655360
    pod = cri.sandbox_config()
    in_user_namespace(pod.linux.security_context.namespace_options, first)
    sandbox = await cri.run_sandbox(pod)
    volume = cri.process.folder / "of-root"
    volume.mkdir(mode=0o700)
    (volume / "f").write_text("mine")
    config = cri.container_config("sleep", "1000")
    in_user_namespace(config.linux.security_context.namespace_options, first)
    mapping = config.linux.security_context.namespace_options.userns_options.uids
    config.mounts.append(
        cri_pb.Mount(container_path="/v", host_path=str(volume), uidMappings=mapping, gidMappings=mapping)
    )
    container = await cri.run(sandbox, config=config)
    assert (
        await cri.output(container, "sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '") == f"0\n 0 {first} 65536\n"
    )
    assert await cri.output(container, "stat", "-c", "%u", "/bin/busybox") == "0\n"
    assert (
        await cri.output(container, "sh", "-c", "cat /v/f; touch /v/new /new; stat -c %u /v/new /new") == "mine0\n0\n"
    )
    assert (volume / "new").stat().st_uid == 0
    pid = await cri.pid(container)
    assert os.stat(f"/proc/{pid}").st_uid == first
    other = cri.container_config("true")
    with pytest.raises(grpc.aio.AioRpcError, match="must have the user namespace of its sandbox"):
        await cri.create(sandbox, other)


async def test_two_user_mappings_are_refused(cri: CriClient) -> None:
    pod = cri.sandbox_config()
    options = pod.linux.security_context.namespace_options
    in_user_namespace(options, 655360)
    options.userns_options.uids.add(host_id=1, container_id=65536, length=1)
    with pytest.raises(grpc.aio.AioRpcError, match="one is supported"):
        await cri.run_sandbox(pod)


@pytest.mark.parametrize("mode", ["CONTAINER", "TARGET"])
async def test_a_user_namespace_that_is_neither_the_pod_s_nor_the_host_s_is_refused(cri: CriClient, mode: str) -> None:
    pod = cri.sandbox_config()
    pod.linux.security_context.namespace_options.userns_options.mode = cri_pb.NamespaceMode.Value(mode)
    with pytest.raises(grpc.aio.AioRpcError, match=f"mode {mode} is not supported"):
        await cri.run_sandbox(pod)


@pytest.mark.parametrize(
    ("mode", "comes_in", "goes_out"),
    [
        (cri_pb.PROPAGATION_PRIVATE, False, False),
        (cri_pb.PROPAGATION_HOST_TO_CONTAINER, True, False),
        (cri_pb.PROPAGATION_BIDIRECTIONAL, True, True),
    ],
    ids=["private", "from the host", "both ways"],
)
async def test_mounts_spread_as_a_volume_says(
    cri: CriClient, tmp_path: Path, mode: cri_pb.MountPropagation, comes_in: bool, goes_out: bool
) -> None:
    volume, other = tmp_path / "volume", tmp_path / "other"
    for folder in (volume / "in", volume / "out", other):
        folder.mkdir(parents=True)
    (other / "file").touch()
    kernel.mount(str(volume), volume, flags=kernel.MS_BIND)
    kernel.mount("", volume, flags=MS_SHARED)
    try:
        config = cri.container_config("sleep", "60")
        config.linux.security_context.privileged = True
        config.mounts.append(cri_pb.Mount(container_path="/v", host_path=str(volume), propagation=mode))
        container = await cri.run(await cri.run_sandbox(), config=config)
        kernel.mount(str(other), volume / "in", flags=kernel.MS_BIND)
        assert (await cri.output(container, "ls", "/v/in") == "file\n") is comes_in
        await cri.output(container, "mount", "--bind", "/etc", "/v/out")
        assert bool(os.listdir(volume / "out")) is goes_out
        await cri.stop(container)
    finally:
        for folder in (volume / "in", volume / "out", volume):
            kernel.unmount(folder)


async def test_root_without_its_capability_cannot_ping(cri: CriClient) -> None:
    config = cri.container_config("ping", "-c", "1", "-w", "1", "127.0.0.1")
    config.linux.security_context.capabilities.drop_capabilities.append("NET_RAW")
    status, log = await cri.run_to_end(config=config)
    assert status.exit_code != 0
    assert "permission denied" in log


async def test_paths_are_masked_and_read_only_as_asked(cri: CriClient) -> None:
    config = cri.container_config("sh", "-c", "cat /etc/passwd; ls /bin/sh; touch /tmp/x; touch /var/x || true")
    config.linux.security_context.masked_paths.append("/etc/passwd")
    config.linux.security_context.readonly_paths.append("/tmp")
    _, log = await cri.run_to_end(config=config)
    assert log == "/bin/sh\ntouch: /tmp/x: Read-only file system"


async def test_an_image_is_mounted_read_only_whole_or_in_part(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    config = cri.container_config("sleep", "1000")
    image = cri_pb.ImageSpec(image=BUSYBOX)
    config.mounts.append(cri_pb.Mount(container_path="/whole", image=image, readonly=True))
    config.mounts.append(cri_pb.Mount(container_path="/part", image=image, image_sub_path="bin", readonly=True))
    container = await cri.run(sandbox, config=config)
    assert (
        await cri.output(container, "ls", "/whole/bin/busybox", "/part/busybox")
        == "/part/busybox\n/whole/bin/busybox\n"
    )
    assert (await cri.exec(container, "touch", "/whole/x")).exit_code == 1
    status = await cri.status(container)
    assert {mount.image.image_ref for mount in status.mounts} == {status.image_id}
    for read_only, sub_path, complaint in ((True, "no/such", "No such file"), (False, "", "must be read-only")):
        bad = cri.container_config("true")
        bad.mounts.append(cri_pb.Mount(container_path="/x", image=image, image_sub_path=sub_path, readonly=read_only))
        with pytest.raises(grpc.aio.AioRpcError, match=complaint):
            await cri.create(sandbox, bad)
    missing = cri.container_config("true")
    missing.mounts.append(
        cri_pb.Mount(container_path="/x", image=cri_pb.ImageSpec(image="no/such:image"), readonly=True)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.create(sandbox, missing)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_device_by_cdi_that_nobody_describes_is_refused(cri: CriClient) -> None:
    config = cri.container_config("true")
    config.CDI_devices.add(name="vendor.com/gpu=0")
    with pytest.raises(grpc.aio.AioRpcError, match=r"unresolvable CDI devices vendor\.com/gpu=0"):
        await cri.create(await cri.run_sandbox(), config)


async def test_a_volume_can_be_read_only_with_all_below_it(cri: CriClient) -> None:
    folder = cri.process.folder / "tree"
    (folder / "below").mkdir(parents=True)
    kernel.mount("none", folder / "below", "tmpfs")
    try:
        sandbox = await cri.run_sandbox()
        config = cri.container_config("sleep", "1000")
        config.mounts.append(cri_pb.Mount(container_path="/flat", host_path=str(folder), readonly=True))
        config.mounts.append(
            cri_pb.Mount(container_path="/deep", host_path=str(folder), readonly=True, recursive_read_only=True)
        )
        container = await cri.run(sandbox, config=config)
        assert (await cri.exec(container, "touch", "/flat/below/x")).exit_code == 0
        assert (await cri.exec(container, "touch", "/deep/below/x")).exit_code == 1
    finally:
        kernel.unmount(folder / "below")
    status = await cri.runtime.Status(cri_pb.StatusRequest(verbose=True))
    assert all(one.features.recursive_read_only_mounts for one in status.runtime_handlers)
    assert "config" in status.info


async def test_an_oom_score_below_what_we_may_give_does_not_fail(cri: CriClient) -> None:
    config = cri.container_config("cat", "/proc/self/oom_score_adj")
    config.linux.resources.oom_score_adj = -998
    status, log = await cri.run_to_end(config=config)
    assert status.exit_code == 0
    assert int(log) == max(-998, host.probe().min_oom_score_adj)


async def test_command_args_and_environment_come_from_pod_and_image(cri: CriClient) -> None:
    config = cri.container_config("sh", "-c")
    config.args.append('echo "$FOO $HOSTNAME $PWD"')
    config.envs.append(cri_pb.KeyValue(key="FOO", value="a b"))
    config.working_dir = "/tmp"
    assert (await cri.run_to_end(config=config))[1] == "a b pod /tmp"


async def test_containers_of_a_pod_may_share_a_pid_namespace(cri: CriClient) -> None:
    sandbox_config = cri.sandbox_config()
    sandbox_config.linux.security_context.namespace_options.pid = cri_pb.POD
    sandbox = await cri.run_sandbox(sandbox_config)
    config = cri.container_config("sleep", "4321")
    config.linux.security_context.namespace_options.pid = cri_pb.POD
    await cri.run(sandbox, config=config)
    config.metadata.name, config.command[:] = "other", ["sleep", "1000"]
    other = await cri.run(sandbox, config=config)
    assert "sleep 4321" in await cri.output(other, "ps")
    config.metadata.name = "alone"
    config.linux.security_context.namespace_options.pid = cri_pb.CONTAINER
    alone = await cri.run(sandbox, config=config)
    assert "sleep 4321" not in await cri.output(alone, "ps")


async def test_host_namespaces_are_the_host_s(cri: CriClient) -> None:
    sandbox_config = cri.sandbox_config()
    options = sandbox_config.linux.security_context.namespace_options
    options.network = options.pid = options.ipc = cri_pb.NODE
    sandbox = await cri.run_sandbox(sandbox_config)
    config = cri.container_config("sleep", "1000")
    config.linux.security_context.namespace_options.CopyFrom(options)
    container = await cri.run(sandbox, config=config)
    for kind in ("net", "pid", "ipc"):
        link = f"/proc/self/ns/{kind}"
        assert (await cri.output(container, "readlink", link)).strip() == os.readlink(link)
    assert (await cri.sandbox_status(sandbox)).network.ip == ""
