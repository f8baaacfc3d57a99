"""What every store must do; the same tests for etcd and SQLite.

Source: https://etcd.io/docs/v3.5/learning/api_guarantees/
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from apiserver.storage.interface import (
    Batch,
    Change,
    Compacted,
    FutureRevision,
    KeyExists,
    KeyNotFound,
    RevisionConflict,
    Store,
)

pytestmark = pytest.mark.slow
ROOT = "/registry/"


async def collect(stream: AsyncIterator[Batch], count: int) -> list[Change]:
    """Read changes until there are `count`."""
    found: list[Change] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += (await anext(stream)).changes
    return found


async def test_a_value_is_read_back_with_the_revisions_of_its_writes(store: Store) -> None:
    created = await store.create(ROOT + "pods/a", b"one")
    updated = await store.update(ROOT + "pods/a", b"two", expected_revision=created)
    found = await store.get(ROOT + "pods/a")
    assert (found.value, found.create_revision, found.mod_revision) == (b"two", created, updated)
    assert updated > created


async def test_every_write_has_a_newer_revision_than_the_one_before(store: Store) -> None:
    revisions = [await store.current_revision()]
    for number in range(5):
        revisions.append(await store.create(f"{ROOT}pods/{number}", b"x"))
        revisions.append(await store.delete(f"{ROOT}pods/{number}", expected_revision=revisions[-1]))
    assert revisions == sorted(set(revisions))
    assert await store.current_revision() == revisions[-1]


async def test_a_key_is_created_once(store: Store) -> None:
    await store.create(ROOT + "pods/a", b"one")
    with pytest.raises(KeyExists):
        await store.create(ROOT + "pods/a", b"two")
    assert (await store.get(ROOT + "pods/a")).value == b"one"


async def test_a_write_from_a_stale_revision_changes_nothing_and_tells_what_is_there(store: Store) -> None:
    first = await store.create(ROOT + "pods/a", b"one")
    second = await store.update(ROOT + "pods/a", b"two", expected_revision=first)
    with pytest.raises(RevisionConflict) as caught:
        await store.update(ROOT + "pods/a", b"three", expected_revision=first)
    with pytest.raises(RevisionConflict):
        await store.delete(ROOT + "pods/a", expected_revision=first)
    assert caught.value.current is not None
    assert (caught.value.current.value, caught.value.current.mod_revision) == (b"two", second)
    assert (await store.get(ROOT + "pods/a")).value == b"two"


async def test_of_concurrent_writers_one_wins(store: Store) -> None:
    first = await store.create(ROOT + "pods/a", b"zero")
    tries = [store.update(ROOT + "pods/a", str(at).encode(), expected_revision=first) for at in range(20)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    winners = [at for at, result in enumerate(results) if isinstance(result, int)]
    assert len(winners) == 1
    assert all(isinstance(result, RevisionConflict) for at, result in enumerate(results) if at != winners[0])
    assert (await store.get(ROOT + "pods/a")).value == str(winners[0]).encode()


@pytest.mark.parametrize("call", ["get", "update", "delete"])
async def test_what_is_not_there_is_not_found(store: Store, call: str) -> None:
    work: dict[str, Any] = {
        "get": lambda: store.get(ROOT + "pods/a"),
        "update": lambda: store.update(ROOT + "pods/a", b"x", expected_revision=1),
        "delete": lambda: store.delete(ROOT + "pods/a", expected_revision=1),
    }
    with pytest.raises(KeyNotFound):
        await work[call]()


async def test_a_list_holds_one_prefix_in_the_order_of_keys(store: Store) -> None:
    for key in ("pods/b", "pods/a", "podsx/c", "nodes/d"):
        await store.create(ROOT + key, key.encode())
    listing = await store.list(ROOT + "pods/")
    assert [item.key for item in listing.items] == [ROOT + "pods/a", ROOT + "pods/b"]
    assert listing.revision == await store.current_revision()


async def test_pages_show_one_moment_though_writes_go_on(store: Store) -> None:
    for number in range(5):
        await store.create(f"{ROOT}pods/{number}", b"old")
    first = await store.list(ROOT + "pods/", limit=2)
    assert ([item.key[-1] for item in first.items], first.remaining) == (["0", "1"], 3)
    await store.create(ROOT + "pods/2b", b"new")
    await store.delete(ROOT + "pods/4", expected_revision=(await store.get(ROOT + "pods/4")).mod_revision)
    rest = await store.list(ROOT + "pods/", start_after=first.items[-1].key, revision=first.revision)
    assert [item.key[-1] for item in rest.items] == ["2", "3", "4"]
    assert rest.remaining == 0


async def test_a_list_of_the_future_or_of_a_compacted_past_is_refused(store: Store) -> None:
    revision = await store.create(ROOT + "pods/a", b"one")
    with pytest.raises(FutureRevision):
        await store.list(ROOT + "pods/", revision=revision + 100)
    for _ in range(3):
        revision = await store.update(ROOT + "pods/a", b"x", expected_revision=revision)
    await store.compact(revision)
    with pytest.raises(Compacted):
        await store.list(ROOT + "pods/", revision=revision - 1)
    assert (await store.get(ROOT + "pods/a")).mod_revision == revision


async def test_a_watch_delivers_each_later_change_once_and_in_order(store: Store) -> None:
    first = await store.create(ROOT + "pods/a", b"1")
    async with store.watch(ROOT, start_revision=first + 1) as stream:
        second = await store.update(ROOT + "pods/a", b"2", expected_revision=first)
        third = await store.create(ROOT + "pods/b", b"3")
        fourth = await store.delete(ROOT + "pods/a", expected_revision=second)
        changes = await collect(stream, 3)
    assert [change.mod_revision for change in changes] == [second, third, fourth]
    assert [(change.key[-1], change.deleted) for change in changes] == [("a", False), ("b", False), ("a", True)]
    assert [change.value for change in changes] == [b"2", b"3", None]


async def test_a_watch_may_start_in_the_past(store: Store) -> None:
    first = await store.create(ROOT + "pods/a", b"1")
    for number in range(3):
        await store.create(f"{ROOT}pods/{number}", b"x")
    async with store.watch(ROOT + "pods/", start_revision=first) as stream:
        assert [change.key[-1] for change in await collect(stream, 4)] == ["a", "0", "1", "2"]


async def test_a_watch_from_before_a_compaction_says_so(store: Store) -> None:
    revision = first = await store.create(ROOT + "pods/a", b"1")
    for _ in range(3):
        revision = await store.update(ROOT + "pods/a", b"x", expected_revision=revision)
    await store.compact(revision)
    async with store.watch(ROOT, start_revision=first) as stream:
        if type(store).__name__ == "SQLiteStore":
            store._recent.clear()  # type: ignore[attr-defined]  # as after a restart: only the log is left
        with pytest.raises(Compacted):
            await collect(stream, 1)


async def test_a_watcher_that_does_not_read_holds_up_nobody_and_misses_nothing(store: Store) -> None:
    start = await store.current_revision()
    async with store.watch(ROOT, start_revision=start + 1) as stream, asyncio.timeout(20):
        await asyncio.gather(*(store.create(f"{ROOT}pods/{number:05}", b"x" * 100) for number in range(2000)))
        changes = await collect(stream, 2000)
    assert [change.mod_revision for change in changes] == list(range(start + 1, start + 2001))


async def test_keys_of_a_lease_go_when_it_is_revoked(store: Store) -> None:
    lease = await store.grant_lease(60)
    created = await store.create(ROOT + "events/a", b"x", lease=lease)
    await store.keep_alive(lease)
    async with store.watch(ROOT, start_revision=created + 1) as stream:
        await store.revoke_lease(lease)
        (change,) = await collect(stream, 1)
    assert (change.key, change.deleted) == (ROOT + "events/a", True)
    with pytest.raises(KeyNotFound):
        await store.get(ROOT + "events/a")


async def test_keys_of_a_lease_go_when_its_time_is_over(store: Store) -> None:
    lease = await store.grant_lease(1)
    created = await store.create(ROOT + "events/a", b"x", lease=lease)
    async with store.watch(ROOT, start_revision=created + 1) as stream:
        (change,) = await collect(stream, 1)
    assert change.deleted
    with pytest.raises(KeyNotFound):
        await store.keep_alive(lease)


async def test_a_store_that_answers_is_healthy(store: Store) -> None:
    await store.health()
