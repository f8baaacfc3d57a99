"""The statistics part of CRI's RuntimeService."""

import asyncio
from collections.abc import Sequence

from agent.cri import api_pb2 as cri
from agent.runtime import kernel, stats, views
from agent.runtime.container import container_config
from agent.runtime.rootfs import RootFilesystems
from agent.runtime.sandbox import SandboxManager, config_of
from agent.runtime.state import ContainerRecord, Records, SandboxRecord


class Statistics:
    """Collects what containers and sandboxes use."""

    def __init__(
        self,
        sandboxes: Records[SandboxRecord],
        containers: Records[ContainerRecord],
        sandbox_manager: SandboxManager,
        filesystems: RootFilesystems,
    ) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._sandbox_manager = sandbox_manager
        self._filesystems = filesystems
        self._sampler = stats.Sampler()

    async def container(self, container_id: str) -> cri.ContainerStats:
        """One container's.

        Raises: NotFound.
        """
        return await asyncio.to_thread(self._container, self._containers.get(container_id))

    async def containers(self, wanted: cri.ContainerStatsFilter) -> list[cri.ContainerStats]:
        """Those of all running containers that match."""
        records = [
            record
            for record in self._containers.all()
            if record.state == "running"
            and record.id.startswith(wanted.id)
            and record.sandbox_id.startswith(wanted.pod_sandbox_id)
            and views.labels_match(container_config(record).labels, wanted.label_selector)
        ]
        return await asyncio.to_thread(self._all, records)

    def _all(self, records: Sequence[ContainerRecord]) -> list[cri.ContainerStats]:
        keep = {key for record in self._containers.all() for key in (record.id, record.cgroup)}
        self._sampler.forget_all_but(keep | {record.cgroup for record in self._sandboxes.all()})
        return [self._container(record) for record in records]

    def _container(self, record: ContainerRecord) -> cri.ContainerStats:
        config = container_config(record)
        found = cri.ContainerStats(
            attributes=cri.ContainerAttributes(
                id=record.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
            ),
            writable_layer=self._sampler.disk(record.id, [self._filesystems.upper(record.id)]),
        )
        if record.state == "running":
            found.cpu.CopyFrom(self._sampler.cpu(record.cgroup))
            found.memory.CopyFrom(self._sampler.memory(record.cgroup))
        return found

    async def sandbox(self, sandbox_id: str) -> cri.PodSandboxStats:
        """One sandbox's.

        Raises: NotFound.
        """
        return await self._sandbox(self._sandboxes.get(sandbox_id))

    async def sandboxes(self, wanted: cri.PodSandboxStatsFilter) -> list[cri.PodSandboxStats]:
        """Those of all ready sandboxes that match."""
        return [
            await self._sandbox(record)
            for record in self._sandboxes.all()
            if record.state == "ready"
            and record.id.startswith(wanted.id)
            and views.labels_match(config_of(record).labels, wanted.label_selector)
        ]

    async def _sandbox(self, record: SandboxRecord) -> cri.PodSandboxStats:
        config = config_of(record)
        linux = cri.LinuxPodSandboxStats(
            containers=await self.containers(cri.ContainerStatsFilter(pod_sandbox_id=record.id))
        )
        linux.cpu.CopyFrom(self._sampler.cpu(record.cgroup))
        linux.memory.CopyFrom(self._sampler.memory(record.cgroup))
        linux.process.timestamp = linux.cpu.timestamp
        linux.process.process_count.value = await asyncio.to_thread(stats.process_count, record.cgroup)
        netns = self._sandbox_manager.network_namespace(record)
        if netns is not None and record.state == "ready":
            found = await kernel.in_own_thread(lambda: stats.interfaces(netns))
            linux.network.CopyFrom(stats.network_usage(found))
        attributes = cri.PodSandboxAttributes(
            id=record.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
        return cri.PodSandboxStats(attributes=attributes, linux=linux)
