"""Objects in the store: keys from names, bytes from dicts, and the store's errors in the API's words."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import orjson

from apiserver.storage.interface import (
    KeyExists,
    KeyNotFound,
    RevisionConflict,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ValueTooLarge,
)  # fmt: skip
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api.meta import Resource

Object = dict[str, Any]
# How often a write is tried anew when others write the same object; each try works on the newest state.
MAX_TRIES = 50


def encode(obj: Object) -> bytes:
    """Return the bytes an object is stored as: kind, apiVersion and metadata first, and no resourceVersion."""
    metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
    # Named before the rest, so that it stands there whatever place it had: readers put the version into the first.
    first = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    return orjson.dumps({**first, **obj, "metadata": metadata})


class ObjectStorage:
    """Reads from the watch cache, writes to the store under the guard of a revision."""

    def __init__(self, cache: WatchCache) -> None:
        self.cache = cache
        self._stale_in_store: Callable[[str], bool] | None = getattr(cache.store, "is_stale", None)

    def is_stale(self, key: str) -> bool:
        """Whether a value should be written anew though nothing of it changed: it was encrypted in an older way."""
        return self._stale_in_store is not None and self._stale_in_store(key)

    async def get(self, resource: Resource, key: str) -> Entry:
        """Return the newest state of an object. Raises: NotFound, ServiceUnavailable."""
        await self.refresh()
        entry = self.cache.collection(resource.group_resource).get(key)
        if entry is None:
            raise not_found(resource, key)
        return entry

    async def refresh(self) -> None:
        """Wait until reads show every acknowledged write. Raises: ServiceUnavailable when that takes too long."""
        try:
            await self.cache.fresh()
        except TimeoutError as error:
            raise errors.ServiceUnavailable("the store did not answer in time", retry_after_seconds=1) from error
        except StoreError as error:
            raise unavailable(error) from error

    async def create(self, resource: Resource, key: str, obj: Object, *, lease: int = 0) -> Entry:
        """Store a new object. Raises: AlreadyExists, ServiceUnavailable, RequestEntityTooLarge."""
        value = encode(obj)
        try:
            revision = await self.cache.store.create(key, value, lease=lease)
        except KeyExists as error:
            name = key.rpartition("/")[2]
            raise errors.AlreadyExists(
                f'{resource.group_resource} "{name}" already exists',
                group=resource.group, kind=resource.plural, name=name,
            ) from error  # fmt: skip
        except StoreError as error:
            _raise_as_api(error)
        self.cache.note_written(revision)
        return Entry(key, value, revision)

    async def update(
        self, resource: Resource, key: str, change: Callable[[Entry], Object | Awaitable[Object | None] | None],
        *, lease: int = 0,
    ) -> Entry:  # fmt: skip
        """Replace an object by what `change` makes of its newest state; it is called again when others wrote first.

        Args: `lease` is what it ends with from now on; with none it stays, whatever it was made with.
        Returns: the entry as written, or as it is when `change` returned None (nothing to write).
        Raises: NotFound; Conflict when others write without pause; what `change` raises.
        """
        entry = await self.get(resource, key)
        for _ in range(MAX_TRIES):
            made = change(entry)
            obj = made if made is None or isinstance(made, dict) else await made
            if obj is None:
                return entry
            value = encode(obj)
            try:
                revision = await self.cache.store.update(key, value, expected_revision=entry.revision, lease=lease)
            except RevisionConflict as error:
                entry = _current(resource, key, error)
            except KeyNotFound as error:
                raise not_found(resource, key) from error
            except StoreError as error:
                _raise_as_api(error)
            else:
                self.cache.note_written(revision)
                return Entry(key, value, revision)
        raise conflict(resource, key)

    async def delete(self, resource: Resource, key: str, *, expected_revision: int) -> bool:
        """Remove an object that is still at that revision; False when it changed or went since."""
        try:
            revision = await self.cache.store.delete(key, expected_revision=expected_revision)
        except (RevisionConflict, KeyNotFound):
            return False
        except StoreError as error:
            _raise_as_api(error)
        self.cache.note_written(revision)
        return True

    async def newest(self, resource: Resource, key: str) -> Entry:
        """Return an object straight from the store. Raises: NotFound."""
        try:
            found = await self.cache.store.get(key)
        except KeyNotFound as error:
            raise not_found(resource, key) from error
        except StoreError as error:
            _raise_as_api(error)
        return Entry(key, found.value, found.mod_revision)


def _current(resource: Resource, key: str, error: RevisionConflict) -> Entry:
    if error.current is None:
        raise not_found(resource, key) from error
    return Entry(key, error.current.value, error.current.mod_revision)


def not_found(resource: Resource, key: str) -> errors.NotFound:
    """Return the error for an object that is not there."""
    name = key.rpartition("/")[2]
    return errors.NotFound(
        f'{resource.group_resource} "{name}" not found', group=resource.group, kind=resource.plural, name=name
    )


def conflict(resource: Resource, key: str, why: str = "") -> errors.Conflict:
    """Return the error for a write from a stale read."""
    name = key.rpartition("/")[2]
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return errors.Conflict(
        f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {why}',
        group=resource.group, kind=resource.plural, name=name,
    )  # fmt: skip


def unavailable(error: StoreError) -> errors.ServiceUnavailable:
    """Return the error for a store that is away."""
    return errors.ServiceUnavailable(f"the store is unavailable: {error}", retry_after_seconds=1)


def _raise_as_api(error: StoreError) -> NoReturn:
    if isinstance(error, ValueTooLarge):
        raise errors.RequestEntityTooLarge(f"Request entity too large: {error}") from error
    if isinstance(error, StoreFull):
        raise errors.InternalError(f"the store takes no more data: {error}") from error
    if isinstance(error, StoreUnavailable):
        raise unavailable(error) from error
    raise errors.InternalError(f"store: {error}") from error
