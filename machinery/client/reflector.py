"""List and watch one resource for ever: the part of an informer that survives the network.

It knows bytes and resource versions; what is kept, and who is told, is the sink's.
"""

import asyncio
import contextlib
import logging
import random
from typing import Protocol

import msgspec

from machinery.api.meta import Resource
from machinery.client.rest import Client, ConnectionFailed, WatchEvent
from machinery.errors import APIError, Expired, Gone

log = logging.getLogger(__name__)

BACKOFF_START_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 5.0
WATCH_SECONDS = (300, 600)
"""How long the server is asked to keep a watch; drawn at random so that reconnects spread out."""


class Versioned(msgspec.Struct, frozen=True):
    """The metadata the kit itself reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""


class Partial(msgspec.Struct, frozen=True):
    """Any object, reduced to the metadata the kit reads."""

    metadata: Versioned


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    next_page: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class Sink(Protocol):
    """What takes the objects."""

    def replace(self, items: list[msgspec.Raw]) -> None:
        """Take the whole present state."""

    def apply(self, event: WatchEvent, partial: Partial) -> None:
        """Take one change (never a bookmark)."""


class PagedSink(Sink, Protocol):
    """A sink that takes a long list piece by piece, so that it never lies in memory whole."""

    def page(self, items: list[msgspec.Raw], *, first: bool) -> None:
        """Take a piece of the whole state; `replace` comes with the last one."""


_decode_list = msgspec.json.Decoder(_List).decode
decode_partial = msgspec.json.Decoder(Partial).decode


class Reflector:
    """Keeps a sink up to date with a resource; reconnects with back-off, lists again when history is lost."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        sink: Sink,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        pages: PagedSink | None = None,
        page_size: int = 500,
    ) -> None:
        """Args: `pages` is the sink again, when it takes lists piece by piece, of `page_size` objects each."""
        self._client = client
        self._resource = resource
        self._sink = sink
        self._pages = pages
        self._page_size = page_size if pages is not None else 0
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        # "0" takes whatever the server's watch cache has; "" is a consistent read, asked for once history was lost.
        self._list_version = "0"
        self._version = ""

    async def run(self) -> None:
        """List and watch until cancelled."""
        backoff = BACKOFF_START_SECONDS
        while True:
            try:
                if not self._version:
                    await self._list()
                before = self._version
                await self._watch()
                backoff = BACKOFF_START_SECONDS
                if self._version != before:
                    continue  # the server ended a watch that worked: open the next at once
            except (Expired, Gone):
                log.info("%s: history lost, listing again", self._resource.group_resource)
                self._version, self._list_version = "", ""
            except (APIError, ConnectionFailed, OSError, msgspec.DecodeError) as error:
                log.info("%s: %s; trying again", self._resource.group_resource, error)
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, not a secret
            backoff = min(backoff * 2, BACKOFF_MAX_SECONDS)

    async def _list(self) -> None:
        params = {
            "labelSelector": self._label_selector,
            "fieldSelector": self._field_selector,
            "resourceVersion": self._list_version,
            "limit": str(self._page_size or ""),
        }
        params = {name: value for name, value in params.items() if value}
        path = self._resource.path(self._namespace)
        answer = _decode_list(await self._client.request("GET", path, params=params))
        items, first = answer.items or [], True
        while answer.metadata.next_page:
            if self._pages is not None:
                self._pages.page(items, first=first)
                items, first = [], False
            page = {**params, "continue": answer.metadata.next_page}
            page.pop("resourceVersion", None)  # the token has it
            answer = _decode_list(await self._client.request("GET", path, params=page))
            items = [*items, *(answer.items or ())]
        self._sink.replace(items)
        self._version = answer.metadata.resourceVersion

    async def _watch(self) -> None:
        events = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self._version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            timeout_seconds=random.randint(*WATCH_SECONDS),  # noqa: S311  # spread, not a secret
        )
        async with contextlib.aclosing(events):
            async for event in events:
                partial = decode_partial(event.object)
                if event.type != "BOOKMARK":
                    self._sink.apply(event, partial)
                self._version = partial.metadata.resourceVersion
