"""A real API server for the client kit."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
