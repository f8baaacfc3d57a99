"""What plugins look up about the cluster beside its nodes and pods: workloads, volumes, budgets. Read-only."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from machinery.api.selectors import LabelSelector

Object = Mapping[str, Any]


def _none(*_: Any) -> Any:
    return None


def _empty(*_: Any) -> Iterable[Any]:
    return ()


def _close(work: Coroutine[Any, Any, None]) -> None:
    work.close()


@dataclass(slots=True)
class Cluster:
    """Each field looks one thing up; what no informer follows is simply not there."""

    services: Callable[[str], Iterable[Mapping[str, str]]] = _empty
    """The selectors of a namespace's Services."""
    workload: Callable[[str, str, str], LabelSelector | None] = _none
    """The selector of a workload, by kind, namespace and name."""
    budgets: Callable[[], Iterable[Object]] = _empty
    """All PodDisruptionBudgets."""
    claim: Callable[[str, str], Object | None] = _none
    """A PersistentVolumeClaim, by namespace and name."""
    volume: Callable[[str], Object | None] = _none
    """A PersistentVolume."""
    volumes: Callable[[], Iterable[Object]] = _empty
    """All PersistentVolumes."""
    storage_class: Callable[[str], Object | None] = _none
    csi_node: Callable[[str], Object | None] = _none
    csi_driver: Callable[[str], Object | None] = _none
    capacities: Callable[[], Iterable[Object]] = _empty
    attachments: Callable[[], Iterable[Object]] = _empty
    """All VolumeAttachments."""
    device_claim: Callable[[str, str], Object | None] = _none
    """A ResourceClaim, by namespace and name."""
    device_claims: Callable[[], Iterable[Object]] = _empty
    device_slices: Callable[[], Iterable[Object]] = _empty
    device_class: Callable[[str], Object | None] = _none
    device_classes: Callable[[], Iterable[Object]] = _empty
    promised: dict[str, Object] = field(default_factory=dict)
    """By uid of claim: allocations that are decided and not written yet."""
    background: Callable[[Coroutine[Any, Any, None]], None] = _close
    """Has something done beside the placing; without a scheduler, nothing is."""
    tell: Callable[..., None] = _none
    """Has users told of a pod: type, reason and text of an event."""
    client: Any = None
    """How plugins write, when they must; None where nothing may be written."""
    version: int = 0
    """Grows when a service or a workload changes."""
    listeners: set[Callable[[], None]] = field(default_factory=set)

    def changed(self) -> None:
        """Tell those who wait in `until` that something is different."""
        for listener in tuple(self.listeners):
            listener()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is so. The caller sets the deadline."""
        news = asyncio.Event()
        self.listeners.add(news.set)
        try:
            while not holds():
                news.clear()
                await news.wait()
        finally:
            self.listeners.discard(news.set)
