"""Keeps the catalog in step with the definitions in the store; each server does it by its own watch cache."""

import asyncio
import logging
from typing import Any

import orjson

from apiserver.customresources.conversion import Converter, ServiceResolver
from apiserver.customresources.kinds import Definition, has_condition
from apiserver.registry.apiextensions import DEFINITIONS
from apiserver.registry.catalog import Catalog
from apiserver.storage.watch_cache import Entry, WatchCache

log = logging.getLogger(__name__)


class Follower:
    """Serves what established definitions define."""

    def __init__(self, cache: WatchCache, catalog: Catalog) -> None:
        self._cache = cache
        self._catalog = catalog
        self._collection = cache.collection(DEFINITIONS.group_resource)
        self._resolver = ServiceResolver(cache)
        self._served: dict[str, tuple[bytes, Definition]] = {}
        self._seen: dict[str, int] = {}

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            with self._collection.watch("", after=None) as watcher:
                self.catch_up()
                while not watcher.overrun:
                    if await watcher.wait(3600) and watcher.take():
                        self.catch_up()
            await asyncio.sleep(0)

    def catch_up(self) -> None:
        """Bring the catalog to what the cache shows now."""
        present = {entry.name: entry for entry in self._collection.entries("")}
        for name in [name for name in self._seen if name not in present]:
            del self._seen[name]
            self._set(name, None)
        for name, entry in present.items():
            if self._seen.get(name) != entry.revision:
                self._seen[name] = entry.revision
                self._take(entry)

    def _take(self, entry: Entry) -> None:
        crd = entry.object()
        try:
            self._set(entry.name, crd if has_condition(crd, "Established") else None)
        except Exception as error:  # noqa: BLE001 - one definition in an odd form must not hide the others
            log.warning("definition %s can't be served: %s", entry.name, error)
            self._set(entry.name, None)

    def _set(self, name: str, crd: dict[str, Any] | None) -> None:
        what = b"" if crd is None else _served_part(crd)
        old = self._served.get(name)
        if (old[0] if old is not None else b"") == what:
            return
        if crd is None:
            self._served.pop(name, None)
            self._catalog.set_custom(name, ())
        else:
            definition = Definition(crd, Converter(crd["spec"], self._resolver))
            kinds = definition.kinds()
            for kind in kinds:
                self._cache.collection(kind.resource.group_resource)
            self._catalog.set_custom(name, kinds)
            self._served[name] = what, definition
        if old is not None:
            old[1].end()


def _served_part(crd: dict[str, Any]) -> bytes:
    """Return what of a definition bears on how it is served: other changes leave watches alone."""
    status = crd.get("status") or {}
    return orjson.dumps([crd["spec"], status.get("acceptedNames"), has_condition(crd, "Terminating")])
