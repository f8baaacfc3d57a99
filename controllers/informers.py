"""The informers the controllers share: one watch and one copy a resource, whoever asks."""

import asyncio
from typing import Any, TypeVar

from controllers.views import PartialObject
from machinery.api.meta import Resource
from machinery.client.informer import Informer
from machinery.client.rest import Client

T = TypeVar("T")


class InformerFactory:
    """Hands out informers and runs them; one asked for while the others run starts at once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._informers: dict[Resource, Informer[Any]] = {}
        self._views: dict[Resource, type] = {}
        self._tasks: dict[Resource, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(self, resource: Resource, view: type[T]) -> Informer[T]:
        """Return the informer of a resource; all who ask for it must want the same view."""
        if resource not in self._informers:
            self._informers[resource] = Informer(self._client, resource, view)
            self._views[resource] = view
            self._start(resource)
        if self._views[resource] is not view:
            raise TypeError(f"{resource.plural}: {view} was asked for, {self._views[resource]} is there")
        return self._informers[resource]

    def any_informer(self, resource: Resource) -> Informer[Any]:
        """Return the informer that is there, else one of metadata only."""
        return self._informers.get(resource) or self.informer(resource, PartialObject)

    def drop(self, resource: Resource) -> None:
        """Stop watching a resource that is no longer served."""
        self._informers.pop(resource, None)
        self._views.pop(resource, None)
        task = self._tasks.pop(resource, None)
        if task is not None:
            task.cancel()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run all informers in `group`."""
        self._group = group
        for resource in self._informers:
            self._start(resource)

    async def synced(self) -> None:
        """Wait until each informer has its first list."""
        for informer in tuple(self._informers.values()):
            await informer.synced()

    def _start(self, resource: Resource) -> None:
        if self._group is not None:
            run = self._informers[resource].run()
            self._tasks[resource] = self._group.create_task(run, name=f"informer {resource.group_resource}")
