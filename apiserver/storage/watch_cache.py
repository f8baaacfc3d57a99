"""The watch cache: every object's bytes in memory, kept current by one watch on the store.

Reads and watches are served from here as bytes; only writes and reads at an old revision reach the store. One
`WatchCache` follows the whole of /registry/; a `Collection` in it holds the objects of one resource.
The consistency rules follow https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
import sys
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from apiserver.storage.interface import Change, Compacted, KeyValue, Store, StoreError

log = logging.getLogger(__name__)

ROOT = "/registry/"
# How many changes a collection remembers for watches that start in the past.
HISTORY = 4096
# Fewer where they are large: those before the last few go when all together are more than so many bytes.
HISTORY_BYTES = 32 * 1024 * 1024
_FEWEST = 16
# So many of them keep the line that their watchers are sent, of large objects fewer.
_FRESH, _FRESH_LARGE = 256, 4
_LARGE_BYTES = 64 * 1024
# A watcher this far behind is ended; the client lists or watches again.
MAX_PENDING = 20_000
# So is one for whom more than this is kept, in bytes of objects.
MAX_PENDING_BYTES = 64 * 1024 * 1024
_METADATA = b'"metadata":{'
_NO_LABELS: Mapping[str, str] = {}


class Entry:
    """One stored object as clients are sent it: its bytes, with the resourceVersion put in."""

    __slots__ = ("_fields", "_labels", "key", "name", "namespace", "revision", "row", "value", "view")

    def __init__(self, key: str, value: bytes, revision: int) -> None:
        parts = key.split("/")
        self.key = key
        self.namespace = sys.intern(parts[3]) if len(parts) > 4 else ""  # one text for all objects in it
        self.name = parts[-1]
        self.revision = revision
        self.value = with_revision(value, revision)
        self.row: Any = None  # its table row, made when first asked for
        self.view: Any = None  # how versions of a custom resource show it, made when first asked for
        self._labels: Mapping[str, str] | None = None
        self._fields: Mapping[str, str] | None = None

    def shown_as(self, value: bytes) -> "Entry":
        """Return the same state of the object in other bytes, which hold the resourceVersion."""
        shown = Entry(self.key, b"", self.revision)
        shown.value = value
        return shown

    def object(self) -> dict[str, Any]:
        """Return the object as a new dict the caller may change."""
        return orjson.loads(self.value)  # type: ignore[no-any-return]

    def labels(self) -> Mapping[str, str]:
        """Return its labels."""
        if self._labels is None:
            self._labels = self.object()["metadata"].get("labels") or _NO_LABELS
        return self._labels

    def fields(self, selectable: Mapping[str, Callable[[dict[str, Any]], str]]) -> Mapping[str, str]:
        """Return what field selectors of its kind may ask for."""
        if self._fields is None:
            obj = self.object()
            found = {path: read(obj) for path, read in selectable.items()}
            found["metadata.name"], found["metadata.namespace"] = self.name, self.namespace
            self._fields = found
        return self._fields


def with_revision(value: bytes, revision: int) -> bytes:
    """Put the resourceVersion into stored bytes, which never hold one; kind and apiVersion come before metadata.

    What is not stored (0) has none.
    """
    if not revision:
        return value
    return value.replace(_METADATA, b'"metadata":{"resourceVersion":"%d",' % revision, 1)


class Event:
    """One change of a collection. `entry` is the object after it (for DELETED: the last state, at the new revision)."""

    __slots__ = ("_line", "entry", "previous", "revision", "type")

    def __init__(self, type_: str, entry: Entry, previous: Entry | None, revision: int) -> None:
        self.type = type_
        self.entry = entry
        self.previous = previous
        self.revision = revision
        self._line: bytes | None = None

    def line(self) -> bytes:
        """Return the event as a line of a watch, made once for all watchers."""
        if self._line:
            return self._line
        line = event_line(self.type, self.entry.value)
        if self._line is None:
            self._line = line
        return line

    def drop_line(self) -> None:
        """Forget the line: who still asks for it is late, and makes it for itself."""
        self._line = b""


def event_line(type_: str, value: bytes) -> bytes:
    """Return one line of a watch stream."""
    return b'{"type":"%s","object":%s}\n' % (type_.encode(), value)


class TooOld(Exception):
    """A watch was asked to start before what is remembered."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")


def _nothing() -> None:
    return None


class Watcher:
    """One client's place in a collection's changes."""

    def __init__(self, collection: "Collection", namespace: str) -> None:
        self._collection = collection
        self._namespace = namespace
        self._pending: deque[Event] = deque()
        self._pending_bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self.overrun = False
        self.cut: Callable[[], None] = (
            _nothing  # called when it falls too far behind: its client may take nothing at all
        )
        self.position = 0

    def offer(self, event: Event) -> None:
        """Take a change; never waits."""
        if self._namespace and event.entry.namespace != self._namespace:
            return
        if len(self._pending) >= MAX_PENDING or self._pending_bytes > MAX_PENDING_BYTES:
            self.overrun = True
            self._pending.clear()
            self._pending_bytes = 0
            self.cut()
        if not self.overrun:
            self._pending.append(event)
            self._pending_bytes += len(event.entry.value)
        self._rouse()

    def end(self) -> None:
        """Let the watch end: what it watches is served in another way from now on."""
        self._pending.clear()
        self.overrun = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def take(self) -> list[Event]:
        """Return what has come since the last call; does not wait."""
        events = list(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        return events

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait until there is something to take; False when the time is over first."""
        if self._pending or self.overrun:
            return True
        self._wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._wake
        except TimeoutError:
            return False
        finally:
            self._wake = None
        return True


class Collection:
    """The objects of one resource, by key, with their latest changes and the clients that watch."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._history: deque[Event] = deque()
        self._history_bytes = 0
        self._forgotten = 0  # the newest revision whose change is no longer remembered
        self._watchers: set[Watcher] = set()
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return the object at a store key."""
        return self._entries.get(key)

    def entries(self, prefix: str) -> list[Entry]:
        """Return the objects whose keys begin so, in the order of keys."""
        entries = self._entries
        start, end = bisect_left(self._keys, prefix), bisect_right(self._keys, prefix + "\U0010ffff")
        return [entries[key] for key in self._keys[start:end]]

    def put(self, entry: Entry) -> Entry | None:
        """Set an object without telling anyone; returns what was there."""
        previous = self._entries.get(entry.key)
        if previous is None:
            insort(self._keys, entry.key)
        self._entries[entry.key] = entry
        self.generation += 1
        return previous

    def load(self, entries: Iterable[Entry], revision: int) -> None:
        """Replace everything by a listing at `revision`; watchers are told of the differences.

        Those that a compaction kept from us can't be put in order: each client sees the latest state of each object.
        """
        fresh = {entry.key: entry for entry in entries}
        gone = [entry for key, entry in self._entries.items() if key not in fresh]
        for entry in gone:
            self.apply_delete(entry.key, revision)
        for entry in fresh.values():
            present = self._entries.get(entry.key)
            if present is None or present.revision != entry.revision:
                self.apply_put(entry)
        self._forgotten = revision
        self._history.clear()
        self._history_bytes = 0

    def apply_put(self, entry: Entry) -> None:
        """Take a create or update from the store's watch."""
        previous = self.put(entry)
        self._tell(Event("MODIFIED" if previous is not None else "ADDED", entry, previous, entry.revision))

    def apply_delete(self, key: str, revision: int) -> None:
        """Take a delete; the object is told with the revision of its deletion."""
        previous = self._entries.pop(key, None)
        if previous is None:
            return
        del self._keys[bisect_left(self._keys, key)]
        self.generation += 1
        old = b'"resourceVersion":"%d",' % previous.revision
        entry = Entry(key, previous.value.replace(old, b"", 1), revision)
        self._tell(Event("DELETED", entry, previous, revision))

    def _tell(self, event: Event) -> None:
        history = self._history
        history.append(event)
        self._history_bytes += len(event.entry.value)
        while len(history) > HISTORY or (self._history_bytes > HISTORY_BYTES and len(history) > _FEWEST):
            oldest = history.popleft()
            self._history_bytes -= len(oldest.entry.value)
            self._forgotten = oldest.revision
        if len(history) > _FRESH:
            history[-1 - _FRESH].drop_line()
        if len(history) > _FRESH_LARGE and len((late := history[-1 - _FRESH_LARGE]).entry.value) > _LARGE_BYTES:
            late.drop_line()
        for watcher in self._watchers:
            watcher.offer(event)

    def end_watches(self) -> None:
        """Let every watch end; its client goes on where it was, at another server."""
        for watcher in self._watchers:
            watcher.end()

    @contextlib.contextmanager
    def watch(self, namespace: str, *, after: int | None) -> Any:
        """Open a watcher; `after` None starts now, else behind that revision.

        Raises: TooOld when changes behind `after` are no longer remembered.
        """
        watcher = Watcher(self, namespace)
        if after is not None:
            if after < self._forgotten:
                raise TooOld(after, self._forgotten)
            for event in self._history:
                if event.revision > after:
                    watcher.offer(event)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)


class WatchCache:
    """All collections, and the revision they have reached together."""

    def __init__(self, store: Store, *, sole_writer: bool) -> None:
        """Args: `sole_writer` says that this process alone writes to the store, so its own writes tell what is new."""
        self.store = store
        self.revision = 0
        self.ready = asyncio.Event()
        self.caught_up_at = 0.0
        self._sole_writer = sole_writer
        self._written = 0
        self._collections: dict[str, Collection] = {}
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._asking: asyncio.Future[int] | None = None

    def collection(self, group_resource: str) -> Collection:
        """Return the collection of a resource ("pods", "deployments.apps"); made when first asked for."""
        found = self._collections.get(group_resource)
        if found is None:
            found = self._collections[group_resource] = Collection()
            found._forgotten = self.revision if self.ready.is_set() else 0
        return found

    def collections(self) -> Mapping[str, Collection]:
        """Return all collections by resource."""
        return self._collections

    def note_written(self, revision: int) -> None:
        """Remember the revision of a write of this process: later reads must show it."""
        self._written = max(self._written, revision)

    async def fresh(self, timeout_seconds: float = 3.0) -> None:
        """Wait until the cache shows every write acknowledged before this call.

        Raises: TimeoutError when it does not in time; StoreUnavailable when the store must be asked and is away.
        """
        if self._sole_writer:
            if self.revision >= self._written and self.ready.is_set():
                return
            target = self._written
        else:
            target = await self._newest_revision()
        await self.reach(target, timeout_seconds)

    async def _newest_revision(self) -> int:
        """Ask the store once for all who wait; an answer counts for those who came before the question."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> int:
        await asyncio.sleep(0)  # others of this turn of the loop join
        self._asking = None
        return await self.store.current_revision()

    async def reach(self, revision: int, timeout_seconds: float) -> None:
        """Wait until the cache has reached `revision`. Raises: TimeoutError."""
        if not self.ready.is_set():
            async with asyncio.timeout(timeout_seconds):
                await self.ready.wait()
        if self.revision >= revision:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (revision, next(self._order), waiter))
        async with asyncio.timeout(timeout_seconds):
            await waiter

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._waiters and self._waiters[0][0] <= self.revision:
            waiter = heapq.heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)

    async def run(self) -> None:
        """Follow the store for ever: list, then watch; list again when a compaction overtook us."""
        while True:
            try:
                await self._load()
                await self._follow()
            except Compacted:
                log.warning("the store compacted what we had not read yet: reading everything again")
            except StoreError as error:
                log.warning("the store is away: %s", error)
                await asyncio.sleep(0.2)

    async def _load(self) -> None:
        items, revision = await self._everything()
        groups: dict[str, list[Entry]] = {}
        for item in items:
            groups.setdefault(item.key.split("/", 3)[2], []).append(Entry(item.key, item.value, item.mod_revision))
        for group_resource in {*groups, *self._collections}:
            self.collection(group_resource).load(groups.get(group_resource, ()), revision)
        self.ready.set()
        self._advance(revision)

    async def _everything(self) -> tuple[list[KeyValue], int]:
        listing = await self.store.list(ROOT)
        return listing.items, listing.revision

    async def _follow(self) -> None:
        async with self.store.watch(ROOT, start_revision=self.revision + 1) as stream:
            async for batch in stream:
                self._apply(batch)

    def _apply(self, batch: Any) -> None:
        revision = self.revision
        for change in batch.changes:
            self._apply_change(change)
            revision = change.mod_revision
        self._advance(max(revision, batch.revision))

    def _apply_change(self, change: Change) -> None:
        collection = self.collection(change.key.split("/", 3)[2])
        if change.deleted:
            collection.apply_delete(change.key, change.mod_revision)
        elif change.value is not None:
            collection.apply_put(Entry(change.key, change.value, change.mod_revision))
