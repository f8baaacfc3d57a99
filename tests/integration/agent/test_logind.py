"""The lock that has a machine's stop wait for its pods, with the distribution's own logind.

Source: https://systemd.io/INHIBITOR_LOCKS/
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent import logind
from agent.logind import Logind
from tests.support.logind import ask, is_missing, running_logind

pytestmark = [
    pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0 or bool(is_missing()), reason=f"needs root and {is_missing() or 'nothing else'}"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(logind.ADDRESS, f"unix:path={tmp_path}/bus")
    monkeypatch.setattr(logind, "_RETRY_SECONDS", 0.05)
    with running_logind(tmp_path):
        yield tmp_path


@contextlib.asynccontextmanager
async def holding(folder: Path, seconds: float) -> AsyncIterator[tuple[Logind, "asyncio.Queue[bool]"]]:
    told: asyncio.Queue[bool] = asyncio.Queue()
    found = Logind(told.put_nowait, lambda: seconds, folder / "conf" / "99-wherry.conf")
    task = asyncio.create_task(found.run())
    yield found, told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(folder: Path, what: tuple[str, str], answer: str) -> None:
    """Wait for what logind tells of itself."""
    async with asyncio.timeout(10):
        while answer not in (found := await asyncio.to_thread(ask, folder, *what)):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    assert found


async def test_a_shutdown_waits_until_the_lock_is_given_up(folder: Path) -> None:
    preparing = ("get-property", "PreparingForShutdown")
    async with holding(folder, 30) as (lock, told), asyncio.timeout(20):
        await until(folder, ("call", "ListInhibitors"), '"shutdown" "wherry-agent"')
        assert ask(folder, "call", "ListInhibitors").split('"')[7] == "delay"
        assert ask(folder, "get-property", "InhibitDelayMaxUSec") == "t 30000000"  # it was 5 s
        assert "InhibitDelayMaxSec=30" in (folder / "conf" / "99-wherry.conf").read_text()
        ask(folder, "call", "PowerOff", "b", "false")
        assert await told.get() is True
        await until(folder, preparing, "b true")
        lock.release()
        # There is no service manager that could stop the machine, so logind gives up: the machine goes on.
        assert await told.get() is False
        await until(folder, preparing, "b false")
        await until(folder, ("call", "ListInhibitors"), '"wherry-agent"')  # the next one waits again


async def test_no_lock_is_held_where_pods_get_no_time(folder: Path) -> None:
    async with holding(folder, 0) as (_, told), asyncio.timeout(20):
        for _ in range(100):  # until its connection listens
            ask(folder, "call", "PowerOff", "b", "false", check=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    assert await told.get() is True
                    break
        assert "wherry-agent" not in ask(folder, "call", "ListInhibitors")
        assert not (folder / "conf" / "99-wherry.conf").exists()


async def test_another_time_is_taken_up(folder: Path) -> None:
    seconds = [10.0]
    found = Logind(lambda _: None, lambda: seconds[0], folder / "conf" / "99-wherry.conf")
    task = asyncio.create_task(found.run())
    await until(folder, ("get-property", "InhibitDelayMaxUSec"), "t 10000000")
    seconds[0] = 20.0
    found.settings_changed()
    await until(folder, ("get-property", "InhibitDelayMaxUSec"), "t 20000000")
    await until(folder, ("call", "ListInhibitors"), '"wherry-agent"')
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_lock_is_taken_anew_when_the_bus_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logind.ADDRESS, f"unix:path={tmp_path}/bus")
    monkeypatch.setattr(logind, "_RETRY_SECONDS", 0.05)
    assert logind.is_there()
    async with holding(tmp_path, 5):
        for _ in range(2):
            with running_logind(tmp_path):
                await until(tmp_path, ("call", "ListInhibitors"), '"wherry-agent"')
            (tmp_path / "conf").rmdir()
