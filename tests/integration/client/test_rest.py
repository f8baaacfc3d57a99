"""The REST client against scripted answers: refusals, waits, broken connections."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from aiohttp import web

from machinery.api.resources import CONFIG_MAPS, NODES, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed, PatchType
from machinery.errors import InternalError, NotFound, TooManyRequests
from tests.integration.client.scripted import scripted_server


async def test_a_refusal_is_raised_as_the_error_it_says() -> None:
    status = {
        "kind": "Status", "status": "Failure", "message": 'configmaps "x" not found', "reason": "NotFound",
        "details": {"name": "x", "kind": "configmaps"}, "code": 404,
    }  # fmt: skip

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(status, status=404)

    async with scripted_server(answer) as config, Client(config) as client:
        with pytest.raises(NotFound, match='configmaps "x" not found') as caught:
            await client.get(CONFIG_MAPS, "x", "default")
        assert caught.value.details == {"name": "x", "kind": "configmaps"}


async def test_a_refusal_that_is_no_status_is_raised_by_its_code() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500, text="it broke\n")

    async with scripted_server(answer) as config, Client(config) as client:
        with pytest.raises(InternalError, match=r"^it broke$"):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "x"}}, "default")


async def test_requests_go_to_the_right_place_with_the_right_form() -> None:
    seen: list[tuple[str, str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, str(request.rel_url), request.headers.get("Content-Type", "")))
        return web.json_response({"metadata": {}, "items": []})

    async with scripted_server(answer) as config, Client(config) as client:
        await client.list(PODS, "a b", label_selector="app in (x,y)", field_selector="spec.nodeName=n+1", limit=5)
        await client.patch(NODES, "n", [{"op": "test"}], type=PatchType.JSON, subresource="status")
        await client.create(PODS, {"target": {}}, "default", name="web", subresource="binding")
        await client.delete(PODS, "web", "default", options={"gracePeriodSeconds": 0})
        await client.delete_collection(PODS, "default", label_selector="a=b")
        await client.update(NODES, {"metadata": {"name": "system:x"}}, params={"dryRun": "All"})
    assert seen == [
        (
            "GET",
            "/api/v1/namespaces/a%20b/pods?labelSelector=app+in+(x,y)&fieldSelector=spec.nodeName%3Dn%2B1&limit=5",
            "",
        ),
        ("PATCH", "/api/v1/nodes/n/status", "application/json-patch+json"),
        ("POST", "/api/v1/namespaces/default/pods/web/binding", "application/json"),
        ("DELETE", "/api/v1/namespaces/default/pods/web", "application/json"),
        ("DELETE", "/api/v1/namespaces/default/pods?labelSelector=a%3Db", ""),
        ("PUT", "/api/v1/nodes/system:x?dryRun=All", "application/json"),
    ]


async def test_a_list_without_limit_has_all_pages() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.query.get("continue") == "more":
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]})
        return web.json_response({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"n": 1}]})

    async with scripted_server(answer) as config, Client(config) as client:
        everything = await client.list(PODS)
        assert everything == {"metadata": {"resourceVersion": "7"}, "items": [{"n": 1}, {"n": 2}]}
        assert (await client.list(PODS, limit=1))["metadata"]["continue"] == "more"


@pytest.mark.slow
async def test_a_throttled_write_is_sent_again_after_the_time_asked_for() -> None:
    tries = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            return web.json_response({"kind": "Status", "code": 429}, status=429, headers={"Retry-After": "1"})
        return web.json_response({})

    async with scripted_server(answer) as config, Client(config) as client:
        await client.create(PODS, {}, "default")
    assert tries == 2


async def test_a_throttled_write_without_a_time_to_wait_is_the_callers_to_repeat() -> None:
    tries = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        return web.json_response({"kind": "Status", "message": "budget", "code": 429}, status=429)

    async with scripted_server(answer) as config, Client(config) as client:
        with pytest.raises(TooManyRequests, match="budget"):
            await client.create(PODS, {}, "default", name="web", subresource="eviction")
    assert tries == 1


async def test_a_server_that_is_not_there_is_reported_in_kubectls_words() -> None:
    async with Client(ClientConfig("http://127.0.0.1:9"), patience_seconds=0) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.get(PODS, "x", "default")
        assert str(caught.value) == (
            "The connection to the server 127.0.0.1:9 was refused - did you specify the right host or port?"
        )


async def test_a_read_waits_for_a_server_that_is_coming_up(unused_tcp_port: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async with Client(ClientConfig(f"http://127.0.0.1:{unused_tcp_port}"), patience_seconds=5) as client:
        reading = asyncio.create_task(client.get(PODS, "x", "default"))
        await asyncio.sleep(0)
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        try:
            assert await reading == {"ok": True}
        finally:
            await runner.cleanup()


async def test_a_silent_server_is_given_up_on() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with scripted_server(answer) as config, Client(config, timeout_seconds=0.05) as client:
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await client.create(PODS, {}, "default")


async def test_a_replaced_token_file_is_read_again(tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    token = tmp_path / "token"
    token.write_text("first\n")
    async with (
        scripted_server(answer) as plain,
        Client(ClientConfig(plain.server, token_file=str(token))) as client,
    ):
        await client.get(PODS, "x", "default")
        replacement = tmp_path / "new"
        replacement.write_text("second\n")
        replacement.replace(token)
        await client.get(PODS, "x", "default")
    assert seen == ["Bearer first", "Bearer second"]


async def test_a_callers_own_timeout_inside_a_stream_stays_a_timeout() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        await asyncio.Event().wait()
        return stream

    async with scripted_server(answer) as config, Client(config) as client:
        with pytest.raises(TimeoutError):
            async with client.stream("GET", "/") as response, asyncio.timeout(0.02):
                await anext(response.chunks())


async def test_a_websocket_handshake_that_is_refused_is_an_api_error() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404)

    async with scripted_server(answer) as config, Client(config) as client:
        with pytest.raises(NotFound):
            async with client.websocket("/exec", params=[("command", "a"), ("command", "b")]):
                pass


async def test_a_websocket_carries_repeated_parameters_and_the_protocol() -> None:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await ws.prepare(request)
        await ws.send_str(" ".join(request.query.getall("command")))
        await ws.close()
        return ws

    async with scripted_server(answer) as config, Client(config) as client:
        params = [("command", "ls"), ("command", "-l")]
        async with client.websocket("/exec", params=params, protocols=["v5.channel.k8s.io"]) as ws:
            assert ws.protocol == "v5.channel.k8s.io"
            assert await ws.receive_str() == "ls -l"


async def test_requests_one_after_another_share_a_connection_and_those_at_once_do_not() -> None:
    peers = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        await asyncio.sleep(0)
        return web.json_response({}, status=404 if "missing" in request.path else 200)

    async with scripted_server(answer) as config, Client(config) as client:
        for name in ("a", "missing", "b"):
            with contextlib.suppress(NotFound):
                await client.get(NODES, name)
        assert len(set(peers)) == 1
        await asyncio.gather(*(client.get(NODES, "a") for _ in range(3)))
    assert len(set(peers)) == 3


async def test_a_burst_of_requests_waits_for_connections_that_come_free() -> None:
    peers = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.json_response({})

    async with scripted_server(answer) as config, Client(config) as client:
        await asyncio.gather(*(client.get(NODES, "a") for _ in range(400)))
    assert len(peers) == 400
    assert len(set(peers)) <= 200


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "Server disconnected", id="cut-short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", "disconnected", id="cut-chunk"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "malformed answer", id="no-http"),
        pytest.param(b"", "Server disconnected", id="nothing"),
    ],
)
async def test_an_answer_that_is_none_is_a_failed_connection(sent: bytes, told: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(ClientConfig(f"http://127.0.0.1:{port}"), patience_seconds=0) as client:
        with pytest.raises(ConnectionFailed, match=told):
            await client.get(NODES, "a")


async def test_a_name_can_not_become_another_request() -> None:
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    config = ClientConfig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, Client(config) as client:
        await client.get(NODES, "a b\r\nX: y?z#%2F")
        with pytest.raises(ValueError, match="line break"):
            await client.request("GET", "/", headers={"X": "a\r\nY: b"})
    assert seen == [b"GET /api/v1/nodes/a%20b%0D%0AX:%20y%3Fz%23%252F HTTP/1.1"]


async def test_a_reader_that_is_slow_slows_the_server_down() -> None:
    written = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal written
        stream = web.StreamResponse()
        await stream.prepare(request)
        for _ in range(400):
            await stream.write(b"x" * 100_000)
            written += 100_000
        return stream

    async with scripted_server(answer) as config, Client(config) as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response.chunks())
            before = -1
            while before != written:  # until the server can send no more
                before = written
                await asyncio.sleep(0.1)
            assert written < 20_000_000
            total = sum([len(chunk) async for chunk in response.chunks()])
        assert total > 20_000_000
