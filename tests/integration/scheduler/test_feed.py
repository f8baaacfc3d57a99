"""A long list of pods comes piece by piece, and what was deleted meanwhile is noticed."""

import asyncio

import pytest

from machinery.api.meta import ObjectKey
from machinery.api.resources import PODS
from machinery.client.reflector import Reflector
from machinery.client.rest import Client
from scheduler.feed import PodFeed
from scheduler.pods import Pod
from tests.integration.scheduler.conftest import make_pod

pytestmark = pytest.mark.slow


async def test_pages_come_to_the_whole_list_and_changes_follow(client: Client) -> None:
    for number in range(7):
        await make_pod(client, f"p{number}")
    pieces: list[int] = []
    synced, gone = asyncio.Event(), asyncio.Event()

    class Counting(PodFeed):
        def page(self, items: list, *, first: bool) -> None:  # type: ignore[type-arg]
            pieces.append(len(items))
            super().page(items, first=first)

    def on_change(old: Pod | None, new: Pod | None) -> None:
        if new is None:
            gone.set()

    feed = Counting(on_change, synced.set)
    task = asyncio.create_task(Reflector(client, PODS, feed, pages=feed, page_size=3).run())
    try:
        async with asyncio.timeout(10):
            await synced.wait()
            assert pieces == [3, 3, 1]
            assert {pod.name for pod in feed.all()} == {f"p{number}" for number in range(7)}
            await client.delete(PODS, "p3", "default", options={"gracePeriodSeconds": 0})
            await gone.wait()
            assert feed.get(ObjectKey("default", "p3")) is None
            assert len(feed) == 6
            feed.replace([])  # nothing is left after a list that nobody saw coming
            assert len(feed) == 0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
