"""One cluster of simulated nodes for all tests of the command line, and both command lines beside each other."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.layout import Layout
from tests.e2e.conftest import ROOT
from tests.support.server import free_port

_NEWEST = ROOT / ".venv/clients/kubectl-1.35"
KUBECTL = str(_NEWEST) if _NEWEST.exists() else "kubectl"


@dataclass(frozen=True)
class Answer:
    """What a command line did."""

    code: int
    out: str
    err: str


@dataclass
class Lab:
    """A running cluster, and the tools that talk to it."""

    layout: Layout

    def run(self, *argv: str, stdin: str = "", **environment: str) -> Answer:
        home = str(self.layout.root)
        own = {
            **os.environ,
            "KUBECONFIG": str(self.layout.kubeconfig),
            "HOME": home,
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, env=own, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    def kubectl(self, line: str, stdin: str = "", **environment: str) -> Answer:
        return self.run(KUBECTL, *shlex.split(line), stdin=stdin, **environment)

    def wherry(self, line: str, stdin: str = "", **environment: str) -> Answer:
        return self.run(sys.executable, "-m", "cluster.main", *shlex.split(line), stdin=stdin, **environment)

    def both(self, line: str) -> tuple[Answer, Answer]:
        """Ask wherry and kubectl at the same time."""
        with ThreadPoolExecutor(1) as pool:
            there = pool.submit(self.kubectl, line)
            return self.wherry(line), there.result()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    found = Lab(Layout(tmp_path_factory.mktemp("cli") / "data"))
    options = f"--no-agent --simulated-nodes 3 --store embedded --detach --api-port {free_port()}"
    try:
        up = found.wherry(f"up --data-dir {found.layout.root} {options}")
        assert up.code == 0, up.err
        yield found
    finally:
        found.wherry(f"reset --yes --data-dir {found.layout.root}")


@pytest.fixture(scope="session")
def busy(lab: Lab) -> Lab:
    """The cluster with an object of every kind that is told of at length."""
    lab.kubectl("apply -f -", stdin=(ROOT / "manifests/hello.yaml").read_text())
    made = lab.kubectl(f"apply -f {Path(__file__).parent / 'samples.yaml'}")
    assert made.code == 0, made.err
    lab.kubectl("rollout status deploy/hello --timeout=30s")
    return lab
