"""StatefulSets on a real API server; pods are brought up as an agent would."""

import asyncio
from typing import Any

import pytest

from machinery.api.resources import (
    CONTROLLER_REVISIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICE_ACCOUNTS,
    STATEFUL_SETS,
)
from machinery.client.rest import Client, PatchType
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]
LABELS = {"app": "db"}


def template(image: str = "one") -> dict[str, Any]:
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "main", "image": image}]}}


def stateful_set(replicas: int = 3, **spec: Any) -> dict[str, Any]:
    full = {
        "replicas": replicas,
        "serviceName": "db",
        "selector": {"matchLabels": LABELS},
        "template": template(),
        **spec,
    }
    return {"metadata": {"name": "db", "namespace": "default"}, "spec": full}


def all_ready(count: int) -> Any:
    return lambda obj: obj["status"].get("availableReplicas") == obj["status"].get("replicas") == count


def updated(obj: dict[str, Any]) -> bool:
    status = obj["status"]
    return (
        status.get("currentRevision", "") == status.get("updateRevision")
        and status.get("updatedReplicas") == obj["spec"]["replicas"]
    )


async def names_over_time(client: Client, seen: list[list[str]]) -> None:
    """Note the names of the pods after each change, for ever."""
    await until(
        client, PODS, lambda pods: seen.append(sorted(p["metadata"]["name"] for p in pods)), namespace="default",
        deadline_seconds=60,
    )  # fmt: skip


async def test_pods_are_made_in_order_and_ended_in_reverse(client: Client) -> None:
    seen: list[list[str]] = []
    noting = asyncio.create_task(names_over_time(client, seen))
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set())
        await until_one(client, STATEFUL_SETS, "db", all_ready(3))
        await client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 1}}, "default")
        await until_one(client, STATEFUL_SETS, "db", all_ready(1))
    noting.cancel()
    steps = [now for before, now in zip([[], *seen], seen, strict=False) if now != before]
    assert [len(names) for names in steps] == [1, 2, 3, 2, 1]
    assert steps[2] == ["db-0", "db-1", "db-2"]
    assert steps[-1] == ["db-0"]


async def test_a_pod_keeps_its_name_labels_and_claim(client: Client) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    mounted = template()
    mounted["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(2, volumeClaimTemplates=[claim], template=mounted))
        await until_one(client, STATEFUL_SETS, "db", all_ready(2))
        first = await client.get(PODS, "db-0", "default")
        claims = (await client.list(PERSISTENT_VOLUME_CLAIMS, "default"))["items"]
        await client.delete(PODS, "db-0", "default")
        again = await until_one(client, PODS, "db-0", lambda pod: pod["metadata"]["uid"] != first["metadata"]["uid"])
    assert (first["spec"]["hostname"], first["spec"]["subdomain"]) == ("db-0", "db")
    assert first["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "db-0"
    assert first["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0"
    assert sorted(one["metadata"]["name"] for one in claims) == ["data-db-0", "data-db-1"]
    for pod in (first, again):
        volume = next(one for one in pod["spec"]["volumes"] if one["name"] == "data")
        assert volume["persistentVolumeClaim"]["claimName"] == "data-db-0"


async def test_parallel_sets_do_not_wait(client: Client) -> None:
    async with pods_come_up(client, which=lambda _: False):
        await client.create(STATEFUL_SETS, stateful_set(3, podManagementPolicy="Parallel"))
        await until(client, PODS, lambda pods: len(pods) == 3, namespace="default")


async def test_an_update_goes_from_the_last_to_the_partition(client: Client) -> None:
    def images(pods: list[dict[str, Any]]) -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in pods}

    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set())
        before = await until_one(client, STATEFUL_SETS, "db", all_ready(3))
        rolling = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}
        await client.patch(STATEFUL_SETS, "db", {"spec": {"template": template("two"), **rolling}}, "default")
        await until_one(
            client, STATEFUL_SETS, "db", lambda obj: obj["status"].get("updatedReplicas") == 1 and all_ready(3)(obj)
        )
        found = images((await client.list(PODS, "default"))["items"])
        assert found == {"db-0": "one", "db-1": "one", "db-2": "two"}
        await client.patch(
            STATEFUL_SETS, "db", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}, "default"
        )
        done = await until_one(client, STATEFUL_SETS, "db", updated)
        assert set(images((await client.list(PODS, "default"))["items"]).values()) == {"two"}
    assert done["status"]["currentRevision"] != before["status"]["currentRevision"]
    revisions = (await client.list(CONTROLLER_REVISIONS, "default"))["items"]
    assert sorted(one["revision"] for one in revisions) == [1, 2]


async def test_going_back_takes_up_the_old_revision_again(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(1))
        first = await until_one(client, STATEFUL_SETS, "db", updated)
        for image in ("two", "one"):
            await client.patch(STATEFUL_SETS, "db", {"spec": {"template": template(image)}}, "default")
            now = await until_one(
                client,
                STATEFUL_SETS,
                "db",
                lambda obj: obj["status"].get("observedGeneration") == obj["metadata"]["generation"] and updated(obj),
            )
    assert now["status"]["updateRevision"] == first["status"]["updateRevision"]
    assert len((await client.list(CONTROLLER_REVISIONS, "default"))["items"]) == 2


async def test_a_failed_pod_is_made_anew(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(1))
        await until_one(client, STATEFUL_SETS, "db", all_ready(1))
        pod = await client.get(PODS, "db-0", "default")
        await client.patch(
            PODS, "db-0", {"status": {"phase": "Failed", "reason": "Evicted"}}, "default", subresource="status"
        )
        await until_one(client, PODS, "db-0", lambda one: one["metadata"]["uid"] != pod["metadata"]["uid"])


@pytest.mark.parametrize(
    ("policy", "after_scaling", "after_deletion"),
    [
        ({"whenScaled": "Retain", "whenDeleted": "Retain"}, {"data-db-0", "data-db-1"}, {"data-db-0", "data-db-1"}),
        ({"whenScaled": "Delete", "whenDeleted": "Retain"}, {"data-db-0"}, {"data-db-0"}),
        ({"whenScaled": "Retain", "whenDeleted": "Delete"}, {"data-db-0", "data-db-1"}, set()),
        ({"whenScaled": "Delete", "whenDeleted": "Delete"}, {"data-db-0"}, set()),
    ],
    ids=["keep", "scaled", "deleted", "both"],
)
async def test_claims_stay_or_go_as_their_set_says(
    client: Client, policy: dict[str, str], after_scaling: set[str], after_deletion: set[str]
) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }

    def claims(names: set[str]) -> Any:
        return lambda found: {one["metadata"]["name"] for one in found} == names

    async with pods_come_up(client):
        spec = {"volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": policy}
        await client.create(STATEFUL_SETS, stateful_set(2, **spec))
        await until_one(client, STATEFUL_SETS, "db", all_ready(2))
        await client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 1}}, "default")
        await until_one(client, STATEFUL_SETS, "db", all_ready(1))
        await until(client, PERSISTENT_VOLUME_CLAIMS, claims(after_scaling), namespace="default")
        await client.delete(STATEFUL_SETS, "db", "default")
        await until(client, PODS, lambda pods: not pods, namespace="default")
        await until(client, PERSISTENT_VOLUME_CLAIMS, claims(after_deletion), namespace="default")


async def test_pods_bear_the_name_of_their_revision_and_a_claim_taken_away_is_made_again(client: Client) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await client.create(STATEFUL_SETS, stateful_set(1, volumeClaimTemplates=[claim]))
    pod = await until_one(client, PODS, "db-0", lambda _: True)
    found = await until_one(client, STATEFUL_SETS, "db", lambda obj: obj["status"].get("currentRevision"))
    assert pod["metadata"]["labels"]["controller-revision-hash"] == found["status"]["currentRevision"]
    [first] = await until(client, PERSISTENT_VOLUME_CLAIMS, lambda all: len(all) == 1, namespace="default")
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "data-db-0", "default")
    await until_one(
        client, PERSISTENT_VOLUME_CLAIMS, "data-db-0",
        lambda obj: obj["metadata"]["uid"] != first["metadata"]["uid"], namespace="default",
    )  # fmt: skip


async def revisions(client: Client) -> dict[str, str]:
    pods = (await client.list(PODS, "default"))["items"]
    return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in pods}


def update_to(image: str) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]


async def test_where_the_user_deletes_the_new_pod_is_of_the_new_template(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(2, updateStrategy={"type": "OnDelete"}))
        await until_one(client, STATEFUL_SETS, "db", all_ready(2), namespace="default")
        await client.patch(STATEFUL_SETS, "db", update_to("two"), "default", type=PatchType.JSON)
        found = await until_one(
            client, STATEFUL_SETS, "db", lambda obj: obj["status"]["observedGeneration"] == 2, namespace="default"
        )
        assert found["status"]["currentRevision"] != found["status"]["updateRevision"]
        assert await revisions(client) == {"db-0": "one", "db-1": "one"}
        before = await client.get(PODS, "db-0", "default")
        await client.delete(PODS, "db-0", "default")
        await until_one(
            client, PODS, "db-0", lambda pod: pod["metadata"]["uid"] != before["metadata"]["uid"], namespace="default"
        )
        await until_one(client, STATEFUL_SETS, "db", all_ready(2), namespace="default")
        assert await revisions(client) == {"db-0": "two", "db-1": "one"}


async def test_as_many_are_replaced_at_once_as_may_be_unavailable_from_the_last_on(client: Client) -> None:
    images: list[dict[str, str]] = []

    def note(pods: list[dict[str, Any]]) -> None:
        live = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        images.append({pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in live})

    rolling = {"rollingUpdate": {"maxUnavailable": 2, "partition": 1}}
    async with pods_come_up(client):
        spec = {"podManagementPolicy": "Parallel", "updateStrategy": rolling, "ordinals": {"start": 5}}
        await client.create(STATEFUL_SETS, stateful_set(5, **spec))
        await until_one(client, STATEFUL_SETS, "db", all_ready(5), namespace="default")
        watching = asyncio.create_task(until(client, PODS, note, namespace="default", deadline_seconds=60))
        await client.patch(STATEFUL_SETS, "db", update_to("two"), "default", type=PatchType.JSON)
        found = await until_one(
            client, STATEFUL_SETS, "db",
            lambda obj: obj["status"].get("updatedReplicas") == 4 and obj["status"].get("availableReplicas") == 5,
            namespace="default",
        )  # fmt: skip
        watching.cancel()
    assert await revisions(client) == {"db-5": "one"} | {f"db-{number}": "two" for number in range(6, 10)}
    assert found["status"]["currentReplicas"] == 1
    first_gone = next(seen for seen in images if len(seen) < 5)
    assert set(first_gone) >= {"db-5", "db-6", "db-7"}  # the last ones went first
    assert min(map(len, images)) >= 3


async def test_with_an_older_pod_that_is_not_well_an_update_goes_on_from_the_last(client: Client) -> None:
    broken = {"db-0"}
    async with pods_come_up(client, which=lambda pod: pod["metadata"]["name"] not in broken):
        await client.create(STATEFUL_SETS, stateful_set(3, podManagementPolicy="Parallel"))
        await until(client, PODS, lambda pods: len(pods) == 3, namespace="default")
        await client.patch(STATEFUL_SETS, "db", update_to("two"), "default", type=PatchType.JSON)
        broken.clear()
        await until_one(client, STATEFUL_SETS, "db", updated, namespace="default")
    assert await revisions(client) == {f"db-{number}": "two" for number in range(3)}


async def test_a_start_ordinal_moves_the_names_and_what_lies_below_it_goes(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(2, ordinals={"start": 3}))
        await until_one(client, STATEFUL_SETS, "db", all_ready(2), namespace="default")
        assert set(await revisions(client)) == {"db-3", "db-4"}
        await client.patch(STATEFUL_SETS, "db", {"spec": {"ordinals": {"start": 4}}}, "default")
        await until(
            client, PODS, lambda pods: {pod["metadata"]["name"] for pod in pods} == {"db-4", "db-5"},
            namespace="default",
        )  # fmt: skip
        found = await client.get(PODS, "db-5", "default")
        assert found["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "5"


async def test_an_adopted_pod_is_given_the_labels_of_its_place(client: Client) -> None:
    made = template()
    name = "db-0"
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")
    async with pods_come_up(client):
        await client.create(PODS, {"metadata": {"name": name, **made["metadata"]}, "spec": made["spec"]}, "default")
        await client.create(STATEFUL_SETS, stateful_set(1))
        found = await until_one(
            client, PODS, name, lambda pod: "statefulset.kubernetes.io/pod-name" in pod["metadata"]["labels"],
            namespace="default",
        )  # fmt: skip
    assert found["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == name
