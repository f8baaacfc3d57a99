"""The client libraries people use, each unchanged: made, read, watched, patched, applied, deleted.

Each is a program of its own (clients/), so that what a library leaves open is no failure of another test.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from apiserver.app import APIServer
from machinery.client.rest import Client
from tests.support.server import kubeconfig_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "program", ["official", "official_asyncio", "lightkube_client", "kr8s_client", "kopf_operator"]
)
async def test_a_client_library_works_unchanged(
    program: str, server: APIServer, client: Client, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.integration.apiserver.clients.{program}",
        str(kubeconfig_file(tmp_path, server.config)), env={**os.environ, "PYTHONPATH": os.getcwd(), "KUBECONFIG": str(kubeconfig_file(tmp_path, server.config))},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
