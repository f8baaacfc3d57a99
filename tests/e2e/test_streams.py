"""exec, attach, cp, port-forward and logs through the API server, by clients of every age."""

import base64
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from machinery.client.kubeconfig import load_config
from machinery.client.tls import ssl_context
from tests.e2e.conftest import IMAGE, Cluster
from tests.support.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: streams}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {IMAGE}
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir -p /www; echo page > /www/index.html; echo started; httpd -p 8080 -h /www; while read line; do echo heard $line; done; sleep 3600"]
    stdin: true
"""
# How kubectl is told to speak: WebSockets are its default, SPDY what it falls back to.
SPEAKS = {
    "websocket": {},
    "spdy": {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"},
}


@pytest.fixture(scope="module")
def streams(cluster: Cluster) -> Iterator[str]:
    cluster.kubectl("apply", "-f", "-", stdin=POD)
    cluster.kubectl("wait", "pod/streams", "--for=condition=Ready", "--timeout=30s")
    yield "streams"
    cluster.kubectl("delete", "pod", "streams", "--grace-period=0", "--force")


@pytest.fixture(params=SPEAKS)
def kubectl(request: pytest.FixtureRequest, cluster: Cluster, streams: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in SPEAKS[request.param].items():
        monkeypatch.setenv(name, value)
    return cluster


def test_exec_carries_input_output_and_exit_code(kubectl: Cluster) -> None:
    assert kubectl.kubectl("exec", "streams", "--", "echo", "hello") == "hello\n"
    assert kubectl.kubectl("exec", "-i", "streams", "--", "tr", "a-z", "A-Z", stdin="loud" * 50_000) == "LOUD" * 50_000
    told = kubectl.kubectl("exec", "streams", "--", "sh", "-c", "echo bad >&2; exit 3", check=False)
    assert told == "3\nbad\ncommand terminated with exit code 3\n"


def test_exec_into_what_does_not_run_is_refused_in_upstreams_words(
    kubectl: Cluster, request: pytest.FixtureRequest
) -> None:
    kubectl.kubectl("run", "waits", "--image=none", "--image-pull-policy=Never", "--restart=Never")
    request.addfinalizer(lambda: kubectl.kubectl("delete", "pod", "waits", "--now"))
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    kubectl.until(lambda: "Never" in kubectl.path("waits", reason), "its reason")
    inside = "Internal error occurred: " if "KUBECTL_REMOTE_COMMAND_WEBSOCKETS" not in os.environ else ""
    told = f'error: {inside}unable to upgrade connection: container not found ("waits")\n'
    assert kubectl.kubectl("exec", "waits", "--", "true", check=False) == f"1\n{told}"


def test_exec_whose_node_goes_away_is_no_success(kubectl: Cluster) -> None:
    argv = ["kubectl", "exec", "streams", "--", "sh", "-c", "echo begun; sleep 60"]
    environment = {**os.environ, **kubectl.environment()}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        killed = kubectl.pid("runtime")
        os.kill(killed, signal.SIGKILL)
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (
        1, "error: Internal error occurred: error reading from error stream: the connection to the node was lost\n"
    )  # fmt: skip
    kubectl.until(
        lambda: kubectl.kubectl("exec", "streams", "--", "echo", "back", check=False) == "0\nback\n", "it back"
    )


def test_cp_copies_both_ways(kubectl: Cluster) -> None:
    folder = kubectl.layout.root / "copied"
    folder.mkdir(exist_ok=True)
    content = os.urandom(300_000)
    (folder / "here").write_bytes(content)
    kubectl.kubectl("cp", str(folder / "here"), "streams:/tmp/there")
    kubectl.kubectl("cp", "streams:/tmp/there", str(folder / "back"))
    assert (folder / "back").read_bytes() == content


def test_exec_takes_options_up_to_the_two_dashes(kubectl: Cluster) -> None:
    for line in ("exec streams -n default -c main -- echo -n hi", "exec streams -- ls -d /bin -- /etc"):
        assert kubectl.wherry(*line.split()) == kubectl.kubectl(*line.split())
    assert kubectl.wherry("exec", "streams", "sh", "-c", "echo $1", "--", "hi") == "hi\n"


def test_attach_joins_the_running_container(kubectl: Cluster) -> None:
    told = kubectl.run("timeout", "5", "kubectl", "attach", "-i", "streams", stdin="you\n", check=False)
    assert "heard you" in told


def test_port_forward_carries_connections(kubectl: Cluster) -> None:
    port = free_port()
    process = subprocess.Popen(
        ["kubectl", "port-forward", "pod/streams", f"{port}:8080"],
        env=kubectl.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "Forwarding from" in process.stdout.readline()
        for _ in range(3):
            assert kubectl.run("curl", "-sf", f"http://127.0.0.1:{port}/") == "page\n"
    finally:
        process.terminate()
        process.communicate()


def tls(cluster: Cluster) -> tuple[str, ssl.SSLContext]:
    config = load_config(str(cluster.layout.kubeconfig))
    return config.server, ssl_context(config)


async def messages(cluster: Cluster, path: str, protocol: str) -> list[bytes | str]:
    """Return what comes over a WebSocket until it ends."""
    server, context = tls(cluster)
    offered = [Subprotocol(protocol)] if protocol else None
    url = f"{server.replace('https', 'wss')}/api/v1/namespaces/default/pods/{path}"
    # Not the client of threads: two of them at one TLS connection now and then lose the request.
    async with connect(url, ssl=context, subprotocols=offered, compression=None, proxy=None) as connection:
        assert (connection.subprotocol or "") == protocol
        return [message async for message in connection]


@pytest.mark.parametrize("protocol", ["", "channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io"])
async def test_old_websocket_protocols_are_spoken(cluster: Cluster, streams: str, protocol: str) -> None:
    found: dict[int, bytes] = {}
    for message in await messages(cluster, f"{streams}/exec?command=echo&command=hi&stdout=1&stderr=1", protocol):
        if isinstance(message, str):
            assert protocol.startswith("base64")
            channel, data = int(message[0]), base64.b64decode(message[1:])
        else:
            channel, data = message[0], message[1:]
        found[channel] = found.get(channel, b"") + data
    assert found[1] == b"hi\n"
    assert (b"Success" in found[3]) if protocol.startswith("v4") else 3 not in found


@pytest.mark.parametrize("protocol", ["binary.k8s.io", "base64.binary.k8s.io"])
async def test_logs_come_over_a_websocket(cluster: Cluster, streams: str, protocol: str) -> None:
    told = await messages(cluster, f"{streams}/log?limitBytes=8", protocol)
    assert b"".join(m if isinstance(m, bytes) else base64.b64decode(m) for m in told) == b"started\n"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("?tailLines=0", "0\n"),
        ("?limitBytes=3", "0\nsta"),
        ("?tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ("?limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
        ("?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", "at most one of `sinceTime` or `sinceSeconds`"),
        ("?container=none", "container none is not valid for pod streams"),
        ("?previous=true", 'previous terminated container "main" in pod "streams" not found'),
    ],
)
def test_log_options_are_held_to(cluster: Cluster, streams: str, options: str, shown: str) -> None:
    told = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/default/pods/{streams}/log{options}", check=False)
    assert told == shown if shown.startswith("0") else told.startswith("1") and shown in told


def test_a_spdy_client_that_opens_no_streams_costs_nobody_else(cluster: Cluster, streams: str) -> None:
    server, context = tls(cluster)
    host, _, port = server.removeprefix("https://").partition(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as raw:
        path = f"/api/v1/namespaces/default/pods/{streams}/exec?command=id&stdout=1"
        raw.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
            "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n".encode()
        )
        head = raw.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        assert b"X-Stream-Protocol-Version: v4.channel.k8s.io" in head
        raw.sendall(b"\x80\x02junk that is no SPDY/3")
        deadline = time.monotonic() + 5
        raw.settimeout(5)
        assert raw.recv(4096) == b""
        assert time.monotonic() < deadline
    assert cluster.kubectl("exec", streams, "--", "echo", "fine") == "fine\n"


@pytest.mark.parametrize("library", ["official", "official_asyncio", "lightkube", "kr8s"])
def test_client_libraries_reach_into_a_pod(cluster: Cluster, streams: str, library: str) -> None:
    cluster.run(sys.executable, "-m", "tests.e2e.libraries", library, seconds=60)
