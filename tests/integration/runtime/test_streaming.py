"""Exec, Attach and PortForward as the agent uses them: a URL by CRI, then a WebSocket."""

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from agent.cri import api_pb2 as cri_pb
from tests.integration.runtime.harness import CriClient

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
V5 = "v5.channel.k8s.io"


class Peer:
    """The client's end of a streaming session."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.received: dict[int, bytes] = {}

    async def send(self, channel: int, data: bytes) -> None:
        await self.connection.send(bytes((channel,)) + data)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Receive until a condition holds."""
        async with asyncio.timeout(15):
            while not condition():
                message = await self.connection.recv()
                assert isinstance(message, bytes)
                self.received[message[0]] = self.received.get(message[0], b"") + message[1:]

    async def shows(self, text: bytes, channel: int = STDOUT) -> None:
        await self.until(lambda: text in self.received.get(channel, b""))

    async def status(self) -> dict[str, Any]:
        """The Status that ends the session."""
        await self.until(lambda: bool(self.received.get(ERROR)))
        found: dict[str, Any] = json.loads(self.received[ERROR])
        return found


def dial(url: str, protocol: str = V5) -> connect:
    return connect(url.replace("http://", "ws://"), subprotocols=[Subprotocol(protocol)], proxy=None)


async def exec_url(cri: CriClient, container: str, *command: str, tty: bool = False, stdin: bool = False) -> str:
    request = cri_pb.ExecRequest(container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
    return (await cri.runtime.Exec(request)).url


@pytest.fixture
async def sleeper(cri: CriClient) -> str:
    return await cri.run(await cri.run_sandbox(), "sleep", "1000")


async def test_exec_sync_returns_both_outputs_and_the_exit_code(cri: CriClient, sleeper: str) -> None:
    answer = await cri.exec(sleeper, "sh", "-c", "echo out; echo err >&2; exit 4")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 4)


async def test_exec_sync_is_killed_at_its_deadline(cri: CriClient, sleeper: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.exec(sleeper, "sleep", "4321", timeout=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "sleep 4321" not in await cri.output(sleeper, "ps")


async def test_exec_sync_does_not_wait_for_children_in_the_background(cri: CriClient, sleeper: str) -> None:
    async with asyncio.timeout(10):
        assert await cri.output(sleeper, "sh", "-c", "sleep 1000 & echo done") == "done\n"


async def test_exec_sync_cuts_its_output_at_16_mib(cri: CriClient, sleeper: str) -> None:
    answer = await cri.exec(sleeper, "sh", "-c", "head -c 17000000 /dev/zero; echo end >&2")
    assert (len(answer.stdout), answer.stderr, answer.exit_code) == (16 << 20, b"end\n", 0)


async def test_exec_sync_of_a_missing_command_says_so(cri: CriClient, sleeper: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.exec(sleeper, "nope")
    assert 'exec: "nope": executable file not found in $PATH' in (caught.value.details() or "")
    assert caught.value.code() == grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", V5])
async def test_exec_streams_keep_outputs_apart_and_end_with_a_status(
    cri: CriClient, sleeper: str, protocol: str
) -> None:
    url = await exec_url(cri, sleeper, "sh", "-c", "echo out; echo err >&2; exit 6")
    async with dial(url, protocol) as connection:
        assert connection.subprotocol == protocol
        peer = Peer(connection)
        status = await peer.status()
    assert (peer.received[STDOUT], peer.received[STDERR]) == (b"out\n", b"err\n")
    assert status["reason"] == "NonZeroExitCode"
    assert status["message"] == "command terminated with non-zero exit code: exit status 6"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "6"}]


async def test_exec_passes_input_on_and_its_end(cri: CriClient, sleeper: str) -> None:
    url = await exec_url(cri, sleeper, "sh", "-c", "cat; echo; echo end", stdin=True)
    async with dial(url) as connection:
        peer = Peer(connection)
        text = b"x" * 300_000  # more than a pipe holds
        await peer.send(STDIN, text)
        await peer.send(CLOSE, bytes((STDIN,)))
        assert (await peer.status())["status"] == "Success"
    assert peer.received[STDOUT] == text + b"\nend\n"


async def test_exec_on_a_terminal_has_its_size_and_follows_changes(cri: CriClient, sleeper: str) -> None:
    url = await exec_url(cri, sleeper, "sh", tty=True, stdin=True)
    async with dial(url) as connection:
        peer = Peer(connection)
        await peer.send(RESIZE, b'{"Width":100,"Height":40}')
        await peer.send(STDIN, b"stty size; tty\n")
        await peer.shows(b"40 100\r\n")
        await peer.shows(b"/dev/pts/")
        await peer.send(RESIZE, b'{"Width":90,"Height":30}')
        await peer.send(STDIN, b"stty size\n")
        await peer.shows(b"30 90\r\n")
        await peer.send(STDIN, b"exit 3\n")
        assert (await peer.status())["details"]["causes"][0]["message"] == "3"


async def test_a_terminal_whose_client_goes_away_is_hung_up(cri: CriClient, sleeper: str) -> None:
    url = await exec_url(cri, sleeper, "sh", "-c", "echo ready; sleep 4321", tty=True, stdin=True)
    async with dial(url) as connection:
        await Peer(connection).shows(b"ready")
    async with asyncio.timeout(10):
        while "sleep 4321" in await cri.output(sleeper, "ps"):
            pass


async def test_an_exec_that_cannot_start_ends_with_an_internal_error(cri: CriClient, sleeper: str) -> None:
    async with dial(await exec_url(cri, sleeper, "nope")) as connection:
        status = await Peer(connection).status()
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert 'exec: "nope": executable file not found in $PATH' in status["message"]


async def test_a_url_is_good_for_one_connection(cri: CriClient, sleeper: str) -> None:
    url = await exec_url(cri, sleeper, "true")
    async with dial(url) as connection:
        await Peer(connection).status()
    for used in (url, url.rpartition("/")[0] + "/guess"):
        with pytest.raises(InvalidStatus):
            async with dial(used):
                pass


async def test_attach_joins_the_container_s_own_streams(cri: CriClient) -> None:
    config = cri.container_config(
        "sh", "-c", 'while read line; do echo "got $line"; echo "err $line" >&2; done; echo bye'
    )
    config.stdin = config.stdin_once = True
    container = await cri.run(await cri.run_sandbox(), config=config)
    request = cri_pb.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    async with dial((await cri.runtime.Attach(request)).url) as connection:
        peer = Peer(connection)
        await peer.send(STDIN, b"hello\n")
        await peer.shows(b"got hello\n")
        await peer.shows(b"err hello\n", STDERR)
        await peer.send(CLOSE, bytes((STDIN,)))
        await peer.shows(b"bye\n")
        assert (await peer.status())["status"] == "Success"
    assert (await cri.exited(container)).exit_code == 0


async def test_attach_to_a_terminal_resizes_it(cri: CriClient) -> None:
    config = cri.container_config("sh")
    config.stdin = config.tty = True
    container = await cri.run(await cri.run_sandbox(), config=config)
    request = cri_pb.AttachRequest(container_id=container, stdin=True, stdout=True, tty=True)
    async with dial((await cri.runtime.Attach(request)).url) as connection:
        peer = Peer(connection)
        await peer.send(RESIZE, b'{"Width":77,"Height":33}')
        # The monitor takes the size from a pipe of its own, so the shell may be asked before it has it.
        for _ in range(100):
            await peer.send(STDIN, b"stty size\n")
            await peer.until(lambda: peer.received.get(STDOUT, b"").count(b"\r\n") >= 2)
            if b"33 77" in peer.received[STDOUT]:
                break
            peer.received.clear()
        assert b"33 77" in peer.received[STDOUT]
    # One who goes away does not end a terminal that was not asked for once.
    assert (await cri.status(container)).state == cri_pb.CONTAINER_RUNNING


async def test_port_forward_reaches_a_port_on_the_pod_s_own_loopback(cri: CriClient) -> None:
    sandbox = await cri.run_sandbox()
    container = await cri.run(sandbox, "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc")
    await cri.output(container, "sh", "-c", "until nc 127.0.0.1 8080 < /dev/null; do sleep 0.02; done")
    request = cri_pb.PortForwardRequest(pod_sandbox_id=sandbox, port=[8080, 9])
    async with dial((await cri.runtime.PortForward(request)).url, "v4.channel.k8s.io") as connection:
        peer = Peer(connection)
        await peer.send(0, b"GET /group HTTP/1.0\r\n\r\n")
        await peer.shows(b"www-data:x:33:", 0)
        await peer.shows(b"error forwarding port 9 to pod", 3)
    assert peer.received[0][:2] == struct.pack("<H", 8080)


@pytest.mark.parametrize("streams", [{}, {"tty": True, "stdout": True, "stderr": True}], ids=["none", "tty and stderr"])
async def test_streams_that_make_no_sense_are_refused(cri: CriClient, sleeper: str, streams: dict[str, bool]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri.runtime.Exec(cri_pb.ExecRequest(container_id=sleeper, cmd=["true"], **streams))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
