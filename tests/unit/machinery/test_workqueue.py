import asyncio

import pytest

from machinery.client.workqueue import QueueShutDown, WorkQueue


async def test_a_key_added_twice_is_worked_on_once() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_worked_on_waits_for_its_worker() -> None:
    queue = WorkQueue[str]()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_a_waiting_worker_gets_the_next_key() -> None:
    queue = WorkQueue[str]()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await waiting == "a"


async def test_a_wake_up_meant_for_a_cancelled_worker_reaches_the_next() -> None:
    queue = WorkQueue[str]()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await second == "a"
    assert first.cancelled()


async def test_failures_come_back_later_and_later_until_forgotten() -> None:
    queue = WorkQueue[str](base_delay_seconds=0.002, max_delay_seconds=0.008)
    time = asyncio.get_running_loop().time
    waits = []
    for _ in range(5):
        started = time()
        queue.add_rate_limited("a")
        assert await queue.get() == "a"
        waits.append(time() - started)
        queue.done("a")
    assert queue.num_requeues("a") == 5
    for waited, least in zip(waits, (0.002, 0.004, 0.008, 0.008, 0.008), strict=True):
        assert waited >= least * 0.9
    queue.forget("a")
    assert queue.num_requeues("a") == 0


async def test_the_earliest_of_several_delays_counts_and_counts_once() -> None:
    queue = WorkQueue[str]()
    queue.add_after("a", 60)
    queue.add_after("a", 0.002)
    queue.add_after("b", 0.004)
    queue.add_after("a", 0.003)
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0
    queue.shutdown()


async def test_after_shutdown_workers_get_what_is_queued_and_then_the_end() -> None:
    queue = WorkQueue[str]()
    idle = asyncio.create_task(WorkQueue[str]().get())
    queue.add("a")
    queue.add_after("later", 60)
    queue.shutdown()
    queue.add("b")
    assert await queue.get() == "a"
    with pytest.raises(QueueShutDown):
        await queue.get()
    idle.cancel()


async def test_shutdown_ends_the_wait_of_idle_workers() -> None:
    queue = WorkQueue[str]()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shutdown()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [QueueShutDown] * 3
