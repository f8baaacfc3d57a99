"""A store that encrypts some of its values: a way in and out of another store, key by key."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from apiserver.storage.encryption import DecryptionFailed, Encryption
from apiserver.storage.interface import Batch, Change, KeyValue, Listing, RevisionConflict, Store, StoreError


class Unreadable(StoreError):
    """A value can't be decrypted with the keys there are."""


class EncryptedStore:
    """Passes everything on, values encrypted on the way in and decrypted on the way out."""

    def __init__(self, store: Store, encryption: Encryption) -> None:
        self._store = store
        self._encryption = encryption
        self._stale: set[str] = set()  # keys of values that were not written as the first provider writes

    def use(self, encryption: Encryption) -> None:
        """Encrypt by another configuration from now on; it should hold the keys of what is stored."""
        self._encryption = encryption

    def is_stale(self, key: str) -> bool:
        """Whether a value should be written anew though nothing of it changed."""
        return key in self._stale

    def _sealed(self, key: str, value: bytes) -> bytes:
        transformer = self._encryption.of(key)
        return transformer.seal(key, value) if transformer is not None else value

    def _opened(self, key: str, value: bytes) -> bytes:
        transformer = self._encryption.of(key)
        if transformer is None:
            return value
        try:
            plain, stale = transformer.open(key, value)
        except DecryptionFailed as error:
            raise Unreadable(f"unable to transform {error}") from error
        if stale:
            self._stale.add(key)
        else:
            self._stale.discard(key)
        return plain

    def _plain(self, found: KeyValue) -> KeyValue:
        return found._replace(value=self._opened(found.key, found.value))

    async def current_revision(self) -> int:
        """See Store."""
        return await self._store.current_revision()

    async def get(self, key: str) -> KeyValue:
        """See Store. Raises: Unreadable."""
        return self._plain(await self._store.get(key))

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Listing:
        """See Store. Raises: Unreadable."""
        listing = await self._store.list(prefix, limit=limit, start_after=start_after, revision=revision)
        return dataclasses.replace(listing, items=[self._plain(item) for item in listing.items])

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """See Store."""
        return await self._store.create(key, self._sealed(key, value), lease=lease)

    async def update(self, key: str, value: bytes, *, expected_revision: int, lease: int = 0) -> int:
        """See Store."""
        sealed = self._sealed(key, value)
        try:
            revision = await self._store.update(key, sealed, expected_revision=expected_revision, lease=lease)
        except RevisionConflict as error:
            raise self._conflict(error) from error
        self._stale.discard(key)
        return revision

    async def delete(self, key: str, *, expected_revision: int) -> int:
        """See Store."""
        try:
            revision = await self._store.delete(key, expected_revision=expected_revision)
        except RevisionConflict as error:
            raise self._conflict(error) from error
        self._stale.discard(key)
        return revision

    def _conflict(self, error: RevisionConflict) -> RevisionConflict:
        current = self._plain(error.current) if error.current is not None else None
        return RevisionConflict(error.key, expected=error.expected, current=current)

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str, *, start_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See Store. Iteration raises: Unreadable too."""
        async with self._store.watch(prefix, start_revision=start_revision) as stream:
            yield self._batches(stream)

    async def _batches(self, stream: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in stream:
            yield batch._replace(changes=[self._change(change) for change in batch.changes])

    def _change(self, change: Change) -> Change:
        if change.value is None or self._encryption.of(change.key) is None:
            return change
        value = self._opened(change.key, change.value)
        if change.deleted:
            self._stale.discard(change.key)
        return change._replace(value=value)

    async def compact(self, revision: int) -> None:
        """See Store."""
        await self._store.compact(revision)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store."""
        return await self._store.grant_lease(ttl_seconds)

    async def keep_alive(self, lease: int) -> None:
        """See Store."""
        await self._store.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        await self._store.revoke_lease(lease)

    async def health(self) -> None:
        """See Store."""
        await self._store.health()

    async def close(self) -> None:
        """See Store."""
        await self._store.close()
