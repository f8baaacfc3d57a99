"""Values encrypted in the store, read back by every key there is, and written anew by the newest.

https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.app import APIServer
from apiserver.storage.encrypted import EncryptedStore, Unreadable
from apiserver.storage.encryption import ConfigurationError, Encryption
from apiserver.storage.sqlite import SQLiteStore
from machinery.api.resources import CONFIG_MAPS, SECRETS
from machinery.client.rest import Client
from tests.support.server import running_server

KEYS = {number: base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)}


def way(name: str, *keys: int) -> dict[str, Any]:
    return {name: {"keys": [{"name": f"key{key}", "secret": KEYS[key]} for key in keys]}}


def encryption(*providers: dict[str, Any], resources: tuple[str, ...] = ("secrets",)) -> Encryption:
    document = {"resources": [{"resources": list(resources), "providers": list(providers)}]}
    return Encryption({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", **document})


@contextlib.asynccontextmanager
async def serving(folder: Path, *providers: dict[str, Any]) -> AsyncIterator[tuple[APIServer, Client, SQLiteStore]]:
    below = SQLiteStore(folder / "store.sqlite")
    try:
        store = EncryptedStore(below, encryption(*providers))
        async with running_server(folder, store=store) as (server, config), Client(config) as client:
            yield server, client, below
    finally:
        await below.close()


@pytest.mark.parametrize("name", ["aescbc", "aesgcm", "secretbox"])
async def test_what_lies_in_the_store_can_not_be_read_there(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path, way(name, 1), {"identity": {}}) as (_, client, below):
        secret = {"metadata": {"name": "s"}, "stringData": {"password": "correct horse"}}
        await client.create(SECRETS, secret, "default")
        await client.create(CONFIG_MAPS, {"metadata": {"name": "c"}, "data": {"k": "open"}}, "default")
        stored = (await below.get("/registry/secrets/default/s")).value
        assert stored.startswith(f"k8s:enc:{name}:v1:key1:".encode())
        assert b"password" not in stored
        assert b"open" in (await below.get("/registry/configmaps/default/c")).value
        found = await client.get(SECRETS, "s", "default")
        assert base64.b64decode(found["data"]["password"]) == b"correct horse"
        await client.patch(SECRETS, "s", {"stringData": {"more": "x"}}, "default")
        [listed] = [one for one in (await client.list(SECRETS, "default"))["items"] if one["metadata"]["name"] == "s"]
        assert set(listed["data"]) == {"password", "more"}
        await client.delete(SECRETS, "s", "default")


async def test_keys_are_changed_by_writing_everything_anew(tmp_path: Path) -> None:
    async with serving(tmp_path, {"identity": {}}) as (_, client, below):
        await client.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "v"}}, "default")
        assert (await below.get("/registry/secrets/default/s")).value.startswith(b"{")
    for providers, prefix in (
        ((way("aesgcm", 1), {"identity": {}}), b"k8s:enc:aesgcm:v1:key1:"),
        ((way("secretbox", 2), way("aesgcm", 1)), b"k8s:enc:secretbox:v1:key2:"),
    ):
        async with serving(tmp_path, *providers) as (_, client, below):
            for entry in (await client.list(SECRETS))["items"]:
                entry["metadata"].pop("managedFields", None)
                await client.update(SECRETS, entry)  # as kubectl get -o json | kubectl replace -f - does
            before = await below.get("/registry/secrets/default/s")
            assert before.value.startswith(prefix)
            found = await client.get(SECRETS, "s", "default")
            await client.update(SECRETS, found)
            assert (await below.get("/registry/secrets/default/s")).mod_revision == before.mod_revision


async def test_without_its_key_a_value_is_no_value(tmp_path: Path) -> None:
    below = SQLiteStore(tmp_path / "s.sqlite")
    first = EncryptedStore(below, encryption(way("aesgcm", 1)))
    await first.create("/registry/secrets/default/s", b"{}")
    for other in (encryption(way("aesgcm", 2)), encryption(way("secretbox", 1), {"identity": {}})):
        with pytest.raises(Unreadable):
            await EncryptedStore(below, other).get("/registry/secrets/default/s")
    moved = await below.get("/registry/secrets/default/s")
    await below.create("/registry/secrets/default/t", moved.value)
    with pytest.raises(Unreadable, match="message authentication failed"):  # it is bound to where it lies
        await first.get("/registry/secrets/default/t")
    await below.close()


@given(st.binary(), st.sampled_from(["aescbc", "aesgcm", "secretbox"]))
def test_what_goes_in_comes_out(value: bytes, name: str) -> None:
    transformer = encryption(way(name, 1)).of("/registry/secrets/a/b")
    assert transformer is not None
    assert transformer.open("/registry/secrets/a/b", transformer.seal("/registry/secrets/a/b", value)) == (value, False)


def test_patterns_name_resources() -> None:
    found = encryption({"identity": {}}, resources=("secrets", "*.apps", "pandas.awesome.bears.example"))
    for resource, covered in (("secrets", True), ("configmaps", False), ("deployments.apps", True), ("pandas.awesome.bears.example", True)):  # fmt: skip
        assert (found.of(f"/registry/{resource}/x") is not None) is covered


@pytest.mark.parametrize(
    "provider",
    [{}, {"kms": {}}, {"aesgcm": {"keys": []}}, {"aesgcm": {"keys": [{"name": "a", "secret": "AAAA"}]}}, {"aescbc": {"keys": [{"name": "a:b", "secret": KEYS[1]}]}}],
)  # fmt: skip
def test_a_configuration_without_sense_is_refused(provider: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        encryption(provider)
