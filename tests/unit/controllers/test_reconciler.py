"""Workers, their retries, and what they remember of writes not seen back."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controllers import reconciler
from controllers.reconciler import DONE, Controller, Expectations, Result
from machinery.api.meta import ObjectKey
from machinery.errors import Conflict, InternalError

KEY = ObjectKey("default", "web")


class Scripted(Controller[str]):
    """A controller whose reconcile does what the test says, once a call."""

    name = "scripted"
    workers = 2

    def __init__(self, *script: Exception | Result) -> None:
        super().__init__()
        self.script = list(script)
        self.ended = asyncio.Event()

    async def reconcile(self, key: str) -> Result:
        step = self.script.pop(0)
        if not self.script:
            self.ended.set()
        if isinstance(step, Exception):
            raise step
        return step


async def run_to_the_end(controller: Scripted) -> None:
    task = asyncio.create_task(controller.run())
    controller.queue.add("key")
    try:
        async with asyncio.timeout(5):
            await controller.ended.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_refusals_and_bugs_alike_bring_the_key_back(caplog: pytest.LogCaptureFixture) -> None:
    controller = Scripted(Conflict("stale"), InternalError("broken"), ZeroDivisionError("a bug"), DONE)
    await run_to_the_end(controller)
    assert controller.script == []
    assert "scripted failed on key" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_result_brings_the_key_back_by_itself() -> None:
    controller = Scripted(Result(requeue_after=0.001), DONE)
    await run_to_the_end(controller)
    assert controller.script == []


async def test_expected_creations_hold_work_until_all_were_seen() -> None:
    expectations = Expectations()
    assert expectations.satisfied(KEY)
    expectations.expect_creations(KEY, 2)
    expectations.creation_observed(KEY)
    assert not expectations.satisfied(KEY)
    expectations.creation_observed(KEY)
    assert expectations.satisfied(KEY)


async def test_one_deletion_seen_twice_counts_once() -> None:
    expectations = Expectations()
    expectations.expect_deletions(KEY, ["a", "b"])
    expectations.deletion_observed(KEY, "a")
    expectations.deletion_observed(KEY, "a")
    assert not expectations.satisfied(KEY)
    expectations.deletion_observed(KEY, "b")
    assert expectations.satisfied(KEY)


async def test_what_is_never_seen_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    expectations = Expectations()
    expectations.expect_creations(KEY, 1)
    monkeypatch.setattr(reconciler, "EXPECTATIONS_TIMEOUT_SECONDS", -1.0)
    assert expectations.satisfied(KEY)


@pytest.mark.parametrize(
    "observe",
    [
        lambda expectations: expectations.creation_observed(KEY),
        lambda expectations: expectations.deletion_observed(KEY, "a"),
        lambda expectations: expectations.forget(KEY),
    ],
)
async def test_what_nobody_expects_is_no_news(observe: Callable[[Any], None]) -> None:
    expectations = Expectations()
    observe(expectations)
    assert expectations.satisfied(KEY)
