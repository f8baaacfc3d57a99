"""A real runtime process, and a client of it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.runtime.harness import CriClient, RuntimeProcess, connect
from tests.support.images import Registry, serve_registry

TOOLS = ("runc", "conmon", "skopeo", "busybox", "ip")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need root and the tools; without them they are skipped, saying so."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    for item in items:
        if "tests/integration/runtime/" not in str(item.path):
            continue
        item.add_marker(pytest.mark.root)
        item.add_marker(pytest.mark.slow)
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        elif missing:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


@contextlib.contextmanager
def running() -> Iterator[RuntimeProcess]:
    """A runtime in a folder of its own; what it leaves behind when it is closed is an error."""
    with tempfile.TemporaryDirectory(prefix="wr-", dir="/tmp") as folder:
        process = RuntimeProcess(Path(folder))
        process.start()
        try:
            yield process
        finally:
            process.close()


@pytest.fixture(scope="session")
def runtime_process() -> Iterator[RuntimeProcess]:
    """One runtime for all tests that don't restart it."""
    with running() as process:
        yield process


@pytest.fixture
def own_runtime() -> Iterator[RuntimeProcess]:
    """A runtime for one test, which may kill and restart it."""
    with running() as process:
        yield process


@pytest.fixture
async def cri(runtime_process: RuntimeProcess) -> AsyncIterator[CriClient]:
    """A client; the pods made with it are removed after the test."""
    async with connect(runtime_process) as client:
        yield client
        await client.remove_all()


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with serve_registry(tmp_path / "registry") as found:
        yield found
