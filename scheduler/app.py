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
    DEVICE_CLASSES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
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
from scheduler.extenders import extenders
from scheduler.feed import PodFeed
from scheduler.scheduler import Scheduler
from scheduler.status import StatusOptions, StatusServer
from scheduler.views import NamespaceOnly, NodeView, SelectorOnly, ServiceOnly

log = logging.getLogger(__name__)

_WORKLOADS = {
    "ReplicaSet": REPLICA_SETS,
    "StatefulSet": STATEFUL_SETS,
    "ReplicationController": REPLICATION_CONTROLLERS,
}


_STORAGE = (
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES, CSI_NODES, CSI_DRIVERS, CSI_STORAGE_CAPACITIES,
    VOLUME_ATTACHMENTS, RESOURCE_CLAIMS, RESOURCE_SLICES, DEVICE_CLASSES,
)  # fmt: skip


# Pods that are done hold no place; there may be more of them than of all others.
_NOT_DONE = "status.phase!=Succeeded,status.phase!=Failed"


async def run(
    config: ClientConfig,
    *,
    leader_elect: bool = True,
    identity: str = "",
    settings: SchedulerConfig | None = None,
    status: StatusOptions | None = None,
) -> None:
    """Place pods until cancelled; with `leader_elect`, only while we hold the lease."""
    chosen = settings or default_config()
    server = StatusServer()
    async with (
        Client(config, user_agent="wherry-scheduler") as client,
        server.serving(status or StatusOptions()),
    ):
        server.ready = True

        async def lead() -> None:
            try:
                await schedule(client, config, chosen, server)
            finally:
                server.scheduler = None

        if leader_elect:
            elector = LeaderElector(
                client, chosen.lease_name, chosen.lease_namespace, identity=identity, **chosen.lease
            )
            await elector.run(lead)
        else:
            await lead()


async def schedule(client: Client, config: ClientConfig, settings: SchedulerConfig, server: StatusServer) -> None:
    """Place pods until cancelled."""
    followed = Followed(client)
    async with (
        Binder(config) as binder,
        extenders(settings.extenders, client) as asked,
        asyncio.TaskGroup() as group,
    ):
        scheduler = Scheduler(client, binder, settings, followed.cluster, asked)
        group.create_task(_until_the_end(scheduler))
        await followed.start(group, scheduler)
        synced = asyncio.Event()
        feed = PodFeed(scheduler.on_pod, synced.set)
        group.create_task(Reflector(client, PODS, feed, pages=feed, field_selector=_NOT_DONE).run())
        await synced.wait()
        server.scheduler = scheduler
        group.create_task(scheduler.place())


async def _until_the_end(scheduler: Scheduler) -> None:
    """Have nothing go on in the scheduler's name once it is not to act any more."""
    try:
        await asyncio.Event().wait()
    finally:
        await scheduler.stop()


class Followed:
    """What the scheduler follows besides pods, and how plugins look it up."""

    def __init__(self, client: Client) -> None:
        self._nodes: Informer[NodeView] = Informer(client, NODES, NodeView)
        self._namespaces: Informer[NamespaceOnly] = Informer(client, NAMESPACES, NamespaceOnly)
        self._services: Informer[ServiceOnly] = Informer(client, SERVICES, ServiceOnly)
        self._workloads = {kind: Informer(client, resource, SelectorOnly) for kind, resource in _WORKLOADS.items()}
        self._budgets: Informer[Any] = Informer(client, POD_DISRUPTION_BUDGETS, dict)
        self._storage: dict[str, Informer[Any]] = {
            resource.kind: Informer(client, resource, dict) for resource in _STORAGE
        }
        device_claims = self._storage["ResourceClaim"]
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
            attachments=self._storage["VolumeAttachment"].list,
            device_claim=lambda namespace, name: device_claims.get(ObjectKey(namespace, name)),
            device_claims=device_claims.list,
            device_slices=self._storage["ResourceSlice"].list,
            device_class=self._named("DeviceClass"),
            device_classes=self._storage["DeviceClass"].list,
            client=client,
        )

    def _named(self, kind: str) -> Callable[[str], Any]:
        informer = self._storage[kind]
        return lambda name: informer.get(ObjectKey("", name))

    async def start(self, group: asyncio.TaskGroup, scheduler: Scheduler) -> None:
        """Follow everything, and wait until it is here: a pod that came before its node would be misjudged."""

        def on_node(old: NodeView | None, new: NodeView | None) -> None:
            scheduler.on_node(*(None if one is None else one.as_object() for one in (old, new)))

        self._nodes.add_handler(on_node)

        def on_namespace(old: NamespaceOnly | None, new: NamespaceOnly | None) -> None:
            if (some := new or old) is not None:
                scheduler.on_namespace(some.metadata.name, None if new is None else new.metadata.labels or {})

        self._namespaces.add_handler(on_namespace)
        for kind, informer in self._others():
            informer.add_handler(partial(scheduler.on_other, kind))
        everything: list[Informer[Any]] = [self._nodes, self._namespaces, *(informer for _, informer in self._others())]
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
