"""Watch: changes as they happen, each encoded once and sent to all who asked.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
from aiohttp import web

from apiserver.endpoints import table
from apiserver.endpoints.body import PROTOBUF
from apiserver.endpoints.reading import Selection, include_object, parse_revision, reach, scope_prefix, wanted
from apiserver.registry.kind import Kind
from apiserver.request import Accepted, Call, flag
from apiserver.storage.object_storage import ObjectStorage
from apiserver.storage.watch_cache import Collection, Entry, Event, TooOld, Watcher, event_line
from machinery import errors
from machinery.api.digits import is_number

MIN_TIMEOUT_SECONDS = 1800
BOOKMARK_SECONDS = 60.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
# A batch of changes is sent in pieces of about this size, so that one watcher does not hold the loop.
_PIECE_BYTES = 64 * 1024

Render = Callable[[str, Entry], bytes]


async def watch(call: Call, storage: ObjectStorage) -> web.StreamResponse:
    """Answer a watch until its time is over, the client leaves, or it falls too far behind."""
    kind, query = call.known, call.query
    selection = Selection(kind, query, call.info.name)
    initial = flag(query, "sendInitialEvents")
    want = wanted(call, tables=not initial)
    render = _renderer(call, want)
    if initial and query.get("resourceVersionMatch") != "NotOlderThan":
        raise errors.Invalid(
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires "
            "setting resourceVersionMatch to NotOlderThan"
        )  # fmt: skip
    asked = query.get("resourceVersion", "")
    if asked in ("", "0"):
        if not asked:
            await storage.refresh()
        elif not storage.cache.ready.is_set():
            await reach(storage.cache, 0)
    elif parse_revision(asked) > storage.cache.revision:
        await reach(storage.cache, parse_revision(asked))
    from_now = asked in ("", "0") or initial
    collection = storage.cache.collection(kind.resource.group_resource)
    namespace = call.info.namespace if kind.resource.namespaced else ""
    try:
        with (
            collection.watch(namespace, after=None if from_now else int(asked)) as watcher,
            kind.custom.follow(watcher) if kind.custom is not None else contextlib.nullcontext(),
        ):
            session = _Session(call, storage, watcher, selection, render, want)
            begins = from_now and (initial or "sendInitialEvents" not in query)
            # Handed on and not kept here: a watch lasts, and would hold all of them as they were when it began.
            return await session.run(await _present(collection, kind, namespace) if begins else (), marks_end=initial)
    except TooOld as error:
        return await _refused(call, want, errors.Expired(str(error)))


async def _present(collection: Collection, kind: Kind, namespace: str) -> Sequence[Entry]:
    """Return the objects there are, as the version asked for shows them."""
    entries = collection.entries(scope_prefix(kind, namespace))
    return entries if kind.custom is None else await kind.custom.view(entries)


async def _refused(call: Call, want: Accepted, error: errors.APIError) -> web.StreamResponse:
    """Answer with a watch whose one event is the error, as upstream tells of versions that are forgotten."""
    response = _response(call, want)
    await response.prepare(call.http)
    await response.write(_encoded(want, "ERROR", orjson.dumps(error.to_status())))
    await response.write_eof()
    return response


def _response(call: Call, want: Accepted) -> web.StreamResponse:
    content_type = f"{PROTOBUF};stream=watch" if want.media == PROTOBUF else "application/json"
    response = web.StreamResponse(headers={"Content-Type": content_type, **call.told})
    response.enable_chunked_encoding()
    return response


def _renderer(call: Call, want: Accepted) -> Render:
    """Return what turns an entry into the line of an event, in the representation asked for."""
    if want.as_kind == "Table":
        return _TableLines(call.known, include_object(call), want.as_version)
    if want.as_kind.startswith("PartialObjectMetadata"):
        return lambda type_, entry: _encoded(want, type_, table.partial_bytes(entry, want.as_version))
    return lambda type_, entry: _encoded(want, type_, entry.value)


def _encoded(want: Accepted, type_: str, value: bytes) -> bytes:
    if want.media != PROTOBUF:
        return event_line(type_, value)
    from machinery.api.protobuf_encode import watch_frame

    return watch_frame(type_, orjson.loads(value))


class _TableLines:
    """Events as tables of one row; only the first tells the columns."""

    def __init__(self, kind: Kind, include: str, version: str) -> None:
        self._kind = kind
        self._version = version
        self._include = include
        self._header = True

    def __call__(self, type_: str, entry: Entry) -> bytes:
        metadata = b'{"resourceVersion":"%d"}' % entry.revision
        header, self._header = self._header, False
        found = table.table_bytes(
            self._kind, [entry], metadata, self._include, header=header, version=self._version
        )  # fmt: skip
        return event_line(type_, found)


class _Session:
    """One watch being served."""

    def __init__(
        self, call: Call, storage: ObjectStorage, watcher: Watcher, selection: Selection, render: Render,
        want: Accepted,
    ) -> None:  # fmt: skip
        self._call = call
        self._cache = storage.cache
        self._watcher = watcher
        self._selection = selection
        self._render = render
        self._want = want
        self._plain = want.as_kind == "" and want.media != PROTOBUF
        self._bookmarks = flag(call.query, "allowWatchBookmarks")
        self._seconds = self._timeout_seconds()
        self._response = _response(call, want)
        self._writing = False
        watcher.cut = self._cut

    def _cut(self) -> None:
        """End a watch that fell too far behind and whose client takes nothing: nobody would, its write waits."""
        transport = self._call.http.transport
        if self._writing and transport is not None:
            transport.abort()

    async def run(self, present: Sequence[Entry], *, marks_end: bool) -> web.StreamResponse:
        response = self._response
        revision = self._cache.revision
        await response.prepare(self._call.http)
        # Made while they are sent: many who begin at once must not each hold a copy of everything.
        await self._send(self._render("ADDED", entry) for entry in present if self._selection.matches(entry))
        if marks_end:
            await self._send([self._bookmark(revision, {INITIAL_EVENTS_END: "true"})])
        present = ()
        deadline = time.monotonic() + self._seconds
        bookmark_at = time.monotonic() + BOOKMARK_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311
        while (now := time.monotonic()) < deadline:
            if await self._watcher.wait(min(deadline, bookmark_at) - now):
                if self._watcher.overrun:
                    break
                await self._send(self._lines(await self._take()))
            if self._bookmarks and time.monotonic() >= bookmark_at:
                revision = self._cache.revision
                await self._send([*self._lines(await self._take()), self._bookmark(revision, {})])
            if time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + BOOKMARK_SECONDS
        if self._bookmarks and not self._watcher.overrun:
            revision = self._cache.revision
            await self._send([*self._lines(await self._take()), self._bookmark(revision, {})])
        await response.write_eof()
        return response

    async def _take(self) -> Sequence[Event]:
        """Return what has come, objects as the version asked for shows them."""
        events, custom = self._watcher.take(), self._call.known.custom
        if custom is None or not events:
            return events
        entries = await custom.view([event.entry for event in events])
        before = await custom.view([event.previous for event in events if event.previous is not None])
        previous = iter(before)
        return [
            Event(event.type, entry, next(previous) if event.previous is not None else None, event.revision)
            for event, entry in zip(events, entries, strict=True)
        ]

    def _timeout_seconds(self) -> float:
        text = self._call.query.get("timeoutSeconds", "")
        if text and not is_number(text):
            raise errors.BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text) if text else MIN_TIMEOUT_SECONDS * random.uniform(1, 2)  # noqa: S311

    async def _send(self, lines: Iterable[bytes]) -> None:
        pending: list[bytes] = []
        size = 0
        for line in lines:
            pending.append(line)
            size += len(line)
            if size >= _PIECE_BYTES:
                await self._write(pending)
                pending, size = [], 0
        if pending:
            await self._write(pending)

    async def _write(self, lines: list[bytes]) -> None:
        self._writing = True
        try:
            await self._response.write(b"".join(lines))
        finally:
            self._writing = False

    def _lines(self, events: Sequence[Event]) -> Iterator[bytes]:
        if self._selection.is_empty and self._plain:
            return (event.line() for event in events)
        return (line for event in events if (line := self._line(event)) is not None)

    def _line(self, event: Event) -> bytes | None:
        """Return the event as this client sees it: an object that begins or ceases to match comes or goes."""
        is_in = event.type != "DELETED" and self._selection.matches(event.entry)
        was_in = event.previous is not None and self._selection.matches(event.previous)
        if not is_in and not was_in:
            return None
        if is_in:
            return self._render("MODIFIED" if was_in else "ADDED", event.entry)
        if event.type == "DELETED":
            return self._render("DELETED", event.entry)
        return self._render("DELETED", self._left(event))

    @staticmethod
    def _left(event: Event) -> Entry:
        """Return the last state that matched, at the revision of the change that ended it."""
        assert event.previous is not None  # noqa: S101 - it matched before
        old = b'"resourceVersion":"%d",' % event.previous.revision
        return Entry(event.entry.key, event.previous.value.replace(old, b"", 1), event.revision)

    def _bookmark(self, revision: int, annotations: dict[str, str]) -> bytes:
        resource = self._call.known.resource
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        body: dict[str, Any] = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        if self._want.as_kind.startswith("PartialObjectMetadata"):
            body |= {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{self._want.as_version or 'v1'}"}
        if isinstance(self._render, _TableLines):
            body = {
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": str(revision)},
                "columnDefinitions": [], "rows": [{"cells": [], "object": body}],
            }  # fmt: skip
        return _encoded(self._want, "BOOKMARK", orjson.dumps(body))
