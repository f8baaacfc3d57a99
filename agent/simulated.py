"""Nodes that only say they run what they are given: for trying out schedulers and controllers without containers.

Pods bound to them become Running and Ready at once, and go when they are deleted.
"""

import asyncio
import contextlib
import logging
from typing import Any

from agent.config import LEASE_NAMESPACE
from agent.node import LEASE_SECONDS, RENEW_SECONDS, VERSION, architecture
from machinery.api import meta
from machinery.api.resources import LEASES, NODES, PODS
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError, Conflict, NotFound

log = logging.getLogger(__name__)

Object = dict[str, Any]
PREFIX = "sim-"
_WRITERS = 16
_RESOURCES = {"cpu": "32", "memory": "256Gi", "pods": "256", "ephemeral-storage": "1Ti"}


async def run_simulated_nodes(config: ClientConfig, count: int) -> None:
    """Be `count` nodes named sim-0, sim-1, … until cancelled."""
    async with Client(config, user_agent="wherry-simulated-nodes") as client:
        names = [f"{PREFIX}{number}" for number in range(count)]
        await _retried(lambda: _in_parallel([_register(client, name) for name in names]))
        async with asyncio.TaskGroup() as group:
            group.create_task(_renew(client, names))
            await _Pods(client, set(names)).run(group)


async def _in_parallel(work: list[Any]) -> None:
    limit = asyncio.Semaphore(_WRITERS)

    async def one(job: Any) -> None:
        async with limit:
            await job

    await asyncio.gather(*(one(job) for job in work))


async def _retried(make: Any) -> None:
    while True:
        try:
            await make()
        except (APIError, ConnectionFailed) as error:
            log.warning("simulated nodes: %s", error)
            await asyncio.sleep(0.5)
        else:
            return


async def _register(client: Client, name: str) -> None:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture()}
    node = {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {**labels, "wherry/simulated": "true"}},
    }
    with contextlib.suppress(AlreadyExists):
        await client.create(NODES, node)
    now = meta.now()
    ready = {
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }  # fmt: skip
    info = {
        "kubeletVersion": VERSION, "operatingSystem": "linux", "architecture": architecture(), "osImage": "simulated",
        "containerRuntimeVersion": "simulated://1", "kernelVersion": "simulated", "machineID": name, "systemUUID": name,
        "bootID": name, "kubeProxyVersion": "",
    }  # fmt: skip
    status = {
        "capacity": _RESOURCES, "allocatable": _RESOURCES, "conditions": [ready], "nodeInfo": info,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
    }  # fmt: skip
    await client.patch(NODES, name, {"status": status}, subresource="status")


async def _renew(client: Client, names: list[str]) -> None:
    while True:
        await _retried(lambda: _in_parallel([_renew_one(client, name) for name in names]))
        await asyncio.sleep(RENEW_SECONDS)


async def _renew_one(client: Client, name: str) -> None:
    at = meta.now_micro()
    try:
        await client.patch(LEASES, name, {"spec": {"renewTime": at}}, LEASE_NAMESPACE)
    except NotFound:
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": at}
        metadata = {"name": name, "namespace": LEASE_NAMESPACE}
        lease = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "spec": spec}
        await client.create(LEASES, lease, LEASE_NAMESPACE)


class _Pods:
    """The pods of the simulated nodes."""

    def __init__(self, client: Client, names: set[str]) -> None:
        self._client = client
        self._names = names
        self._queue: asyncio.Queue[Object] = asyncio.Queue()
        self._addresses = 0

    async def run(self, group: asyncio.TaskGroup) -> None:
        informer: Informer[Object] = Informer(self._client, PODS, dict)
        informer.add_handler(self._on_pod)
        group.create_task(informer.run())
        for _ in range(_WRITERS):
            group.create_task(self._work())

    def _on_pod(self, _: Object | None, pod: Object | None) -> None:
        if pod is not None and pod["spec"].get("nodeName") in self._names:
            self._queue.put_nowait(pod)

    async def _work(self) -> None:
        while True:
            pod = await self._queue.get()
            with contextlib.suppress(NotFound, Conflict):
                try:
                    await self._act(pod)
                except ConnectionFailed as error:
                    log.warning("simulated nodes: %s", error)
                    self._queue.put_nowait(pod)
                    await asyncio.sleep(0.5)

    async def _act(self, pod: Object) -> None:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            await self._client.delete(PODS, metadata["name"], metadata["namespace"], options=options)
        elif (pod.get("status") or {}).get("phase") == "Pending":
            body = {"metadata": {"uid": metadata["uid"]}, "status": self._running(pod)}
            await self._client.patch(PODS, metadata["name"], body, metadata["namespace"], subresource="status")

    def _running(self, pod: Object) -> Object:
        self._addresses += 1
        ip = f"10.{200 + self._addresses // 65536 % 55}.{self._addresses // 256 % 256}.{self._addresses % 256}"
        now = meta.now()
        kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        containers = [
            {
                "name": one["name"], "image": one.get("image", ""), "imageID": "", "restartCount": 0, "ready": True,
                "started": True, "state": {"running": {"startedAt": now}}, "lastState": {},
                "containerID": f"simulated://{pod['metadata']['uid']}-{one['name']}",
            }
            for one in pod["spec"]["containers"]
        ]  # fmt: skip
        return {
            "phase": "Running", "hostIP": "127.0.0.1", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "containerStatuses": containers,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        }  # fmt: skip
