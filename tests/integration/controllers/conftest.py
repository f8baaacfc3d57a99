"""A real API server, and the controllers on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controllers import manager
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from tests.support.server import running_server


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[ClientConfig]:
    async with running_server(tmp_path) as (_, config):
        yield config


@pytest.fixture
async def client(config: ClientConfig) -> AsyncIterator[Client]:
    async with Client(config) as client:
        yield client


@contextlib.asynccontextmanager
async def running_controllers(config: ClientConfig, **options: Any) -> AsyncIterator[None]:
    """Run the controller manager while the block lasts."""
    task = asyncio.create_task(manager.run(config, leader_elect=False, options=manager.Options(**options)))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def controllers(config: ClientConfig) -> AsyncIterator[None]:
    async with running_controllers(config):
        yield
