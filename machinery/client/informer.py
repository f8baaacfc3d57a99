"""A local, indexed, always fresh copy of a resource, and a call for each change of it.

Objects are decoded from the bytes of the wire straight into the view the caller wants: a msgspec.Struct of the few
fields it reads, or a dict. Nothing here uses threads; handlers are plain functions called on the event loop.
"""

import asyncio
import builtins
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import orjson

from machinery.api.meta import ObjectKey, Resource
from machinery.client.reflector import Partial, Reflector, decode_partial
from machinery.client.rest import Client, WatchEvent

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[T | None, T | None], None]


class _Entry(NamedTuple, Generic[T]):
    uid: str
    version: str
    obj: T


class Informer(Generic[T]):
    """Holds the objects of one resource, in views of type T. What it hands out is shared: never change it."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        view: type[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexes: Mapping[str, Callable[[T], Iterable[str]]] | None = None,
    ) -> None:
        """Args: `indexes` maps an index's name to the function that gives an object's values in it."""
        self.resource = resource
        self._decode = _decoder(view, resource)
        self._entries: dict[ObjectKey, _Entry[T]] = {}
        self._namespaces: dict[str, dict[ObjectKey, None]] = {}  # the keys of each; a dict as an ordered set
        self._indexes = {name: _Index(values_of) for name, values_of in (indexes or {}).items()}
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._reflector = Reflector(
            client, resource, self, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )

    def get(self, key: ObjectKey) -> T | None:
        """Return the object at `key`, or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry.obj

    def list(self, namespace: str | None = None) -> list[T]:
        """Return all objects, or those of one namespace."""
        if namespace is None:
            return [entry.obj for entry in self._entries.values()]
        return [self._entries[key].obj for key in self._namespaces.get(namespace, ())]

    def by_index(self, index: str, value: str) -> builtins.list[T]:
        """Return the objects that have `value` in the index."""
        return [self._entries[key].obj for key in self._indexes[index].keys_of(value)]

    def add_index(self, name: str, values_of: Callable[[T], Iterable[str]]) -> None:
        """Add an index; the objects already here are entered. Adding one of the same name again changes nothing."""
        if name in self._indexes:
            return
        index = self._indexes[name] = _Index(values_of)
        for key, entry in self._entries.items():
            index.change(key, None, entry.obj)

    def version_of(self, key: ObjectKey) -> str:
        """Return the resourceVersion of the object here, "" when there is none."""
        entry = self._entries.get(key)
        return entry.version if entry is not None else ""

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler(old, new)` for each change from now on, and `(None, obj)` at once for each object here."""
        self._handlers.append(handler)
        for entry in tuple(self._entries.values()):
            self._call(handler, None, entry.obj)

    async def run(self) -> None:
        """Keep the copy fresh until cancelled."""
        await self._reflector.run()

    @property
    def is_synced(self) -> bool:
        """Whether the first list is here."""
        return self._synced.is_set()

    async def synced(self) -> None:
        """Wait until the first list is here."""
        await self._synced.wait()

    # ---- the reflector's sink

    def replace(self, items: builtins.list[msgspec.Raw]) -> None:
        """Take the whole state; what is here and not in `items` was deleted while nobody watched."""
        listed = set()
        for raw in items:
            partial = decode_partial(raw)
            listed.add(ObjectKey(partial.metadata.namespace, partial.metadata.name))
            self._put(raw, partial)
        for key in [key for key in self._entries if key not in listed]:
            self._remove(key)
        self._synced.set()

    def apply(self, event: WatchEvent, partial: Partial) -> None:
        """Take one change."""
        if event.type == "DELETED":
            self._remove(ObjectKey(partial.metadata.namespace, partial.metadata.name))
        else:
            self._put(event.object, partial)

    def _put(self, raw: msgspec.Raw, partial: Partial) -> None:
        metadata = partial.metadata
        key = ObjectKey(metadata.namespace, metadata.name)
        old = self._entries.get(key)
        if old is not None and old.version == metadata.resourceVersion:
            return
        try:
            new = _Entry(metadata.uid, metadata.resourceVersion, self._decode(raw))
        except msgspec.DecodeError:
            log.exception("%s %s does not fit its view", self.resource.group_resource, key)
            return
        if old is not None and old.uid != metadata.uid:
            self._remove(key)  # deleted and made anew while nobody watched: two things, so two calls
            old = None
        self._entries[key] = new
        self._namespaces.setdefault(key.namespace, {})[key] = None
        self._changed(key, None if old is None else old.obj, new.obj)

    def _remove(self, key: ObjectKey) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._namespaces[key.namespace].pop(key)
            if not self._namespaces[key.namespace]:
                del self._namespaces[key.namespace]
            self._changed(key, old.obj, None)

    def _changed(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        for index in self._indexes.values():
            index.change(key, old, new)
        for handler in self._handlers:
            self._call(handler, old, new)

    def _call(self, handler: Handler[T], old: T | None, new: T | None) -> None:
        try:
            handler(old, new)
        except Exception:
            # One faulty handler must not stop the others, or the watch.
            log.exception("handler of %s failed", self.resource.group_resource)


class _Index(Generic[T]):
    """From a value to the keys of the objects that have it."""

    def __init__(self, values_of: Callable[[T], Iterable[str]]) -> None:
        self._values_of = values_of
        self._keys: dict[str, dict[ObjectKey, None]] = {}  # dicts as ordered sets

    def keys_of(self, value: str) -> Iterable[ObjectKey]:
        return self._keys.get(value, ())

    def change(self, key: ObjectKey, old: T | None, new: T | None) -> None:
        before = set() if old is None else set(self._values_of(old))
        after = set() if new is None else set(self._values_of(new))
        for value in before - after:
            self._keys[value].pop(key, None)
            if not self._keys[value]:
                del self._keys[value]
        for value in after - before:
            self._keys.setdefault(value, {})[key] = None


def _decoder(view: type[T], resource: Resource) -> Callable[[msgspec.Raw], T]:
    if view is not dict:
        return msgspec.json.Decoder(view).decode

    def decode(raw: msgspec.Raw) -> Any:
        obj = orjson.loads(memoryview(raw))
        # Items of a list need not say their kind; readers of dicts expect it.
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        return obj

    return decode
