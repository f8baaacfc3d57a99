"""etcd v3 as the store, on messages generated from its public API.

A guarded write is one transaction that compares the revision and, where that fails, reads what is there instead, so a
conflict costs one round trip. Sources: https://etcd.io/docs/v3.5/learning/api/ and
https://etcd.io/docs/v3.5/learning/api_guarantees/
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from apiserver.storage import rpc
from apiserver.storage.etcdpb import rpc_pb2 as pb
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
Answer = TypeVar("Answer", covariant=True)

CALL_SECONDS = 3.5
_PAGE = 5000
_RETRY_SECONDS = 0.1
_TOO_LITTLE_SECONDS = 0.5
# A watch that brings nothing is asked for its progress this often, so that a dead connection is noticed.
_PROGRESS_SECONDS = 1.0
_SILENCE_SECONDS = 15.0
_KV, _LEASE, _MAINTENANCE = "/etcdserverpb.KV", "/etcdserverpb.Lease", "/etcdserverpb.Maintenance"
_WATCH = "/etcdserverpb.Watch/Watch"


class _Message(Protocol):
    """A message of the API that is sent."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return its bytes."""


class _Readable(Protocol[Answer]):
    """A class of messages that are received."""

    def FromString(self, data: bytes, /) -> Answer:  # noqa: N802 - protobuf's name
        """Return the message that bytes hold."""


@dataclass(frozen=True, slots=True)
class EtcdTLS:
    """Files with which a client is known to etcd, and etcd to the client."""

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None


class EtcdStore:
    """A store in an etcd cluster; endpoints are tried in turn."""

    def __init__(self, endpoints: Sequence[str], tls: EtcdTLS | None = None) -> None:
        context = rpc.tls_context(tls.ca_file, tls.cert_file, tls.key_file) if tls is not None else None
        self._channels = [rpc.Channel(endpoint, context) for endpoint in endpoints]
        self._at = 0

    async def _call(self, method: str, request: _Message, answer: _Readable[Answer], *, repeat: bool = False) -> Answer:
        """Call one endpoint; what may be repeated goes on to the next when it is away. Raises: StoreError."""
        data, left, began = request.SerializeToString(), CALL_SECONDS, 0.0
        while True:
            try:
                return answer.FromString(await self._channels[self._at].unary(method, data, left))
            except rpc.RpcError as error:
                failure = _as_store_error(error)
                if not isinstance(failure, StoreUnavailable):
                    raise failure from error
                self._turn()
                if error.code == rpc.DEADLINE_EXCEEDED or not (repeat or error.never_sent):
                    raise failure from error
                now = asyncio.get_running_loop().time()
                began = began or now
                left = CALL_SECONDS - _RETRY_SECONDS - (now - began)
                if left < _TOO_LITTLE_SECONDS:  # another try would only hide why this one failed
                    raise failure from error
                await asyncio.sleep(_RETRY_SECONDS)

    def _turn(self) -> None:
        """Go on with the next endpoint."""
        self._at = (self._at + 1) % len(self._channels)

    async def current_revision(self) -> int:
        """See Store.current_revision."""
        request = pb.RangeRequest(key=b"\x00", limit=1, count_only=True)
        response = await self._call(_KV + "/Range", request, pb.RangeResponse, repeat=True)
        return int(response.header.revision)

    async def get(self, key: str) -> KeyValue:
        """See Store.get."""
        request = pb.RangeRequest(key=key.encode())
        response = await self._call(_KV + "/Range", request, pb.RangeResponse, repeat=True)
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
            response = await self._call(_KV + "/Range", request, pb.RangeResponse, repeat=True)
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
        response = await self._call(_KV + "/Txn", request, pb.TxnResponse)
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
        response = await self._call(_KV + "/Txn", request, pb.TxnResponse)
        if response.succeeded:
            return int(response.header.revision)
        found = response.responses[0].response_range.kvs
        if not found:
            raise KeyNotFound(key)
        raise RevisionConflict(key, expected=expected, current=_key_value(found[0]))

    async def compact(self, revision: int) -> None:
        """See Store.compact."""
        await self._call(_KV + "/Compact", pb.CompactionRequest(revision=revision), pb.CompactionResponse)

    async def grant_lease(self, ttl_seconds: int) -> int:
        """See Store.grant_lease."""
        response = await self._call(
            _LEASE + "/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_seconds), pb.LeaseGrantResponse
        )
        return int(response.ID)

    async def keep_alive(self, lease: int) -> None:
        """See Store.keep_alive."""
        try:
            call = await self._channels[self._at].stream(_LEASE + "/LeaseKeepAlive", CALL_SECONDS)
            try:
                call.write(pb.LeaseKeepAliveRequest(ID=lease).SerializeToString())
                response = pb.LeaseKeepAliveResponse.FromString(await call.read(CALL_SECONDS))
            finally:
                call.cancel()
        except rpc.RpcError as error:
            self._turn()
            raise _as_store_error(error) from error
        except TimeoutError as error:
            self._turn()
            raise StoreUnavailable("etcd did not answer in time") from error
        if response.TTL <= 0:
            raise KeyNotFound(f"lease {lease}")

    async def revoke_lease(self, lease: int) -> None:
        """See Store.revoke_lease."""
        await self._call(_LEASE + "/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)

    async def health(self) -> None:
        """See Store.health."""
        response = await self._call(_MAINTENANCE + "/Status", pb.StatusRequest(), pb.StatusResponse)
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
            call: rpc.TwoWay | None = None
            asking: asyncio.Task[None] | None = None
            try:
                call = await self._channels[self._at].stream(_WATCH, CALL_SECONDS)
                asking = asyncio.create_task(_ask_progress(call))
                key = prefix.encode()
                # The values that deletes overwrote are not asked for: the cache that reads this has them.
                create = pb.WatchCreateRequest(
                    key=key, range_end=_prefix_end(key), start_revision=position, fragment=True
                )
                call.write(pb.WatchRequest(create_request=create).SerializeToString())
                async for batch in _batches(call):
                    if batch.changes:
                        position = batch.revision + 1
                    if batch.changes or trusted:
                        yield batch
            except (rpc.RpcError, TimeoutError) as error:
                log.warning("the watch on etcd broke: %s", error or "it is silent")
                self._turn()
            finally:
                if asking is not None:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                if call is not None:
                    call.cancel()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _tells_progress_truly(self) -> bool:
        """Whether this etcd tells of its progress only after the changes before it.

        Versions before 3.4.25, and 3.5.0 to 3.5.7, do not: https://github.com/etcd-io/etcd/issues/15220
        """
        try:
            response = await self._call(_MAINTENANCE + "/Status", pb.StatusRequest(), pb.StatusResponse, repeat=True)
        except StoreError:
            return False
        version = tuple(int(part) for part in response.version.split(".")[:3] if part.isdigit())
        return version >= (3, 5, 8) or (3, 4, 25) <= version < (3, 5)

    async def close(self) -> None:
        """See Store.close."""
        for channel in self._channels:
            await channel.close()


async def _ask_progress(call: rpc.TwoWay) -> None:
    question = pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString()
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        call.write(question)


async def _batches(call: rpc.TwoWay) -> AsyncIterator[Batch]:
    """Yield batches; the fragments of one revision are joined, so that none is taken for whole."""
    changes: list[Change] = []
    while True:
        response = pb.WatchResponse.FromString(await call.read(_SILENCE_SECONDS))
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
        return Change(kv.key.decode(), None, kv.mod_revision, deleted=True)
    return Change(kv.key.decode(), kv.value, kv.mod_revision, deleted=False)


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision)


def _prefix_end(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with `prefix`, which ends in a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _as_store_error(error: rpc.RpcError) -> StoreError:
    text = str(error)
    match error.code:
        case rpc.OUT_OF_RANGE if "compacted" in text:
            return Compacted(text)
        case rpc.OUT_OF_RANGE:
            return FutureRevision(text)
        case rpc.RESOURCE_EXHAUSTED if "space" in text:
            return StoreFull(text)
        case rpc.NOT_FOUND:
            return KeyNotFound(text)
        case rpc.INVALID_ARGUMENT if "too large" in text:
            return ValueTooLarge(text)
        case _:
            return StoreUnavailable(text)
