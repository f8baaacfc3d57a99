"""A Compose project on a real node: built, brought up in order, reached, and taken down."""

import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import IMAGE, Cluster
from tests.support.server import free_port

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah"),
]  # fmt: skip
FILE = """
name: boats
services:
  web:
    build: ./app
    ports: ["{port}:8080"]
    environment: {{GREETING: "${{GREETING:-hello}}"}}
    depends_on: {{db: {{condition: service_healthy}}, init: {{condition: service_completed_successfully}}}}
    secrets: [pass]
    configs: [{{source: conf, target: /etc/conf}}]
  db:
    image: {image}
    command: sh -c "touch /ready; exec sleep 1000"
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, test, -e, /ready], interval: 1s}}
  init: {{image: {image}, command: [echo, init done]}}
secrets: {{pass: {{file: ./pass.txt}}}}
configs: {{conf: {{content: "x=1"}}}}
"""
DOCKERFILE = f"""
FROM {IMAGE}
CMD ["sh", "-c", "echo $GREETING $(cat /run/secrets/pass) $(cat /etc/conf) > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
"""


def _interrupt(cluster: Cluster, arguments: list[str]) -> None:
    """Bring a project up at the terminal and type Ctrl-C when it says something."""
    argv = [sys.executable, "-m", "cluster.main", *arguments]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, env=cluster.environment(), text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "Started" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_a_project_comes_up_in_order_and_goes(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "pass.txt").write_text("secret\n")
    (tmp_path / "compose.yaml").write_text(FILE.format(port=port, image=IMAGE))

    def compose(*arguments: str, check: bool = True) -> str:
        return cluster.wherry("compose", "-f", str(tmp_path / "compose.yaml"), *arguments, check=check, seconds=120)

    compose("up", "-d", "--wait")
    try:
        address = cluster.kubectl("get", "pods", "-n", "boats", "-o", "jsonpath={.items[0].status.hostIP}")
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as page:
            assert page.read() == b"hello secret x=1\n"
        listed = {line.split()[2] for line in compose("ps", "-a").splitlines()[1:]}
        assert listed == {"web", "db", "init"}
        assert "init done" in compose("logs", "init")
        assert compose("exec", "-T", "db", "cat", "/ready", check=False) == "0\n"
        assert "running(2)" in compose("ls")
        said = compose(
            "run",
            "--rm",
            "-T",
            "-e",
            "GREETING=hi",
            "web",
            "sh",
            "-c",
            'echo "$GREETING $(cat /etc/conf)"; exit 3',
            check=False,
        )
        assert said.startswith("3\nhi x=1\n")
        assert compose("exec", "-T", "-e", "A=b", "-w", "/etc", "db", "sh", "-c", "echo $A $PWD") == "b /etc\n"
        second = compose("up", "-d", "--scale", "db=2", check=False)
        cluster.until(
            lambda: len([name for name in compose("ps", "-q").split() if name.startswith("db-")]) == 2,
            f"a second db: {second}",
        )
        compose("stop", "db")
        cluster.until(lambda: "db" not in compose("ps", "--services").split(), "db to stop", 30)
        compose("start", "db")
        cluster.until(lambda: "db" in compose("ps", "--services").split(), "db to start")
        assert "kind: Deployment" in compose("convert")
        assert compose("port", "web", "8080") == f"0.0.0.0:{port}\n"
        assert "boats-web" in compose("images", "web")
        assert "sleep 1000" in compose("top", "db")
        compose("kill", "db")
        assert "Removed" in compose("rm", "-f", "db", check=False)
        assert "db" not in cluster.kubectl("get", "deploy", "-n", "boats", "-o", "name")
        ended = compose("up", "--exit-code-from", "init", "-t", "1", "init", check=False)
        assert "init-1 | init done" in ended
        assert ended.startswith("0\n")
        _interrupt(cluster, ["compose", "-f", str(tmp_path / "compose.yaml"), "up", "-t", "1", "db"])
        assert "db" not in compose("ps", "--services").split()
    finally:
        compose("down", "-v")
    assert "boats" not in compose("ls") or "running(0)" in compose("ls")
    cluster.wherry("rmi", "boats-web")
