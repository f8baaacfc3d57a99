"""Programs that exec, follow logs and forward ports through client libraries; test_streams.py runs each against a cluster.

Usage: python -m tests.e2e.libraries LIBRARY, with KUBECONFIG set; the pod `streams` is there.
"""

import asyncio
import sys
import urllib.request


def official() -> None:
    """The official client: exec with input, logs, forwarding by its own sockets."""
    import kubernetes
    from kubernetes.stream import portforward, stream

    kubernetes.config.load_kube_config()
    core = kubernetes.client.CoreV1Api()
    call = core.connect_get_namespaced_pod_exec
    told = stream(
        call, "streams", "default", command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False
    )
    assert told == "hello\n"
    shell = stream(
        call,
        "streams",
        "default",
        command=["sh"],
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    shell.write_stdin("echo $((6*7)); exit 5\n")
    shell.run_forever(timeout=20)
    assert (shell.read_stdout(), shell.returncode) == ("42\n", 5)
    assert core.read_namespaced_pod_log("streams", "default").startswith("started\n")
    forward = portforward(core.connect_get_namespaced_pod_portforward, "streams", "default", ports="8080")
    socket = forward.socket(8080)
    socket.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = b""
    while piece := socket.recv(1024):
        answer += piece
    assert answer.endswith(b"page\n"), answer
    assert core.connect_get_namespaced_pod_proxy_with_path("streams:8080", "default", "index.html") == "page\n"


def official_asyncio() -> None:
    """The official client for asyncio: exec over a WebSocket, logs."""
    import kubernetes_asyncio as kubernetes
    from kubernetes_asyncio.stream import WsApiClient

    async def main() -> None:
        await kubernetes.config.load_kube_config()
        async with WsApiClient() as sockets, kubernetes.client.ApiClient() as api:
            core = kubernetes.client.CoreV1Api(sockets)
            told = await core.connect_get_namespaced_pod_exec(
                "streams", "default", command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False
            )
            assert told == "hello\n"
            log = await kubernetes.client.CoreV1Api(api).read_namespaced_pod_log("streams", "default")
            assert log.startswith("started\n")

    asyncio.run(main())


def lightkube() -> None:
    """lightkube: logs, followed and not."""
    from lightkube import Client, KubeConfig

    client = Client(config=KubeConfig.from_env(), trust_env=False)
    assert next(iter(client.log("streams", namespace="default"))) == "started\n"
    for line in client.log("streams", namespace="default", follow=True):
        assert line == "started\n"
        break


def kr8s() -> None:
    """kr8s: exec, logs, forwarding, waiting for a condition."""
    import warnings

    warnings.simplefilter("ignore")  # it knows no release that new yet
    from kr8s.objects import Pod

    pod = Pod.get("streams", namespace="default")
    pod.wait("condition=Ready", timeout=20)
    assert pod.exec(["echo", "hello"]).stdout == b"hello\n"
    assert next(iter(pod.logs())) == "started"
    with (
        pod.portforward(remote_port=8080) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=10) as answer,
    ):
        assert answer.read() == b"page\n"


if __name__ == "__main__":
    {"official": official, "official_asyncio": official_asyncio, "lightkube": lightkube, "kr8s": kr8s}[sys.argv[1]]()
