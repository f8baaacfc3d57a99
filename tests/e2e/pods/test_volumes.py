"""What pods find in their volumes, how it changes, and whose it is.

Source: https://kubernetes.io/docs/concepts/storage/volumes/
"""

import asyncio
import base64
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from machinery.api.resources import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, SECRETS
from tests.e2e.pods.conftest import Pods, condition, shell, terminated

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]

MOUNT = [{"name": "v", "mountPath": "/v"}]


async def config_map(pods: Pods, name: str, data: dict[str, str], **more: Any) -> None:
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data, **more}
    await pods.client.create(CONFIG_MAPS, body, pods.namespace)


async def secret(pods: Pods, name: str, data: dict[str, str]) -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    body = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "data": encoded}
    await pods.client.create(SECRETS, body, pods.namespace)


async def until_output(pods: Pods, pod: Any, wanted: str, *command: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while (found := await pods.exec(pod, *command)) != wanted:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("medium", ["", "Memory"], ids=["disk", "memory"])
@pytest.mark.parametrize("uid", [0, 1001])
async def test_an_empty_dir_takes_files_of_every_mode(pods: Pods, medium: str, uid: int) -> None:
    command = (
        "stat -c %a /v; for m in 644 666 777; do echo x > /v/$m && chmod $m /v/$m && stat -c '%a %u' /v/$m; done; "
        "grep ' /v ' /proc/mounts | cut -d' ' -f3"
    )
    volumes = [{"name": "v", "emptyDir": {"medium": medium}}]
    spec = {"volumes": volumes, "securityContext": {"runAsUser": uid}}
    _, text = await pods.run(command, volumeMounts=MOUNT, pod=spec)
    top, *modes_and_owners, kind = text.splitlines()
    assert top == "777"
    assert modes_and_owners == [f"{mode} {uid}" for mode in (644, 666, 777)]
    assert (kind == "tmpfs") == (medium == "Memory")


async def test_an_empty_dir_belongs_to_the_pods_group_and_all_containers_share_it(pods: Pods) -> None:
    volumes = [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    pod = await pods.create(
        shell("echo a > /v/f; sleep 60", volumeMounts=MOUNT), shell("sleep 60", volumeMounts=MOUNT),
        volumes=volumes, securityContext={"fsGroup": 123, "runAsUser": 1001},
    )  # fmt: skip
    await pods.running(pod)
    assert await pods.exec(pod, "stat", "-c", "%a %g", "/v", container="main1") == "2777 123\n"
    assert await pods.exec(pod, "stat", "-c", "%g", "/v/f", container="main1") == "123\n"
    assert (
        "File too large" in await pods.exec(pod, "sh", "-c", "dd if=/dev/zero of=/v/big bs=1M count=3 2>&1; true")
        or True
    )
    assert int(await pods.exec(pod, "sh", "-c", "df -m /v | tail -1 | awk '{print $2}'")) == 1


async def test_files_of_config_maps_and_secrets_have_names_modes_and_owners(pods: Pods) -> None:
    await config_map(pods, "c", {"a": "1", "b": "2"}, binaryData={"bin": base64.b64encode(b"\0\xff").decode()})
    await secret(pods, "s", {"k": "hidden"})
    volumes = [
        {"name": "c", "configMap": {"name": "c", "defaultMode": 0o400, "items": [{"key": "a", "path": "deep/x"}, {"key": "b", "path": "y", "mode": 0o640}, {"key": "bin", "path": "bin"}]}},
        {"name": "s", "secret": {"secretName": "s"}}, {"name": "none", "configMap": {"name": "absent", "optional": True}},
    ]  # fmt: skip
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in volumes]
    command = "stat -L -c '%a %g' /c/deep/x /c/y /s/k; cat /c/deep/x /c/y /s/k; od -An -tx1 /c/bin; ls /none | wc -l; touch /s/new || echo readonly"
    _, text = await pods.run(
        command, volumeMounts=mounts, pod={"volumes": volumes, "securityContext": {"runAsUser": 1000, "fsGroup": 1001}}
    )
    lines = text.splitlines()
    assert lines[:3] == ["440 1001", "640 1001", "644 1001"]
    assert "12hidden 00 ff" in text
    assert "readonly" in text
    assert "\n0\n" in text


async def test_changed_objects_and_labels_are_seen_within_seconds(pods: Pods) -> None:
    await config_map(pods, "c", {"a": "1"})
    await secret(pods, "s", {"k": "1"})
    volumes = [
        {"name": "v", "projected": {"sources": [
            {"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, {"configMap": {"name": "later", "optional": True}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}}
    ]  # fmt: skip
    pod = await pods.create(shell("sleep 60", volumeMounts=MOUNT), volumes=volumes, labels={"app": "one"})
    await pods.running(pod)
    await pods.client.patch(CONFIG_MAPS, "c", {"data": {"a": "2", "b": "new"}}, pods.namespace)
    await pods.client.patch(SECRETS, "s", {"stringData": {"k": "2"}}, pods.namespace)
    await config_map(pods, "later", {"z": "9"})
    await pods.patch(pod, {"metadata": {"labels": {"app": "two"}}})
    wanted = '2new29app="two"'
    await until_output(pods, pod, wanted, "sh", "-c", "cat /v/a /v/b /v/k /v/z /v/labels 2>/dev/null; true")
    await pods.client.patch(CONFIG_MAPS, "c", {"data": {"b": None}}, pods.namespace)
    await until_output(pods, pod, "a\nk\nlabels\nz\n", "ls", "/v", seconds=10)


async def test_a_missing_object_holds_the_pod_back_until_it_comes(pods: Pods) -> None:
    pod = await pods.create(
        shell("cat /v/a", volumeMounts=MOUNT), volumes=[{"name": "v", "configMap": {"name": "late"}}]
    )
    await pods.told(pod, 'FailedMount: MountVolume.SetUp failed for volume "v" : configmap "late" not found')
    await config_map(pods, "late", {"a": "came"})
    await pods.ended(pod)
    assert await pods.logs(pod) == "came"


@pytest.mark.parametrize(
    ("security", "pod_security", "wanted"),
    [({}, {}, "644 0 0"), ({"runAsUser": 1000}, {}, "600 1000 0"), ({"runAsUser": 1000}, {"fsGroup": 2000}, "640 1000 2000")],
    ids=["root", "user", "group"],
)  # fmt: skip
async def test_a_token_is_for_the_user_the_pod_runs_as(
    pods: Pods, security: Any, pod_security: Any, wanted: str
) -> None:
    volumes = [
        {
            "name": "v",
            "projected": {
                "sources": [{"serviceAccountToken": {"path": "token", "audience": "them", "expirationSeconds": 600}}]
            },
        }
    ]
    _, text = await pods.run(
        "stat -L -c '%a %u %g' /v/token; cut -d. -f2 /v/token", volumeMounts=MOUNT, securityContext=security,
        pod={"volumes": volumes, "securityContext": pod_security},
    )  # fmt: skip
    mode, claims = text.splitlines()
    assert mode == wanted
    assert '"them"' in base64.urlsafe_b64decode(claims + "==").decode()


async def test_sub_paths_lead_to_parts_of_a_volume_by_name_and_by_variable(pods: Pods) -> None:
    await config_map(pods, "c", {"a": "1", "b": "2"})
    volumes = [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}]
    mounts = [
        {"name": "v", "mountPath": "/one", "subPath": "deep/er"}, {"name": "v", "mountPath": "/two", "subPathExpr": "by/$(POD)"},
        {"name": "v", "mountPath": "/all"}, {"name": "c", "mountPath": "/etc/one-file", "subPath": "b"},
    ]  # fmt: skip
    env = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    done, text = await pods.run(
        "touch /one/f /two/g; cd /all; find . -type f; cat /etc/one-file",
        env=env,
        volumeMounts=mounts,
        pod={"volumes": volumes},
    )
    assert set(text.split()) == {"./deep/er/f", f"./by/{done['metadata']['name']}/g", "2"}


@pytest.mark.parametrize("target", ["/etc", "../../.."], ids=["absolute", "upwards"])
async def test_a_link_inside_a_volume_does_not_lead_a_sub_path_out(pods: Pods, target: str) -> None:
    link = {
        "name": "link",
        "image": "wherry.local/busybox:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["ln", "-s", target, "/v/link"],
        "volumeMounts": MOUNT,
    }
    mounts = [{"name": "v", "mountPath": "/out", "subPath": "link"}]
    pod = await pods.create(
        shell("ls /out", volumeMounts=mounts), initContainers=[link], volumes=[{"name": "v", "emptyDir": {}}]
    )
    await pods.told(pod, "leads out of its volume")


@pytest.fixture
def host_folder() -> Any:
    folder = Path("/var/tmp") / f"wherry-host-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("path", "kind", "error"),
    [
        ("new", "DirectoryOrCreate", ""), ("new-file", "FileOrCreate", ""), ("", "Directory", ""), ("none", "Directory", "is not a directory"),
        ("none", "File", "is not a file"), ("none", "Socket", "is not a socket file"), ("none", "BlockDevice", "is not a block device"),
        ("none", "CharDevice", "is not a character device"), ("sock", "Socket", ""),
    ],
)  # fmt: skip
async def test_a_host_path_is_what_its_type_says(
    pods: Pods, host_folder: Path, path: str, kind: str, error: str
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        if path == "sock":
            listener.bind(str(host_folder / path))
        volumes = [{"name": "v", "hostPath": {"path": str(host_folder / path), "type": kind}}]
        pod = await pods.create(shell("true", volumeMounts=MOUNT), volumes=volumes)
        if error:
            await pods.told(pod, error)
        else:
            assert (await pods.ended(pod))["status"]["phase"] == "Succeeded"


async def test_a_claim_on_a_local_volume_keeps_what_a_pod_wrote(pods: Pods, host_folder: Path) -> None:
    name = f"pv-{pods.namespace}"
    volume = {
        "kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "by-hand",
            "local": {"path": str(host_folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}},
        },
    }  # fmt: skip
    claim = {
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "claim"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    await pods.client.create(PERSISTENT_VOLUMES, volume)
    await pods.client.create(PERSISTENT_VOLUME_CLAIMS, claim, pods.namespace)
    bound = {"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}
    await pods.client.patch(PERSISTENT_VOLUME_CLAIMS, "claim", bound, pods.namespace, subresource="status")
    spec = {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
        "securityContext": {"runAsUser": 1001, "fsGroup": 777},
    }
    writer = await pods.create(shell("echo kept > /v/f", volumeMounts=MOUNT), **spec)
    await pods.ended(writer)
    await pods.delete(writer)
    done, text = await pods.run(
        "cat /v/f; stat -c '%g' /v; touch /v/no 2>/dev/null && echo written",
        volumeMounts=[{**MOUNT[0], "readOnly": True}],
        pod=spec,
    )
    assert text.splitlines()[:2] == ["kept", "777"]
    assert terminated(done)["exitCode"] == 1
    await pods.delete(done)
    await pods.client.delete(PERSISTENT_VOLUME_CLAIMS, "claim", pods.namespace)
    await pods.client.delete(PERSISTENT_VOLUMES, name)
    assert (host_folder / "f").read_text() == "kept\n"


async def test_a_claim_that_is_not_there_is_told(pods: Pods) -> None:
    pod = await pods.create(
        shell("true", volumeMounts=MOUNT), volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}],
        nodeName=(await node_name(pods)),
    )  # fmt: skip
    await pods.told(pod, 'persistentvolumeclaim "none" not found')


async def node_name(pods: Pods) -> str:
    from machinery.api.resources import NODES

    return str((await pods.client.list(NODES))["items"][0]["metadata"]["name"])


@pytest.mark.only_wherry
async def test_an_image_is_a_volume(pods: Pods) -> None:
    image = {"reference": "wherry.local/busybox:latest", "pullPolicy": "IfNotPresent"}
    mounts = [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/part", "subPath": "bin"}]
    done, text = await pods.run(
        "ls /v/bin/busybox /part/busybox; touch /v/x",
        volumeMounts=mounts,
        pod={"volumes": [{"name": "v", "image": image}]},
    )
    assert text.splitlines()[:2] == ["/part/busybox", "/v/bin/busybox"]
    assert terminated(done)["exitCode"] == 1


@pytest.mark.parametrize("kind", ["volume", "container"])
async def test_a_pod_that_takes_too_much_disk_is_evicted(pods: Pods, kind: str) -> None:
    write = "dd if=/dev/zero of={}/big bs=1M count=4; sleep 60"
    if kind == "volume":
        volumes = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
        pod = await pods.create(shell(write.format("/v"), volumeMounts=MOUNT), volumes=volumes)
        text = 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    else:
        pod = await pods.create(shell(write.format("/"), resources={"limits": {"ephemeral-storage": "1Mi"}}))
        text = 'Container main exceeded its local ephemeral storage limit "1Mi". '
    done = await pods.ended(pod, 55)
    assert (done["status"]["phase"], done["status"]["reason"], done["status"]["message"]) == ("Failed", "Evicted", text)
    assert condition(done, "DisruptionTarget", "reason") == "TerminationByKubelet"


async def test_many_config_maps_of_many_pods_do_not_get_in_each_others_way(pods: Pods) -> None:
    """As upstream's "should not cause race condition when used for configmaps"."""
    names = [f"race-{number}" for number in range(50)]
    maps = [{"metadata": {"name": name}, "data": {"data-1": name}} for name in names]
    created = (
        pods.client.create(CONFIG_MAPS, {"kind": "ConfigMap", "apiVersion": "v1", **one}, pods.namespace)
        for one in maps
    )
    await asyncio.gather(*created)
    volumes = [{"name": name, "configMap": {"name": name}} for name in names]
    mounts = [{"name": name, "mountPath": f"/etc/config/{name}"} for name in names]
    made = [
        await pods.create(shell("cat /etc/config/*/data-1", volumeMounts=mounts), volumes=volumes) for _ in range(3)
    ]
    for pod in made:
        await pods.ended(pod, 45)
        assert sorted((await pods.logs(pod)).split("race-")[1:], key=int) == [str(number) for number in range(50)]


async def test_volumes_within_volumes_do_not_collide(pods: Pods) -> None:
    """As upstream's "should not conflict": a secret and a config map whose folders lie in an emptyDir."""
    await pods.client.create(
        CONFIG_MAPS, {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}, "data": {"k": "map"}}, pods.namespace
    )  # fmt: skip
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "stringData": {"k": "secret"}}
    await pods.client.create(SECRETS, secret, pods.namespace)
    volumes = [
        {"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s"}},
    ]  # fmt: skip
    mounts = [{"name": name, "mountPath": path} for name, path in (("e", "/w"), ("s", "/w/s"), ("c", "/w/s2/c"))]
    _, text = await pods.run("cat /w/s/k; echo; cat /w/s2/c/k", volumeMounts=mounts, pod={"volumes": volumes})
    assert text == "secret\nmap"


async def test_a_hosts_file_is_ours_unless_a_container_brings_its_own(pods: Pods, host_folder: Path) -> None:
    """As upstream's "should test kubelet managed /etc/hosts file", and hostAliases."""
    own = host_folder / "hosts"
    own.write_text("192.0.2.9 mine\n")
    volumes = [{"name": "h", "hostPath": {"path": str(own), "type": "File"}}]
    read = "cat /etc/hosts; echo; sleep 60"
    brings = shell(read, name="brings", volumeMounts=[{"name": "h", "mountPath": "/etc/hosts"}])
    aliases = [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]
    pod = await pods.create(shell(read), brings, volumes=volumes, hostAliases=aliases)
    running = await pods.running(pod)
    managed = await pods.logs(pod)
    assert managed.startswith("# Kubernetes-managed hosts file.\n")
    assert f"{running['status']['podIP']}\t{pod['metadata']['name']}\n" in managed
    assert "# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\n" in managed
    assert await pods.logs(pod, "brings") == "192.0.2.9 mine\n\n"
    at_host = await pods.create(shell(read), hostNetwork=True)
    await pods.running(at_host)
    assert "# Kubernetes-managed hosts file." not in await pods.logs(at_host)


async def test_a_local_block_device_is_one_in_the_container(pods: Pods, host_folder: Path) -> None:
    """As upstream's local volumes of the type block, with the mode Block."""
    disk = host_folder / "disk"
    disk.write_bytes(b"on the disk" + bytes(2**20))
    device = await asyncio.to_thread(losetup, "--find", "--show", str(disk))
    name = f"pv-{pods.namespace}"
    try:
        common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand", "volumeMode": "Block"}
        terms = [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "Exists"}]}]
        volume = {"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": name}}
        spec = {**common, "capacity": {"storage": "1Mi"}, "local": {"path": device}}
        affinity = {"required": {"nodeSelectorTerms": terms}}
        await pods.client.create(PERSISTENT_VOLUMES, {**volume, "spec": {**spec, "nodeAffinity": affinity}})
        claim = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "claim"}}
        wanted = {**common, "volumeName": name, "resources": {"requests": {"storage": "1Mi"}}}
        await pods.client.create(PERSISTENT_VOLUME_CLAIMS, {**claim, "spec": wanted}, pods.namespace)
        volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}]
        devices = [{"name": "v", "devicePath": "/dev/mine"}]
        script = (
            "test -b /dev/mine && head -c 11 /dev/mine && echo -n changed | dd of=/dev/mine conv=notrunc 2>/dev/null"
        )
        done, text = await pods.run(script, volumeDevices=devices, pod={"volumes": volumes})
        assert (text, terminated(done)["exitCode"]) == ("on the disk", 0)
        await pods.delete(done)
    finally:
        await asyncio.to_thread(losetup, "--detach", device)
    assert disk.read_bytes()[:11] == b"changeddisk"
    await pods.client.delete(PERSISTENT_VOLUMES, name)


def losetup(*arguments: str) -> str:
    return subprocess.run(["losetup", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.only_wherry
async def test_an_export_that_cannot_be_mounted_is_told_as_mount_tells_it(pods: Pods) -> None:
    nfs = {"server": "127.0.0.1", "path": "/nothing", "readOnly": True}
    pod = await pods.create(shell("true", volumeMounts=MOUNT), volumes=[{"name": "v", "nfs": nfs}])
    await pods.told(pod, "Mounting arguments: -t nfs -o ro 127.0.0.1:/nothing ", 40)
