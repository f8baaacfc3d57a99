"""One real cluster for all end-to-end tests: etcd, API server, controllers, scheduler, agent, runtime, each a process."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.layout import Layout
from cluster.processes import identity, running_pid
from tests.support.server import free_port

ROOT = Path(__file__).parents[2]
BRIDGE, POD_CIDR, SERVICE_CIDR = "whtest0", "10.245.0.0/24", "10.97.0.0/16"
IMAGE = "wherry.local/busybox:latest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no root or a tool is missing, containers can't be run; CI has both."""
    missing = [tool for tool in ("etcd", "runc", "conmon", "nft", "kubectl") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        reason = f"needs root and {', '.join(missing) or 'nothing else'}"
        for item in items:
            if "e2e" in item.path.parts and item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Cluster:
    """A running cluster and the two command lines."""

    layout: Layout

    def environment(self) -> dict[str, str]:
        home = str(self.layout.root)
        return {**os.environ, "KUBECONFIG": str(self.layout.kubeconfig), "HOME": home, "PYTHONPATH": str(ROOT)}

    def run(self, *argv: str, stdin: str = "", check: bool = True, seconds: float = 60) -> str:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=seconds, env=self.environment(), check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check else f"{done.returncode}\n{done.stdout}{done.stderr}"

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, seconds: float = 60) -> str:
        return self.run("kubectl", *arguments, stdin=stdin, check=check, seconds=seconds)

    def wherry(self, *arguments: str, stdin: str = "", check: bool = True, seconds: float = 60) -> str:
        return self.run(sys.executable, "-m", "cluster.main", *arguments, stdin=stdin, check=check, seconds=seconds)

    def pid(self, component: str) -> int:
        found = running_pid(self.layout, component)
        assert found is not None, f"{component} does not run"
        return found

    def until(self, met: Callable[[], bool], what: str, seconds: float = 20) -> None:
        """Wait for the outside world, which can't be watched from here."""
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        tails = []
        for path in sorted(self.layout.logs.glob("*.log")):
            lines = [line for line in path.read_text(errors="replace").splitlines() if "fork_posix" not in line]
            tails += [f"== {path.name}", *lines[-15:]]
        return "\n".join(tails)

    def path(self, pod: str, template: str) -> str:
        return self.kubectl("get", "pod", pod, "-o", f"jsonpath={template}")


def up_options(folder: Path) -> list[str]:
    return [
        "--data-dir", str(folder), "--api-port", str(free_port()), "--agent-port", str(free_port()),
        "--bridge", BRIDGE, "--pod-cidr", POD_CIDR, "--service-cidr", SERVICE_CIDR, "--detach",
        "--dashboard-port", str(free_port()),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path("/var/tmp") / f"wherry-e2e-{os.getpid()}"
    found = Cluster(Layout(folder))
    try:  # `up` makes the folder, so that its rights are as users have them
        print(found.wherry("up", *up_options(folder)))
        found.until(lambda: "default" in found.kubectl("get", "sa", check=False), "the default service account")
        yield found
    finally:
        supervisor = running_pid(found.layout, "up")
        before = identity(supervisor) if supervisor else ""
        found.wherry("reset", "--yes", "--data-dir", str(folder))
        shutil.rmtree(folder, ignore_errors=True)
        assert not before or identity(supervisor or 0) != before
