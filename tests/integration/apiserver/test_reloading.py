"""Files that change while the server runs.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration
"""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from apiserver import reloading
from apiserver.app import serving
from apiserver.storage.sqlite import SQLiteStore
from cluster.pki import Pki
from machinery import errors
from machinery.client.rest import Client
from machinery.client.tls import ssl_context
from tests.support.server import client_config, server_config


async def test_files_that_change_are_read_again_and_a_wrong_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.05)
    file = tmp_path / "authentication.yaml"
    about = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
    file.write_text(f"{about}anonymous: {{enabled: true}}\n")
    pki = Pki(tmp_path / "pki")
    config = dataclasses.replace(server_config(tmp_path), authentication_file=file)
    store = SQLiteStore(tmp_path / "store.sqlite")
    anyone = dataclasses.replace(client_config(tmp_path, config), cert_file="", key_file="")

    async def serial() -> int:
        context = ssl_context(anyone)
        _, writer = await asyncio.open_connection("127.0.0.1", config.port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return int(shown["serialNumber"], 16)

    async def refused() -> bool:
        async with Client(anyone) as client:
            try:
                await client.request("GET", "/version")
            except errors.Unauthorized:
                return True
            return False

    async with serving(store, config, sole_writer=True), asyncio.timeout(10):
        assert not await refused()
        file.write_text(f"{about}anonymous: {{enabled: false}}\n")
        while not await refused():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)
        file.write_text("no configuration at all")
        await asyncio.sleep(0.2)
        assert await refused()
        before = await serial()
        config.cert_file.unlink()
        config.key_file.unlink()
        pki.server("apiserver", "apiserver", ["localhost", "127.0.0.1"])
        while await serial() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await store.close()


def test_another_encryption_configuration_holds_for_what_is_written_next(tmp_path: Path) -> None:
    file = tmp_path / "encryption.yaml"
    file.write_text("first")
    read: list[str] = []

    def reload() -> None:
        if (text := file.read_text()) == "wrong":
            raise ValueError("no sense")
        read.append(text)

    reloader = reloading.Reloader({(file,): reload})
    reloader.look()
    assert read == []
    for text in ("second", "wrong", "third one"):
        file.write_text(text)
        reloader.look()
        reloader.look()
    file.unlink()
    reloader.look()
    assert read == ["second", "third one"]
