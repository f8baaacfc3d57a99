"""The embedded store: SQLite in WAL mode, with etcd's revisions.

Every write is a row of an append-only log whose number is the revision. One thread writes; writes that wait for it
together share one transaction, so that many clients cost one sync to disk. An acknowledged write is on disk.
"""

import asyncio
import contextlib
import fcntl
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from apiserver.storage.interface import (
    Batch,
    Change,
    Compacted,
    FutureRevision,
    KeyExists,
    KeyNotFound,
    KeyValue,
    Listing,
    RevisionConflict,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ValueTooLarge,
)

T = TypeVar("T")
MAX_VALUE_BYTES = 3 * 1024 * 1024
# Changes kept in memory for watchers that keep up; others read the log.
RECENT = 8192
# Fewer where they are large; so much is read of the log at once, too.
RECENT_BYTES = 16 * 1024 * 1024
_BATCH = 1000
_LEASE_CHECK_SECONDS = 1.0

_TABLES = """
CREATE TABLE IF NOT EXISTS log (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL, deleted INTEGER NOT NULL,
    lease INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS log_by_key ON log (key, revision);
CREATE TABLE IF NOT EXISTS live (key TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER NOT NULL, ends REAL NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO state VALUES ('revision', 1), ('compacted', 0);
"""
_LIVE = "SELECT log.key, log.value, log.created, log.revision FROM live JOIN log USING (revision) "
_AS_OF = """
SELECT key, value, created, revision FROM log WHERE revision IN (
    SELECT max(revision) FROM log WHERE key > ? AND key < ? AND revision <= ? GROUP BY key)
AND NOT deleted ORDER BY key
"""


class SQLiteStore:
    """A store in one file; one process at a time may open it."""

    def __init__(self, path: Path) -> None:
        """Raises: StoreUnavailable when another process has it open, or it is no store."""
        self._path = path
        self._lock = _lock(path)
        self._writer = self._connect()
        self._reader = self._connect()
        self._reading = threading.Lock()
        try:
            self._writer.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise StoreUnavailable(f"{path} is no store: {error}") from error
        self._revision = self._state("revision")
        self._compacted = self._state("compacted")
        self._recent: deque[Change] = deque()
        self._recent_bytes = 0
        self._recent_from = self._revision + 1
        self._watchers: set[asyncio.Event] = set()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._pending: list[Change] = []
        self._thread = threading.Thread(target=self._write_forever, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._leases = asyncio.create_task(self._expire_leases())

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _state(self, name: str) -> int:
        return int(self._writer.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()[0])

    # The writer's thread.

    def _write_forever(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < 512:
                    another = self._jobs.get_nowait()
                    if another is None:
                        self._jobs.put(None)
                        break
                    jobs.append(another)
            self._transact(jobs)

    def _transact(self, jobs: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> None:
        """Run jobs in one transaction; a job that breaks a rule fails alone, a full disk fails all."""
        before = self._revision
        results: list[tuple[asyncio.Future[Any], Any]] = []
        self._pending = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for work, future in jobs:
                try:
                    results.append((future, work()))
                except StoreError as error:
                    results.append((future, error))
            self._writer.execute("UPDATE state SET value = ? WHERE name = 'revision'", (self._revision,))
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            self._revision, self._pending = before, []
            failure = _as_store_error(error)
            results = [(future, failure) for _, future in jobs]
        changes = self._pending
        with contextlib.suppress(RuntimeError):  # the loop was closed before us
            self._loop.call_soon_threadsafe(self._publish, changes, results)

    def _publish(self, changes: list[Change], results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        if changes:
            self._remember(changes)
            for event in self._watchers:
                event.set()
        for future, result in results:
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    async def _submit(self, work: Callable[[], T]) -> T:
        if not self._thread.is_alive():
            raise StoreUnavailable("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((work, future))
        return await future

    def _append(self, key: str, value: bytes | None, created: int, lease: int = 0, *, deleted: bool = False) -> int:
        revision = self._revision + 1
        row = (revision, key, value, created or revision, deleted, lease)
        self._writer.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", row)
        if deleted:
            self._writer.execute("DELETE FROM live WHERE key = ?", (key,))
        else:
            self._writer.execute("INSERT OR REPLACE INTO live VALUES (?, ?)", (key, revision))
        self._revision = revision
        self._pending.append(Change(key, None if deleted else value, revision, deleted))
        return revision

    def _live(self, connection: sqlite3.Connection, key: str) -> KeyValue | None:
        row = connection.execute(_LIVE + "WHERE live.key = ?", (key,)).fetchone()
        return KeyValue(*row) if row is not None else None

    def _guarded(self, key: str, expected: int) -> KeyValue:
        found = self._live(self._writer, key)
        if found is None:
            raise KeyNotFound(key)
        if found.mod_revision != expected:
            raise RevisionConflict(key, expected=expected, current=found)
        return found

    def _check_lease(self, lease: int) -> None:
        if lease and self._writer.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is None:
            raise KeyNotFound(f"lease {lease}")

    # Writes.

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """See Store.create."""
        _check_size(value)

        def work() -> int:
            self._check_lease(lease)
            if self._writer.execute("SELECT 1 FROM live WHERE key = ?", (key,)).fetchone() is not None:
                raise KeyExists(key)
            return self._append(key, value, 0, lease)

        return await self._submit(work)

    async def update(self, key: str, value: bytes, *, expected_revision: int, lease: int = 0) -> int:
        """See Store.update."""
        _check_size(value)

        def work() -> int:
            self._check_lease(lease)
            found = self._guarded(key, expected_revision)
            return self._append(key, value, found.create_revision, lease)

        return await self._submit(work)

    async def delete(self, key: str, *, expected_revision: int) -> int:
        """See Store.delete."""

        def work() -> int:
            found = self._guarded(key, expected_revision)
            return self._append(key, None, found.create_revision, deleted=True)

        return await self._submit(work)

    async def compact(self, revision: int) -> None:
        """See Store.compact."""

        def work() -> None:
            if revision <= self._compacted:
                raise Compacted(f"revision {revision} was compacted before")
            if revision > self._revision:
                raise FutureRevision(f"revision {revision} lies in the future")
            self._writer.execute(
                "DELETE FROM log WHERE revision < ? AND revision NOT IN (SELECT revision FROM live) AND (deleted OR "
                "EXISTS (SELECT 1 FROM log AS newer WHERE newer.key = log.key AND newer.revision > log.revision "
                "AND newer.revision <= ?))",
                (revision, revision),
            )
            self._writer.execute("DELETE FROM log WHERE deleted AND revision = ?", (revision,))
            self._writer.execute("UPDATE state SET value = ? WHERE name = 'compacted'", (revision,))
            self._compacted = revision

        await self._submit(work)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store.grant_lease."""

        def work() -> int:
            row = (ttl_seconds, time.time() + ttl_seconds)
            return self._writer.execute("INSERT INTO lease (ttl, ends) VALUES (?, ?)", row).lastrowid or 0

        return await self._submit(work)

    async def keep_alive(self, lease: int) -> None:
        """See Store.keep_alive."""

        def work() -> None:
            self._check_lease(lease)
            self._writer.execute("UPDATE lease SET ends = ? + ttl WHERE id = ?", (time.time(), lease))

        await self._submit(work)

    async def revoke_lease(self, lease: int) -> None:
        """See Store.revoke_lease."""

        def work() -> None:
            self._check_lease(lease)
            self._end_lease(lease)

        await self._submit(work)

    def _end_lease(self, lease: int) -> None:
        rows = self._writer.execute(_LIVE + "WHERE log.lease = ?", (lease,)).fetchall()
        for key, _, created, _ in rows:
            self._append(key, None, created, deleted=True)
        self._writer.execute("DELETE FROM lease WHERE id = ?", (lease,))

    async def _expire_leases(self) -> None:
        def work() -> None:
            ended = self._writer.execute("SELECT id FROM lease WHERE ends <= ?", (time.time(),)).fetchall()
            for (lease,) in ended:
                self._end_lease(lease)

        while True:
            await asyncio.sleep(_LEASE_CHECK_SECONDS)
            with contextlib.suppress(StoreError):
                await self._submit(work)

    # Reads.

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def locked() -> T:
            with self._reading:
                try:
                    self._reader.execute("BEGIN")
                    return work(self._reader)
                except sqlite3.Error as error:
                    raise _as_store_error(error) from error
                finally:
                    if self._reader.in_transaction:
                        self._reader.execute("ROLLBACK")

        return await asyncio.to_thread(locked)

    async def current_revision(self) -> int:
        """See Store.current_revision."""
        return self._revision

    async def get(self, key: str) -> KeyValue:
        """See Store.get."""
        found = await self._read(lambda connection: self._live(connection, key))
        if found is None:
            raise KeyNotFound(key)
        return found

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Listing:
        """See Store.list."""
        low, high = max(prefix, start_after), prefix + "\U0010ffff"

        def work(connection: sqlite3.Connection) -> Listing:
            state = dict(connection.execute("SELECT name, value FROM state").fetchall())
            at = revision or state["revision"]
            if at > state["revision"]:
                raise FutureRevision(f"revision {at} lies in the future")
            if at < state["compacted"]:
                raise Compacted(f"revision {at} is compacted")
            if at == state["revision"]:
                rows = connection.execute(
                    _LIVE + "WHERE live.key > ? AND live.key < ? ORDER BY live.key", (low, high)
                ).fetchall()
            else:
                rows = connection.execute(_AS_OF, (low, high, at)).fetchall()
            shown = rows[:limit] if limit else rows
            return Listing([KeyValue(*row) for row in shown], at, len(rows) - len(shown))

        return await self._read(work)

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str, *, start_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See Store.watch."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield self._follow(prefix, start_revision, event)
        finally:
            self._watchers.discard(event)

    def _remember(self, changes: Sequence[Change]) -> None:
        """Keep changes for those who follow, the latest and not too many bytes of them."""
        self._recent.extend(changes)
        self._recent_bytes += sum(map(_size, changes))
        while len(self._recent) > RECENT or (self._recent_bytes > RECENT_BYTES and len(self._recent) > 1):
            self._recent_bytes -= _size(self._recent.popleft())
        self._recent_from = self._recent[0].mod_revision

    async def _follow(self, prefix: str, position: int, event: asyncio.Event) -> AsyncIterator[Batch]:
        while True:
            event.clear()
            newest = self._recent[-1].mod_revision if self._recent else self._revision
            if position > newest:
                await event.wait()
                continue
            if self._recent and position >= self._recent_from:
                first = position - self._recent_from
                changes = [self._recent[at] for at in range(first, min(len(self._recent), first + _BATCH))]
            else:
                changes = list(await self._from_log(position))
            if not changes:
                position = newest + 1
                continue
            position = changes[-1].mod_revision + 1
            yield Batch([change for change in changes if change.key.startswith(prefix)], position - 1)

    async def _from_log(self, position: int) -> Sequence[Change]:
        def work(connection: sqlite3.Connection) -> Any:
            compacted = connection.execute("SELECT value FROM state WHERE name = 'compacted'").fetchone()[0]
            if position <= compacted:
                raise Compacted(f"revision {position} is compacted")
            query = "SELECT key, value, revision, deleted FROM log WHERE revision >= ? ORDER BY revision LIMIT ?"
            changes, size = [], 0
            for key, value, revision, deleted in connection.execute(query, (position, _BATCH)):
                changes.append(Change(key, value, revision, bool(deleted)))
                size += _size(changes[-1])
                if size > RECENT_BYTES:
                    break
            return changes

        found: Sequence[Change] = await self._read(work)
        return found

    async def health(self) -> None:
        """See Store.health."""
        await self._read(lambda connection: connection.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        """See Store.close."""
        self._leases.cancel()
        await asyncio.gather(self._leases, return_exceptions=True)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        self._writer.close()
        self._lock.close()


def _size(change: Change) -> int:
    return len(change.value or b"")


def _lock(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(path.name + ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StoreUnavailable(f"{path} is in use by another process") from error
    return file


def _check_size(value: bytes) -> None:
    if len(value) > MAX_VALUE_BYTES:
        raise ValueTooLarge(f"limit is {MAX_VALUE_BYTES}")


def _as_store_error(error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(str(error))
    if code in (sqlite3.SQLITE_TOOBIG,):
        return ValueTooLarge(str(error))
    return StoreUnavailable(str(error))
