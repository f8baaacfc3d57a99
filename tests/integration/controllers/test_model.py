"""Random histories of workloads and of the controllers themselves, held to what must never be otherwise.

While a history runs: never more pods than asked for and surge, never more at work on a Job than it allows. When all is
quiet: exactly the pods asked for, of the newest template; nothing left of what was deleted; a Job's counters exact.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from controllers import manager
from machinery import errors
from machinery.api.resources import DEPLOYMENTS, JOBS, NAMESPACES, PODS, REPLICA_SETS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.integration.controllers.test_deployment import deployment
from tests.integration.controllers.test_job import ended, job
from tests.support.agent import pods_come_up
from tests.support.server import running_server
from tests.support.waiting import until, until_one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

T = TypeVar("T")
SURGE = 1
_numbers = itertools.count()


class World:
    """A server, the controllers on it, and agents that bring pods up; one loop that runs while it is asked something."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._folder = folder
        self._manager: asyncio.Task[None] | None = None
        self.client: Client
        self._config: ClientConfig

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def open(self) -> None:
        _, self._config = await self._stack.enter_async_context(running_server(self._folder))
        self.client = await self._stack.enter_async_context(Client(self._config))

        def exit_code(pod: dict[str, Any]) -> int | None:
            wanted = pod["metadata"].get("annotations", {}).get("ends")
            return int(wanted) if wanted else None

        await self._stack.enter_async_context(pods_come_up(self.client, exit_code=exit_code))
        await self.restart_controllers()

    async def restart_controllers(self) -> None:
        """End the controllers as a crash does, in the middle of whatever they do, and start new ones."""
        await self._end_controllers()
        self._manager = asyncio.create_task(manager.run(self._config, leader_elect=False))

    async def _end_controllers(self) -> None:
        if self._manager is not None:
            self._manager.cancel()
            await asyncio.gather(self._manager, return_exceptions=True)

    def close(self) -> None:
        async def end() -> None:
            await self._end_controllers()
            await self._stack.aclose()

        self.run(end())
        self.runner.close()


class Workloads(RuleBasedStateMachine):
    """One Deployment and one Job in a namespace of their own."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._namespace = f"model-{next(_numbers)}"
        self._replicas: int | None = None
        self._most = 0  # the most replicas asked for since all was quiet
        self._image = "one"
        self._job: dict[str, int] | None = None
        self._active: dict[str, tuple[str, str]] = {}  # uid -> kind and uid of owner
        self._deployment = ""  # uid of the one that is there
        self._set_owners: dict[str, str] = {}  # uid of a set -> uid of its deployment
        self._ended: dict[str, str] = {}  # uid of a Job's pod -> its last phase
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
            if owner == "Job" and phase in ("Succeeded", "Failed"):
                self._ended[uid] = phase
            self._check()

    def _check(self) -> None:
        self._told.set()
        owners = [kind for kind, _ in self._active.values()]
        # Pods of a Deployment that is gone may stand beside those of its successor until they are collected.
        if (count := len(self._pods_of_deployment())) > self._most + SURGE:
            self._wrong.append(f"{count} pods where {self._most} and {SURGE} were allowed")
        if self._job is not None and (count := owners.count("Job")) > self._job["parallelism"]:
            self._wrong.append(f"{count} pods at work where {self._job['parallelism']} were allowed")

    def _pods_of_deployment(self) -> list[str]:
        return [
            uid for uid, (_, owner) in self._active.items()
            if self._deployment and self._set_owners.get(owner) == self._deployment
        ]  # fmt: skip

    # ---- what may happen

    @precondition(lambda self: self._replicas is None)
    @rule(replicas=st.integers(0, 6))
    def create_deployment(self, replicas: int) -> None:
        self._replicas = replicas
        body = deployment(replicas=replicas)
        body["metadata"] = {"name": "web"}
        body["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": SURGE, "maxUnavailable": 1}}
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
                with contextlib.suppress(errors.NotFound):
                    await client.delete(PODS, pod["metadata"]["name"], self._namespace)

    @precondition(lambda self: self._job is None)
    @rule(completions=st.integers(1, 6), parallelism=st.integers(1, 3))
    def create_job(self, completions: int, parallelism: int) -> None:
        self._job, self._ended = {"completions": completions, "parallelism": parallelism}, {}
        body = job(completions=completions, parallelism=parallelism)
        body["metadata"] = {"name": "work"}
        body["spec"]["template"]["metadata"] = {"annotations": {"ends": "0"}}
        self._world.run(self._world.client.create(JOBS, body, self._namespace))

    @rule()
    def restart_controllers(self) -> None:
        self._world.run(self._world.restart_controllers())

    @rule(milliseconds=st.integers(1, 50))
    def pass_time(self, milliseconds: int) -> None:
        self._world.run(asyncio.sleep(milliseconds / 1000))

    @rule()
    def settle(self) -> None:
        """Wait until all is as asked, and look at it closely."""
        self._world.run(self._settle())
        self._most = self._replicas or 0

    async def _settle(self) -> None:
        client, replicas = self._world.client, self._replicas

        def quiet(pods: list[dict[str, Any]]) -> bool:
            owned = [pod for pod in pods if not (pod["metadata"].get("labels") or {}).get("job-name")]
            images = {pod["spec"]["containers"][0]["image"] for pod in owned}
            live = [pod for pod in owned if not pod["metadata"].get("deletionTimestamp")]
            return len(live) == len(owned) == (replicas or 0) and images <= {self._image}

        await until(client, PODS, quiet, namespace=self._namespace, deadline_seconds=30)
        if replicas is not None:
            await until_one(
                client, DEPLOYMENTS, "web",
                lambda obj: (obj.get("status") or {}).get("availableReplicas", 0) == replicas
                and obj["status"].get("observedGeneration") == obj["metadata"]["generation"],
                namespace=self._namespace, deadline_seconds=30,
            )  # fmt: skip
        async with asyncio.timeout(30):
            while len(self._pods_of_deployment()) > (replicas or 0):  # our watch may lag behind a list
                self._told.clear()
                await self._told.wait()
        if self._job is not None:
            await self._settle_job(self._job)

    async def _settle_job(self, asked: dict[str, int]) -> None:
        client = self._world.client
        done = await until_one(client, JOBS, "work", ended, namespace=self._namespace, deadline_seconds=30)
        status = done["status"]
        assert status["succeeded"] == asked["completions"]
        assert status.get("failed", 0) == 0
        pods = await client.list(PODS, self._namespace, label_selector="job-name=work")
        assert len(pods["items"]) == asked["completions"]
        assert not any(pod["metadata"].get("finalizers") for pod in pods["items"])

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self._wrong

    def teardown(self) -> None:
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


def test_no_history_breaks_what_must_hold(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(world.open())
    try:
        run_state_machine_as_test(
            lambda: Workloads(world),
            settings=settings(
                max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        world.close()
