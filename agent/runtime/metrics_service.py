"""The metrics part of CRI's RuntimeService."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from agent.cri import api_pb2 as cri
from agent.runtime import cgroups, kernel, metrics, stats
from agent.runtime.container import container_config
from agent.runtime.metric_names import FAMILIES, HUGE_PAGES, PRESSURE
from agent.runtime.rootfs import RootFilesystems
from agent.runtime.sandbox import SandboxManager, config_of
from agent.runtime.state import ContainerRecord, Records, SandboxRecord


class Metrics:
    """Tells the metrics of all sandboxes that are ready and of their running containers."""

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

    @staticmethod
    def descriptors() -> list[cri.MetricDescriptor]:
        """What there can be on this machine."""
        root = cgroups.folder("memory", "/")
        absent = [
            prefix
            for prefix, is_there in (
                (PRESSURE, (root / "memory.pressure").exists() and cgroups.is_v2()),
                (HUGE_PAGES, any(cgroups.folder("hugetlb", "/").glob("*/hugetlb.*"))),
            )
            if not is_there
        ]
        return [family.descriptor() for name, family in FAMILIES.items() if not name.startswith(tuple(absent))]

    async def all(self) -> list[cri.PodSandboxMetrics]:
        """Measure now."""
        ready = [record for record in self._sandboxes.all() if record.state == "ready"]
        running: dict[str, list[ContainerRecord]] = {}
        for record in self._containers.all():
            if record.state == "running":
                running.setdefault(record.sandbox_id, []).append(record)
        self._sampler.forget_all_but({record.id for records in running.values() for record in records})
        return [await self._sandbox(record, running.get(record.id, [])) for record in ready]

    async def _sandbox(self, record: SandboxRecord, running: Sequence[ContainerRecord]) -> cri.PodSandboxMetrics:
        config = config_of(record)
        labels = (record.id, "POD", "", "", config.metadata.namespace, config.metadata.name)
        netns = self._sandbox_manager.network_namespace(record)
        network = await kernel.in_own_thread(lambda: metrics.of_network(netns)) if netns is not None else []
        found = await asyncio.to_thread(lambda: [*network, *metrics.of_cgroup(record.cgroup)])
        return cri.PodSandboxMetrics(
            pod_sandbox_id=record.id,
            metrics=_messages(labels, found),
            container_metrics=[await asyncio.to_thread(self._container, one, config) for one in running],
        )

    def _container(self, record: ContainerRecord, pod: cri.PodSandboxConfig) -> cri.ContainerMetrics:
        config = container_config(record)
        image = config.image.user_specified_image or config.image.image
        name = config.metadata.name
        labels = (record.id, name, image, name, pod.metadata.namespace, pod.metadata.name)
        return cri.ContainerMetrics(container_id=record.id, metrics=_messages(labels, self._samples(record)))

    def _samples(self, record: ContainerRecord) -> Iterator[metrics.Sample]:
        yield from metrics.of_cgroup(record.cgroup)
        asked = cri.LinuxContainerResources.FromString(record.resources)
        yield from metrics.of_resources(asked, record.cgroup)
        yield from metrics.of_first_process(record.pid)
        upper = self._filesystems.upper(record.id)
        if upper.exists():
            yield from metrics.of_file_system(upper, self._sampler.disk(record.id, [upper]).used_bytes.value)
        yield "start_time_seconds", record.started_at // 1_000_000_000, ()


def _messages(labels: Sequence[str], samples: Iterable[metrics.Sample]) -> list[cri.Metric]:
    now = time.time_ns()
    return [
        cri.Metric(
            name=f"container_{name}",
            timestamp=now,
            metric_type=FAMILIES[f"container_{name}"].kind,
            label_values=[*labels, *further],
            value=cri.UInt64Value(value=value),
        )
        for name, value, further in samples
    ]
