"""Whom containers run as and what they may do.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
"""

import json
import os
from typing import Any

import pytest

from tests.e2e.pods.conftest import Pods, container_status, shell, terminated, waiting

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.mark.parametrize(
    ("of_pod", "own", "wanted"),
    [
        ({}, {}, "0 0 0 10"), ({"runAsUser": 1001}, {}, "1001 0 0"), ({"runAsUser": 1001, "runAsGroup": 2002}, {}, "1001 2002 2002"),
        ({"runAsUser": 1001}, {"runAsUser": 1002}, "1002 0 0"),
        ({"runAsUser": 1001, "supplementalGroups": [3, 4], "fsGroup": 5}, {}, "1001 0 0 3 4 5"),
    ],
)  # fmt: skip
async def test_processes_run_as_whom_the_pod_says(pods: Pods, of_pod: Any, own: Any, wanted: str) -> None:
    done, text = await pods.run("echo $(id -u) $(id -g) $(id -G)", securityContext=own, pod={"securityContext": of_pod})
    uid, gid, *groups = text.split()
    assert [uid, gid] == wanted.split()[:2]
    assert set(wanted.split()[2:]) >= set(groups) - {"10"}
    if pods.runtime == "wherry":  # containerd 1.6 does not tell
        user = container_status(done)["user"]["linux"]
        assert [user["uid"], user["gid"]] == [int(uid), int(gid)]


@pytest.mark.parametrize(
    ("of_pod", "own", "text"),
    [
        ({"runAsNonRoot": True}, {"runAsUser": 0}, "container's runAsUser breaks non-root policy"),
        ({}, {"runAsNonRoot": True}, "container has runAsNonRoot and image will run as root"),
    ],
)
async def test_root_is_refused_where_a_pod_says_so(pods: Pods, of_pod: Any, own: Any, text: str) -> None:
    pod = await pods.create(shell("true", securityContext=own), securityContext=of_pod)
    held = await pods.until(pod, lambda one: waiting(one) == "CreateContainerConfigError", "to be held back")
    assert text in container_status(held)["state"]["waiting"]["message"]
    await pods.told(pod, f"Failed: Error: {text}")


async def test_a_user_other_than_root_passes(pods: Pods) -> None:
    done, text = await pods.run("id -u", securityContext={"runAsNonRoot": True, "runAsUser": 1234})
    assert (done["status"]["phase"], text) == ("Succeeded", "1234\n")


async def test_only_the_privileged_may_make_devices_and_links(pods: Pods) -> None:
    command = "ip link add dummy7 type bridge 2>/dev/null && echo yes || echo no; mount -t tmpfs none /mnt 2>/dev/null && echo yes || echo no"
    _, refused = await pods.run(f"mkdir -p /mnt; {command}", securityContext={"privileged": False})
    _, allowed = await pods.run(f"mkdir -p /mnt; {command}", securityContext={"privileged": True})
    assert (refused.split(), allowed.split()) == (["no", "no"], ["yes", "yes"])


async def test_a_read_only_root_takes_no_files(pods: Pods) -> None:
    done, _ = await pods.run("touch /x", securityContext={"readOnlyRootFilesystem": True})
    assert terminated(done)["exitCode"] == 1


@pytest.mark.parametrize(("allowed", "flag"), [(False, "1"), (True, "0"), (None, "0")])
async def test_privileges_can_be_barred_from_growing(pods: Pods, allowed: bool | None, flag: str) -> None:
    security = {} if allowed is None else {"allowPrivilegeEscalation": allowed}
    _, text = await pods.run("grep NoNewPrivs /proc/self/status", securityContext={"runAsUser": 1000, **security})
    assert text.split() == ["NoNewPrivs:", flag]


async def test_capabilities_are_added_and_dropped(pods: Pods) -> None:
    security = {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}
    _, text = await pods.run("grep CapEff /proc/self/status", securityContext=security)
    assert int(text.split()[1], 16) == 1 << 12


@pytest.mark.parametrize(("profile", "mode"), [("RuntimeDefault", "2"), ("Unconfined", "0"), ("", "2")])
async def test_seccomp_profiles(pods: Pods, profile: str, mode: str) -> None:
    security = {"seccompProfile": {"type": profile}} if profile else {}
    _, text = await pods.run("grep Seccomp: /proc/self/status", pod={"securityContext": security})
    assert text.split() == ["Seccomp:", mode]


async def test_a_local_seccomp_profile_is_found_below_the_agents_folder(pods: Pods) -> None:
    folder = pods.cluster.layout.root / "agent" / "seccomp"
    folder.mkdir(exist_ok=True)
    rules = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (folder / "no-mkdir.json").write_text(json.dumps(rules))
    security = {"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}}
    _, text = await pods.run("mkdir /tmp/x 2>&1; true", securityContext=security)
    assert "Operation not permitted" in text


async def test_sysctls_hold_in_the_pod(pods: Pods) -> None:
    security = {
        "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net.ipv4.tcp_syncookies", "value": "0"}]
    }
    _, text = await pods.run(
        "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_syncookies", pod={"securityContext": security}
    )
    assert text.split() == ["1", "0"]


async def test_apparmor_is_refused_where_there_is_none(pods: Pods) -> None:
    pod = await pods.create(shell("true"), securityContext={"appArmorProfile": {"type": "RuntimeDefault"}})
    done = await pods.ended(pod)
    assert (done["status"]["phase"], done["status"]["reason"]) == ("Failed", "AppArmor")


async def test_namespaces_of_the_host_and_of_the_pod_are_shared_as_asked(pods: Pods) -> None:
    _, own = await pods.run("ps | grep -c .; readlink /proc/self/ns/pid")
    pod = await pods.create(shell("sleep 7117"), shell("sleep 60"), shareProcessNamespace=True)
    await pods.running(pod)
    assert "sleep 7117" in await pods.exec(pod, "ps", container="main1")
    kinds = ("pid", "net", "ipc")
    command = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    _, host = await pods.run(command, pod={"hostPID": True, "hostNetwork": True, "hostIPC": True})
    assert int(own.split()[0]) < 8
    assert host.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]


async def test_proc_is_masked_unless_asked_otherwise(pods: Pods) -> None:
    command = "head -c1 /proc/kcore >/dev/null 2>&1 && [ -s /proc/timer_list ] && echo open || echo masked; touch /proc/sys/kernel/domainname 2>/dev/null && echo rw || echo ro"
    _, text = await pods.run(command)
    assert text.split() == ["masked", "ro"]


@pytest.mark.only_wherry
async def test_a_pod_without_the_hosts_users_owns_its_files_all_the_same(pods: Pods) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    command = (
        "cat /proc/self/uid_map; stat -c %u /bin/busybox /v; echo x > /v/f; stat -c %u /v/f; cat /etc/hosts | wc -l"
    )
    done, text = await pods.run(
        command, volumeMounts=[{"name": "v", "mountPath": "/v"}], pod={"hostUsers": False, "volumes": volumes}
    )  # fmt: skip
    inside, outside, length, *owners = text.split()
    assert (inside, length, owners[:3]) == ("0", "65536", ["0", "0", "0"])
    assert int(outside) >= 65536
    assert done["status"]["phase"] == "Succeeded"


@pytest.mark.only_wherry
async def test_proc_is_open_where_a_pod_says_so(pods: Pods) -> None:
    command = "grep -c ' /proc/' /proc/self/mounts"
    _, masked = await pods.run(f"{command}; true", pod={"hostUsers": False})
    _, open_ = await pods.run(f"{command}; true", securityContext={"procMount": "Unmasked"}, pod={"hostUsers": False})
    assert int(masked) > 5
    assert int(open_) == 0
