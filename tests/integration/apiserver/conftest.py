"""A real API server, a client, and the real kubectl."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery.api.resources import SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.support.server import kubeconfig_file, running_server

Kubectl = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[tuple[APIServer, ClientConfig]]:
    async with running_server(tmp_path) as found:
        yield found


@pytest.fixture
def server(serving: tuple[APIServer, ClientConfig]) -> APIServer:
    return serving[0]


@pytest.fixture
def config(serving: tuple[APIServer, ClientConfig]) -> ClientConfig:
    return serving[1]


@pytest.fixture
async def client(config: ClientConfig) -> AsyncIterator[Client]:
    async with Client(config) as found:
        await found.create(
            SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default"
        )  # no controller is here to make it
        yield found


@pytest.fixture
def kubectl(server: APIServer, client: Client, tmp_path: Path) -> Kubectl:
    """Run the real kubectl; returns exit code, output and errors."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig_file(tmp_path, server.config)), "HOME": str(tmp_path)}

    async def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            "kubectl", *arguments, env=environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(stdin.encode())
        return process.returncode or 0, out.decode(), err.decode()

    return run


def pod(name: str, **changes: Any) -> dict[str, Any]:
    """Return a small valid pod."""
    metadata = {"name": name, **changes.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "web:1"}], **changes}}
