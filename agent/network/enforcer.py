"""Keeps the rules of policies.py in the kernel, and holds a new pod's containers until its rules are there.

Pods and namespaces of the whole cluster are followed only once there is a policy: most clusters have none, and then the
API server does not let agents see the pods of other nodes.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from agent.network import nft
from agent.network.policies import Local, Rules, World, changes, compile_policies, whole
from agent.network.policy_views import Namespace, NetworkPolicy, Pod
from agent.network.proxy import pod_ips
from agent.pod_manager import PodManager
from machinery.api.resources import NAMESPACES, NETWORK_POLICIES, PODS
from machinery.client.informer import Informer
from machinery.client.rest import Client

log = logging.getLogger(__name__)

Object = dict[str, Any]
_GATHER_SECONDS = 0.02
_RETRY_SECONDS = 1.0
_CHECK_SECONDS = 15.0
# So long a pod waits for the API to tell the policies; for rules that are known it waits until they are written.
_GATE_SECONDS = 30.0


class PolicyEnforcer:
    """Holds pods to the policies of the cluster."""

    def __init__(self, client: Client, bridge: str, pods: PodManager, slices: Informer[Object]) -> None:
        """Args: `slices` has the index "service"."""
        self._table = f"inet {bridge}-policy"
        self._manager = pods
        self._policies: Informer[NetworkPolicy] = Informer(client, NETWORK_POLICIES, NetworkPolicy)
        self._pods: Informer[Pod] = Informer(client, PODS, Pod)
        self._namespaces: Informer[Namespace] = Informer(client, NAMESPACES, Namespace)
        self._slices = slices
        self._changed = asyncio.Event()
        self._written: Rules | None = None
        self._covered: frozenset[str] = frozenset()  # addresses of this node's pods that the written rules know
        self._settled = asyncio.Condition()
        self._policies.add_handler(self._note)
        self._namespaces.add_handler(self._note)
        self._pods.add_handler(self._pod_changed)

    def note(self) -> None:
        """A pod of this node came or went."""
        self._changed.set()

    def _note(self, _: Any, __: Any) -> None:
        self._changed.set()

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is None or new is None or (old.ips, old.metadata.labels) != (new.ips, new.metadata.labels):
            self._changed.set()

    async def wait_for(self, namespace: str, ips: tuple[str, ...]) -> None:
        """Return when the rules for a pod of these addresses are in the kernel; at once when none apply to it."""
        if self._policies.is_synced and not self._policies.list(namespace):
            return
        deadline = time.monotonic() + _GATE_SECONDS
        self._changed.set()
        async with self._settled:
            while not (self._policies.is_synced and self._covered.issuperset(ips)):
                if time.monotonic() > deadline and not self._policies.is_synced:
                    log.error("the API tells no network policies: %s goes without", ", ".join(ips))
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_SECONDS):
                        await self._settled.wait()

    async def run(self) -> None:
        """Enforce until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._policies.run())
            await self._policies.synced()
            if not self._policies.list() and await nft.chain_is_there(self._table, "ingress"):
                with contextlib.suppress(nft.RulesRefused):
                    await nft.apply(f"delete table {self._table}")  # the last policy went while no agent was there
            while not self._policies.list():
                await self._announce(frozenset())
                self._changed.clear()
                await self._changed.wait()
            for informer in (self._pods, self._namespaces):
                group.create_task(informer.run())
                await informer.synced()
            await self._follow()

    async def _follow(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._write()
            except nft.RulesRefused as error:
                log.error("the rules of network policies were not written: %s", error)
                self._written = None
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            while not self._changed.is_set():
                try:
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    if not await nft.chain_is_there(self._table, "ingress"):
                        self._written = None
                        self._changed.set()
            await asyncio.sleep(_GATHER_SECONDS)

    async def _write(self) -> None:
        here = list(self._here())
        world = World(self._namespaces.list(), self._pods.list(), [*self._stand_ins(), *here])
        rules = await asyncio.to_thread(compile_policies, self._policies.list(), world, here)
        text = changes(self._table, self._written, rules) if self._written is not None else None
        if text is None:
            text = whole(self._table, rules)
        if text:
            await nft.apply(text)
        self._written = rules
        await self._announce(frozenset(ip for pod in here for ip in pod.ips))

    async def _announce(self, covered: frozenset[str]) -> None:
        async with self._settled:
            self._covered = covered
            self._settled.notify_all()

    def _here(self) -> Iterator[Local]:
        """The pods of this node, at the addresses the runtime has given them."""
        for runtime in self._manager.runtimes():
            pod, ips = runtime.pod, pod_ips(runtime)
            spec, metadata = pod["spec"], pod["metadata"]
            if spec.get("hostNetwork") or not ips:
                continue
            ports = tuple(
                (port["name"], port.get("protocol", "TCP"), port["containerPort"])
                for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
                for port in container.get("ports") or ()
                if port.get("name")
            )
            yield Local(metadata["namespace"], metadata["name"], metadata.get("labels") or {}, tuple(ips), ports)

    def _stand_ins(self) -> Iterator[Local]:
        """Cluster DNS, which is no pod here: rules that name the pods of kube-dns mean it."""
        for one in self._slices.by_index("service", "kube-system/kube-dns"):
            ports = tuple((port["name"], port["protocol"], port["port"]) for port in one.get("ports") or ())
            for number, endpoint in enumerate(one.get("endpoints") or ()):
                if not endpoint.get("targetRef"):
                    name = f"{one['metadata']['name']}-{number}"
                    yield Local("kube-system", name, {"k8s-app": "kube-dns"}, tuple(endpoint["addresses"]), ports)
