"""What drivers tell of the health of devices that pods have by ResourceClaims.

A driver that tells is asked for a stream; what it says of a device holds for a while, and no longer than the stream.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-health-monitoring
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio

from agent.plugins.watcher import OPTIONS

log = logging.getLogger(__name__)

SERVICE = "v1alpha1.DRAResourceHealth"
_RETRY_SECONDS = 5.0
_HOLDS_SECONDS = 30.0  # where the driver does not say how long
_WORDS = {1: "Healthy", 2: "Unhealthy"}
Device = tuple[str, str, str]  # driver, pool, name


class DriverHealth:
    """The health of all devices of the drivers that tell."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Args: `changed` is called when devices are other than before."""
        self._changed = changed
        self._known: dict[Device, tuple[str, float]] = {}  # and until when that holds
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, driver: str, endpoint: str) -> None:
        """Ask a driver from now on."""
        self.drop(driver)
        self._tasks[driver] = asyncio.create_task(self._follow(driver, endpoint))

    def drop(self, driver: str) -> None:
        """Ask a driver no more."""
        if (task := self._tasks.pop(driver, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._tasks.values())
        for driver in list(self._tasks):
            self.drop(driver)
        await asyncio.gather(*tasks, return_exceptions=True)

    def of(self, driver: str, pool: str, name: str) -> str:
        """Return the health of a device as statuses tell it."""
        word, until = self._known.get((driver, pool, name), ("Unknown", 0.0))
        return word if time.monotonic() < until else "Unknown"

    async def _follow(self, driver: str, endpoint: str) -> None:
        from agent.dra import health_pb2 as api
        from agent.dra import health_pb2_grpc

        try:
            while True:
                try:
                    async with grpc.aio.insecure_channel(f"unix:{endpoint}", options=OPTIONS) as channel:
                        stub: Any = health_pb2_grpc.DRAResourceHealthStub(channel)
                        await self._read(driver, stub.NodeWatchResources(api.NodeWatchResourcesRequest()))
                except grpc.aio.AioRpcError as error:
                    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                        return
                    log.info("driver %s tells nothing of its devices' health: %s", driver, error.details())
                self._forget(driver)
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._forget(driver)

    async def _read(self, driver: str, stream: Any) -> None:
        reading = asyncio.ensure_future(stream.read())
        try:
            while True:
                left = min((until for (of, *_), (_, until) in self._known.items() if of == driver), default=0.0)
                await asyncio.wait([reading], timeout=max(left - time.monotonic(), 0.0) if left else None)
                if not reading.done():  # what was told does not hold any more
                    self._expire(driver)
                    continue
                answer = reading.result()
                if answer is grpc.aio.EOF:
                    return
                self._take(driver, answer.devices)
                reading = asyncio.ensure_future(stream.read())
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await reading

    def _take(self, driver: str, devices: Iterable[Any]) -> None:
        before = {key: word for key, (word, _) in self._known.items() if key[0] == driver}
        for one in devices:
            seconds = one.health_check_timeout_seconds if one.health_check_timeout_seconds > 0 else _HOLDS_SECONDS
            key = (driver, one.device.pool_name, one.device.device_name)
            self._known[key] = (_WORDS.get(one.health, "Unknown"), time.monotonic() + seconds)
        if before != {key: word for key, (word, _) in self._known.items() if key[0] == driver}:
            self._changed()

    def _expire(self, driver: str) -> None:
        now = time.monotonic()
        self._known = {key: one for key, one in self._known.items() if key[0] != driver or one[1] > now}
        self._changed()

    def _forget(self, driver: str) -> None:
        kept = {key: one for key, one in self._known.items() if key[0] != driver}
        if kept != self._known:
            self._known = kept
            self._changed()


def told(given: Iterable[tuple[Mapping[str, Any], str, str, Mapping[str, Any]]], health: DriverHealth) -> list[Any]:
    """Return what a container's status tells of its claims' devices (allocatedResourcesStatus).

    Args: `given` is what ResourceClaims.given yields of the container.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for wanted, _, driver, device in given:
        name = f"claim:{wanted['name']}" + (f"/{wanted['request']}" if wanted.get("request") else "")
        pool, own = device.get("pool", ""), device.get("device", "")
        known = device["cdi"][0] if device["cdi"] else f"{driver}/{pool}/{own}"
        found.setdefault(name, []).append({"resourceID": known, "health": health.of(driver, pool, own)})
    return [{"name": name, "resources": resources} for name, resources in found.items()]
