"""The scheduler, put together: its clients, what it follows, and the lease that makes it the only one."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from machinery.api.meta import ObjectKey
from machinery.api.resources import (
    CSI_DRIVERS,
    CSI_NODES,
    CSI_STORAGE_CAPACITIES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
)  # fmt: skip
from machinery.api.selectors import LabelSelector, SelectorError, from_label_selector, from_labels
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.leaderelection import LeaderElector
from machinery.client.reflector import Reflector
from machinery.client.rest import Client
from scheduler.binder import Binder
from scheduler.cluster import Cluster
from scheduler.config import SchedulerConfig, default_config
from scheduler.feed import PodFeed
from scheduler.scheduler import Scheduler
from scheduler.views import NamespaceOnly, SelectorOnly, ServiceOnly

log = logging.getLogger(__name__)

_WORKLOADS = {
    "ReplicaSet": REPLICA_SETS,
    "StatefulSet": STATEFUL_SETS,
    "ReplicationController": REPLICATION_CONTROLLERS,
}


_STORAGE = (
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, CSI_NODES, CSI_DRIVERS, CSI_STORAGE_CAPACITIES,
)  # fmt: skip


async def run(
    config: ClientConfig,
    *,
    leader_elect: bool = True,
    identity: str = "",
    settings: SchedulerConfig | None = None,
) -> None:
    """Place pods until cancelled; with `leader_elect`, only while we hold the lease."""
    chosen = settings or default_config()
    async with Client(config, user_agent="wherry-scheduler") as client:

        async def lead() -> None:
            await schedule(client, config, chosen)

        if leader_elect:
            elector = LeaderElector(
                client, chosen.lease_name, chosen.lease_namespace, identity=identity, **chosen.lease
            )
            await elector.run(lead)
        else:
            await lead()


async def schedule(client: Client, config: ClientConfig, settings: SchedulerConfig) -> None:
    """Place pods until cancelled."""
    followed = Followed(client)
    async with Binder(config) as binder, asyncio.TaskGroup() as group:
        scheduler = Scheduler(client, binder, settings, followed.cluster)
        await followed.start(group, scheduler)
        synced = asyncio.Event()
        feed = PodFeed(scheduler.on_pod, synced.set)
        group.create_task(Reflector(client, PODS, feed).run())
        await synced.wait()
        group.create_task(scheduler.place())


class Followed:
    """What the scheduler follows besides pods, and how plugins look it up."""

    def __init__(self, client: Client) -> None:
        self._nodes: Informer[Any] = Informer(client, NODES, dict)
        self._namespaces: Informer[NamespaceOnly] = Informer(client, NAMESPACES, NamespaceOnly)
        self._services: Informer[ServiceOnly] = Informer(client, SERVICES, ServiceOnly)
        self._workloads = {kind: Informer(client, resource, SelectorOnly) for kind, resource in _WORKLOADS.items()}
        self._budgets: Informer[Any] = Informer(client, POD_DISRUPTION_BUDGETS, dict)
        self._storage: dict[str, Informer[Any]] = {
            resource.kind: Informer(client, resource, dict) for resource in _STORAGE
        }
        claims, volumes = self._storage["PersistentVolumeClaim"], self._storage["PersistentVolume"]
        self.cluster = Cluster(
            services=self._selectors,
            workload=self._workload,
            budgets=self._budgets.list,
            claim=lambda namespace, name: claims.get(ObjectKey(namespace, name)),
            volume=self._named("PersistentVolume"),
            volumes=volumes.list,
            storage_class=self._named("StorageClass"),
            csi_node=self._named("CSINode"),
            csi_driver=self._named("CSIDriver"),
            capacities=self._storage["CSIStorageCapacity"].list,
            client=client,
        )

    def _named(self, kind: str) -> Callable[[str], Any]:
        informer = self._storage[kind]
        return lambda name: informer.get(ObjectKey("", name))

    async def start(self, group: asyncio.TaskGroup, scheduler: Scheduler) -> None:
        """Follow everything, and wait until it is here: a pod that came before its node would be misjudged."""
        self._nodes.add_handler(scheduler.on_node)

        def on_namespace(old: NamespaceOnly | None, new: NamespaceOnly | None) -> None:
            if (some := new or old) is not None:
                scheduler.on_namespace(some.metadata.name, None if new is None else new.metadata.labels or {})

        self._namespaces.add_handler(on_namespace)
        for kind, informer in self._others():
            informer.add_handler(partial(scheduler.on_other, kind))
        everything = [self._nodes, self._namespaces, *(informer for _, informer in self._others())]
        for informer in everything:
            group.create_task(informer.run())
        await asyncio.gather(*(informer.synced() for informer in everything))

    def _others(self) -> Iterator[tuple[str, Informer[Any]]]:
        yield "Service", self._services
        yield from self._workloads.items()
        yield "PodDisruptionBudget", self._budgets
        yield from self._storage.items()

    def _selectors(self, namespace: str) -> list[Mapping[str, str]]:
        return [one.spec.selector for one in self._services.list(namespace) if one.spec.selector]

    def _workload(self, kind: str, namespace: str, name: str) -> LabelSelector | None:
        informer = self._workloads.get(kind)
        found = informer.get(ObjectKey(namespace, name)) if informer is not None else None
        if found is None or not found.spec.selector:
            return None
        if kind == "ReplicationController":
            return from_labels(found.spec.selector)
        try:
            return from_label_selector(found.spec.selector)
        except SelectorError:
            return None
