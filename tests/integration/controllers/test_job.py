"""Jobs and CronJobs on a real API server; pods are run and ended as an agent would."""

import asyncio
from typing import Any

import pytest

from machinery.api.resources import CRON_JOBS, EVENTS, JOBS, PODS
from machinery.client.rest import Client
from machinery.errors import Invalid
from tests.integration.controllers.conftest import running_controllers
from tests.support.agent import pods_come_up
from tests.support.waiting import until, until_gone, until_one

pytestmark = [pytest.mark.slow]
FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"


def job(name: str = "work", **spec: Any) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "one"}]}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"template": {"spec": pod}, **spec}}


def ended(obj: dict[str, Any]) -> str:
    """Return the type of the condition that ended a Job, "" while it runs."""
    true = {c["type"] for c in obj.get("status", {}).get("conditions", ()) if c["status"] == "True"}
    return next(iter(true & {"Complete", "Failed"}), "")


def reason(obj: dict[str, Any]) -> str:
    return next(c["reason"] for c in obj["status"]["conditions"] if c["type"] == ended(obj))


@pytest.mark.usefixtures("controllers")
async def test_a_job_runs_its_pods_and_counts_each_once(client: Client) -> None:
    seen: list[int] = []
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.create(JOBS, job(completions=7, parallelism=3))
        done = await until_one(
            client, JOBS, "work", lambda obj: seen.append(obj["status"].get("active", 0)) or ended(obj)
        )
    status = done["status"]
    assert (status["succeeded"], status.get("failed", 0), status.get("active", 0)) == (7, 0, 0)
    assert max(seen) <= 3
    assert status["uncountedTerminatedPods"] == {}
    assert status["completionTime"] >= status["startTime"]
    assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    pods = (await client.list(PODS, "default"))["items"]
    assert len(pods) == 7
    assert all(FINALIZER not in pod["metadata"].get("finalizers", ()) for pod in pods)
    reasons = [event["reason"] for event in (await client.list(EVENTS, "default"))["items"]]
    assert reasons.count("SuccessfulCreate") == 7
    assert "Completed" in reasons


@pytest.mark.usefixtures("controllers")
async def test_too_many_failures_end_a_job(client: Client) -> None:
    async with pods_come_up(client, exit_code=lambda _: 1):
        await client.create(JOBS, job(backoffLimit=0))
        done = await until_one(client, JOBS, "work", ended)
    assert (ended(done), reason(done)) == ("Failed", "BackoffLimitExceeded")
    assert done["status"]["failed"] == 1
    assert "completionTime" not in done["status"]


@pytest.mark.usefixtures("controllers")
async def test_an_indexed_job_gives_each_pod_its_number(client: Client) -> None:
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.create(JOBS, job(completions=4, parallelism=2, completionMode="Indexed"))
        done = await until_one(client, JOBS, "work", ended)
    assert (done["status"]["succeeded"], done["status"]["completedIndexes"]) == (4, "0-3")
    pods = (await client.list(PODS, "default"))["items"]
    assert sorted(pod["metadata"]["annotations"][INDEX] for pod in pods) == ["0", "1", "2", "3"]
    first = next(pod for pod in pods if pod["metadata"]["annotations"][INDEX] == "0")
    assert first["spec"]["hostname"] == "work-0"
    [variable] = first["spec"]["containers"][0]["env"]
    assert variable["name"] == "JOB_COMPLETION_INDEX"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['{INDEX}']"


@pytest.mark.usefixtures("controllers")
async def test_failed_indexes_are_counted_apart_and_wait_each_for_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.job_pods._FIRST_SECONDS", 2.0)
    made: list[float] = []

    def code(pod: dict[str, Any]) -> int:
        return int(pod["metadata"]["annotations"][INDEX] == "1")

    def note(pods: list[dict[str, Any]]) -> bool:
        failing = [pod for pod in pods if pod["metadata"]["annotations"][INDEX] == "1"]
        made.extend([asyncio.get_running_loop().time()] * (len(failing) - len(made)))
        return len(made) == 2

    async with pods_come_up(client, exit_code=code):
        seen = asyncio.create_task(until(client, PODS, note, namespace="default"))
        await client.create(JOBS, job(completions=3, parallelism=3, completionMode="Indexed", backoffLimitPerIndex=1))
        done = await until_one(client, JOBS, "work", ended)
    assert (reason(done), done["status"]["completedIndexes"], done["status"]["failedIndexes"]) == (
        "FailedIndexes",
        "0,2",
        "1",
    )
    assert done["status"]["failed"] == 2
    assert "active" not in done["status"]
    again = max(
        await seen, key=lambda pod: pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"]
    )
    assert again["metadata"]["annotations"][INDEX] == "1"
    assert made[1] - made[0] > 0.3  # finishing times are told in whole seconds


@pytest.mark.usefixtures("controllers")
async def test_more_ends_than_one_step_counts_are_each_counted_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.job.MAX_UNCOUNTED", 3)
    longest = 0

    def note(jobs: list[dict[str, Any]]) -> bool:
        nonlocal longest
        for obj in jobs:
            uncounted = obj.get("status", {}).get("uncountedTerminatedPods") or {}
            longest = max(longest, sum(len(uids) for uids in uncounted.values()))
        return bool(jobs and ended(jobs[0]))

    await client.create(JOBS, job(completions=20, parallelism=20))
    await until(client, PODS, lambda pods: len(pods) == 20, namespace="default")
    async with pods_come_up(client, exit_code=lambda _: 0):
        [done] = await until(client, JOBS, note, namespace="default")
    assert (ended(done), done["status"]["succeeded"]) == ("Complete", 20)
    assert longest <= 3
    pods = (await client.list(PODS, "default"))["items"]
    assert len(pods) == 20
    assert all("lastProbeTime" in one for one in done["status"]["conditions"])


@pytest.mark.usefixtures("controllers")
async def test_the_failure_policy_decides_what_a_failure_means(client: Client) -> None:
    codes = {"onExitCodes": {"operator": "In", "values": [42]}}
    async with pods_come_up(client, exit_code=lambda _: 42):
        await client.create(JOBS, job(podFailurePolicy={"rules": [{"action": "FailJob", **codes}]}))
        done = await until_one(client, JOBS, "work", ended)
    assert reason(done) == "PodFailurePolicy"
    message = next(c["message"] for c in done["status"]["conditions"] if c["type"] == "Failed")
    assert message.startswith("Container main for pod default/work-")
    assert message.endswith("failed with exit code 42 matching FailJob rule at index 0")


@pytest.mark.usefixtures("controllers")
async def test_a_suspended_job_has_no_pods_and_goes_on_when_resumed(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(JOBS, job(parallelism=2, completions=2))
        await until_one(client, JOBS, "work", lambda obj: obj["status"].get("ready") == 2)
        await client.patch(JOBS, "work", {"spec": {"suspend": True}}, "default")
        stopped = await until_one(client, JOBS, "work", lambda obj: obj["status"].get("active", 0) == 0)
        await until(client, PODS, lambda pods: not pods, namespace="default")
        assert "startTime" not in stopped["status"]
        assert stopped["status"].get("failed", 0) == 0
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.patch(JOBS, "work", {"spec": {"suspend": False}}, "default")
        done = await until_one(client, JOBS, "work", ended)
    assert done["status"]["succeeded"] == 2


@pytest.mark.usefixtures("controllers")
async def test_a_job_that_was_stopped_may_be_given_other_resources_and_nodes_before_it_goes_on(client: Client) -> None:
    def patch(cpu: str, **spec: Any) -> dict[str, Any]:
        container = {"name": "main", "image": "one", "resources": {"requests": {"cpu": cpu}}}
        return {"spec": {"template": {"spec": {"containers": [container], **spec}}}}

    async with pods_come_up(client):
        await client.create(JOBS, job())
        await until(client, PODS, lambda pods: len(pods) == 1, namespace="default")
        with pytest.raises(Invalid, match="field is immutable"):
            await client.patch(JOBS, "work", patch("2"), "default")
        await client.patch(JOBS, "work", {"spec": {"suspend": True}}, "default")
        await until_one(
            client, JOBS, "work",
            lambda obj: {c["type"]: c["status"] for c in obj["status"].get("conditions", ())}.get("Suspended") == "True"
            and not obj["status"].get("active"),
            namespace="default",
        )  # fmt: skip
        await client.patch(JOBS, "work", patch("2", nodeSelector={"disk": "fast"}), "default")
        with pytest.raises(Invalid, match="field is immutable"):
            await client.patch(JOBS, "work", patch("2", restartPolicy="OnFailure"), "default")
        await client.patch(JOBS, "work", {"spec": {"suspend": False}}, "default")
        [pod] = await until(
            client, PODS, lambda pods: [p for p in pods if p["spec"].get("nodeSelector")] == pods != [],
            namespace="default",
        )  # fmt: skip
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "2"}


@pytest.mark.usefixtures("controllers")
async def test_a_job_past_its_deadline_fails_and_its_pods_go(client: Client) -> None:
    async with pods_come_up(client):
        await client.create(JOBS, job(activeDeadlineSeconds=1))
        done = await until_one(client, JOBS, "work", ended)
        await until(client, PODS, lambda pods: not pods, namespace="default")
    assert (ended(done), reason(done)) == ("Failed", "DeadlineExceeded")


@pytest.mark.usefixtures("controllers")
async def test_a_job_is_cleared_away_after_its_time(client: Client) -> None:
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.create(JOBS, job(ttlSecondsAfterFinished=0))
        await until_gone(client, JOBS, "work")
        await until(client, PODS, lambda pods: not pods, namespace="default")


async def test_a_restart_of_the_controllers_neither_loses_nor_doubles_a_pod(client: Client, config: Any) -> None:
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.create(JOBS, job(completions=30, parallelism=5))
        for count in (5, 12, 20):
            async with running_controllers(config):
                await until_one(client, JOBS, "work", lambda obj, n=count: obj["status"].get("succeeded", 0) >= n)
        async with running_controllers(config):
            done = await until_one(client, JOBS, "work", ended)
    pods = (await client.list(PODS, "default"))["items"]
    assert done["status"]["succeeded"] == len(pods) == 30


@pytest.mark.usefixtures("controllers")
async def test_a_cron_job_makes_a_job_in_its_time_and_keeps_a_history(client: Client) -> None:
    template = {"spec": {"template": job()["spec"]["template"]}}
    spec = {"schedule": "@every 1s", "successfulJobsHistoryLimit": 1, "jobTemplate": template}
    async with pods_come_up(client, exit_code=lambda _: 0):
        await client.create(CRON_JOBS, {"metadata": {"name": "tick", "namespace": "default"}, "spec": spec})
        [made] = await until(client, JOBS, lambda jobs: len(jobs) == 1, namespace="default")
        assert made["metadata"]["name"].startswith("tick-")
        assert made["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
        found = await until_one(client, CRON_JOBS, "tick", lambda obj: obj["status"].get("lastSuccessfulTime"))
        assert found["status"]["lastScheduleTime"]
        await client.patch(CRON_JOBS, "tick", {"spec": {"suspend": True}}, "default")
        await until_one(client, CRON_JOBS, "tick", lambda obj: not obj["status"].get("active"))
    await asyncio.gather(
        client.delete(CRON_JOBS, "tick", "default"), until_gone(client, JOBS, made["metadata"]["name"])
    )
