"""Stores that are killed, cut off, or full: nothing acknowledged is lost, and callers are told soon."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apiserver.storage.etcd import EtcdStore
from apiserver.storage.interface import StoreError, StoreFull, StoreUnavailable
from apiserver.storage.sqlite import SQLiteStore
from tests.support.etcd import running_etcd

pytestmark = pytest.mark.slow
ROOT = "/registry/"

_WRITER = """
import asyncio, sys
from pathlib import Path
from apiserver.storage.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(Path(sys.argv[1]))
    number = 0
    while True:
        await asyncio.gather(*(store.create(f"/registry/pods/{number + at:06}", b"x") for at in range(8)))
        number += 8
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_sqlite_acknowledged_survives_a_kill_of_its_process(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITER, str(path), stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    assert child.stdout is not None
    acknowledged = 0
    async with asyncio.timeout(20):
        while acknowledged < 400:
            acknowledged = int(await child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = (await child.stdout.read()).split()
    await child.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = SQLiteStore(path)
    try:
        listing = await store.list(ROOT + "pods/")
        assert len(listing.items) >= acknowledged
        assert await store.create(ROOT + "pods/next", b"x") > listing.revision
    finally:
        await store.close()


async def test_a_second_process_may_not_open_the_same_file(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    try:
        with pytest.raises(StoreUnavailable, match="in use by another process"):
            SQLiteStore(tmp_path / "store.sqlite")
    finally:
        await store.close()


@pytest.mark.root
async def test_a_full_disk_is_an_error_and_no_corruption(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)], check=True)
    try:
        store = SQLiteStore(mounted / "store.sqlite")
        written = []
        with pytest.raises(StoreFull):
            for number in range(100):
                written.append(await store.create(f"{ROOT}pods/{number:03}", b"x" * 50_000))
        await store.close()
        assert written
        subprocess.run(["mount", "-o", "remount,size=16m", str(mounted)], check=True)
        again = SQLiteStore(mounted / "store.sqlite")
        try:
            listing = await again.list(ROOT)
            assert [item.mod_revision for item in listing.items] == written
            await again.create(ROOT + "pods/more", b"x")
        finally:
            await again.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


async def test_etcd_gone_is_told_within_five_seconds_and_overcome_when_it_is_back(tmp_path: Path) -> None:
    async with running_etcd(tmp_path) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            acknowledged = await store.create(ROOT + "pods/a", b"one")
            await etcd.kill()
            for call in (store.create(ROOT + "pods/b", b"x"), store.get(ROOT + "pods/a"), store.health()):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    await call
                assert time.monotonic() - began < 5
            await etcd.start()
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(StoreError):
                        found = await store.get(ROOT + "pods/a")
                        break
            assert (found.value, found.mod_revision) == (b"one", acknowledged)
        finally:
            await store.close()


async def test_an_etcd_that_hangs_is_told_within_five_seconds(tmp_path: Path) -> None:
    async with running_etcd(tmp_path) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            await store.create(ROOT + "pods/a", b"one")
            await etcd.freeze()
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.create(ROOT + "pods/b", b"two")
            assert time.monotonic() - began < 5
        finally:
            await store.close()


async def test_a_watch_goes_on_over_a_kill_of_etcd_without_loss_or_repeats(tmp_path: Path) -> None:
    async with running_etcd(tmp_path) as etcd:
        store = EtcdStore([etcd.endpoint])
        try:
            start = await store.current_revision()
            async with store.watch(ROOT, start_revision=start + 1) as stream, asyncio.timeout(25):
                first = await store.create(ROOT + "pods/a", b"1")
                seen = [change.mod_revision for change in (await anext(stream)).changes]
                await etcd.kill()
                await etcd.start()
                second = 0
                while not second:
                    with contextlib.suppress(StoreError):
                        second = await store.create(ROOT + "pods/b", b"2")
                while second not in seen:
                    seen += [change.mod_revision for change in (await anext(stream)).changes]
            assert seen == [first, second]
        finally:
            await store.close()
