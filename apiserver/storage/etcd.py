"""etcd v3 as the store, over grpc.aio on stubs of our own.

A guarded write is one transaction that compares the revision and, where that fails, reads what is there instead, so a
conflict costs one round trip. Sources: https://etcd.io/docs/v3.5/learning/api/ and
https://etcd.io/docs/v3.5/learning/api_guarantees/
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from apiserver.storage.etcdpb import rpc_pb2 as pb
from apiserver.storage.etcdpb import rpc_pb2_grpc as stubs
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

log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_SECONDS = 3.5
_PAGE = 5000
_RETRY_SECONDS = 0.1
# A watch that brings nothing is asked for its progress this often, so that a dead connection is noticed.
_PROGRESS_SECONDS = 1.0
_SILENCE_SECONDS = 15.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    # Unix sockets give no host name; etcd's HTTP/2 server refuses the escaped path that would be sent instead.
    ("grpc.default_authority", "localhost"),
)


@dataclass(frozen=True, slots=True)
class EtcdTLS:
    """Files with which a client is known to etcd, and etcd to the client."""

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None


def _target(endpoint: str) -> str:
    """Return an endpoint as gRPC names it: "unix:/run/etcd.sock", "10.0.0.1:2379"."""
    if endpoint.startswith("unix://"):
        return "unix:" + endpoint.removeprefix("unix://")
    return endpoint.partition("://")[2] or endpoint


class EtcdStore:
    """A store in an etcd cluster; endpoints are tried in turn."""

    def __init__(self, endpoints: Sequence[str], tls: EtcdTLS | None = None) -> None:
        self._channels = [self._channel(endpoint, tls) for endpoint in endpoints]
        self._kv: list[Any] = [stubs.KVStub(channel) for channel in self._channels]
        self._lease: list[Any] = [stubs.LeaseStub(channel) for channel in self._channels]
        self._status: list[Any] = [stubs.MaintenanceStub(channel) for channel in self._channels]
        self._at = 0

    @staticmethod
    def _channel(endpoint: str, tls: EtcdTLS | None) -> grpc.aio.Channel:
        if tls is None:
            return grpc.aio.insecure_channel(_target(endpoint), options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            tls.ca_file.read_bytes(),
            tls.key_file.read_bytes() if tls.key_file else None,
            tls.cert_file.read_bytes() if tls.cert_file else None,
        )
        options = [option for option in _OPTIONS if option[0] != "grpc.default_authority"]
        return grpc.aio.secure_channel(_target(endpoint), credentials, options=options)

    async def _call(self, method: Callable[[int], Awaitable[T]], *, repeat: bool = False) -> T:
        """Call one endpoint; what may be repeated goes on to the next when it is away. Raises: StoreError."""
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await method(self._at % len(self._channels))
            except TimeoutError as error:
                self._at += 1
                raise StoreUnavailable("etcd did not answer in time") from error
            except grpc.aio.AioRpcError as error:
                failure = _as_store_error(error)
                if not isinstance(failure, StoreUnavailable):
                    raise failure from error
                self._at += 1
                if not repeat and not _was_never_sent(error):
                    raise failure from error
                await asyncio.sleep(_RETRY_SECONDS)
                if asyncio.get_running_loop().time() >= deadline - _RETRY_SECONDS:
                    raise failure from error

    async def current_revision(self) -> int:
        """See Store.current_revision."""
        request = pb.RangeRequest(key=b"\x00", limit=1, count_only=True)
        response = await self._call(lambda at: self._kv[at].Range(request), repeat=True)
        return int(response.header.revision)

    async def get(self, key: str) -> KeyValue:
        """See Store.get."""
        request = pb.RangeRequest(key=key.encode())
        response = await self._call(lambda at: self._kv[at].Range(request), repeat=True)
        if not response.kvs:
            raise KeyNotFound(key)
        return _key_value(response.kvs[0])

    async def list(self, prefix: str, *, limit: int = 0, start_after: str = "", revision: int = 0) -> Listing:
        """See Store.list."""
        start = start_after.encode() + b"\x00" if start_after > prefix else prefix.encode()
        end = _prefix_end(prefix.encode())
        items: list[KeyValue] = []
        while True:
            page = min(_PAGE, limit - len(items)) if limit else _PAGE
            request = pb.RangeRequest(key=start, range_end=end, limit=page, revision=revision)
            response = await self._call(lambda at, request=request: self._kv[at].Range(request), repeat=True)  # type: ignore[misc]
            items += [_key_value(kv) for kv in response.kvs]
            revision = revision or int(response.header.revision)
            if not response.more or (limit and len(items) >= limit):
                return Listing(items, revision, int(response.count) - len(response.kvs) if response.more else 0)
            start = response.kvs[-1].key + b"\x00"

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """See Store.create."""
        name = key.encode()
        request = pb.TxnRequest(
            compare=[pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=name, mod_revision=0)],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=name, value=value, lease=lease))],
        )
        response = await self._call(lambda at: self._kv[at].Txn(request))
        if not response.succeeded:
            raise KeyExists(key)
        return int(response.header.revision)

    async def update(self, key: str, value: bytes, *, expected_revision: int, lease: int = 0) -> int:
        """See Store.update."""
        put = pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=lease))
        return await self._guarded(key, expected_revision, put)

    async def delete(self, key: str, *, expected_revision: int) -> int:
        """See Store.delete."""
        remove = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key.encode()))
        return await self._guarded(key, expected_revision, remove)

    async def _guarded(self, key: str, expected: int, operation: Any) -> int:
        name = key.encode()
        request = pb.TxnRequest(
            compare=[pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.MOD, key=name, mod_revision=expected)],
            success=[operation],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=name))],
        )
        response = await self._call(lambda at: self._kv[at].Txn(request))
        if response.succeeded:
            return int(response.header.revision)
        found = response.responses[0].response_range.kvs
        if not found:
            raise KeyNotFound(key)
        raise RevisionConflict(key, expected=expected, current=_key_value(found[0]))

    async def compact(self, revision: int) -> None:
        """See Store.compact."""
        await self._call(lambda at: self._kv[at].Compact(pb.CompactionRequest(revision=revision)))

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store.grant_lease."""
        response = await self._call(lambda at: self._lease[at].LeaseGrant(pb.LeaseGrantRequest(TTL=ttl_seconds)))
        return int(response.ID)

    async def keep_alive(self, lease: int) -> None:
        """See Store.keep_alive."""

        async def once(at: int) -> int:
            call = self._lease[at].LeaseKeepAlive(iter([pb.LeaseKeepAliveRequest(ID=lease)]))
            response = await call.read()
            call.cancel()
            return int(response.TTL)

        if await self._call(once) <= 0:
            raise KeyNotFound(f"lease {lease}")

    async def revoke_lease(self, lease: int) -> None:
        """See Store.revoke_lease."""
        await self._call(lambda at: self._lease[at].LeaseRevoke(pb.LeaseRevokeRequest(ID=lease)))

    async def health(self) -> None:
        """See Store.health."""
        response = await self._call(lambda at: self._status[at].Status(pb.StatusRequest()))
        if any("NOSPACE" in text for text in response.errors):
            raise StoreFull("etcd raised the alarm NOSPACE")
        await self.current_revision()

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str, *, start_revision: int) -> AsyncIterator[AsyncIterator[Batch]]:
        """See Store.watch."""
        stream = self._follow(prefix, start_revision)
        try:
            yield stream
        finally:
            await stream.aclose()

    async def _follow(self, prefix: str, position: int) -> Any:
        """Watch for ever; a lost connection is taken up again behind the last change delivered."""
        trusted = await self._tells_progress_truly()
        while True:
            stub: Any = stubs.WatchStub(self._channels[self._at % len(self._channels)])
            call = stub.Watch()
            asking = asyncio.create_task(_ask_progress(call))
            try:
                key = prefix.encode()
                create = pb.WatchCreateRequest(
                    key=key, range_end=_prefix_end(key), start_revision=position, prev_kv=True, fragment=True
                )
                await call.write(pb.WatchRequest(create_request=create))
                async for batch in _batches(call):
                    if batch.changes:
                        position = batch.revision + 1
                    if batch.changes or trusted:
                        yield batch
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
                log.warning("the watch on etcd broke: %s", _shown(error))
                self._at += 1
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                call.cancel()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _tells_progress_truly(self) -> bool:
        """Whether this etcd tells of its progress only after the changes before it.

        Versions before 3.4.25, and 3.5.0 to 3.5.7, do not: https://github.com/etcd-io/etcd/issues/15220
        """
        try:
            response = await self._call(lambda at: self._status[at].Status(pb.StatusRequest()), repeat=True)
        except StoreError:
            return False
        version = tuple(int(part) for part in response.version.split(".")[:3] if part.isdigit())
        return version >= (3, 5, 8) or (3, 4, 25) <= version < (3, 5)

    async def close(self) -> None:
        """See Store.close."""
        for channel in self._channels:
            await channel.close()


async def _ask_progress(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            await call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))


async def _batches(call: Any) -> AsyncIterator[Batch]:
    """Yield batches; the fragments of one revision are joined, so that none is taken for whole."""
    changes: list[Change] = []
    while True:
        async with asyncio.timeout(_SILENCE_SECONDS):
            response = await call.read()
        if response is grpc.aio.EOF:
            return
        if response.compact_revision:
            raise Compacted(f"revisions up to {response.compact_revision} are compacted")
        if response.canceled:
            raise StoreUnavailable(f"etcd ended the watch: {response.cancel_reason}")
        if response.created:
            continue
        changes += [_change(event) for event in response.events]
        if response.fragment:
            continue
        # An answer with changes reaches to the last of them; one without tells how far the watch has come.
        revision = changes[-1].mod_revision if changes else int(response.header.revision)
        yield Batch(changes, revision)
        changes = []


def _change(event: Any) -> Change:
    kv = event.kv
    if event.type:
        last = event.prev_kv.value if event.HasField("prev_kv") else None
        return Change(kv.key.decode(), last, kv.mod_revision, deleted=True)
    return Change(kv.key.decode(), kv.value, kv.mod_revision, deleted=False)


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision)


def _prefix_end(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with `prefix`, which ends in a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _was_never_sent(error: grpc.aio.AioRpcError) -> bool:
    """Whether there was no connection to send a request over: a write then has surely not happened."""
    return error.code() == grpc.StatusCode.UNAVAILABLE and "failed to connect" in (error.details() or "")


def _shown(error: BaseException) -> str:
    return error.details() or str(error.code()) if isinstance(error, grpc.aio.AioRpcError) else repr(error)


def _as_store_error(error: grpc.aio.AioRpcError) -> StoreError:
    text = error.details() or str(error.code())
    match error.code():
        case grpc.StatusCode.OUT_OF_RANGE if "compacted" in text:
            return Compacted(text)
        case grpc.StatusCode.OUT_OF_RANGE:
            return FutureRevision(text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "space" in text:
            return StoreFull(text)
        case grpc.StatusCode.NOT_FOUND:
            return KeyNotFound(text)
        case grpc.StatusCode.INVALID_ARGUMENT if "too large" in text:
            return ValueTooLarge(text)
        case _:
            return StoreUnavailable(text)
