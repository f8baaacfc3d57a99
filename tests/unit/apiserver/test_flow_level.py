"""Seats and queues of a priority level: nobody who floods it keeps others from it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.flowcontrol.level import Level, Limits, deal
from machinery.errors import TooManyRequests


def level(seats: int, **limits: int) -> Level:
    made = Level("l", "uid", Limits(**limits), lambda _: False)
    made.seats = seats
    return made


@given(st.text(), st.integers(1, 200), st.integers(1, 12))
def test_a_hand_holds_different_queues_and_is_the_same_each_time(flow: str, queues: int, size: int) -> None:
    hand = deal(flow, queues, size)
    assert hand == deal(flow, queues, size)
    assert len(set(hand)) == len(hand) == min(size, queues)
    assert all(0 <= number < queues for number in hand)


async def test_who_finds_no_seat_waits_until_one_is_given_back() -> None:
    one = level(1, queues=4, hand_size=1, queue_length=5)
    assert one.take()
    assert not one.take()
    waiting = asyncio.create_task(one.wait("a"))
    await asyncio.sleep(0)
    assert one.waiting == 1
    one.release()
    await waiting
    assert (one.in_use, one.waiting) == (1, 0)


async def test_a_flood_does_not_keep_another_flow_waiting() -> None:
    one = level(1, queues=8, hand_size=2, queue_length=50)
    assert one.take()
    order: list[str] = []

    async def ask(flow: str) -> None:
        await one.wait(flow)
        order.append(flow)
        one.release()

    flows = ["flood"] * 20 + ["quiet"]
    assert set(deal("flood", 8, 2)) != set(deal("quiet", 8, 2))
    tasks = []
    for flow in flows:
        tasks.append(asyncio.create_task(ask(flow)))
        await asyncio.sleep(0)
    one.release()
    await asyncio.gather(*tasks)
    assert order.index("quiet") <= 3
    assert one.in_use == 0


async def test_full_queues_and_no_queues_refuse() -> None:
    full = level(1, queues=1, hand_size=1, queue_length=1)
    assert full.take()
    waiting = asyncio.create_task(full.wait("a"))
    await asyncio.sleep(0)
    for one in (full, level(0)):
        with pytest.raises(TooManyRequests) as caught:
            await one.wait("a")
        assert caught.value.retry_after_seconds == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert full.waiting == 0
    full.release()
    assert full.in_use == 0
