"""Random histories of StatefulSets, DaemonSets, nodes and controllers, held to what must never be otherwise.

While a history runs: never more pods of a StatefulSet than were asked for, never two daemons on a node, and never fewer
that serve than their strategies allow. When all is
quiet: the pods 0..n-1 of the newest revision, one daemon on each node that is meant, both statuses exact, and nothing
left of what was deleted. Deployments and Jobs: test_model.py.
"""

import asyncio
import contextlib
import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from machinery import errors
from machinery.api.resources import DAEMON_SETS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, STATEFUL_SETS
from machinery.client.rest import PatchType
from tests.integration.controllers.model import NODE_NAMES, Available, InAWorld, World
from tests.integration.controllers.test_daemonset import daemon_set, target
from tests.integration.controllers.test_statefulset import stateful_set
from tests.support.machines import leaving_at_once
from tests.support.waiting import until, until_one

EXAMPLES = int(os.environ.get("WHERRY_MODEL_EXAMPLES", "10"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 10 * EXAMPLES)]

LABEL = "daemons"
_numbers = itertools.count()


class Sets(InAWorld):
    """One StatefulSet and one DaemonSet in a namespace of their own."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._namespace = f"sets-{next(_numbers)}"
        self._replicas: int | None = None
        self._most = self._least = 0  # the most and the fewest replicas asked for since all was quiet
        self._serving = {"StatefulSet": Available(), "DaemonSet": Available()}
        self._daemons = False
        self._meant: set[str] = set()
        self._image = "one"
        self._live: dict[str, tuple[str, str, str]] = {}  # uid -> kind and uid of owner, node
        self._owners: dict[str, str] = {}  # kind -> uid of the one that is there
        self._wrong: list[str] = []
        self._told = asyncio.Event()
        world.run(self._begin())

    async def _begin(self) -> None:
        client = self._world.client
        await client.create(NAMESPACES, {"metadata": {"name": self._namespace}})
        await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace=self._namespace)
        for name in NODE_NAMES:
            await client.patch(NODES, name, {"metadata": {"labels": {LABEL: None}}})
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._world.client.watch(PODS, self._namespace, resource_version="0"):
            if event.type == "BOOKMARK":
                continue
            pod = event.decode()
            metadata = pod["metadata"]
            owner = (metadata.get("ownerReferences") or [{}])[0]
            if event.type == "DELETED" or metadata.get("deletionTimestamp"):
                self._live.pop(metadata["uid"], None)
            else:
                node = target(pod) if owner.get("kind") == "DaemonSet" else ""
                self._live[metadata["uid"]] = owner.get("kind", ""), owner.get("uid", ""), node
            if owner.get("kind") in self._serving:
                self._serving[owner["kind"]].note(pod, gone=event.type == "DELETED")
            self._check()

    def _check(self) -> None:
        self._told.set()
        own = [one for one in self._live.values() if one[1] and one[1] == self._owners.get(one[0])]
        if (count := sum(kind == "StatefulSet" for kind, _, _ in own)) > self._most:
            self._wrong.append(f"{count} pods where {self._most} were allowed")
        for kind, available in self._serving.items():
            if available.is_too_few(count := self._count_serving(kind)):
                self._wrong.append(f"{count} of a {kind} serve; promised {available.floor}, lost {available.lost}")
        nodes = Counter(node for kind, _, node in own if kind == "DaemonSet")
        self._wrong += [f"{count} daemons on {node}" for node, count in nodes.items() if count > 1]

    def _count_serving(self, kind: str) -> int:
        owner = self._owners.get(kind, "-")
        return len(self._serving[kind].among({uid for uid, one in self._live.items() if one[:2] == (kind, owner)}))

    # ---- what may happen

    @precondition(lambda self: self._replicas is None)
    @rule(replicas=st.integers(0, 4), policy=st.sampled_from(["OrderedReady", "Parallel"]))
    def create_stateful_set(self, replicas: int, policy: str) -> None:
        body = stateful_set(replicas=replicas)
        body["metadata"] = {"name": "db"}
        body["spec"]["podManagementPolicy"] = policy
        body["spec"]["template"]["spec"]["tolerations"] = leaving_at_once()
        body["spec"]["template"]["spec"]["containers"][0]["image"] = self._image
        self._replicas = self._most = self._least = replicas
        self._serving["StatefulSet"].promise(None)
        made = self._world.run(self._world.client.create(STATEFUL_SETS, body, self._namespace))
        self._owners["StatefulSet"] = made["metadata"]["uid"]

    @precondition(lambda self: self._replicas is not None)
    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self._replicas, self._most = replicas, max(replicas, self._most)
        self._least = min(replicas, self._least)
        if self._serving["StatefulSet"].floor is not None:
            self._serving["StatefulSet"].floor = max(self._least - 1, 0)
        self._world.run(
            self._world.client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": replicas}}, self._namespace)
        )

    @precondition(lambda self: not self._daemons)
    @rule()
    def create_daemon_set(self) -> None:
        body = daemon_set()
        body["metadata"] = {"name": "log"}
        body["spec"]["template"]["spec"]["nodeSelector"] = {LABEL: "yes"}
        body["spec"]["template"]["spec"]["containers"][0]["image"] = self._image
        self._daemons = True
        self._serving["DaemonSet"].promise(None)
        made = self._world.run(self._world.client.create(DAEMON_SETS, body, self._namespace))
        self._owners["DaemonSet"] = made["metadata"]["uid"]

    @rule(name=st.sampled_from(NODE_NAMES), meant=st.booleans())
    def label_node(self, name: str, meant: bool) -> None:
        (self._meant.add if meant else self._meant.discard)(name)
        daemons = self._serving["DaemonSet"]
        if daemons.floor is not None and not meant:
            daemons.floor = max(daemons.floor - 1, 0)
        labels = {LABEL: "yes" if meant else None}
        self._world.run(self._world.client.patch(NODES, name, {"metadata": {"labels": labels}}))

    @rule(image=st.sampled_from(["one", "two"]))
    def update(self, image: str) -> None:
        self._image = image
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
        for resource, name, there in ((STATEFUL_SETS, "db", self._replicas is not None),
                                      (DAEMON_SETS, "log", self._daemons)):  # fmt: skip
            if there:
                self._world.run(self._patch(resource, name, patch))

    async def _patch(self, resource: Any, name: str, patch: list[dict[str, Any]]) -> None:
        await self._world.client.patch(resource, name, patch, self._namespace, type=PatchType.JSON)

    @precondition(lambda self: self._replicas is not None or self._daemons)
    @rule(policy=st.sampled_from(["Background", "Foreground"]))
    def delete_both(self, policy: str) -> None:
        async def delete() -> None:
            client = self._world.client
            for resource, name in ((STATEFUL_SETS, "db"), (DAEMON_SETS, "log")):
                with contextlib.suppress(errors.NotFound):
                    await client.delete(resource, name, self._namespace, options={"propagationPolicy": policy})
                await until(client, resource, lambda found: not found, namespace=self._namespace, deadline_seconds=20)

        self._replicas, self._daemons, self._owners = None, False, {}
        for available in self._serving.values():
            available.promise(None)
        self._recover()
        self._world.run(delete())
        # A pod of the old set keeps its name until it is collected.
        self._world.run(self._settle())

    @rule(which=st.integers(0, 20))
    def lose_a_pod(self, which: int) -> None:
        async def lose() -> None:
            client = self._world.client
            pods = sorted((await client.list(PODS, self._namespace))["items"], key=lambda pod: pod["metadata"]["name"])
            if pods:
                metadata = pods[which % len(pods)]["metadata"]
                for available in self._serving.values():
                    available.take(metadata["uid"])
                with contextlib.suppress(errors.NotFound):
                    await client.delete(PODS, metadata["name"], self._namespace)

        self._world.run(lose())

    @rule()
    def settle(self) -> None:
        """Wait until all is as asked, and look at it closely.

        All nodes are there then: a StatefulSet's pod on one that is away is replaced by none, for it may run on.
        """
        self._recover()
        self._world.run(self._settle())
        self._most = self._least = self._replicas or 0
        self._serving["StatefulSet"].promise(None if self._replicas is None else max(self._replicas - 1, 0))
        self._serving["DaemonSet"].promise(max(len(self._meant) - 1, 0) if self._daemons else None)

    async def _settle(self) -> None:
        client, replicas = self._world.client, self._replicas
        meant = self._meant if self._daemons else set()

        def quiet(pods: list[dict[str, Any]]) -> bool:
            stateful = [pod for pod in pods if pod["metadata"]["name"].startswith("db-")]
            daemons = [pod for pod in pods if pod not in stateful]
            names = sorted(pod["metadata"]["name"] for pod in stateful)
            return (
                names == [f"db-{number}" for number in range(replicas or 0)]
                and sorted(map(target, daemons)) == sorted(meant)
                and not any(pod["metadata"].get("deletionTimestamp") for pod in pods)
                and {pod["spec"]["containers"][0]["image"] for pod in pods} <= {self._image}
            )

        await until(client, PODS, quiet, namespace=self._namespace, deadline_seconds=30)
        if replicas is not None:
            await until_one(
                client, STATEFUL_SETS, "db",
                lambda obj: self._is_told(obj, "readyReplicas", replicas)
                and obj["status"]["currentRevision"] == obj["status"]["updateRevision"],
                namespace=self._namespace, deadline_seconds=30,
            )  # fmt: skip
        if self._daemons:
            await until_one(
                client, DAEMON_SETS, "log",
                lambda obj: self._is_told(obj, "numberReady", len(meant))
                and obj["status"]["desiredNumberScheduled"] == len(meant),
                namespace=self._namespace, deadline_seconds=30,
            )  # fmt: skip
        async with asyncio.timeout(30):
            # Our own watch may lag behind.
            while (self._count_serving("StatefulSet"), self._count_serving("DaemonSet")) != (replicas or 0, len(meant)):
                self._told.clear()
                await self._told.wait()

    @staticmethod
    def _is_told(obj: dict[str, Any], field: str, count: int) -> bool:
        status = obj.get("status") or {}
        return status.get(field, 0) == count and status.get("observedGeneration") == obj["metadata"]["generation"]

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self._wrong

    def teardown(self) -> None:
        self._recover()

        async def end() -> None:
            try:
                await self._settle()
            finally:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
            await self._world.client.delete(NAMESPACES, self._namespace)

        self._world.run(end())
        assert not self._wrong


def test_no_history_of_sets_breaks_what_must_hold(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(world.open())
    try:
        run_state_machine_as_test(
            lambda: Sets(world),
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        world.close()
