"""Specs for the OCI runtime, from CRI's configuration."""

from dataclasses import replace
from typing import Any

import pytest

from agent.cri import api_pb2 as cri
from agent.runtime import capabilities, oci_spec, seccomp
from agent.runtime.container import stop_signal
from agent.runtime.errors import InvalidArgument
from agent.runtime.host import HostLimits
from agent.runtime.selinux import Labels
from agent.runtime.users import User

HOST = HostLimits(
    capabilities=frozenset(capabilities.ALL) - {"CAP_SYS_RESOURCE"},
    min_oom_score_adj=0,
    nofile=20000,
    cgroup_v2=False,
    controllers=frozenset({"cpu", "cpuset", "memory", "pids"}),
    swap_accounting=True,
    seccomp=True,
    apparmor=False,
)


def build(
    container: cri.ContainerConfig, *, host: HostLimits = HOST, image: dict[str, Any] | None = None, **more: Any
) -> Any:
    inputs = oci_spec.SpecInputs(
        container=container,
        image={"Cmd": ["sh"]} if image is None else image,
        user=User(0, 0, (0,)),
        host=host,
        rootfs="/root",
        cgroup="/pod/c",
        namespaces={"network": "/ns/net", "pid": ""},
        hostname="pod",
        **more,
    )
    return oci_spec.build(inputs)


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], ["entry", "cmd"]),
        ([], ["a"], ["entry", "a"]),
        (["c"], [], ["c"]),
        (["c"], ["a"], ["c", "a"]),
    ],
)
def test_command_and_args_displace_the_image_s(command: list[str], args: list[str], expected: list[str]) -> None:
    """https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/"""
    image = {"Entrypoint": ["entry"], "Cmd": ["cmd"]}
    assert oci_spec.arguments(cri.ContainerConfig(command=command, args=args), image) == expected


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        build(cri.ContainerConfig(), image={})


def test_the_environment_is_the_image_s_and_then_the_pod_s() -> None:
    config = cri.ContainerConfig(
        envs=[cri.KeyValue(key="A", value="pod"), cri.KeyValue(key="C", value="x=y")], tty=True
    )
    found = oci_spec.environment(config, {"Env": ["A=image", "B=image", "PATH=/own"]}, "web-0")
    assert found == ["PATH=/own", "HOSTNAME=web-0", "TERM=xterm", "A=pod", "B=image", "C=x=y"]


def test_what_the_machine_does_not_grant_is_not_asked_for() -> None:
    config = cri.ContainerConfig()
    config.linux.security_context.privileged = True
    config.linux.resources.oom_score_adj = -998
    process = build(config)["process"]
    assert set(process["capabilities"]["bounding"]) == HOST.capabilities
    assert process["oomScoreAdj"] == 0
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 20000, "hard": 20000}]


def test_a_container_is_confined_unless_it_asks_otherwise() -> None:
    linux = build(cri.ContainerConfig())["linux"]
    assert "seccomp" not in linux  # as CRI's other runtimes have it: who wants a filter names one
    config = cri.ContainerConfig()
    config.linux.security_context.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    assert build(config)["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_a_privileged_container_is_not_confined() -> None:
    config = cri.ContainerConfig()
    config.linux.security_context.privileged = True
    spec = build(config)
    assert not {"seccomp", "maskedPaths", "readonlyPaths"} & spec["linux"].keys()
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    sysfs = next(mount for mount in spec["mounts"] if mount["destination"] == "/sys")
    assert "rw" in sysfs["options"]


def test_volumes_come_in_order_of_depth_and_displace_the_pod_s_own_files() -> None:
    mounts = [
        cri.Mount(container_path="/data/deep", host_path="/b", readonly=True),
        cri.Mount(container_path="data", host_path="/a", propagation=cri.PROPAGATION_HOST_TO_CONTAINER),
        cri.Mount(container_path="/etc/hosts", host_path="/hosts"),
    ]
    files = {"/etc/hosts": "/pod/hosts", "/etc/resolv.conf": "/pod/resolv"}
    spec = build(cri.ContainerConfig(mounts=mounts), files=files, sources={"data": "/real/a"})
    binds = [(m["destination"], m["source"], m["options"]) for m in spec["mounts"] if m["type"] == "bind"]
    assert binds == [
        ("/etc/resolv.conf", "/pod/resolv", ["rbind", "rprivate", "rw"]),
        ("/data", "/real/a", ["rbind", "rslave", "rw"]),
        ("/data/deep", "/b", ["rbind", "rprivate", "ro"]),
        ("/etc/hosts", "/hosts", ["rbind", "rprivate", "rw"]),
    ]
    assert spec["linux"]["rootfsPropagation"] == "rslave"


def test_recursively_read_only_needs_read_only() -> None:
    mount = cri.Mount(container_path="/x", host_path="/x", recursive_read_only=True)
    with pytest.raises(InvalidArgument, match="recursive_read_only"):
        build(cri.ContainerConfig(mounts=[mount]))
    mount.readonly = True
    (found,) = [m for m in build(cri.ContainerConfig(mounts=[mount]))["mounts"] if m["destination"] == "/x"]
    assert "rro" in found["options"]


def test_limits_name_only_what_is_asked_for_and_can_be_had() -> None:
    asked = cri.LinuxContainerResources(cpu_shares=2, memory_limit_in_bytes=1 << 20, unified={"memory.high": "1"})
    assert oci_spec.resources(asked, HOST) == {"cpu": {"shares": 2}, "memory": {"limit": 1 << 20, "swap": 1 << 20}}
    bare = HostLimits(HOST.capabilities, 0, 1024, True, frozenset({"cpu"}), False, False, False)
    assert oci_spec.resources(asked, bare) == {"cpu": {"shares": 2}, "unified": {"memory.high": "1"}}
    assert oci_spec.resources(cri.LinuxContainerResources(), HOST) == {}


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], set(capabilities.DEFAULT)),
        (["NET_ADMIN"], [], {*capabilities.DEFAULT, "CAP_NET_ADMIN"}),
        (["CAP_net_admin"], ["ALL"], {"CAP_NET_ADMIN"}),
        ([], ["all"], set()),
        (["ALL"], ["CHOWN"], HOST.capabilities - {"CAP_CHOWN"}),
        (["SYS_RESOURCE"], ["ALL"], set()),  # this machine doesn't have it
    ],
)
def test_capabilities_are_added_and_dropped(add: list[str], drop: list[str], expected: set[str]) -> None:
    assert set(capabilities.effective(add, drop, HOST.capabilities, privileged=False)) == expected


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InvalidArgument, match='unknown capability "NOPE"'):
        capabilities.effective(["NOPE"], [], HOST.capabilities, privileged=False)


def test_ambient_capabilities_are_in_all_sets() -> None:
    config = cri.ContainerConfig()
    config.linux.security_context.capabilities.drop_capabilities.append("ALL")
    config.linux.security_context.capabilities.add_ambient_capabilities.append("NET_BIND_SERVICE")
    sets = build(config)["process"]["capabilities"]
    assert all(sets[kind] == ["CAP_NET_BIND_SERVICE"] for kind in ("bounding", "effective", "permitted", "inheritable"))
    assert sets["ambient"] == ["CAP_NET_BIND_SERVICE"]


def test_the_default_profile_allows_mounting_only_with_the_capability() -> None:
    def allowed(*held: str) -> set[str]:
        rules = seccomp.default_profile(held)["syscalls"]
        return {
            name
            for rule in rules
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for name in rule["names"]
        }

    assert {"read", "execve", "openat"} <= allowed()
    forbidden = {"mount", "unshare", "setns", "bpf", "init_module", "kexec_load", "keyctl", "clone3", "io_uring_setup"}
    assert not forbidden & allowed()
    assert {"mount", "unshare", "clone3"} <= allowed("CAP_SYS_ADMIN")
    assert not {"kexec_load", "keyctl"} & allowed(*capabilities.ALL)


@pytest.mark.parametrize(
    ("cri_signal", "image", "expected"),
    [
        (cri.RUNTIME_DEFAULT, "", 15),
        (cri.RUNTIME_DEFAULT, "SIGQUIT", 3),
        (cri.RUNTIME_DEFAULT, "quit", 3),
        (cri.RUNTIME_DEFAULT, "9", 9),
        (cri.RUNTIME_DEFAULT, "SIGRTMIN+3", 37),
        (cri.RUNTIME_DEFAULT, "nonsense", 15),
        (cri.SIGUSR1, "SIGQUIT", 10),
        (cri.SIGRTMINPLUS3, "", 37),
        (cri.SIGRTMAXMINUS2, "", 62),
    ],
)
def test_the_stop_signal_is_the_pod_s_then_the_image_s(cri_signal: cri.Signal, image: str, expected: int) -> None:
    assert stop_signal(cri.ContainerConfig(stop_signal=cri_signal), image) == expected


def test_selinux_labels_and_apparmor_profiles_are_handed_on_where_the_host_has_them() -> None:
    container = cri.ContainerConfig()
    container.linux.security_context.apparmor.profile_type = cri.SecurityProfile.Localhost
    container.linux.security_context.apparmor.localhost_ref = "mine"
    with pytest.raises(InvalidArgument, match="apparmor is not supported"):
        build(container)
    labels = Labels("u:r:t:s0", "u:object_r:f:s0")
    spec = build(container, host=replace(HOST, apparmor=True), labels=labels)
    assert spec["process"]["apparmorProfile"] == "mine"
    assert (spec["process"]["selinuxLabel"], spec["linux"]["mountLabel"]) == (labels.process, labels.file)
    assert "selinuxLabel" not in build(cri.ContainerConfig())["process"]
