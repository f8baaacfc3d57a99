"""Nodes that heartbeat, take the pods that have no node yet, run them to their end, and can fall silent and come back."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self

from machinery.api.meta import ObjectKey, key_of, now, now_micro
from machinery.api.resources import LEASES, NODES, PODS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError
from tests.support.agent import set_ended, set_running

BEAT_SECONDS = 0.2
_LEASE_NAMESPACE = "kube-node-lease"
AWAY = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def leaving_at_once() -> list[dict[str, Any]]:
    """Return the tolerations of a pod that leaves a node the moment it is away."""
    return [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0} for key in AWAY]


def target(pod: dict[str, Any]) -> str:
    """Return the node that a daemon's pod is for, "" for other pods."""
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", ())
    fields = [one for term in terms for one in term.get("matchFields", ()) if one["key"] == "metadata.name"]
    return fields[0]["values"][0] if fields else ""


class Machines:
    """The agents of some nodes, and a scheduler that asks for nothing but a node that is there. A context manager.

    Args:
        names: of the nodes, which are made where they are not there.
        exit_code: what a pod's container ends with by itself soon after its start; None goes on for ever.
    """

    def __init__(
        self,
        client: Client,
        names: Sequence[str],
        *,
        exit_code: Callable[[dict[str, Any]], int | None] = lambda _: None,
    ) -> None:
        self.silent: set[str] = set()
        self.names = tuple(names)
        self._client = client
        self._exit_code = exit_code
        self._turns = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for name in self.names:
            with contextlib.suppress(AlreadyExists):
                await self._client.create(NODES, {"metadata": {"name": name}})
            with contextlib.suppress(AlreadyExists):
                await self._client.create(LEASES, self._lease(name), _LEASE_NAMESPACE)
            await self._report(name)
        self._tasks = [asyncio.create_task(work()) for work in (self._beat, self._follow_pods, self._follow_nodes)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fail(self, name: str) -> None:
        """From now on the node says nothing and does nothing."""
        self.silent.add(name)

    async def recover(self, name: str) -> None:
        """Let the node report, and end or go on with what it ran."""
        self.silent.discard(name)
        await self._report(name)
        for pod in (await self._client.list(PODS, field_selector=f"spec.nodeName={name}"))["items"]:
            await self._act(pod)

    @staticmethod
    def _lease(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"holderIdentity": name, "renewTime": now_micro()}}

    async def _report(self, name: str) -> None:
        time = now()
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is",
                     "lastHeartbeatTime": time, "lastTransitionTime": time}  # fmt: skip
        with contextlib.suppress(APIError, ConnectionFailed):
            await self._client.patch(NODES, name, {"status": {"conditions": [condition]}}, subresource="status")

    async def _beat(self) -> None:
        while True:
            for name in self.names:
                if name not in self.silent:
                    spec = {"spec": {"renewTime": now_micro()}}
                    with contextlib.suppress(APIError, ConnectionFailed):
                        await self._client.patch(LEASES, name, spec, _LEASE_NAMESPACE)
            await asyncio.sleep(BEAT_SECONDS)

    async def _follow_nodes(self) -> None:
        async for event in self._client.watch(NODES, resource_version="0"):
            if event.type == "MODIFIED":
                node = event.decode()
                name, conditions = node["metadata"]["name"], (node.get("status") or {}).get("conditions") or ()
                away = any(one["type"] == "Ready" and one["status"] != "True" for one in conditions)
                if away and name in self.names and name not in self.silent:  # this machine was too slow for a moment
                    await self.recover(name)

    async def _follow_pods(self) -> None:
        async for event in self._client.watch(PODS, resource_version="0"):
            if event.type in ("ADDED", "MODIFIED"):
                await self._act(event.decode())

    async def _act(self, pod: dict[str, Any]) -> None:
        key, node = key_of(pod), pod["spec"].get("nodeName", "")
        if node in self.silent:
            return
        with contextlib.suppress(APIError, ConnectionFailed):
            if pod["metadata"].get("deletionTimestamp"):
                options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
                await self._client.delete(PODS, key.name, key.namespace, options=options)
            elif not node:
                await self._bind(key, target(pod))
            else:
                await self._run(pod, key)

    async def _bind(self, key: ObjectKey, wanted: str) -> None:
        working = [name for name in self.names if name not in self.silent]
        node = wanted or working[next(self._turns) % len(working)]
        body = {"metadata": {"name": key.name}, "target": {"kind": "Node", "name": node}}
        await self._client.create(PODS, body, key.namespace, subresource="binding", name=key.name)

    async def _run(self, pod: dict[str, Any], key: ObjectKey) -> None:
        status = pod.get("status") or {}
        phase = status.get("phase", "Pending")
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
        if phase == "Pending" or (phase == "Running" and not ready):
            await set_running(self._client, key, ip=f"10.0.{hash(key) % 256}.{hash(key.name) % 254 + 1}")
        elif phase == "Running" and (code := self._exit_code(pod)) is not None:
            await set_ended(self._client, key, code)
