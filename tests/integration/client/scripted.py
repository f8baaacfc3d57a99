"""A real HTTP server that answers as a test scripts it: what a healthy API server won't do on demand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
from aiohttp import web

from machinery.client.kubeconfig import ClientConfig

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def scripted_server(answer: Answer) -> AsyncIterator[ClientConfig]:
    """Serve `answer` for every path on a loopback port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield ClientConfig(server=f"http://{host}:{port}")
    finally:
        await runner.cleanup()


class WatchServer:
    """Lists and watches ConfigMaps; each test says what lists hold and how watches go."""

    def __init__(self) -> None:
        self.items: dict[str, dict] = {}
        self.version = 1
        self.lists: list[str] = []  # the resourceVersion each list asked for
        self.watches: list[str] = []
        self.refuse_watches_with: dict | None = None
        self._streams: list[web.StreamResponse] = []
        self.watching = asyncio.Event()
        self._ended = asyncio.Event()

    def put(self, name: str, *, uid: str = "", data: dict[str, str] | None = None) -> dict:
        """Write an object without telling anyone."""
        self.version += 1
        metadata = {"name": name, "namespace": "default", "uid": uid or name, "resourceVersion": str(self.version)}
        self.items[name] = {"metadata": metadata, "data": data or {}}
        return self.items[name]

    def remove(self, name: str) -> dict:
        self.version += 1
        obj = self.items.pop(name)
        obj["metadata"]["resourceVersion"] = str(self.version)
        return obj

    async def send(self, kind: str, obj: dict) -> None:
        """Send an event to all watches."""
        await self.send_raw(orjson.dumps({"type": kind, "object": obj}) + b"\n")

    async def send_raw(self, data: bytes) -> None:
        for stream in self._streams:
            await stream.write(data)

    def end(self) -> None:
        """End all watches in good order, as a server does when their time is up."""
        self.watching.clear()
        self._ended.set()
        self._ended = asyncio.Event()
        self._streams.clear()

    def cut(self) -> None:
        """Break all watch connections in the middle."""
        self.watching.clear()
        for stream in self._streams:
            assert stream._req is not None
            transport = stream._req.transport
            if transport is not None:
                transport.abort()
        self._streams.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "")
        if "watch" not in request.query:
            self.lists.append(version)
            body = {"metadata": {"resourceVersion": str(self.version)}, "items": list(self.items.values())}
            return web.json_response(body)
        self.watches.append(version)
        if self.refuse_watches_with is not None:
            status, self.refuse_watches_with = self.refuse_watches_with, None
            return web.json_response(status, status=status["code"])
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._streams.append(stream)
        self.watching.set()
        await self._ended.wait()
        return stream
