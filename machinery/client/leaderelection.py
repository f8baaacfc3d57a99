"""One leader among several processes, by a Lease: the same rules and fields as client-go's leaderelection.

Nothing here trusts another machine's clock: a lease has run out when *we* have seen it unchanged for its duration.
Source: https://kubernetes.io/docs/concepts/architecture/leases/
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from machinery.api.meta import now_micro
from machinery.api.resources import LEASES
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Conflict, NotFound

log = logging.getLogger(__name__)

# How soon a server that could not be reached is asked again; doubled each time.
_FIRST_PAUSE_SECONDS = 0.1


def default_identity() -> str:
    """Return a name no other process has. One that is stable over restarts takes its own lease back without a wait."""
    return f"{socket.gethostname()}_{os.urandom(8).hex()}"


class LeaseDurations(TypedDict, total=False):
    """client-go's LeaseDuration, RenewDeadline and RetryPeriod, in seconds."""

    lease_duration_seconds: float
    renew_deadline_seconds: float
    retry_period_seconds: float


class LeaderElector:
    """Runs a callback while this process holds the lease, and only then."""

    def __init__(
        self,
        client: Client,
        name: str,
        namespace: str = "kube-system",
        identity: str = "",
        *,
        lease_duration_seconds: float = 15,
        renew_deadline_seconds: float = 10,
        retry_period_seconds: float = 2,
    ) -> None:
        """Args: the durations are client-go's LeaseDuration, RenewDeadline and RetryPeriod."""
        if not lease_duration_seconds > renew_deadline_seconds > retry_period_seconds:
            raise ValueError("lease duration > renew deadline > retry period must hold")
        self._client = client
        self._name, self._namespace = name, namespace
        self.identity = identity or default_identity()
        self._lease_duration_seconds = lease_duration_seconds
        self._renew_deadline_seconds = renew_deadline_seconds
        self._retry_period_seconds = retry_period_seconds
        self._was_answered = True
        self._lease: dict[str, Any] | None = None  # as last read or written
        self._seen_at = 0.0  # loop time when it last changed

    async def run(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Become leader, run `callback`; when leadership is lost cancel it and stand for election again.

        Returns when the callback does, or raises what it raised; the lease is given up then, and on cancellation.
        """
        while True:
            await self._acquire()
            log.info("leading %s as %s", self._name, self.identity)
            work = asyncio.ensure_future(callback())
            renewing = asyncio.create_task(self._renew_until_lost())
            try:
                await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                    return
                log.warning("lost the lease %s", self._name)
            finally:
                lost = renewing.done()
                for task in (work, renewing):
                    task.cancel()
                await asyncio.gather(work, renewing, return_exceptions=True)
                if not lost:
                    await self._release()

    async def _acquire(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not await self._try():
            jitter = random.uniform(1.0, 2.2)  # noqa: S311  # spreads the candidates; client-go's factor
            if self._was_answered:
                pause = self._retry_period_seconds
            await asyncio.sleep(pause * jitter)
            pause = min(pause * 2, self._retry_period_seconds)  # a server that starts is found soon

    async def _renew_until_lost(self) -> None:
        renewed_at = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(self._retry_period_seconds)
            deadline = renewed_at + self._renew_deadline_seconds
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout_at(deadline):
                    held = await self._try()
            except TimeoutError:
                return
            if held:
                renewed_at = started  # from before the write: others may count from the moment it was sent
            elif asyncio.get_running_loop().time() >= deadline or self._held_by_another():
                return

    async def _try(self) -> bool:
        """Take or renew the lease if it is ours to take. Return whether we hold it; errors count as no."""
        self._was_answered = True
        try:
            if self._lease is not None and not self._held_by_another() and await self._renew(self._lease):
                return True
            try:
                self._saw(await self._client.get(LEASES, self._name, self._namespace))
            except NotFound:
                self._lease = None
            if self._lease is None:
                spec = {**self._spec(None), "leaseTransitions": 0}
                body = {
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec,
                }  # fmt: skip
                self._saw(await self._client.create(LEASES, body, self._namespace))
                return True
            if self._held_by_another() and not self._run_out():
                return False
            return await self._renew(self._lease)
        except (APIError, ConnectionFailed, OSError) as error:
            self._was_answered = isinstance(error, APIError)
            log.info("lease %s: %s", self._name, error)
            return False

    async def _renew(self, lease: dict[str, Any]) -> bool:
        """Write ourselves into the lease as we know it. Return whether it still was as we know it."""
        taken = {**lease, "spec": {**(lease.get("spec") or {}), **self._spec(lease)}}
        try:
            self._saw(await self._client.update(LEASES, taken))
        except (Conflict, NotFound):
            return False
        return True

    def _saw(self, lease: dict[str, Any]) -> None:
        if self._lease is None or self._lease.get("spec") != lease.get("spec"):
            self._seen_at = asyncio.get_running_loop().time()
        self._lease = lease

    def _held_by_another(self) -> bool:
        holder = self._lease.get("spec", {}).get("holderIdentity") if self._lease else ""
        return bool(holder) and holder != self.identity

    def _run_out(self) -> bool:
        lease = self._lease or {}
        duration = float(lease.get("spec", {}).get("leaseDurationSeconds") or self._lease_duration_seconds)
        return asyncio.get_running_loop().time() >= self._seen_at + duration

    def _spec(self, lease: dict[str, Any] | None) -> dict[str, Any]:
        """Return the fields that say we hold the lease now."""
        time = now_micro()
        before = (lease or {}).get("spec", {})
        fields: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._lease_duration_seconds)),
            "renewTime": time,
        }
        if before.get("holderIdentity") != self.identity:
            fields |= {"acquireTime": time, "leaseTransitions": before.get("leaseTransitions", 0) + 1}
        return fields

    async def _release(self) -> None:
        """Give the lease up so that the next leader need not wait. Best effort: time does it else."""
        if self._lease is None or self._held_by_another():
            return
        released = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now_micro()}
        body = {**self._lease, "spec": {**self._lease["spec"], **released}}
        with contextlib.suppress(APIError, ConnectionFailed, OSError, TimeoutError):
            async with asyncio.timeout(self._retry_period_seconds):
                await self._client.update(LEASES, body)
        self._lease = None
