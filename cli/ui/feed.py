"""Follows one kind as the server's tables, for ever: any kind can be shown, with the columns the server gives it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from cli.ui.model import Model
from machinery.api.meta import Resource
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Expired, Gone, from_status

_TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
_RETRY_SECONDS = 2.0


class Feed:
    """Keeps a model up to date; `tell` is called with what is wrong, and with "" when nothing is any more."""

    def __init__(
        self, client: Client, resource: Resource, namespace: str, selectors: Mapping[str, str], model: Model,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._client = client
        self._path = resource.path(namespace if resource.namespaced else "")
        self._params = {name: value for name, value in selectors.items() if value}
        self._model = model
        self._tell = tell

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                await self._list_and_watch()
            except (Expired, Gone):
                continue
            except (APIError, ConnectionFailed, OSError) as error:
                self._tell(str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _list_and_watch(self) -> None:
        params = {**self._params, "includeObject": "Metadata"}
        body = await self._client.request("GET", self._path, params=params, headers=_TABLE)
        table = await asyncio.to_thread(orjson.loads, body)
        self._model.replace(table)
        self._tell("")
        version = table["metadata"]["resourceVersion"]
        while True:
            watch = {**params, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
            async with self._client.stream("GET", self._path, params=watch, headers=_TABLE) as answer:
                async for line in lines(answer.chunks()):
                    event = orjson.loads(line)
                    version = self._take(event) or version

    def _take(self, event: Mapping[str, Any]) -> str:
        """Enter an event; returns its version."""
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            raise from_status(found)
        if kind != "BOOKMARK":
            self._model.apply(kind, found)
        rows = found.get("rows") or ()
        version = rows[0]["object"]["metadata"].get("resourceVersion", "") if rows else ""
        return str(version or (found.get("metadata") or {}).get("resourceVersion", ""))


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream at newlines."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
    if rest:
        yield rest
