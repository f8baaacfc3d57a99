"""What upstream's conformance tests of workloads and garbage demand and no other file here checks.

The behaviours: https://github.com/kubernetes/kubernetes/tree/master/test/e2e/apps and .../test/e2e/apimachinery
"""

import asyncio
from typing import Any

import pytest

from machinery import errors
from machinery.api.meta import ObjectKey, Resource, key_of
from machinery.api.resources import (
    CONFIG_MAPS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS,
    SERVICE_ACCOUNTS,
    STATEFUL_SETS,
)
from machinery.client.rest import Client
from tests.integration.controllers.test_daemonset import daemon_set, make_nodes, on
from tests.integration.controllers.test_daemonset import ready as daemons_ready
from tests.integration.controllers.test_deployment import deployment, template
from tests.integration.controllers.test_garbage_collector import make_map, reference
from tests.integration.controllers.test_job import FINALIZER, INDEX, ended, job, reason
from tests.integration.controllers.test_statefulset import all_ready, stateful_set
from tests.support.agent import pods_come_up, set_ended, set_running
from tests.support.nodes import create_node
from tests.support.waiting import until, until_gone, until_one

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("controllers", "account")]

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


@pytest.fixture
async def account(client: Client, controllers: None) -> None:
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="default")


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == kind), {})


def living(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def controlled(pod: dict[str, Any]) -> bool:
    return any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or ())


# -- garbage collection


async def test_a_circle_of_owners_does_not_hold_up_a_foreground_deletion(client: Client) -> None:
    one, two, three = [await make_map(client, name) for name in ("one", "two", "three")]
    for owned, owner in ((one, three), (two, one), (three, two)):
        owners = [reference(CONFIG_MAPS, owner, block=True)]
        await client.patch(CONFIG_MAPS, owned["metadata"]["name"], {"metadata": {"ownerReferences": owners}}, "default")
    await client.delete(CONFIG_MAPS, "one", "default", options={"propagationPolicy": "Foreground"})
    for name in ("one", "two", "three"):
        await until_gone(client, CONFIG_MAPS, name, namespace="default")


async def test_a_dependent_of_one_that_waits_and_one_that_stays_is_kept(client: Client) -> None:
    going, staying = await make_map(client, "going"), await make_map(client, "staying")
    owners = [reference(CONFIG_MAPS, going, block=True), reference(CONFIG_MAPS, staying)]
    await make_map(client, "shared", *owners)
    await make_map(client, "own", owners[0], finalizers=("example.com/hold",))
    await client.delete(CONFIG_MAPS, "going", "default", options={"propagationPolicy": "Foreground"})
    shared = await until_one(
        client, CONFIG_MAPS, "shared", lambda obj: len(obj["metadata"]["ownerReferences"]) == 1, namespace="default"
    )
    assert shared["metadata"]["ownerReferences"][0]["name"] == "staying"
    await client.patch(CONFIG_MAPS, "own", {"metadata": {"finalizers": None}}, "default")
    await until_gone(client, CONFIG_MAPS, "going", namespace="default")


@pytest.mark.parametrize("policy", ["Background", "Orphan"])
async def test_custom_resources_are_owners_and_dependents_like_any_other(client: Client, policy: str) -> None:
    names = {"plural": "widgets", "kind": "Widget", "listKind": "WidgetList", "singular": "widget"}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": "example.com", "names": names, "scope": "Namespaced", "versions": [version]}
    await client.create(CRDS, {"metadata": {"name": "widgets.example.com"}, "spec": spec})
    await until_one(
        client, CRDS, "widgets.example.com", lambda obj: condition(obj, "Established").get("status") == "True"
    )
    owner = await client.create(WIDGETS, {"metadata": {"name": "owner"}}, "default")
    body = {"metadata": {"name": "dependent", "ownerReferences": [reference(WIDGETS, owner)]}}
    await client.create(WIDGETS, body, "default")
    await client.delete(WIDGETS, "owner", "default", options={"propagationPolicy": policy})
    if policy == "Background":
        await until_gone(client, WIDGETS, "dependent", namespace="default")
    else:
        await until_gone(client, WIDGETS, "owner", namespace="default")
        found = await client.get(WIDGETS, "dependent", "default")
        assert not found["metadata"].get("ownerReferences")


# -- jobs


async def test_a_job_takes_an_orphan_back_and_lets_go_of_what_it_no_longer_selects(client: Client) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": "apart"}})
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace="apart")
    async with pods_come_up(client):
        await client.create(JOBS, {**job(parallelism=2, completions=4), "metadata": {"name": "work"}}, "apart")
        pods = await until(client, PODS, lambda pods: len(pods) == 2, namespace="apart")
        name = pods[0]["metadata"]["name"]
        await client.patch(PODS, name, {"metadata": {"ownerReferences": None}}, "apart")
        await until_one(client, PODS, name, controlled, namespace="apart")
        await client.patch(PODS, name, {"metadata": {"labels": None}}, "apart")
        let_go = await until_one(
            client,
            PODS,
            name,
            lambda pod: not controlled(pod) and not pod["metadata"].get("finalizers"),
            namespace="apart",
        )
        assert let_go["metadata"].get("finalizers") in (None, [])
        await client.delete(NAMESPACES, "apart")
        await until_gone(client, NAMESPACES, "apart")


async def test_pods_left_behind_by_a_deleted_job_are_held_by_nothing(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(JOBS, job(parallelism=2, completions=2))
        await until(client, PODS, lambda pods: len(pods) == 2, namespace="default")
        await client.delete(JOBS, "work", "default", options={"propagationPolicy": "Orphan"})
        await until_gone(client, JOBS, "work", namespace="default")
        await until(
            client,
            PODS,
            lambda pods: len(pods) == 2 and not any(FINALIZER in p["metadata"].get("finalizers", ()) for p in pods),
            namespace="default",
        )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"succeededIndexes": "0-1", "succeededCount": 1}], "Matched rules at index 0"),
        ([{"succeededCount": 3}, {"succeededIndexes": "0"}], "Matched rules at index 1"),
    ],
    ids=["count", "second-rule"],
)
async def test_a_success_policy_ends_a_job_before_all_its_indexes(
    client: Client, rules: list[dict[str, Any]], message: str
) -> None:
    def leader_ends(pod: dict[str, Any]) -> int | None:
        return 0 if pod["metadata"]["annotations"].get(INDEX) == "0" else None

    async with pods_come_up(client, exit_code=leader_ends):
        spec = {"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": rules}}
        await client.create(JOBS, job(**spec))
        done = await until_one(client, JOBS, "work", ended)
    assert (ended(done), reason(done)) == ("Complete", "SuccessPolicy")
    assert condition(done, "SuccessCriteriaMet")["message"] == message
    assert (done["status"]["completedIndexes"], done["status"]["succeeded"]) == ("0", 1)
    assert done["status"].get("active", 0) == 0


async def test_a_job_that_another_manages_is_left_alone(client: Client) -> None:
    await client.create(JOBS, job(managedBy="example.com/other"))
    await client.create(JOBS, job("ours"))
    await until_one(client, JOBS, "ours", lambda obj: obj["status"].get("active") == 1)
    found = await client.get(JOBS, "work", "default")
    assert not found.get("status")
    assert {pod["metadata"]["labels"]["job-name"] for pod in (await client.list(PODS, "default"))["items"]} == {"ours"}


async def test_a_pod_is_replaced_only_after_its_end_where_the_policy_says_so(client: Client) -> None:
    await client.create(JOBS, job(podReplacementPolicy="Failed", backoffLimit=3))
    [first] = await until(client, PODS, lambda pods: len(pods) == 1, namespace="default")
    name = first["metadata"]["name"]
    binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": name}}
    await client.create(PODS, binding, "default", name=name, subresource="binding")
    await set_running(client, key_of(first))
    await client.delete(PODS, name, "default")
    await until_one(client, JOBS, "work", lambda obj: obj["status"].get("terminating") == 1)
    assert len((await client.list(PODS, "default"))["items"]) == 1
    await set_ended(client, key_of(first), 1)
    await client.delete(PODS, name, "default", options={"gracePeriodSeconds": 0})
    await until_one(client, JOBS, "work", lambda obj: obj["status"].get("failed") == 1, deadline_seconds=15)


async def test_evicted_pods_of_a_job_are_passed_over_where_its_policy_says_so(client: Client) -> None:
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    await client.create(JOBS, job(backoffLimit=0, podFailurePolicy={"rules": [rule]}))
    [pod] = await until(client, PODS, lambda pods: len(pods) == 1, namespace="default")
    name = pod["metadata"]["name"]
    binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": name}}
    await client.create(PODS, binding, "default", name=name, subresource="binding")
    await set_running(client, key_of(pod))
    version = (await client.get(PODS, name, "default"))["metadata"]["resourceVersion"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": {"preconditions": {"resourceVersion": version}},
    }
    await client.create(PODS, eviction, "default", name=name, subresource="eviction")
    found = await client.get(PODS, name, "default")
    assert condition(found, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    failed = {"phase": "Failed"}
    await client.patch(PODS, name, {"status": failed}, "default", subresource="status")
    await client.delete(PODS, name, "default", options={"gracePeriodSeconds": 0})
    async with pods_come_up(client, which=lambda one: one["metadata"]["name"] != name, exit_code=lambda _: 0):
        done = await until_one(client, JOBS, "work", ended, deadline_seconds=20)
    assert (ended(done), done["status"].get("failed", 0), done["status"]["succeeded"]) == ("Complete", 0, 1)


# -- cron jobs


def cron_job(policy: str, **spec: Any) -> dict[str, Any]:
    template = {"spec": job(backoffLimit=0)["spec"]}
    full = {"schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": template, **spec}
    return {"metadata": {"name": "tick", "namespace": "default"}, "spec": full}


async def make_due(client: Client) -> None:
    """Let the last run have been so long ago that one is due now."""
    status = {"lastScheduleTime": "2020-01-01T00:00:00Z"}
    await client.patch(CRON_JOBS, "tick", {"status": status}, "default", subresource="status")


def running(count: int) -> Any:
    return lambda jobs: len([one for one in jobs if not one["metadata"].get("deletionTimestamp")]) == count


async def first_run(client: Client, policy: str) -> dict[str, Any]:
    """Start a CronJob whose first Job is of a run long past, and return that Job."""
    await client.create(CRON_JOBS, cron_job(policy, suspend=True))
    found = await client.get(CRON_JOBS, "tick", "default")
    body = {**job("tick-old"), "metadata": {"name": "tick-old"}}
    owner = {**reference(CRON_JOBS, found), "controller": True}
    body["metadata"]["ownerReferences"] = [owner]
    made = await client.create(JOBS, body, "default")
    await until_one(client, CRON_JOBS, "tick", lambda obj: len(obj["status"].get("active", ())) == 1)
    await make_due(client)
    await client.patch(CRON_JOBS, "tick", {"spec": {"suspend": False}}, "default")
    return made


async def test_a_cron_job_that_forbids_it_starts_no_second_job(client: Client) -> None:
    await first_run(client, "Forbid")
    told = await until(
        client, EVENTS, lambda all: any(e["reason"] == "JobAlreadyActive" for e in all), namespace="default"
    )
    [unexpected] = [one for one in told if one["reason"] == "UnexpectedJob"]
    assert unexpected["message"] == "Saw a job that the controller did not create or forgot: tick-old"
    assert running(1)((await client.list(JOBS, "default"))["items"])


async def test_a_cron_job_that_replaces_ends_the_job_before(client: Client) -> None:
    old = await first_run(client, "Replace")
    jobs = await until(
        client, JOBS,
        lambda all: len(all) == 1 and all[0]["metadata"]["uid"] != old["metadata"]["uid"], namespace="default",
    )  # fmt: skip
    found = await until_one(
        client, CRON_JOBS, "tick",
        lambda obj: [one["name"] for one in obj["status"].get("active", ())] == [jobs[0]["metadata"]["name"]],
    )  # fmt: skip
    assert found["status"]["lastScheduleTime"] > "2020-01-01T00:00:00Z"


async def test_a_cron_job_that_allows_it_runs_two_jobs_at_once(client: Client) -> None:
    await first_run(client, "Allow")
    await until(client, JOBS, running(2), namespace="default")
    await until_one(client, CRON_JOBS, "tick", lambda obj: len(obj["status"]["active"]) == 2)


# -- replica sets and replication controllers


@pytest.mark.parametrize("resource", [REPLICA_SETS, REPLICATION_CONTROLLERS], ids=["set", "controller"])
async def test_a_quota_that_is_exceeded_shows_as_a_condition_until_there_is_room(
    client: Client, resource: Resource
) -> None:
    await client.create(RESOURCE_QUOTAS, {"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}}, "default")
    await until_one(client, RESOURCE_QUOTAS, "two", lambda obj: obj["status"].get("hard"))
    labels = template("one")["metadata"]["labels"]
    selector = {"matchLabels": labels} if resource is REPLICA_SETS else labels
    spec = {"replicas": 3, "selector": selector, "template": template("one")}
    await client.create(resource, {"metadata": {"name": "many"}, "spec": spec}, "default")
    failed = await until_one(
        client, resource, "many", lambda obj: condition(obj, "ReplicaFailure").get("status") == "True"
    )
    assert condition(failed, "ReplicaFailure")["reason"] == "FailedCreate"
    assert "exceeded quota: two" in condition(failed, "ReplicaFailure")["message"]
    await client.patch(resource, "many", {"spec": {"replicas": 2}}, "default")
    await until_one(client, resource, "many", lambda obj: not condition(obj, "ReplicaFailure"))


async def test_a_status_written_by_others_is_kept_or_put_right(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(DEPLOYMENTS, deployment(replicas=1))
        await until_one(client, DEPLOYMENTS, "web", lambda obj: obj["status"].get("availableReplicas") == 1)
        found = await client.get(DEPLOYMENTS, "web", "default")
        mine = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"}
        patch = {"status": {"conditions": [*found["status"]["conditions"], mine], "replicas": 7, "readyReplicas": 7}}
        await client.patch(DEPLOYMENTS, "web", patch, "default", subresource="status")
        await until_one(
            client,
            DEPLOYMENTS,
            "web",
            lambda obj: obj["status"]["readyReplicas"] == 1 and condition(obj, "StatusUpdate"),
        )


# -- stateful sets


async def test_scaling_halts_while_a_pod_is_not_well(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(replicas=1))
        await until_one(client, STATEFUL_SETS, "db", all_ready(1))
        await set_running(client, ObjectKey("default", "db-0"), ready=False)
        await until_one(client, STATEFUL_SETS, "db", lambda obj: obj["status"].get("readyReplicas", 0) == 0)
        await client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 3}}, "default")
        await until_one(client, STATEFUL_SETS, "db", lambda obj: obj["status"]["observedGeneration"] == 2)
        assert len((await client.list(PODS, "default"))["items"]) == 1
        await set_running(client, ObjectKey("default", "db-0"))
        await until_one(client, STATEFUL_SETS, "db", all_ready(3))
        for name in ("db-0", "db-1", "db-2"):
            await set_running(client, ObjectKey("default", name), ready=False)
        await until_one(client, STATEFUL_SETS, "db", lambda obj: not obj["status"].get("readyReplicas"))
        await client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 0}}, "default")
        await until_one(client, STATEFUL_SETS, "db", lambda obj: obj["status"]["observedGeneration"] == 3)
        assert len(living((await client.list(PODS, "default"))["items"])) == 3
        for name in ("db-0", "db-1", "db-2"):
            await set_running(client, ObjectKey("default", name))
        await until(client, PODS, lambda pods: not pods, namespace="default")


async def test_a_stateful_set_adopts_and_releases_by_labels(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(STATEFUL_SETS, stateful_set(replicas=1))
        await until_one(client, STATEFUL_SETS, "db", all_ready(1))
        pod = await client.get(PODS, "db-0", "default")
        await client.patch(PODS, "db-0", {"metadata": {"ownerReferences": None}}, "default")
        await until_one(client, PODS, "db-0", controlled)
        await client.patch(PODS, "db-0", {"metadata": {"labels": {"app": None}}}, "default")
        await until_one(client, PODS, "db-0", lambda obj: not controlled(obj))
        await client.patch(PODS, "db-0", {"metadata": {"labels": {"app": "db"}}}, "default")
        found = await until_one(client, PODS, "db-0", controlled)
        assert found["metadata"]["uid"] == pod["metadata"]["uid"]


async def test_a_pod_that_a_node_refuses_is_made_again_until_it_is_taken(client: Client) -> None:
    refused: list[str] = []

    async def refuse() -> None:
        async for event in client.watch(PODS, "default", resource_version="0"):
            pod = event.decode()
            if event.type == "ADDED" and len(refused) < 3:
                refused.append(pod["metadata"]["uid"])
                await set_ended(client, key_of(pod), 1)

    task = asyncio.create_task(refuse())
    await client.create(STATEFUL_SETS, stateful_set(replicas=1))
    pods = await until(
        client,
        PODS,
        lambda all: len(refused) == 3 and any(p["metadata"]["uid"] not in refused for p in all),
        namespace="default",
    )
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len({*refused, *(pod["metadata"]["uid"] for pod in pods)}) >= 4


# -- daemon sets


async def test_going_back_in_the_middle_of_an_update_restarts_only_what_was_updated(client: Client) -> None:
    async with pods_come_up(client, which=lambda pod: pod["spec"]["containers"][0]["image"] != "broken"):
        await make_nodes(client, "n1", "n2", "n3")
        await client.create(DAEMON_SETS, daemon_set())
        await until_one(client, DAEMON_SETS, "log", daemons_ready(3))
        before = {pod["metadata"]["uid"] for pod in (await client.list(PODS, "default"))["items"]}
        await client.patch(
            DAEMON_SETS, "log", {"spec": {"template": daemon_set("broken")["spec"]["template"]}}, "default"
        )
        await until(
            client, PODS,
            lambda pods: on("n1", "n2", "n3")(pods)
            and len({p["metadata"]["uid"] for p in living(pods)} - before) == 1, namespace="default",
        )  # fmt: skip
        kept = {pod["metadata"]["uid"] for pod in living((await client.list(PODS, "default"))["items"])} & before
        await client.patch(DAEMON_SETS, "log", {"spec": {"template": daemon_set()["spec"]["template"]}}, "default")
        await until_one(
            client, DAEMON_SETS, "log",
            lambda obj: daemons_ready(3)(obj) and obj["status"].get("updatedNumberScheduled") == 3,
        )  # fmt: skip
        after = {pod["metadata"]["uid"] for pod in (await client.list(PODS, "default"))["items"]}
    assert kept <= after
    assert len(kept) == 2


# -- quota


async def test_scopes_count_only_their_pods(client: Client) -> None:
    for name, scopes in (("best", ["BestEffort"]), ("other", ["NotBestEffort"]), ("ends", ["Terminating"])):
        spec = {"hard": {"pods": "5"}, "scopes": scopes}
        await client.create(RESOURCE_QUOTAS, {"metadata": {"name": name}, "spec": spec}, "default")
    for name in ("best", "other", "ends"):
        await until_one(client, RESOURCE_QUOTAS, name, lambda obj: obj["status"].get("used"))
    resources = {"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}}
    for name, container, more in (
        ("plain", {}, {}), ("sized", {"resources": resources}, {}), ("short", {}, {"activeDeadlineSeconds": 3600}),
    ):  # fmt: skip
        body = {"metadata": {"name": name}, "spec": {"containers": [{"name": "m", "image": "i", **container}], **more}}
        await client.create(PODS, body, "default")

    async def used(name: str, count: str) -> None:
        await until_one(client, RESOURCE_QUOTAS, name, lambda obj: obj["status"]["used"]["pods"] == count)

    await used("best", "2")
    await used("other", "1")
    await used("ends", "1")
    await client.delete(PODS, "plain", "default", options={"gracePeriodSeconds": 0})
    await used("best", "1")
    await client.patch(RESOURCE_QUOTAS, "best", {"spec": {"hard": {"pods": "1"}}}, "default")
    await until_one(client, RESOURCE_QUOTAS, "best", lambda obj: obj["status"]["hard"]["pods"] == "1")
    with pytest.raises(errors.Forbidden, match="exceeded quota: best"):
        body = {"metadata": {"name": "more"}, "spec": {"containers": [{"name": "m", "image": "i"}]}}
        await client.create(PODS, body, "default")


# -- taints


async def test_a_taint_that_goes_in_time_saves_the_pod(client: Client) -> None:
    await create_node(client, {"metadata": {"name": "n1"}})
    taint = {"key": "example.com/evict", "value": "x", "effect": "NoExecute"}
    await client.patch(NODES, "n1", {"spec": {"taints": [taint]}})
    for name, seconds in (("patient", 2), ("hasty", None), ("forever", 3600)):
        toleration = {"key": taint["key"], "operator": "Equal", "value": "x", "effect": "NoExecute"}
        tolerations = [{**toleration, "tolerationSeconds": seconds}] if seconds else []
        spec = {"containers": [{"name": "m", "image": "i"}], "nodeName": "n1", "tolerations": tolerations}
        spec["terminationGracePeriodSeconds"] = 0
        await client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")
    await until_gone(client, PODS, "hasty", namespace="default")
    await client.patch(NODES, "n1", {"spec": {"taints": None}})
    await asyncio.sleep(2.5)  # past the time it would have been evicted at: that nothing happens can't be watched
    assert {pod["metadata"]["name"] for pod in (await client.list(PODS, "default"))["items"]} == {"patient", "forever"}
    events = (await client.list(EVENTS, "default"))["items"]
    cancelled = [e for e in events if e["reason"] == "TaintManagerEviction" and e["message"].startswith("Cancelling")]
    assert {e["involvedObject"]["name"] for e in cancelled} == {"patient", "forever"}
