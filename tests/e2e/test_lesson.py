"""A lesson as a Docker tutorial has it, typed from top to bottom; each answer is what a Docker user expects."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.test_containers import Terminal
from tests.support.images import Registry, serve_registry
from tests.support.server import free_port

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah"),
]  # fmt: skip


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with serve_registry(tmp_path / "registry") as found:
        await found.push("busybox:latest")
        yield found


@pytest.fixture
def _nothing_left(cluster: Cluster, registry: Registry) -> Iterator[None]:
    yield
    cluster.wherry("rm", "-f", "web", "lesson-sh", check=False)
    cluster.wherry("rmi", f"{registry.host}/busybox", "lesson:1", "lesson:2", "lesson:3", check=False)


@pytest.mark.usefixtures("_nothing_left")
def test_the_lesson_works_from_top_to_bottom(cluster: Cluster, registry: Registry, tmp_path: Path) -> None:
    image = f"{registry.host}/busybox"
    pulled = cluster.wherry("pull", image).splitlines()
    assert pulled[:2] == ["Using default tag: latest", "latest: Pulling from busybox"]
    assert re.fullmatch("Digest: sha256:[0-9a-f]{64}", pulled[2])
    assert pulled[3].endswith(f"newer image for {image}:latest") or "up to date" in pulled[3]
    head, *lines = cluster.wherry("images").splitlines()
    assert head.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert any(line.split()[:2] == [image, "latest"] for line in lines)
    assert json.loads(cluster.wherry("inspect", image))[0]["Config"]["Cmd"] == ["sh"]

    assert cluster.wherry("run", "--rm", image, "echo", "hello") == "hello\n"
    terminal = Terminal(cluster, "run", "-it", "--name", "lesson-sh", image, "sh")
    terminal.read_until(b"# ")
    terminal.type(b"echo $((40+2)); exit 3\n")
    assert b"42" in terminal.read_until(b"42\r\n")
    assert terminal.process.wait(10) == 3
    assert "Exited (3)" in cluster.wherry("ps", "-a", "--filter", "name=lesson-sh")

    port = free_port()
    script = "trap exit TERM; echo it works >/tmp/index.html; echo serving; httpd -f -p 80 -h /tmp & wait"
    began = time.monotonic()
    identity = cluster.wherry("run", "-d", "--name", "web", "-p", f"{port}:80", image, "sh", "-c", script).strip()
    shown = cluster.wherry("ps", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Ports}}")
    assert shown == f"{identity} web 0.0.0.0:{port}->80/tcp\n"
    assert time.monotonic() - began < 5  # 0.5 s on a machine that does nothing else
    cluster.until(lambda: "serving" in cluster.wherry("logs", "web"), "its log")
    curl = ["curl", "-sS", "--retry", "5", "--retry-connrefused", f"http://localhost:{port}/"]
    assert cluster.run(*curl) == "it works\n"
    assert cluster.wherry("stop", "web") == "web\n"
    # Who asks before the rules are gone hears nothing, who asks later is refused: nobody has an answer.
    ask = ["curl", "-sS", "--max-time", "1", curl[-1]]
    assert subprocess.run(ask, capture_output=True, check=False).returncode != 0
    assert cluster.wherry("logs", "web") == "serving\n"
    said = cluster.wherry("events", "--since", "10m", "--until", "0s", "--filter", "container=web")
    assert [line.split()[2] for line in said.splitlines()] == ["create", "start", "die"]

    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "greeting").write_text("copied\n")
    dockerfile = tmp_path / "app" / "Dockerfile"
    stages = (
        f"FROM {image} AS work\n"
        "RUN --mount=type=cache,target=/cache echo x >> /cache/count && wc -l < /cache/count > /made\n"
        f"FROM {image}\nCOPY --from=work /made /made\nCOPY greeting /greeting\nCMD cat /greeting\n"
    )  # fmt: skip
    dockerfile.write_text(f"FROM {image}\nCOPY greeting /greeting\nCMD cat /greeting\n")
    cluster.wherry("build", "-t", "lesson:1", str(tmp_path / "app"))
    assert cluster.wherry("run", "--rm", "lesson:1") == "copied\n"
    again = cluster.wherry("build", "-t", "lesson:1", str(tmp_path / "app"), check=False)
    assert again.startswith("0\n")
    assert "CACHED" in again
    dockerfile.write_text(stages)
    cluster.wherry("build", "-t", "lesson:2", str(tmp_path / "app"))
    first = int(cluster.wherry("run", "--rm", "lesson:2", "cat", "/made"))
    dockerfile.write_text(stages.replace("echo x", "echo y"))
    cluster.wherry("build", "-t", "lesson:3", str(tmp_path / "app"))
    assert int(cluster.wherry("run", "--rm", "lesson:3", "cat", "/made")) == first + 1  # the mount kept its file

    compose = tmp_path / "app" / "compose.yaml"
    web = free_port()
    compose.write_text(
        "name: lesson\nservices:\n  web:\n    build: .\n    image: lesson:3\n"
        '    command: ["sh", "-c", "trap exit TERM; httpd -f -p 80 -h / & wait"]\n'
        f'    ports: ["{web}:80"]\n  other:\n    image: lesson:3\n    command: ["sleep", "1000"]\n'
    )
    try:
        cluster.wherry("compose", "-f", str(compose), "build")
        cluster.wherry("compose", "-f", str(compose), "up", "-d")
        here = ["curl", "-sS", f"http://127.0.0.1:{web}/greeting"]
        cluster.until(lambda: cluster.run(*here, check=False) == "0\ncopied\n", "the service's page")
        asked = ["exec", "other", "nslookup", "web.lesson.svc.cluster.local"]
        assert "Address" in cluster.wherry("compose", "-f", str(compose), *asked)
    finally:
        cluster.wherry("compose", "-f", str(compose), "down")
