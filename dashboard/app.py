"""The dashboard's server: login, what a page follows, logs, and the page itself. All it tells, it asks as the user."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson
from aiohttp import web

from dashboard.live import KINDS, Wanted, lines
from dashboard.security import add_headers, guard
from dashboard.sessions import COOKIE, Session, Sessions
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError, Unauthorized

_MAX_BODY_BYTES = 65536
_SWEEP_SECONDS = 60.0
_TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml",
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MAX_TAIL_LINES = 5000
_SESSIONS = web.AppKey("sessions", Sessions)
_PAGES = web.AppKey("pages", dict[str, bytes])
Asked = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Options:
    """Where the dashboard is served.

    Attributes:
        host, port: the address listened at.
        names: host names it goes by, beside addresses and localhost.
        tls: the certificate; None for plain HTTP, which loopback alone should have.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    names: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None


async def run(config: ClientConfig, options: Options, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until cancelled; `ready` is told the port. Raises: OSError when it can't be had."""
    runner = web.AppRunner(
        make_app(config, options), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )  # fmt: skip
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host, options.port, ssl_context=options.tls)
        await site.start()
        if ready is not None:
            ready(runner.addresses[0][1])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def make_app(config: ClientConfig, options: Options) -> web.Application:
    """Return the application: `config` says where the API server is; who we are there is not used."""
    names = frozenset(name.lower() for name in options.names)
    app = web.Application(middlewares=[guard(names)], client_max_size=_MAX_BODY_BYTES)
    app[_SESSIONS] = Sessions(config)
    app[_PAGES] = read_pages()
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_sweeping)
    app.router.add_get("/", _page)
    app.router.add_get("/pages/{name}", _page)
    app.router.add_post("/login", _login)
    app.router.add_post("/logout", _logout)
    app.router.add_get("/me", _me)
    app.router.add_get("/live", _logged_in(_live))
    app.router.add_get("/log", _logged_in(_log))
    return app


def read_pages() -> dict[str, bytes]:
    """Return the files of the page by name; they are few and small, and no name can lead outside."""
    folder = resources.files("dashboard.pages")
    return {
        entry.name: entry.read_bytes() for entry in folder.iterdir() if "." + entry.name.rpartition(".")[2] in _TYPES
    }


async def _sweeping(app: web.Application) -> AsyncIterator[None]:
    async def for_ever() -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await app[_SESSIONS].sweep()

    task = asyncio.create_task(for_ever())
    yield
    task.cancel()
    await app[_SESSIONS].close_all()


async def _page(request: web.Request) -> web.StreamResponse:
    name = request.match_info.get("name", "index.html")
    body = request.app[_PAGES].get(name)
    if body is None:
        raise web.HTTPNotFound(text="there is no such page\n")
    return web.Response(body=body, content_type=_TYPES["." + name.rpartition(".")[2]], charset="utf-8")


def _logged_in(handler: Asked) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Let only those in who have logged in."""

    async def found(request: web.Request) -> web.StreamResponse:
        session = request.app[_SESSIONS].find(request.cookies.get(COOKIE, ""))
        if session is None:
            return _problem(401, "log in first")
        return await handler(request, session)

    return found


def _problem(status: int, message: str) -> web.Response:
    return _json({"message": message}, status=status)


def _json(body: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json", status=status)


async def _login(request: web.Request) -> web.StreamResponse:
    """Take a token, ask the API server whose it is, and begin a session."""
    try:
        token = str(orjson.loads(await request.read())["token"]).strip()
    except (ValueError, KeyError, TypeError):
        return _problem(400, "send a token")
    if not token or not token.isascii() or not token.isprintable():
        return _problem(401, "this is not a token")
    sessions = request.app[_SESSIONS]
    await sessions.sweep()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(sessions.client(token))
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            answer = orjson.loads(await client.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body))
        except Unauthorized:
            return _problem(401, "the cluster does not know this token, or it has run out")
        except APIError as error:
            return _problem(error.code, str(error))
        except ConnectionFailed as error:
            return _problem(502, str(error))
        user = answer["status"]["userInfo"]["username"]
        name = sessions.open(user, client, stack.pop_all())
    response = _json({"user": user})
    response.set_cookie(COOKIE, name, httponly=True, samesite="Strict", secure=request.secure, path="/")
    return response


async def _logout(request: web.Request) -> web.StreamResponse:
    await request.app[_SESSIONS].close(request.cookies.get(COOKIE, ""))
    response = _json({})
    response.del_cookie(COOKIE, path="/")
    return response


async def _me(request: web.Request) -> web.StreamResponse:
    """Tell who is logged in; "" for nobody."""
    session = request.app[_SESSIONS].find(request.cookies.get(COOKIE, ""))
    return _json({"user": session.user if session else ""})


async def _live(request: web.Request, session: Session) -> web.StreamResponse:
    """Follow kinds: ?kinds=pods,nodes&namespace=&pod= (the last for one pod and its events)."""
    query = request.query
    kinds = tuple(dict.fromkeys(query.get("kinds", "").split(",")))
    namespace, pod = query.get("namespace", ""), query.get("pod", "")
    if any(kind not in KINDS for kind in kinds):
        return _problem(400, "there is no such kind")
    if any(text and not _NAME.fullmatch(text) for text in (namespace, pod)):
        return _problem(400, "this is not a name")
    fields = (
        {"pods": f"metadata.name={pod}", "events": f"involvedObject.name={pod},involvedObject.kind=Pod"} if pod else {}
    )
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):
        async with contextlib.aclosing(lines(session.client, Wanted(kinds, namespace, fields))) as found:
            async for piece in found:
                await response.write(piece)
                request.app[_SESSIONS].find(request.cookies[COOKIE])  # a page that follows is in use
    return response


async def _log(request: web.Request, session: Session) -> web.StreamResponse:
    """Pass a container's log on as it is written: ?namespace=&pod=&container=&tail=&previous=."""
    query = request.query
    names = [query.get(name, "") for name in ("namespace", "pod", "container")]
    tail = query.get("tail", "500")
    if not all(_NAME.fullmatch(name) for name in names) or not tail.isdigit():
        return _problem(400, "this is not a name")
    namespace, pod, container = names
    params = {"container": container, "tailLines": str(min(int(tail), _MAX_TAIL_LINES))}
    params |= {"previous": "true"} if query.get("previous") else {"follow": "true"}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    try:
        async with session.client.stream("GET", path, params=params) as answer:
            await response.prepare(request)
            async for chunk in answer.chunks():
                await response.write(chunk)
    except APIError as error:
        return _problem(error.code, str(error))
    except ConnectionResetError:
        return response
    except ConnectionFailed as error:
        return response if response.prepared else _problem(502, str(error))
    return response
