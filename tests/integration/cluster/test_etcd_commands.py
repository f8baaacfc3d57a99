"""Backups of the store: what was saved is there again after a restore, and damage is noticed."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from apiserver.storage.etcd import EtcdStore
from apiserver.storage.sqlite import SQLiteStore
from tests.support.etcd import running_etcd

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


async def wherry(*arguments: str, check: bool = True) -> str:
    def run() -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "cluster.main", "etcd", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)

    done = await asyncio.to_thread(run)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_etcd_is_saved_looked_after_and_restored(tmp_path: Path) -> None:
    file, folder = tmp_path / "backup.db", tmp_path / "data"
    options = ("--data-dir", str(folder))
    async with running_etcd(folder) as etcd:
        store = EtcdStore([etcd.endpoint])
        for number in range(20):
            await store.create(f"/registry/configmaps/default/c{number}", b"x" * 10_000)
        assert "Saved" in await wherry("snapshot", "save", str(file), *options)
        await store.create("/registry/configmaps/default/later", b"{}")
        shown = await wherry("status", *options)
        assert "leader: wherry" in shown
        assert "alarms: none" in shown
        assert "wherry" in await wherry("members", *options)
        assert "MB now" in await wherry("defrag", *options)
        await store.close()
    assert file.stat().st_mode & 0o77 == 0
    told = json.loads(await wherry("snapshot", "status", str(file), "-o", "json"))
    assert (told["intact"], told["store"]) == (True, "etcd")
    assert "What was there is in" in await wherry("snapshot", "restore", str(file), *options)
    async with running_etcd(folder) as etcd:
        store = EtcdStore([etcd.endpoint])
        keys = [item.key.rpartition("/")[2] for item in (await store.list("/registry/")).items]
        assert sorted(keys) == sorted(f"c{number}" for number in range(20))
        await store.create("/registry/configmaps/default/new", b"{}")
        await store.close()


async def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    async with running_etcd(tmp_path / "data") as etcd:
        store = EtcdStore([etcd.endpoint])
        await store.create("/registry/a/b", b"{}")
        await store.close()
        await wherry("snapshot", "save", str(file), "--data-dir", str(tmp_path / "data"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    for command in ("status", "restore"):
        more = ("--data-dir", str(tmp_path / "other")) if command == "restore" else ()
        assert "its checksum does not match" in await wherry("snapshot", command, str(file), *more, check=False)


async def test_the_embedded_store_is_saved_and_restored_too(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "backup.sqlite"
    folder.mkdir()
    store = SQLiteStore(folder / "store.sqlite")
    await store.create("/registry/configmaps/default/a", b"{}")
    await wherry("snapshot", "save", str(file), "--data-dir", str(folder))
    await store.create("/registry/configmaps/default/later", b"{}")
    await store.close()
    assert "intact: True" in await wherry("snapshot", "status", str(file))
    await wherry("snapshot", "restore", str(file), "--data-dir", str(folder))
    store = SQLiteStore(folder / "store.sqlite")
    assert [item.key for item in (await store.list("/registry/")).items] == ["/registry/configmaps/default/a"]
    await store.close()
