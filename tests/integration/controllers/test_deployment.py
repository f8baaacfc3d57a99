"""Deployments and their ReplicaSets on a real API server; pods are brought up as an agent would."""

import asyncio
from typing import Any

import pytest

from controllers.rollout import template_hash
from machinery.api.resources import DEPLOYMENTS, EVENTS, PODS, REPLICA_SETS
from machinery.client.rest import Client
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers")]

LABELS = {"app": "web"}


def deployment(name: str = "web", *, replicas: int = 3, image: str = "one", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": template(image),
            **spec,
        },
    }


def template(image: str) -> dict[str, Any]:
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "main", "image": image}]}}


def is_rolled_out(obj: dict[str, Any]) -> bool:
    """Judge as `kubectl rollout status` does."""
    status, replicas = obj.get("status", {}), obj["spec"]["replicas"]
    return (
        status.get("observedGeneration", 0) >= obj["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == replicas
        and status.get("replicas", 0) == replicas
        and status.get("availableReplicas", 0) == replicas
    )


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(found for found in obj["status"]["conditions"] if found["type"] == kind)


async def test_a_deployment_gets_its_pods_and_says_so(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment())
        done = await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        done = await until_one(
            client, DEPLOYMENTS, "web", lambda obj: condition(obj, "Progressing")["reason"] == "NewReplicaSetAvailable"
        )
    [rs] = (await client.list(REPLICA_SETS, "default"))["items"]
    pods = (await client.list(PODS, "default"))["items"]
    digest = rs["metadata"]["labels"]["pod-template-hash"]
    assert rs["metadata"]["name"] == f"web-{digest}"
    assert done["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert [pod["metadata"]["labels"] for pod in pods] == [{**LABELS, "pod-template-hash": digest}] * 3
    assert all(pod["metadata"]["name"].startswith(f"web-{digest}-") for pod in pods)
    assert all(pod["metadata"]["ownerReferences"][0]["uid"] == rs["metadata"]["uid"] for pod in pods)
    available, progressing = condition(done, "Available"), condition(done, "Progressing")
    assert (available["status"], available["message"]) == ("True", "Deployment has minimum availability.")
    assert progressing["message"] == f'ReplicaSet "web-{digest}" has successfully progressed.'
    events = (await client.list(EVENTS, "default"))["items"]
    messages = [event["message"] for event in events]
    assert f"Scaled up replica set web-{digest} from 0 to 3" in messages
    assert {f"Created pod: {pod['metadata']['name']}" for pod in pods} <= set(messages)


async def test_an_update_replaces_all_pods_and_never_has_too_few_or_too_many(client: Client) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=4, strategy=rolling))
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        counts: list[tuple[int, int]] = []

        def count(pods: list[dict[str, Any]]) -> bool:
            live = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            ready = [pod for pod in live if pod.get("status", {}).get("phase") == "Running"]
            counts.append((len(live), len(ready)))
            return {pod["spec"]["containers"][0]["image"] for pod in pods} == {"two"} and len(ready) == 4

        watching = asyncio.create_task(until(client, PODS, count, namespace="default"))
        await client.patch(DEPLOYMENTS, "web", {"spec": {"template": template("two")}}, "default")
        await watching
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
    assert max(live for live, _ in counts) <= 5
    assert min(ready for _, ready in counts) >= 3
    sets = (await client.list(REPLICA_SETS, "default"))["items"]
    assert sorted((rs["spec"]["replicas"], revision(rs)) for rs in sets) == [(0, "1"), (4, "2")]


def revision(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"])


async def test_going_back_to_an_old_template_takes_its_set_up_again_as_a_new_revision(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=1))
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        for image in ("two", "one"):
            await client.patch(DEPLOYMENTS, "web", {"spec": {"template": template(image)}}, "default")
            await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        done = await until_one(client, DEPLOYMENTS, "web", lambda obj: revision(obj) == "3")
    sets = (await client.list(REPLICA_SETS, "default"))["items"]
    assert sorted((rs["spec"]["replicas"], revision(rs)) for rs in sets) == [(0, "2"), (1, "3")]
    first = next(rs for rs in sets if revision(rs) == "3")
    assert first["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"
    assert is_rolled_out(done)


async def test_old_sets_beyond_the_history_limit_are_deleted(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=1, revisionHistoryLimit=1))
        for image in ("two", "three", "four"):
            await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
            await client.patch(DEPLOYMENTS, "web", {"spec": {"template": template(image)}}, "default")
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        sets = await until(client, REPLICA_SETS, lambda sets: len(sets) == 2, namespace="default")
    assert sorted(revision(rs) for rs in sets) == ["3", "4"]


async def test_recreate_starts_no_new_pod_before_the_last_old_one_is_gone(client: Client) -> None:
    images: list[set[str]] = []

    def note(pods: list[dict[str, Any]]) -> bool:
        images.append({pod["spec"]["containers"][0]["image"] for pod in pods})
        return images[-1] == {"two"} and len(pods) == 2

    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=2, strategy={"type": "Recreate"}))
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        watching = asyncio.create_task(until(client, PODS, note, namespace="default"))
        await client.patch(DEPLOYMENTS, "web", {"spec": {"template": template("two")}}, "default")
        await watching
    assert {"one", "two"} not in images


async def test_a_paused_deployment_is_resized_but_not_rolled_out(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=2))
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        spec = {"paused": True, "replicas": 3, "template": template("two")}
        await client.patch(DEPLOYMENTS, "web", {"spec": spec}, "default")
        paused = await until_one(client, DEPLOYMENTS, "web", lambda obj: obj["status"].get("availableReplicas") == 3)
        assert condition(paused, "Progressing")["reason"] == "DeploymentPaused"
        [rs] = (await client.list(REPLICA_SETS, "default"))["items"]
        assert rs["spec"]["template"]["spec"]["containers"][0]["image"] == "one"
        await client.patch(DEPLOYMENTS, "web", {"spec": {"paused": False}}, "default")
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)


async def test_a_rollout_that_does_not_move_exceeds_its_deadline(client: Client) -> None:
    async with pods_come_up(client, which=lambda pod: False):
        await client.create(DEPLOYMENTS, deployment(replicas=1, progressDeadlineSeconds=1))
        stuck = await until_one(
            client,
            DEPLOYMENTS,
            "web",
            lambda obj: any(
                c["reason"] == "ProgressDeadlineExceeded" for c in obj.get("status", {}).get("conditions", ())
            ),
        )
    progressing = condition(stuck, "Progressing")
    assert progressing["status"] == "False"
    assert progressing["message"].endswith("has timed out progressing.")


async def test_scaling_down_deletes_pods_and_tells(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=3))
        await until_one(client, DEPLOYMENTS, "web", is_rolled_out)
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 1}}, "default")
        await until(client, PODS, lambda pods: len(pods) == 1, namespace="default")
        await until(client, EVENTS, lambda events: sum(e["reason"] == "SuccessfulDelete" for e in events) == 2)


async def test_a_set_of_the_same_name_that_is_anothers_makes_a_deployment_count_a_collision(client: Client) -> None:
    # Paused, it makes no set: there is time to take the name that its template leads to.
    made = await client.create(DEPLOYMENTS, deployment(replicas=1, paused=True))
    name = f"web-{template_hash(made['spec']['template'], 0)}"
    other = template("other")
    other["metadata"] = {"labels": {"app": "other"}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": other}
    await client.create(REPLICA_SETS, {"metadata": {"name": name}, "spec": spec}, "default")
    async with pods_come_up(client):
        await client.patch(DEPLOYMENTS, "web", {"spec": {"paused": False}}, "default")
        found = await until_one(client, DEPLOYMENTS, "web", is_rolled_out, namespace="default")
    assert found["status"]["collisionCount"] == 1
    assert (await client.get(REPLICA_SETS, name, "default"))["spec"]["replicas"] == 0
    second = f"web-{template_hash(made['spec']['template'], 1)}"
    assert (await client.get(REPLICA_SETS, second, "default"))["status"]["availableReplicas"] == 1
