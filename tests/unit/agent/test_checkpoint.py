"""What an agent finds again of what the API told the one before it."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent import checkpoint
from agent.checkpoint import Checkpoint


def pod(uid: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": uid, "managedFields": [{"manager": "kubectl"}]}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": []}, "status": status}


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Checkpoint]:
    found = Checkpoint(folder)
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(folder: Path, names: set[str]) -> None:
    async with asyncio.timeout(5):
        while {path.name for path in folder.rglob("*.json")} != names:  # noqa: ASYNC110, ASYNC240 - it tells nothing
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_GATHER_SECONDS", 0.01)


async def test_pods_come_back_as_they_were_told_last_and_go_with_their_deletion(tmp_path: Path) -> None:
    async with running(tmp_path / "c") as kept:
        kept.note_pod(None, pod("1", phase="Pending"))
        kept.note_pod(None, pod("2"))
        kept.note_pod(pod("1"), pod("1", phase="Running"))
        await until(tmp_path, {"1.json", "2.json"})
        assert stat.S_IMODE((tmp_path / "c/pods/1.json").stat().st_mode) == 0o600
        kept.note_pod(pod("2"), pod("3"))  # made anew under the same name
        await until(tmp_path, {"1.json", "3.json"})
    (tmp_path / "c/pods/9.json").write_text("{")
    after = Checkpoint(tmp_path / "c")
    found = {one["metadata"]["uid"]: one for one in after.pods()}
    assert found.keys() == {"1", "3"}
    assert found["1"]["status"] == {"phase": "Running"}
    assert "managedFields" not in found["1"]["metadata"]
    assert after.pod("2") is None


async def test_what_the_api_has_no_more_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as kept:
        for uid in "123":
            kept.note_pod(None, pod(uid))
        await until(tmp_path, {"1.json", "2.json", "3.json"})
        kept.keep_only({"2"})
        await until(tmp_path, {"2.json"})


async def test_services_are_kept_as_variables_need_them(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path).services() is None
    service = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "1"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}], "selector": {"a": "b"}},
    }
    async with running(tmp_path) as kept:
        kept.note_services(lambda: [service])
        await until(tmp_path, {"services.json"})
    assert Checkpoint(tmp_path).services() == [
        {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}}
    ]
