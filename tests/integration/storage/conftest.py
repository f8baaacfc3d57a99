"""Both stores, each real: etcd as a process, SQLite on a file."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver.storage.etcd import EtcdStore
from apiserver.storage.interface import Store
from apiserver.storage.sqlite import SQLiteStore
from tests.support.etcd import running_etcd


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Store]:
    """Open a fresh store of a kind while the block lasts."""
    store: Store
    if kind == "sqlite":
        store = SQLiteStore(folder / "store.sqlite")
        try:
            yield store
        finally:
            await store.close()
        return
    async with running_etcd(folder) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(params=["sqlite", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as found:
        yield found
