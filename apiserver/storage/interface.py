"""What the server asks of a store: keys, bytes and revisions.

Two implementations pass the same tests: etcd.py and sqlite.py. Keys are paths such as "/registry/pods/default/web-0".
Source of the semantics: https://etcd.io/docs/v3.5/learning/api/
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class KeyValue(NamedTuple):
    """A live value: where, what, when it was made and when it was last written."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


class Change(NamedTuple):
    """One write of the past. A delete has no value: those who follow have what was there."""

    key: str
    value: bytes | None
    mod_revision: int
    deleted: bool


class Batch(NamedTuple):
    """Changes in order; all changes up to and including `revision` have now been delivered."""

    changes: Sequence[Change]
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Values in the order of their keys, all as of one revision; `remaining` tells how many lie behind the last."""

    items: list[KeyValue]
    revision: int
    remaining: int = 0


class StoreError(Exception):
    """The store did not do what was asked."""


class KeyExists(StoreError):
    """There is a live value at the key already."""


class KeyNotFound(StoreError):
    """There is no live value at the key."""


class RevisionConflict(StoreError):
    """The value was written after the expected revision; `current` is what is there now."""

    def __init__(self, key: str, *, expected: int, current: KeyValue | None) -> None:
        actual = current.mod_revision if current is not None else 0
        super().__init__(f"{key}: expected revision {expected}, found {actual}")
        self.key = key
        self.expected = expected
        self.current = current


class Compacted(StoreError):
    """What was asked for lies before the oldest revision that is kept."""


class FutureRevision(StoreError):
    """What was asked for lies behind the newest revision."""


class StoreUnavailable(StoreError):
    """The store can't be reached, or did not answer in time. A write may or may not have happened."""


class StoreFull(StoreError):
    """There is no room for more data; nothing was written."""


class ValueTooLarge(StoreError):
    """The value is longer than the store takes; nothing was written."""


class Store(Protocol):
    """Every method but `watch` raises StoreUnavailable within four seconds when the store is away."""

    async def current_revision(self) -> int:
        """Return the newest revision; every write acknowledged before the call is at or below it."""

    async def get(self, key: str) -> KeyValue:
        """Return the live value. Raises: KeyNotFound."""

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Listing:
        """Return the values below a prefix.

        Args:
            prefix: where they lie, with its closing slash.
            limit: how many at most; 0 for all.
            start_after: leave out keys up to and including this one.
            revision: as of when; 0 for now.

        Raises: Compacted, FutureRevision.
        """

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a value where there is none; return its revision. Raises: KeyExists, StoreFull, ValueTooLarge."""

    async def update(self, key: str, value: bytes, *, expected_revision: int, lease: int = 0) -> int:
        """Replace the value that was written at `expected_revision`; return the new revision.

        Raises: KeyNotFound, RevisionConflict, StoreFull, ValueTooLarge. Nothing is written then.
        """

    async def delete(self, key: str, *, expected_revision: int) -> int:
        """Remove the value that was written at `expected_revision`; return the revision of the delete.

        Raises: KeyNotFound, RevisionConflict.
        """

    def watch(self, prefix: str, *, start_revision: int) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Deliver each change below `prefix` from `start_revision` on, once and in order, as batches.

        A reader that is slow never holds up a writer. A store that goes away and comes back is not noticed here.
        Iteration raises: Compacted.
        """

    async def compact(self, revision: int) -> None:
        """Forget what was overwritten or deleted before `revision`. Raises: Compacted, FutureRevision."""

    async def grant_lease(self, ttl_seconds: int) -> int:
        """Return a new lease; the keys written with it are deleted when it ends."""

    async def keep_alive(self, lease: int) -> None:
        """Let a lease begin anew. Raises: KeyNotFound when it has ended."""

    async def revoke_lease(self, lease: int) -> None:
        """End a lease now. Raises: KeyNotFound when it has ended."""

    async def health(self) -> None:
        """Return when the store answers. Raises: StoreUnavailable, StoreFull."""

    async def close(self) -> None:
        """Let go of connections and files."""
