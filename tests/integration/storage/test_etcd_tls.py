"""An etcd of somebody else's: over TCP with certificates both ways, and several endpoints of which one is away."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver.storage.etcd import EtcdStore, EtcdTLS
from apiserver.storage.interface import StoreError, StoreUnavailable
from cluster.pki import Pki
from tests.support.server import free_port

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def etcd_with_certificates(folder: Path) -> AsyncIterator[tuple[str, Pki]]:
    """Run an etcd that lets in only who shows a certificate of its CA; yields its endpoint."""
    pki = Pki(folder / "pki")
    cert, key = pki.server("etcd", "etcd", ["127.0.0.1"])
    client, peer = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        ["etcd", "--name", "e", "--data-dir", str(folder / "data"), "--listen-client-urls", client,
         "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", f"e={peer}", "--cert-file", str(cert), "--key-file", str(key), "--client-cert-auth",
         "--trusted-ca-file", str(pki.ca_file), "--log-level", "error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield client, pki
    finally:
        process.kill()
        process.wait()


async def when_up(store: EtcdStore) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StoreError):
                await store.health()
                return
            await asyncio.sleep(0.05)


async def test_certificates_are_shown_and_looked_at(tmp_path: Path) -> None:
    async with etcd_with_certificates(tmp_path) as (endpoint, pki):
        cert, key = pki.client("apiserver-etcd", "apiserver", [])
        away = f"https://127.0.0.1:{free_port()}"
        store = EtcdStore([away, endpoint], EtcdTLS(pki.ca_file, cert, key))
        stranger = EtcdStore([endpoint], EtcdTLS(pki.ca_file))
        try:
            await when_up(store)
            value = bytes(range(256)) * 4096  # a megabyte, in many frames
            revision = await store.create("/registry/configmaps/a", value)
            assert (await store.get("/registry/configmaps/a")).value == value
            async with store.watch("/registry/", start_revision=revision) as changes, asyncio.timeout(10):
                batch = await anext(aiter(changes))
            assert [(one.key, one.value) for one in batch.changes] == [("/registry/configmaps/a", value)]
            with pytest.raises(StoreUnavailable):
                await stranger.get("/registry/configmaps/a")
        finally:
            await store.close()
            await stranger.close()


async def test_a_server_of_another_ca_is_not_believed(tmp_path: Path) -> None:
    async with etcd_with_certificates(tmp_path) as (endpoint, pki):
        cert, key = pki.client("apiserver-etcd", "apiserver", [])
        right = EtcdStore([endpoint], EtcdTLS(pki.ca_file, cert, key))
        wrong = EtcdStore([endpoint], EtcdTLS(Pki(tmp_path / "other").ca_file, cert, key))
        try:
            await when_up(right)
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await wrong.health()
        finally:
            await right.close()
            await wrong.close()
