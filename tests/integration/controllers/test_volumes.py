"""Claims and volumes: binding, protection, provisioning, growth and release, on a real API server."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controllers.local_path import Settings
from machinery.api.resources import (
    EVENTS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICE_ACCOUNTS,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
)
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.conftest import running_controllers
from tests.support.agent import pods_come_up
from tests.support.nodes import create_node
from tests.support.waiting import until, until_gone, until_one

pytestmark = pytest.mark.slow

FOLDER = "/var/lib/somewhere/volumes"


@pytest.fixture
async def controllers(config: ClientConfig, client: Client) -> AsyncIterator[None]:
    async with running_controllers(config, local_path=Settings(FOLDER)):
        for namespace in ("default", "kube-system"):
            await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace=namespace)
        await until_one(client, STORAGE_CLASSES, "local-path", lambda _: True)
        yield


def volume(name: str, size: str = "1Gi", **spec: Any) -> dict[str, Any]:
    plain = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": f"/tmp/{name}"}}
    return {"metadata": {"name": name}, "spec": {**plain, "storageClassName": "manual", **spec}}


def claim(name: str = "data", size: str = "1Gi", *, storage_class: str | None = "manual", **spec: Any) -> Any:
    plain: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        plain["storageClassName"] = storage_class
    return {"metadata": {"name": name}, "spec": {**plain, **spec}}


def user(claim_name: str = "data", *, node: str = "", **volume_source: Any) -> dict[str, Any]:
    source = volume_source or {"persistentVolumeClaim": {"claimName": claim_name}}
    spec = {"containers": [{"name": "m", "image": "i"}], "volumes": [{"name": "v", **source}]}
    return {"metadata": {"name": "user"}, "spec": {**spec, **({"nodeName": node} if node else {})}}


def phase(name: str) -> Any:
    return lambda obj: obj["status"].get("phase") == name


async def make_node(client: Client, name: str = "n1", **labels: str) -> None:
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
    await create_node(client, {"metadata": metadata})
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": None, "lastTransitionTime": None}
    await client.patch(NODES, name, {"status": {"conditions": [ready]}}, subresource="status")


async def test_a_claim_gets_the_smallest_volume_that_is_large_enough_and_keeps_it(
    client: Client, controllers: None
) -> None:
    for name, size, spec in (
        ("small", "500Mi", {}),
        ("fits", "2Gi", {}),
        ("large", "5Gi", {}),
        ("other", "1Gi", {"storageClassName": "else"}),
        ("shared", "1Gi", {"accessModes": ["ReadWriteMany"]}),
    ):
        await client.create(PERSISTENT_VOLUMES, volume(name, size, **spec))
        await until_one(client, PERSISTENT_VOLUMES, name, phase("Available"))
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(), "default")
    bound = await until_one(client, PERSISTENT_VOLUME_CLAIMS, "data", phase("Bound"), namespace="default")
    assert bound["spec"]["volumeName"] == "fits"
    assert bound["status"]["capacity"] == {"storage": "2Gi"}
    assert bound["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    held = await until_one(client, PERSISTENT_VOLUMES, "fits", phase("Bound"))
    assert held["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]
    assert held["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
    await until_one(client, PERSISTENT_VOLUMES, "fits", phase("Released"))
    await client.patch(PERSISTENT_VOLUMES, "fits", {"spec": {"claimRef": None}})
    await until_one(client, PERSISTENT_VOLUMES, "fits", phase("Available"))


async def test_a_claim_waits_for_a_volume_and_for_the_one_it_names(client: Client, controllers: None) -> None:
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim("later"), "default")
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim("named", volumeName="mine"), "default")
    kept = volume("mine", claimRef={"namespace": "default", "name": "named"})
    await client.create(PERSISTENT_VOLUMES, kept)
    found = await until_one(client, PERSISTENT_VOLUME_CLAIMS, "named", phase("Bound"), namespace="default")
    assert found["spec"]["volumeName"] == "mine"
    assert (await client.get(PERSISTENT_VOLUME_CLAIMS, "later", "default"))["status"]["phase"] == "Pending"
    await client.create(PERSISTENT_VOLUMES, volume("another"))
    found = await until_one(client, PERSISTENT_VOLUME_CLAIMS, "later", phase("Bound"), namespace="default")
    assert found["spec"]["volumeName"] == "another"
    await client.delete(PERSISTENT_VOLUMES, "another")
    await client.patch(PERSISTENT_VOLUMES, "another", {"metadata": {"finalizers": None}})
    await until_one(client, PERSISTENT_VOLUME_CLAIMS, "later", phase("Lost"), namespace="default")


async def test_a_claim_in_use_stays_until_its_pod_is_gone(client: Client, controllers: None) -> None:
    await client.create(PERSISTENT_VOLUMES, volume("v"))
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(), "default")
    await until_one(client, PERSISTENT_VOLUME_CLAIMS, "data", phase("Bound"), namespace="default")
    await client.create(PODS, user(node="n1"), "default")
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
    await client.delete(PERSISTENT_VOLUMES, "v")
    await client.patch(PERSISTENT_VOLUME_CLAIMS, "data", {"metadata": {"labels": {"look": "again"}}}, "default")
    found = await client.get(PERSISTENT_VOLUME_CLAIMS, "data", "default")
    assert found["metadata"]["deletionTimestamp"]
    await client.delete(PODS, "user", "default", options={"gracePeriodSeconds": 0})
    await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "data", namespace="default")
    await until_gone(client, PERSISTENT_VOLUMES, "v")


@contextlib.asynccontextmanager
async def working_nodes(client: Client) -> AsyncIterator[None]:
    """Pods run; those that make and remove folders end well."""

    def ends(pod: dict[str, Any]) -> int | None:
        return 0 if "wherry/local-path" in pod["metadata"].get("labels", {}) else None

    async with pods_come_up(client, which=lambda pod: bool(pod["spec"].get("nodeName")), exit_code=ends):
        yield


async def test_a_folder_is_made_where_the_pod_is_grows_and_goes_with_its_claim(
    client: Client, controllers: None
) -> None:
    await make_node(client)
    seen: list[dict[str, Any]] = []
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(storage_class=None), "default")
    events = await until(
        client, EVENTS, lambda all: any(e["reason"] == "WaitForFirstConsumer" for e in all), namespace="default"
    )
    assert any(e["message"] == "waiting for first consumer to be created before binding" for e in events)
    async with working_nodes(client):
        await client.create(PODS, user(node="n1"), "default")
        seen += await until(
            client, PODS, lambda pods: len(pods) == 1, namespace="kube-system", label_selector="wherry/local-path"
        )
        bound = await until_one(client, PERSISTENT_VOLUME_CLAIMS, "data", phase("Bound"), namespace="default")
        made = await client.get(PERSISTENT_VOLUMES, bound["spec"]["volumeName"])
        assert made["spec"]["hostPath"]["path"].startswith(f"{FOLDER}/pvc-")
        [term] = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert term["matchExpressions"][0]["values"] == ["n1"]
        more = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await client.patch(PERSISTENT_VOLUME_CLAIMS, "data", more, "default")
        await until_one(
            client, PERSISTENT_VOLUME_CLAIMS, "data",
            lambda obj: obj["status"]["capacity"]["storage"] == "3Gi", namespace="default",
        )  # fmt: skip
        await client.delete(PODS, "user", "default", options={"gracePeriodSeconds": 0})
        await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        await until_gone(client, PERSISTENT_VOLUMES, made["metadata"]["name"])
        await until(client, PODS, lambda pods: not pods, namespace="kube-system")
    [maker] = seen
    assert maker["spec"]["nodeName"] == "n1"
    assert "chmod 0777" in maker["spec"]["containers"][0]["command"][2]


async def test_what_a_folder_cannot_be_is_refused_aloud(client: Client, controllers: None) -> None:
    await make_node(client, "sim-0", **{"wherry/simulated": "true"})
    shared = claim(storage_class="local-path")
    shared["spec"]["accessModes"] = ["ReadWriteMany"]
    await client.create(PERSISTENT_VOLUME_CLAIMS, shared, "default")
    await client.create(PODS, user(node="sim-0"), "default")
    events = await until(
        client, EVENTS, lambda all: any(e["reason"] == "ProvisioningFailed" for e in all), namespace="default"
    )
    [failure] = [e for e in events if e["reason"] == "ProvisioningFailed"]
    assert failure["type"] == "Warning"
    assert "access mode ReadWriteMany is not supported" in failure["message"]


async def test_claims_of_a_stateful_set_and_of_a_pod_itself_are_served(client: Client, controllers: None) -> None:
    await make_node(client, "sim-0", **{"wherry/simulated": "true"})
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
    template["spec"]["nodeName"] = "sim-0"
    spec = {
        "replicas": 2, "selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "template": template,
        "volumeClaimTemplates": [claim(storage_class=None)],
    }  # fmt: skip
    ephemeral = {"volumeClaimTemplate": {"metadata": {"labels": {"of": "pod"}}, "spec": claim()["spec"]}}
    ephemeral["volumeClaimTemplate"]["spec"]["storageClassName"] = "local-path"
    async with working_nodes(client):
        await client.create(STATEFUL_SETS, {"metadata": {"name": "db"}, "spec": spec}, "default")
        await client.create(PODS, user(node="sim-0", ephemeral=ephemeral), "default")
        claims = await until(
            client,
            PERSISTENT_VOLUME_CLAIMS,
            lambda all: len(all) == 3 and all_bound(all),
            namespace="default",
        )
        assert {one["metadata"]["name"] for one in claims} == {"data-db-0", "data-db-1", "user-v"}
        [own] = [one for one in claims if one["metadata"]["name"] == "user-v"]
        assert own["metadata"]["ownerReferences"][0]["kind"] == "Pod"
        assert own["metadata"]["labels"] == {"of": "pod"}
        await client.delete(PODS, "user", "default", options={"gracePeriodSeconds": 0})
        await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "user-v", namespace="default")


def all_bound(claims: list[dict[str, Any]]) -> bool:
    return all(one["status"]["phase"] == "Bound" for one in claims)


async def told(client: Client, text: str) -> None:
    """Wait for an event: its reason and its message."""
    await until(client, EVENTS, lambda all: any(f"{one['reason']}: {one['message']}" == text for one in all))


async def test_a_volume_of_a_driver_is_attached_for_its_pod_and_detached_after_it(
    client: Client, controllers: None
) -> None:
    await make_node(client)
    csi = {"driver": "disk.example.com", "volumeHandle": "h1"}
    made = volume("disk", csi=csi)
    del made["spec"]["hostPath"]
    await client.create(PERSISTENT_VOLUMES, made)
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(), "default")
    await client.create(PODS, user(node="n1"), "default")
    [attachment] = await until(client, VOLUME_ATTACHMENTS, lambda all: len(all) == 1)
    name = "csi-" + hashlib.sha256(b"h1disk.example.comn1").hexdigest()
    assert attachment["metadata"]["name"] == name
    assert attachment["spec"] == {
        "attacher": "disk.example.com",
        "nodeName": "n1",
        "source": {"persistentVolumeName": "disk"},
    }
    failed = {"attached": False, "attachError": {"message": "no slot is free"}}
    await client.patch(VOLUME_ATTACHMENTS, name, {"status": failed}, subresource="status")
    await told(client, 'FailedAttachVolume: AttachVolume.Attach failed for volume "disk" : no slot is free')
    done = {"attached": True, "attachError": None}
    await client.patch(VOLUME_ATTACHMENTS, name, {"status": done}, subresource="status")
    await told(client, 'SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "disk" ')
    unique = "kubernetes.io/csi/disk.example.com^h1"
    attached = lambda node: [v["name"] for v in node["status"].get("volumesAttached") or ()]  # noqa: E731
    await until_one(client, NODES, "n1", lambda node: attached(node) == [unique])
    await make_node(client, "n2")
    second = user(node="n2")
    second["metadata"]["name"] = "late"
    await client.create(PODS, second, "default")
    await told(client, 'FailedAttachVolume: Multi-Attach error for volume "disk" Volume is already used by pod(s) user')
    await client.delete(PODS, "late", "default", options={"gracePeriodSeconds": 0})
    await client.patch(NODES, "n1", {"status": {"volumesInUse": [unique]}}, subresource="status")
    await client.delete(PODS, "user", "default", options={"gracePeriodSeconds": 0})
    await until_gone(client, PODS, "user", namespace="default")
    assert not (await client.get(VOLUME_ATTACHMENTS, name))["metadata"].get("deletionTimestamp")
    await client.patch(NODES, "n1", {"status": {"volumesInUse": None}}, subresource="status")
    await until_gone(client, VOLUME_ATTACHMENTS, name)
    await until_one(client, NODES, "n1", lambda node: not attached(node))


@pytest.mark.parametrize(("exit_code", "becomes", "event"), [(0, "Available", "VolumeRecycled"),
                                                            (1, "Failed", "VolumeFailedRecycle")])  # fmt: skip
async def test_a_volume_to_be_recycled_is_emptied_by_a_pod_and_offered_again(
    client: Client, controllers: None, exit_code: int, becomes: str, event: str
) -> None:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    made = volume("reused", persistentVolumeReclaimPolicy="Recycle", nodeAffinity=affinity)
    await client.create(PERSISTENT_VOLUMES, made)
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim(), "default")
    await until_one(client, PERSISTENT_VOLUME_CLAIMS, "data", phase("Bound"), namespace="default")
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
    pod = await until_one(client, PODS, "recycler-for-reused", lambda _: True, namespace="default")
    assert pod["spec"]["volumes"][0]["hostPath"]["path"] == "/tmp/reused"
    assert pod["spec"]["activeDeadlineSeconds"] == 60
    node_affinity = pod["spec"]["affinity"]["nodeAffinity"]
    assert node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == terms
    assert (await client.get(PERSISTENT_VOLUMES, "reused"))["status"]["phase"] == "Released"
    async with pods_come_up(client, exit_code=lambda _: exit_code):
        found = await until_one(client, PERSISTENT_VOLUMES, "reused", phase(becomes))
        await until_gone(client, PODS, "recycler-for-reused", namespace="default")
    assert ("claimRef" in found["spec"]) == (becomes == "Failed")
    await until(client, EVENTS, lambda events: event in {one["reason"] for one in events}, namespace="default")


async def test_what_cannot_be_recycled_or_deleted_is_told_on_the_volume(client: Client, controllers: None) -> None:
    local = {"hostPath": None, "local": {"path": "/mnt/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}]}}}  # fmt: skip
    for name, policy, source, why in (
        ("recycled", "Recycle", local, "No recycler plugin found for the volume!"),
        ("deleted", "Delete", {}, 'error getting deleter volume plugin for volume "deleted": no volume plugin matched'),
    ):
        await client.create(PERSISTENT_VOLUMES, volume(name, persistentVolumeReclaimPolicy=policy, **source))
        await client.create(PERSISTENT_VOLUME_CLAIMS, claim(volumeName=name), "default")
        await until_one(client, PERSISTENT_VOLUME_CLAIMS, "data", phase("Bound"), namespace="default")
        await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        found = await until_one(client, PERSISTENT_VOLUMES, name, phase("Failed"))
        assert found["status"]["message"] == why
        await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "data", namespace="default")
