"""Leader election on a real API server, with durations of tenths of seconds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from machinery.api.resources import LEASES
from machinery.client.leaderelection import LeaderElector
from machinery.client.rest import Client
from tests.support.waiting import until_one

pytestmark = pytest.mark.slow

NAME, NAMESPACE = "the-leader", "kube-system"


class Candidate:
    """An elector and whether it leads."""

    def __init__(self, client: Client, identity: str) -> None:
        self.elector = LeaderElector(
            client, NAME, NAMESPACE, identity,
            lease_duration_seconds=1.0, renew_deadline_seconds=0.6, retry_period_seconds=0.1,
        )  # fmt: skip
        self.leads = asyncio.Event()
        self.lost = asyncio.Event()

    async def lead(self) -> None:
        self.leads.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leads.clear()
            self.lost.set()


@contextlib.asynccontextmanager
async def standing(candidate: Candidate) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(candidate.elector.run(candidate.lead))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


def holder(lease: dict[str, Any]) -> str:
    return str(lease["spec"].get("holderIdentity", ""))


async def test_one_leads_and_the_next_takes_over_when_it_stops(client: Client) -> None:
    one, two = Candidate(client, "one"), Candidate(client, "two")
    async with standing(one) as first:
        await soon(one.leads)
        async with standing(two):
            lease = await client.get(LEASES, NAME, NAMESPACE)
            assert holder(lease) == "one"
            assert lease["spec"]["leaseTransitions"] == 0
            await until_one(client, LEASES, NAME, lambda now: now["spec"]["renewTime"] > lease["spec"]["renewTime"])
            assert not two.leads.is_set()
            first.cancel()
            await soon(two.leads)
            lease = await client.get(LEASES, NAME, NAMESPACE)
            assert (holder(lease), lease["spec"]["leaseTransitions"]) == ("two", 1)
            assert one.lost.is_set()


async def test_a_lease_nobody_renews_is_taken_when_it_has_run_out_and_not_before(client: Client) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "leaseTransitions": 4}
    await client.create(LEASES, {"metadata": {"name": NAME}, "spec": spec}, NAMESPACE)
    candidate, time = Candidate(client, "heir"), asyncio.get_running_loop().time
    started = time()
    async with standing(candidate):
        await soon(candidate.leads)
        assert time() - started >= 1
    lease = await client.get(LEASES, NAME, NAMESPACE)
    assert lease["spec"]["leaseTransitions"] == 5


async def test_who_has_the_identity_of_the_holder_leads_at_once(client: Client) -> None:
    spec = {"holderIdentity": "same", "leaseDurationSeconds": 3600, "leaseTransitions": 4}
    await client.create(LEASES, {"metadata": {"name": NAME}, "spec": spec}, NAMESPACE)
    async with standing(Candidate(client, "same")):
        lease = await until_one(client, LEASES, NAME, lambda lease: lease["spec"].get("renewTime"))
        assert lease["spec"]["leaseTransitions"] == 4


async def test_a_leader_whose_lease_is_taken_stops_its_work(client: Client) -> None:
    candidate = Candidate(client, "one")
    async with standing(candidate):
        await soon(candidate.leads)
        robbed = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
        await client.patch(LEASES, NAME, robbed, NAMESPACE)
        await soon(candidate.lost)
        assert holder(await client.get(LEASES, NAME, NAMESPACE)) == "thief"


async def test_work_that_ends_gives_the_lease_up(client: Client) -> None:
    candidate = Candidate(client, "one")

    async def work() -> None:
        return

    async with asyncio.timeout(5):
        await candidate.elector.run(work)
    assert holder(await client.get(LEASES, NAME, NAMESPACE)) == ""


async def test_work_that_fails_says_so(client: Client) -> None:
    async def work() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await Candidate(client, "one").elector.run(work)


def test_durations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        LeaderElector(None, NAME, lease_duration_seconds=1, renew_deadline_seconds=2)  # type: ignore[arg-type]
