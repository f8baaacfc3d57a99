"""Random histories of workloads, of nodes and of the controllers themselves, held to what must never be otherwise.

While a history runs: never more pods than asked for and surge, never fewer that serve than the strategy allows, never
more at work on a Job than it allows. When all is quiet: exactly the pods asked for, of the newest template, on nodes
that live; nothing left of what was deleted; a Job's counters exact.
"""

import asyncio
import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from machinery import errors
from machinery.api.resources import DEPLOYMENTS, JOBS, NAMESPACES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS
from tests.integration.controllers.model import Available, InAWorld, World
from tests.integration.controllers.test_deployment import deployment
from tests.integration.controllers.test_job import ended, job
from tests.support.machines import leaving_at_once
from tests.support.waiting import until, until_one

EXAMPLES = int(os.environ.get("WHERRY_MODEL_EXAMPLES", "12"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 10 * EXAMPLES)]

STRATEGIES = ((1, 1), (1, 0), (0, 1), (2, 0), (0, 2))
"""How many more and how many fewer pods there may be."""
_numbers = itertools.count()


class Workloads(InAWorld):
    """One Deployment and one Job in a namespace of their own."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._namespace = f"model-{next(_numbers)}"
        self._replicas: int | None = None
        self._most = self._least = 0  # the most and the fewest replicas asked for since all was quiet
        self._surge, self._unavailable = STRATEGIES[0]
        self._available = Available()
        self._image = "one"
        self._job: dict[str, int] | None = None
        self._active: dict[str, tuple[str, str]] = {}  # uid -> kind and uid of owner
        self._deployment = ""  # uid of the one that is there
        self._set_owners: dict[str, str] = {}  # uid of a set -> uid of its deployment
        self._ended: dict[str, str] = {}  # uid of a Job's pod -> its last phase, "Deleted" before it had any
        self._doubtful: set[str] = set()  # uids of Job's pods that ended while they were being deleted
        self._wrong: list[str] = []
        self._watching: list[asyncio.Task[None]] = []
        self._told = asyncio.Event()
        world.run(self._begin())

    async def _begin(self) -> None:
        client = self._world.client
        await client.create(NAMESPACES, {"metadata": {"name": self._namespace}})
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace=self._namespace)
        self._watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_sets())]

    async def _watch_sets(self) -> None:
        async for event in self._world.client.watch(REPLICA_SETS, self._namespace, resource_version="0"):
            if event.type != "BOOKMARK":
                metadata = event.decode()["metadata"]
                self._set_owners[metadata["uid"]] = (metadata.get("ownerReferences") or [{}])[0].get("uid", "")
                self._check()

    async def _watch(self) -> None:
        async for event in self._world.client.watch(PODS, self._namespace, resource_version="0"):
            if event.type == "BOOKMARK":
                continue
            pod = event.decode()
            metadata, phase = pod["metadata"], pod.get("status", {}).get("phase")
            uid, reference = metadata["uid"], (metadata.get("ownerReferences") or [{}])[0]
            owner = reference.get("kind", "")
            gone = event.type == "DELETED" or metadata.get("deletionTimestamp") or phase in ("Succeeded", "Failed")
            if gone:
                self._active.pop(uid, None)
            else:
                self._active[uid] = owner, reference.get("uid", "")
            if owner == "Job":
                self._note_end(uid, phase, deleted=bool(metadata.get("deletionTimestamp")))
            self._available.note(pod, gone=event.type == "DELETED")
            self._check()

    def _note_end(self, uid: str, phase: str | None, *, deleted: bool) -> None:
        if phase in ("Succeeded", "Failed"):
            if self._ended.get(uid) == "Deleted":
                self._doubtful.add(uid)
            self._ended[uid] = phase
        elif deleted:
            self._ended[uid] = "Deleted"

    def _check(self) -> None:
        self._told.set()
        owners = [kind for kind, _ in self._active.values()]
        # Pods of a Deployment that is gone may stand beside those of its successor until they are collected.
        if (count := len(self._pods_of_deployment())) > self._most + self._surge:
            self._wrong.append(f"{count} pods where {self._most} and {self._surge} were allowed")
        if self._available.is_too_few(serving := self._count_serving()):
            told = self._available
            self._wrong.append(f"{serving} pods serve where {told.floor} were promised and {told.lost} lost")
        if self._job is not None and (count := owners.count("Job")) > self._job["parallelism"]:
            self._wrong.append(f"{count} pods at work where {self._job['parallelism']} were allowed")

    def _pods_of_deployment(self) -> list[str]:
        return [
            uid for uid, (_, owner) in self._active.items()
            if self._deployment and self._set_owners.get(owner) == self._deployment
        ]  # fmt: skip

    def _count_serving(self) -> int:
        """Count the pods that serve; a pod whose set is not heard of yet counts as well."""
        found = {
            uid for uid, (kind, owner) in self._active.items()
            if kind == "ReplicaSet" and self._set_owners.get(owner, self._deployment) == self._deployment
        }  # fmt: skip
        return len(self._available.among(found))

    def _promise(self) -> None:
        """Let so many serve as the strategy allows of the fewest pods asked for."""
        if self._available.floor is not None:
            self._available.floor = max(self._least - self._unavailable, 0)

    # ---- what may happen

    @precondition(lambda self: self._replicas is None)
    @rule(replicas=st.integers(0, 6), strategy=st.sampled_from(STRATEGIES))
    def create_deployment(self, replicas: int, strategy: tuple[int, int]) -> None:
        self._replicas = self._least = replicas
        self._surge, self._unavailable = strategy
        self._available.promise(None)
        body = deployment(replicas=replicas)
        body["metadata"] = {"name": "web"}
        body["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": strategy[0], "maxUnavailable": strategy[1]}}
        body["spec"]["template"]["spec"]["tolerations"] = leaving_at_once()
        self._set_image(body, self._image)
        made = self._world.run(self._world.client.create(DEPLOYMENTS, body, self._namespace))
        self._deployment, self._most = made["metadata"]["uid"], replicas

    @staticmethod
    def _set_image(body: dict[str, Any], image: str) -> None:
        body["spec"]["template"]["spec"]["containers"][0]["image"] = image

    @precondition(lambda self: self._replicas is not None)
    @rule(replicas=st.integers(0, 6))
    def scale(self, replicas: int) -> None:
        self._replicas, self._most = replicas, max(replicas, self._most)
        self._least = min(replicas, self._least)
        self._promise()
        self._patch({"spec": {"replicas": replicas}})

    @precondition(lambda self: self._replicas is not None)
    @rule(image=st.sampled_from(["one", "two", "three"]))
    def update(self, image: str) -> None:
        self._image = image
        template = {"spec": {"containers": [{"name": "m", "image": image}]}}
        self._patch({"spec": {"template": template}})

    def _patch(self, patch: dict[str, Any]) -> None:
        self._world.run(self._world.client.patch(DEPLOYMENTS, "web", patch, self._namespace))

    @precondition(lambda self: self._replicas is not None)
    @rule(policy=st.sampled_from(["Background", "Foreground"]))
    def delete_deployment(self, policy: str) -> None:
        async def delete() -> None:
            client = self._world.client
            await client.delete(DEPLOYMENTS, "web", self._namespace, options={"propagationPolicy": policy})
            await until(client, DEPLOYMENTS, lambda found: not found, namespace=self._namespace, deadline_seconds=20)
            await until(client, REPLICA_SETS, lambda found: not found, namespace=self._namespace, deadline_seconds=20)

        self._replicas, self._deployment = None, ""
        self._available.promise(None)
        # The pods of a node that is away hold up a deletion in the foreground until it is back.
        self._recover()
        self._world.run(delete())

    @rule(which=st.integers(0, 20))
    def lose_a_pod(self, which: int) -> None:
        """Delete a pod of the Deployment, as a drain or a careless user does."""
        found = sorted(self._pods_of_deployment())
        if found:
            self._world.run(self._delete_pod(found[which % len(found)]))

    async def _delete_pod(self, uid: str) -> None:
        client = self._world.client
        for pod in (await client.list(PODS, self._namespace))["items"]:
            if pod["metadata"]["uid"] == uid:
                self._available.take(uid)
                with contextlib.suppress(errors.NotFound):
                    await client.delete(PODS, pod["metadata"]["name"], self._namespace)

    @precondition(lambda self: self._job is None)
    @rule(completions=st.integers(1, 6), parallelism=st.integers(1, 3))
    def create_job(self, completions: int, parallelism: int) -> None:
        self._job, self._ended = {"completions": completions, "parallelism": parallelism}, {}
        body = job(completions=completions, parallelism=parallelism, backoffLimit=1000)
        body["metadata"] = {"name": "work"}
        body["spec"]["template"]["spec"]["tolerations"] = leaving_at_once()
        body["spec"]["template"]["metadata"] = {"annotations": {"ends": "0"}}
        self._world.run(self._world.client.create(JOBS, body, self._namespace))

    @rule()
    def settle(self) -> None:
        """Wait until all is as asked, and look at it closely."""
        self._world.run(self._settle())
        self._most = self._least = self._replicas or 0
        self._available.promise(None if self._replicas is None else max(self._least - self._unavailable, 0))

    async def _settle(self) -> None:
        client, replicas, silent = self._world.client, self._replicas, self._world.machines.silent

        def quiet(pods: list[dict[str, Any]]) -> bool:
            owned = [pod for pod in pods if not (pod["metadata"].get("labels") or {}).get("job-name")]
            live = [pod for pod in owned if not pod["metadata"].get("deletionTimestamp")]
            images = {pod["spec"]["containers"][0]["image"] for pod in live}
            # What was on a node that is away is known to be gone only when that node says so.
            return (
                len(live) == (replicas or 0) and images <= {self._image}
                and not any(pod["spec"].get("nodeName") in silent for pod in live)
                and all(pod in live or pod["spec"].get("nodeName") in silent for pod in owned)
            )  # fmt: skip

        await until(client, PODS, quiet, namespace=self._namespace, deadline_seconds=30)
        if replicas is not None:
            await until_one(
                client, DEPLOYMENTS, "web",
                lambda obj: (obj.get("status") or {}).get("availableReplicas", 0) == replicas
                and obj["status"].get("observedGeneration") == obj["metadata"]["generation"],
                namespace=self._namespace, deadline_seconds=30,
            )  # fmt: skip
        async with asyncio.timeout(30):
            # Our own watch may lag behind.
            while not len(self._pods_of_deployment()) == self._count_serving() == (replicas or 0):
                self._told.clear()
                await self._told.wait()
        if self._job is not None:
            # A Job is not over before the last of its pods has ended, those on a node that is away among them.
            await self._world.recover()
            await self._settle_job(self._job)

    async def _settle_job(self, asked: dict[str, int]) -> None:
        client = self._world.client
        done = await until_one(client, JOBS, "work", ended, namespace=self._namespace, deadline_seconds=30)
        status = done["status"]
        assert status["succeeded"] == asked["completions"]
        failed = sum(end != "Succeeded" or uid in self._doubtful for uid, end in self._ended.items())
        assert failed - len(self._doubtful) <= status.get("failed", 0) <= failed
        pods = await client.list(PODS, self._namespace, label_selector="job-name=work")
        # Not all are still there: what was on a node that was away is driven from it, ended or not.
        assert asked["completions"] <= list(self._ended.values()).count("Succeeded")
        assert not any(pod["metadata"].get("finalizers") for pod in pods["items"])

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self._wrong

    def teardown(self) -> None:
        self._recover()

        async def end() -> None:
            try:
                await self._settle()
            finally:
                for task in self._watching:
                    task.cancel()
                await asyncio.gather(*self._watching, return_exceptions=True)
            await self._world.client.delete(NAMESPACES, self._namespace)

        self._world.run(end())
        assert not self._wrong


def test_no_history_breaks_what_must_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controllers.job_pods._FIRST_SECONDS", 0.01)
    world = World(tmp_path)
    world.run(world.open())
    try:
        run_state_machine_as_test(
            lambda: Workloads(world),
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        world.close()
