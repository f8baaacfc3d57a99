"""Docker's verbs on a real node: run, ps, stop, start, rm, images, and a terminal that is one."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import IMAGE, Cluster
from tests.support.server import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]
SHORT = IMAGE.removesuffix(":latest")


@pytest.fixture(autouse=True)
def _nothing_left(cluster: Cluster) -> Iterator[None]:
    yield
    names = cluster.wherry("ps", "-a", "--format", "{{.Names}}").split()
    if names:
        cluster.wherry("rm", "-f", *names)


def test_run_prints_and_ends_with_the_containers_exit_code(cluster: Cluster) -> None:
    assert cluster.wherry("run", "--rm", SHORT, "echo", "hello") == "hello\n"
    assert cluster.wherry("run", "--rm", SHORT, "sh", "-c", "exit 3", check=False) == "3\n"
    assert cluster.wherry("run", "--rm", "-i", SHORT, "cat", stdin="typed\n") == "typed\n"
    assert cluster.wherry("run", "--rm", SHORT, "nosuchcommand", check=False).startswith("127\n")
    assert cluster.wherry("run", "--rm", "--pull", "never", "nosuch/image:1", check=False).startswith("125\n")
    assert cluster.wherry("run", "--rm", "-u", "1000:1001", SHORT, "id", "-g") == "1001\n"
    assert cluster.wherry("run", "--rm", "-e", "A=$$(B)", SHORT, "printf", "%s", "$$ $(A) $A") == "$$ $(A) $A"
    refused = cluster.wherry("run", "--sysctl", "net.ipv4.ip_forward=1", SHORT, "true", check=False)
    assert refused.startswith("125\n"), refused
    assert 'forbidden sysctl: "net.ipv4.ip_forward"' in refused
    assert cluster.wherry("ps", "-aq") == ""


def test_docker_s_longer_names_are_the_same_verbs(cluster: Cluster) -> None:
    cluster.wherry("container", "run", "-d", "--name", "long", SHORT, "true")
    cluster.until(lambda: "Exited" in cluster.wherry("container", "ls", "-a"), "its end")
    assert cluster.wherry("container", "prune", "-f") == "Deleted container: long\n"
    assert cluster.wherry("image", "ls", "-q") == cluster.wherry("images", "-q")
    assert cluster.wherry("image", "prune", "-f", check=False).startswith("0\n")


def test_options_of_the_kernel_and_of_names_reach_the_container(cluster: Cluster, tmp_path: Path) -> None:
    script = "id -G; df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; cat /etc/resolv.conf; sed q /proc/1/cmdline | tr '\\0' ' '"
    told = cluster.wherry(
        "run", "--rm", "--group-add", "5", "--shm-size", "8m", "--security-opt", "no-new-privileges", "--init",
        "--security-opt", "seccomp=unconfined", "--dns", "10.0.0.1", "--dns-search", "x.y", "--dns-option", "ndots:2",
        "--sysctl", "net.ipv4.ip_unprivileged_port_start=0", "--cidfile", str(tmp_path / "id"), SHORT, "sh", "-c", script,
    ).splitlines()  # fmt: skip
    assert told[:4] == ["0 5", "8192", "NoNewPrivs:\t1", "Seccomp:\t0"]
    assert {"nameserver 10.0.0.1", "search x.y", "options ndots:2"} <= set(told)
    assert script not in told[-1]  # the first process is not ours
    assert len((tmp_path / "id").read_text()) == 64
    cluster.wherry(
        "run", "-d", "--name", "open", "-P", "--expose", "8080", "--stop-signal", "INT", SHORT, "sleep", "100"
    )
    where = cluster.wherry("port", "open", "8080").strip()
    assert where.rpartition(":")[2].isdigit()
    assert (
        cluster.kubectl("get", "pod", "open", "-o", "jsonpath={.spec.containers[0].lifecycle.stopSignal}") == "SIGINT"
    )


def test_options_reach_the_container(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    (tmp_path / "env").write_text("# note\nFROM_FILE=yes\n")
    script = "echo $A $FROM_FILE; cat /data/file; echo; pwd; id -u; touch /x 2>/dev/null || echo read-only; hostname"
    told = cluster.wherry(
        *("run", "--rm", "-e", "A=b", "--env-file", str(tmp_path / "env"), "-v", f"{tmp_path}:/data:ro", "-w", "/tmp"),
        *("--read-only", "--hostname", "boat", "--memory", "64m", "--cpus", "0.5", "--cap-drop", "MKNOD"),
        *("--entrypoint", "sh", SHORT, "-c", script),
    )
    assert told.splitlines() == ["b yes", "from the host", "/tmp", "0", "read-only", "boat"]


def test_a_container_lives_through_stop_start_and_rm(cluster: Cluster) -> None:
    port = free_port()
    script = "echo page > /tmp/index.html; trap exit TERM; httpd -f -p 80 -h /tmp & wait"
    identity = cluster.wherry("run", "-d", "--name", "web", "-p", f"{port}:80", SHORT, "sh", "-c", script).strip()
    assert len(identity) == 64
    header, line = cluster.wherry("ps").splitlines()
    assert header.split("  ")[0] == "CONTAINER ID"
    assert "Up " in line
    assert f"0.0.0.0:{port}->80/tcp" in line
    address = cluster.path("web", "{.status.hostIP}")
    with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as page:
        assert page.read() == b"page\n"
    taken = cluster.wherry("run", "-d", "-p", f"{port}:80", SHORT, "true", check=False)
    assert taken.startswith("125\n")
    assert "port is already allocated by pod default/web" in taken
    assert cluster.wherry("port", "web") == f"80/tcp -> 0.0.0.0:{port}\n"
    assert "already in use" in cluster.wherry("run", "--name", "web", SHORT, check=False)
    assert cluster.wherry("exec", "web", "cat", "/tmp/index.html") == "page\n"
    assert "container is running" in cluster.wherry("rm", "web", check=False)
    assert cluster.wherry("stop", "web") == "web\n"
    assert cluster.wherry("ps", "-q") == ""
    assert "Exited (" in cluster.wherry("ps", "-a")
    assert cluster.wherry("start", "web") == "web\n"
    assert "Up " in cluster.wherry("ps")
    assert cluster.wherry("rm", "-f", "web") == "web\n"
    assert "No such container: web" in cluster.wherry("rm", "web", check=False)


def test_wait_and_logs_tell_of_an_end(cluster: Cluster) -> None:
    cluster.wherry("run", "-d", "--name", "short", SHORT, "sh", "-c", "echo said; exit 4")
    assert cluster.wherry("wait", "short") == "4\n"
    assert cluster.wherry("logs", "short") == "said\n"
    assert cluster.wherry("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "short") == "4 exited\n"


def test_images_are_tagged_saved_loaded_and_removed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wherry("tag", SHORT, "my/box:1")
    assert "my/box" in cluster.wherry("images")
    assert cluster.wherry("run", "--rm", "my/box:1", "echo", "mine") == "mine\n"
    cluster.wherry("save", "-o", str(tmp_path / "box.tar"), "my/box:1")
    assert "Untagged: my/box:1" in cluster.wherry("rmi", "my/box:1")
    assert "my/box" not in cluster.wherry("images")
    assert cluster.wherry("load", "-i", str(tmp_path / "box.tar")) == "Loaded image: my/box:1\n"
    assert cluster.wherry("history", "my/box:1").splitlines()[0].split()[0] == "IMAGE"
    assert cluster.wherry("inspect", "-f", "{{json .RepoTags}}", "my/box:1") == '["my/box:1"]\n'
    cluster.wherry("rmi", "my/box:1")


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        self._fd, child = pty.openpty()
        argv = [sys.executable, "-m", "cluster.main", *arguments]
        self.process = subprocess.Popen(
            argv, stdin=child, stdout=child, stderr=child, env=cluster.environment(), start_new_session=True
        )
        os.close(child)

    def read_until(self, wanted: bytes, seconds: float = 15) -> bytes:
        seen, deadline = b"", time.monotonic() + seconds
        while wanted not in seen:
            ready, _, _ = select.select([self._fd], [], [], 0.1)
            if ready:
                seen += os.read(self._fd, 4096)
            assert time.monotonic() < deadline, seen
        return seen

    def type(self, data: bytes) -> None:
        os.write(self._fd, data)


def test_a_terminal_can_be_left_and_joined_again(cluster: Cluster) -> None:
    terminal = Terminal(cluster, "run", "-it", "--name", "term", SHORT, "sh")
    terminal.read_until(b"# ")
    terminal.type(b"tty && echo a$((1+1))\n")
    assert b"/dev/" in terminal.read_until(b"a2\r\n")
    terminal.type(b"\x10\x11")
    assert terminal.process.wait(10) == 0
    assert "Up " in cluster.wherry("ps")
    again = Terminal(cluster, "attach", "term")
    deadline = time.monotonic() + 20
    while again.process.poll() is None:  # what is typed before the terminal is joined is lost, as in any raw terminal
        again.type(b"exit 7\n")
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert cluster.wherry("wait", "term") == "7\n"


DOCKERFILE = f"""
FROM {IMAGE} AS made
RUN echo built > /made
FROM {IMAGE}
COPY --from=made /made /made
COPY hello.txt /
CMD ["cat", "/hello.txt", "/made"]
"""


@pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah")
def test_what_is_built_runs_at_once_and_the_second_time_comes_from_the_cache(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "hello.txt").write_text("hello\n")
    cluster.wherry("build", "-t", "built/here:1", str(tmp_path))
    assert cluster.wherry("run", "--rm", "built/here:1") == "hello\nbuilt\n"
    started = time.monotonic()
    shown = cluster.wherry("build", "-t", "built/here:1", str(tmp_path), check=False)
    assert time.monotonic() - started < 5
    assert shown.count("CACHED") == 4
    (tmp_path / "hello.txt").write_text(
        f"other {time.time_ns()}\n"
    )  # nothing an earlier run can have left in the cache
    shown = cluster.wherry("build", "-t", "built/here:1", str(tmp_path), check=False)
    assert shown.count("CACHED") == 2
    assert cluster.wherry("run", "--rm", "built/here:1").startswith("other ")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nNONSENSE x\n")
    wrong = cluster.wherry("build", str(tmp_path), check=False)
    assert wrong.startswith("1\n")
    assert "NONSENSE" in wrong
    cluster.wherry("rmi", "built/here:1")
