"""One priority level: its seats, and the queues of those who wait for one.

A flow is dealt a hand of queues and waits in the shortest of them, so that a flow that floods its own hand leaves
others most of theirs. Queues take turns by the work they have had, not by who came first.
Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#fairness
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from machinery import errors

WAIT_SECONDS = 15.0  # a quarter of the time a request has
_RETRY_SECONDS = 1


@dataclass(slots=True)
class Limits:
    """What a PriorityLevelConfiguration says."""

    exempt: bool = False
    shares: int = 30
    lendable_percent: int = 0
    borrowing_percent: int | None = None
    queues: int = 0  # 0 refuses at once
    hand_size: int = 1
    queue_length: int = 0


@dataclass(slots=True)
class _Queue:
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    served: float = 0.0  # how much it has been given, in seats


def deal(flow: str, queues: int, hand_size: int) -> list[int]:
    """Return the numbers of the queues a flow may wait in: all different, the same each time."""
    entropy = int.from_bytes(hashlib.blake2b(flow.encode(), digest_size=16).digest(), "big")
    hand: list[int] = []
    for dealt in range(min(hand_size, queues)):
        entropy, card = divmod(entropy, queues - dealt)
        for taken in sorted(hand):
            card += taken <= card
        hand.append(card)
    return hand


class Level:
    """Seats and queues of one level."""

    def __init__(self, name: str, uid: str, limits: Limits, may_borrow: Callable[["Level"], bool]) -> None:
        self.name, self.uid = name, uid
        self.limits = limits
        self.seats = 0  # its own; set when all levels are known
        self.in_use = 0
        self.waiting = 0  # in all queues
        self.rejected = 0
        self.dispatched = 0
        self._may_borrow = may_borrow
        self._queues = [_Queue() for _ in range(limits.queues)]
        self._turn = 0.0

    @property
    def lendable(self) -> int:
        """How many of its own seats it lends when it does not use them."""
        return round(self.seats * self.limits.lendable_percent / 100)

    @property
    def most(self) -> float:
        """How many seats it may have, those of others included."""
        percent = self.limits.borrowing_percent
        return float("inf") if percent is None else self.seats + round(self.seats * percent / 100)

    def take(self) -> bool:
        """Take a seat, if one is free. Only for a level that is not exempt."""
        if self.in_use < self.seats or (self.in_use < self.most and self._may_borrow(self)):
            self.in_use += 1
            self.dispatched += 1
            return True
        return False

    async def wait(self, flow: str) -> None:
        """Wait for a seat. Raises: TooManyRequests when the queues are full, or it takes too long."""
        if not self._queues:
            raise self._refused("concurrency-limit")
        hand = deal(flow, self.limits.queues, self.limits.hand_size)
        queue = min((self._queues[number] for number in hand), key=lambda one: len(one.waiting))
        if len(queue.waiting) >= self.limits.queue_length:
            raise self._refused("queue-full")
        if not queue.waiting:
            queue.served = max(queue.served, self._turn)
        seat: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.waiting.append(seat)
        self.waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await seat
        except BaseException as error:
            if seat.done() and not seat.cancelled():
                self.release()  # it was given one in this very moment
            elif seat in queue.waiting:
                queue.waiting.remove(seat)
                self.waiting -= 1
            if isinstance(error, TimeoutError):
                raise self._refused("time-out") from error
            raise

    def release(self) -> None:
        """Give a seat back; the next who waits gets it."""
        self.in_use -= 1
        self.serve()

    def serve(self) -> None:
        """Give free seats to those who wait, the queue that had least first."""
        while self.waiting and self.take():
            queue = min((one for one in self._queues if one.waiting), key=lambda one: one.served)
            self._turn = queue.served
            queue.served += 1
            seat = queue.waiting.popleft()
            self.waiting -= 1
            if seat.done():  # it waits no more
                self.in_use -= 1
            else:
                seat.set_result(None)

    def _refused(self, reason: str) -> errors.TooManyRequests:
        self.rejected += 1
        return errors.TooManyRequests(
            "Too many requests, please try again later.", retry_after_seconds=_RETRY_SECONDS,
            causes=[errors.Cause("", reason, "")],
        )  # fmt: skip
