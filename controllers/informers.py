"""The informers the controllers share: one watch and one copy a resource, whoever asks."""

import asyncio
from typing import Any, TypeVar

from controllers.views import PartialObject
from machinery.api.meta import Resource
from machinery.client.informer import Informer
from machinery.client.rest import Client

T = TypeVar("T")
_Key = tuple[Resource, str]  # and its field selector


class InformerFactory:
    """Hands out informers and runs them; one asked for while the others run starts at once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._informers: dict[_Key, Informer[Any]] = {}
        self._views: dict[_Key, type] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(self, resource: Resource, view: type[T], *, field_selector: str = "") -> Informer[T]:
        """Return the informer of a resource, or of part of it; all who ask for the same must want the same view."""
        key = resource, field_selector
        if key not in self._informers:
            self._informers[key] = Informer(self._client, resource, view, field_selector=field_selector)
            self._views[key] = view
            self._start(key)
        if self._views[key] is not view:
            raise TypeError(f"{resource.plural}: {view} was asked for, {self._views[key]} is there")
        return self._informers[key]

    def any_informer(self, resource: Resource) -> Informer[Any]:
        """Return the informer that is there, else one of metadata only."""
        return self._informers.get((resource, "")) or self.informer(resource, PartialObject)

    def drop(self, resource: Resource) -> None:
        """Stop watching a resource that is no longer served."""
        key = resource, ""
        self._informers.pop(key, None)
        self._views.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run all informers in `group`."""
        self._group = group
        for key in self._informers:
            self._start(key)

    async def synced(self) -> None:
        """Wait until each informer has its first list."""
        for informer in tuple(self._informers.values()):
            await informer.synced()

    def _start(self, key: _Key) -> None:
        if self._group is not None:
            run = self._informers[key].run()
            self._tasks[key] = self._group.create_task(run, name=f"informer {key[0].group_resource}")
