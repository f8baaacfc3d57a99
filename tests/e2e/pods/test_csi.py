"""Volumes by a storage driver that speaks CSI.

Sources: https://kubernetes.io/docs/concepts/storage/volumes/#csi, https://kubernetes-csi.github.io/docs/
"""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.csi import csi_pb2 as csi
from machinery.api.resources import (
    CSI_DRIVERS,
    CSI_NODES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    SECRETS,
    TOKEN_REVIEWS,
)
from machinery.errors import NotFound
from tests.e2e.pods.conftest import Pods, ask, container_status, shell
from tests.support.csi_driver import FolderDriver

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
async def driver(pods: Pods, tmp_path: Path) -> AsyncIterator[FolderDriver]:
    """A driver that this node has taken in."""
    name = f"folders-{uuid.uuid4().hex[:6]}.example.com"
    spec = {
        "attachRequired": False, "podInfoOnMount": True, "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        "fsGroupPolicy": "File", "requiresRepublish": True,
        "tokenRequests": [{"audience": "vault", "expirationSeconds": 600}],
    }  # fmt: skip
    body = {"kind": "CSIDriver", "apiVersion": "storage.k8s.io/v1", "metadata": {"name": name}, "spec": spec}
    await pods.client.create(CSI_DRIVERS, body)
    found = FolderDriver(name, tmp_path, pods.cluster.layout.root / "agent" / "plugins_registry")
    await found.start()
    yield found
    await found.stop()
    await pods.client.delete(CSI_DRIVERS, name)


async def called(driver: FolderDriver, call: str) -> None:
    """Wait until a driver was asked for something; a pod may be gone from the API before its volumes are."""
    async with asyncio.timeout(20):
        while call not in driver.calls:  # noqa: ASYNC110 - the driver is told
            await asyncio.sleep(0.02)


async def node_name(pods: Pods) -> str:
    return str((await pods.client.list(NODES))["items"][0]["metadata"]["name"])


async def test_the_node_tells_of_its_drivers(pods: Pods, driver: FolderDriver) -> None:
    name = await node_name(pods)
    found = await pods.client.get(CSI_NODES, name)
    (entry,) = [one for one in found["spec"]["drivers"] if one["name"] == driver.name]
    zone = f"{driver.name}/zone"
    assert (entry["nodeID"], entry["topologyKeys"], entry["allocatable"]) == ("node-of-mine", [zone], {"count": 7})
    node = await pods.client.get(NODES, name)
    assert node["metadata"]["labels"][zone] == "here"
    assert f'"{driver.name}": "node-of-mine"' in node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"]
    await driver.stop()
    async with asyncio.timeout(20):
        while driver.name in str((await pods.client.get(CSI_NODES, name))["spec"]["drivers"]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def claim(
    pods: Pods, driver: FolderDriver, handle: str, mode: str = "ReadWriteOnce", kind: str = "Filesystem"
) -> str:
    """Make a volume, a claim bound to it, and the secret that staging needs; return the claim's name."""
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "key"}, "stringData": {"word": "open"}}
    await pods.client.create(SECRETS, secret, pods.namespace)
    name, common = f"v-{pods.namespace}", {"accessModes": [mode], "storageClassName": "", "volumeMode": kind}
    source = {
        "driver": driver.name, "volumeHandle": handle, "volumeAttributes": {"tier": "gold"},
        "nodeStageSecretRef": {"name": "key", "namespace": pods.namespace},
    }  # fmt: skip
    volume: dict[str, Any] = {"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": name}}
    volume["spec"] = {**common, "capacity": {"storage": "1Gi"}, "csi": source}
    await pods.client.create(PERSISTENT_VOLUMES, volume)
    spec = {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": name}
    body = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "c"}, "spec": spec}
    await pods.client.create(PERSISTENT_VOLUME_CLAIMS, body, pods.namespace)
    return "c"


async def test_a_claimed_volume_is_staged_once_and_published_to_each_pod(
    pods: Pods, driver: FolderDriver, tmp_path: Path
) -> None:
    handle = f"vol-{pods.namespace}"
    (tmp_path / handle).mkdir()
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": await claim(pods, driver, handle)}}]
    mounts = [{"name": "v", "mountPath": "/v"}]
    security = {"fsGroup": 4321}
    first = await pods.create(
        shell("echo kept > /v/file; sleep 60", volumeMounts=mounts), volumes=volumes, securityContext=security
    )
    await pods.running(first)
    assert driver.contexts[handle]["tier"] == "gold"
    assert driver.contexts[handle]["csi.storage.k8s.io/pod.name"] == first["metadata"]["name"]
    assert driver.secrets[handle] == {"word": "open"}
    second, text = await pods.run("cat /v/file; stat -c %g /v", volumeMounts=mounts, pod={"volumes": volumes})
    assert text == "kept\n4321\n"
    await pods.delete(second)
    await called(driver, f"unpublish {handle}")
    assert f"unstage {handle}" not in driver.calls
    await pods.delete(first, 1)
    await called(driver, f"unstage {handle}")
    assert driver.calls[-2:] == [f"unpublish {handle}", f"unstage {handle}"]
    assert (tmp_path / handle / "file").read_text() == "kept\n"
    left = Path("/proc/self/mountinfo").read_text()  # noqa: ASYNC240 - at once
    assert str(pods.cluster.layout.root / "agent" / "plugins") not in left
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


@pytest.mark.only_wherry
async def test_a_driver_tells_how_full_its_volume_is_and_grows_it(
    pods: Pods, driver: FolderDriver, tmp_path: Path
) -> None:
    handle = f"vol-{pods.namespace}"
    (tmp_path / handle).mkdir()
    name = await claim(pods, driver, handle)
    pod = await pods.create(
        shell("sleep 60", volumeMounts=[{"name": "v", "mountPath": "/v"}]),
        volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": name}}],
    )
    await pods.running(pod)
    summary = json.loads(await ask(pods, "/stats/summary"))
    told = next(one for one in summary["pods"] if one["podRef"]["name"] == pod["metadata"]["name"])
    volume = next(one for one in told["volume"] if one["name"] == "v")
    assert volume["pvcRef"] == {"name": name, "namespace": pods.namespace}
    assert (volume["capacityBytes"], volume["availableBytes"], volume["usedBytes"]) == (1000, 600, 400)
    assert (volume["inodes"], volume["inodesFree"], volume["inodesUsed"]) == (10, 6, 4)
    assert volume["volumeHealthStats"] == {"abnormal": True}
    labels = f'{{namespace="{pods.namespace}",persistentvolumeclaim="{name}"}}'
    metrics = await ask(pods, "/metrics")
    assert f"kubelet_volume_stats_capacity_bytes{labels} 1000" in metrics
    assert f"kubelet_volume_stats_health_status_abnormal{labels} 1" in metrics
    method = "/csi.v1.Node/NodePublishVolume"
    assert f'driver_name="{driver.name}",grpc_status_code="OK",method_name="{method}",migrated="false"' in metrics
    # As the controller leaves it when a volume has grown and its file system has not.
    pending = {"type": "FileSystemResizePending", "status": "True"}
    patch = {"status": {"capacity": {"storage": "512Mi"}, "conditions": [pending]}}
    await pods.client.patch(PERSISTENT_VOLUME_CLAIMS, name, patch, pods.namespace, subresource="status")
    await called(driver, f"expand {handle} {2**30}")
    await pods.told(pod, "MountVolume.NodeExpandVolume succeeded")
    status = (await pods.client.get(PERSISTENT_VOLUME_CLAIMS, name, pods.namespace))["status"]
    assert (status["capacity"], status.get("conditions") or []) == ({"storage": "1Gi"}, [])
    await pods.delete(pod, 1)
    await called(driver, f"unstage {handle}")
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


@pytest.mark.only_wherry
async def test_a_volume_for_one_pod_is_kept_from_a_second_one(pods: Pods, driver: FolderDriver, tmp_path: Path) -> None:
    handle = f"vol-{pods.namespace}"
    (tmp_path / handle).mkdir()
    volumes = [
        {"name": "v", "persistentVolumeClaim": {"claimName": await claim(pods, driver, handle, "ReadWriteOncePod")}}
    ]
    mounts = [{"name": "v", "mountPath": "/v"}]
    first = await pods.create(shell("sleep 60", volumeMounts=mounts), volumes=volumes)
    await pods.running(first)
    assert driver.modes[handle] == csi.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
    # Bound past the scheduler, which would hold it back.
    second = await pods.create(shell("sleep 60", volumeMounts=mounts), volumes=volumes, nodeName=await node_name(pods))
    await pods.told(second, "volume uses the ReadWriteOncePod access mode and is already in use by another pod")
    await pods.delete(first, 1)
    await pods.running(second)
    await pods.delete(second, 1)
    await called(driver, f"unstage {handle}")
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


async def test_a_block_of_a_driver_is_a_device_in_the_container(
    pods: Pods, driver: FolderDriver, tmp_path: Path
) -> None:
    handle, disk = f"vol-{pods.namespace}", tmp_path / "disk"
    (tmp_path / handle).mkdir()
    disk.write_bytes(b"on the disk" + bytes(2**20))
    found = subprocess.run(["losetup", "--find", "--show", str(disk)], check=True, capture_output=True, text=True)
    driver.device = found.stdout.strip()
    try:
        volumes = [
            {"name": "v", "persistentVolumeClaim": {"claimName": await claim(pods, driver, handle, kind="Block")}}
        ]
        devices = [{"name": "v", "devicePath": "/dev/mine"}]
        command = "test -b /dev/mine && head -c 11 /dev/mine"
        done, text = await pods.run(command, volumeDevices=devices, pod={"volumes": volumes})
        assert text == "on the disk"
        await pods.delete(done)
        await called(driver, f"unstage {handle}")
    finally:
        subprocess.run(["losetup", "--detach", driver.device], check=True)
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


async def test_a_container_that_starts_again_after_its_agent_finds_its_volume(
    pods: Pods, driver: FolderDriver, tmp_path: Path
) -> None:
    handle = f"vol-{pods.namespace}"
    (tmp_path / handle).mkdir()
    pod = await pods.create(
        shell("date >> /v/starts; while test ! -e /v/end; do sleep 0.1; done; rm /v/end",
              volumeMounts=[{"name": "v", "mountPath": "/v"}]),
        volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": await claim(pods, driver, handle)}}],
        automountServiceAccountToken=False, restartPolicy="Always",
    )  # fmt: skip
    await pods.running(pod)
    pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))
    (tmp_path / handle / "end").touch()
    await pods.until(pod, lambda one: container_status(one)["restartCount"] == 1 and one["status"]["phase"] == "Running"
                     and "running" in container_status(one)["state"], "a second start", 30)  # fmt: skip
    assert len((tmp_path / handle / "starts").read_text().splitlines()) == 2
    await pods.delete(pod, 1)
    await called(driver, f"unstage {handle}")
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


async def test_a_volume_of_the_pod_itself_comes_and_goes_with_it(
    pods: Pods, driver: FolderDriver, tmp_path: Path
) -> None:
    volumes = [{"name": "own", "csi": {"driver": driver.name, "volumeAttributes": {"size": "1"}}}]
    done, text = await pods.run(
        "echo x > /o/f; cat /o/f", volumeMounts=[{"name": "own", "mountPath": "/o"}], pod={"volumes": volumes}
    )
    assert text == "x\n"
    (handle,) = [call.split()[1] for call in driver.calls if call.startswith("publish")]
    assert driver.contexts[handle]["csi.storage.k8s.io/ephemeral"] == "true"
    assert (tmp_path / handle / "f").exists()
    await pods.delete(done)
    await called(driver, f"unpublish {handle}")
    assert driver.calls == [f"publish {handle}", f"unpublish {handle}"]


async def test_a_driver_has_tokens_of_the_pods_account_and_may_renew_what_it_mounted(
    pods: Pods, driver: FolderDriver
) -> None:
    volumes = [{"name": "own", "csi": {"driver": driver.name}}]
    pod = await pods.create(shell("sleep 60", volumeMounts=[{"name": "own", "mountPath": "/o"}]), volumes=volumes)
    await pods.running(pod)
    (handle,) = driver.contexts
    tokens = json.loads(driver.contexts[handle]["csi.storage.k8s.io/serviceAccount.tokens"])
    assert set(tokens) == {"vault"}
    body = {"metadata": {}, "spec": {"token": tokens["vault"]["token"], "audiences": ["vault"]}}
    reviewed = (await pods.client.create(TOKEN_REVIEWS, {"kind": "TokenReview", **body}))["status"]
    assert reviewed["user"]["username"] == f"system:serviceaccount:{pods.namespace}:default"
    assert reviewed["user"]["extra"]["authentication.kubernetes.io/pod-name"] == [pod["metadata"]["name"]]
    assert tokens["vault"]["expirationTimestamp"].endswith("Z")
    await pods.patch(pod, {"metadata": {"labels": {"new": "label"}}})  # files are looked at again then
    async with asyncio.timeout(20):
        while driver.calls.count(f"publish {handle}") < 2:  # noqa: ASYNC110 - the driver is told
            await asyncio.sleep(0.02)
    assert await pods.exec(pod, "sh", "-c", "echo still > /o/f; cat /o/f") == "still\n"
    await pods.delete(pod, 1)
    await called(driver, f"unpublish {handle}")


async def test_a_driver_that_is_not_there_and_a_volume_it_has_not_are_told(pods: Pods, driver: FolderDriver) -> None:
    volumes = [{"name": "own", "csi": {"driver": "none.example.com"}}]
    pod = await pods.create(shell("true"), volumes=volumes)
    await pods.told(pod, "driver name none.example.com not found in the list of registered CSI drivers")
    wanted = [{"name": "v", "persistentVolumeClaim": {"claimName": await claim(pods, driver, "nothing")}}]
    pod = await pods.create(shell("true"), volumes=wanted)
    await pods.told(pod, "rpc error: code = NOT_FOUND desc = there is no volume nothing")
    with pytest.raises(NotFound):
        await pods.client.get(CSI_DRIVERS, "none.example.com")
    await pods.client.delete(PERSISTENT_VOLUMES, f"v-{pods.namespace}")


async def test_a_volume_left_by_a_driver_that_is_gone_holds_up_nobody(pods: Pods) -> None:
    left = pods.cluster.layout.root / "agent" / "pods" / str(uuid.uuid4()) / "volumes" / "v"
    left.mkdir(parents=True)
    note = {"driverName": "gone.example.com", "volumeHandle": "left"}
    (left / "vol_data.json").write_text(json.dumps(note))
    pods.cluster.run("kill", "-KILL", str(pods.cluster.pid("agent")))
    pod = await pods.create(shell("sleep 60"))
    await pods.running(pod, 20)
    assert left.is_dir()  # the driver may come back, and must be told
    assert "driver name gone.example.com not found" in pods.agent_log()
    (left / "vol_data.json").unlink()
