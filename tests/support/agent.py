"""The agent's half of a pod's life, for tests of what stands above it: statuses are written as an agent writes them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from machinery.api.meta import ObjectKey, key_of, now
from machinery.api.resources import PODS
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError


def running_status(*, ready: bool = True, ip: str = "10.0.0.1") -> dict[str, Any]:
    """Return the status of a pod whose containers run."""
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": now()}],
    }


async def set_running(client: Client, key: ObjectKey, *, ready: bool = True, ip: str = "10.0.0.1") -> None:
    """Report that a pod runs."""
    status = running_status(ready=ready, ip=ip)
    await client.patch(PODS, key.name, {"status": status}, key.namespace, subresource="status")


async def set_ended(client: Client, key: ObjectKey, exit_code: int) -> None:
    """Report that a pod's container ended and will not run again."""
    terminated = {"exitCode": exit_code, "finishedAt": now(), "startedAt": now(), "reason": "Completed"}
    container = {"name": "main", "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    status = {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now()}],
        "containerStatuses": [{**container, "state": {"terminated": terminated}}],
    }
    await client.patch(PODS, key.name, {"status": status}, key.namespace, subresource="status")


@contextlib.asynccontextmanager
async def pods_come_up(
    client: Client,
    *,
    which: Callable[[dict[str, Any]], bool] = lambda _: True,
    exit_code: Callable[[dict[str, Any]], int | None] = lambda _: None,
) -> AsyncIterator[None]:
    """While the block lasts, report each pod as running soon after it is made, and end it when it is deleted.

    Args:
        which: those of whom it is done.
        exit_code: what a pod's container ends with by itself; None goes on for ever.
    """

    async def act(pod: dict[str, Any]) -> None:
        key, metadata = key_of(pod), pod["metadata"]
        phase = pod.get("status", {}).get("phase")
        with contextlib.suppress(APIError, ConnectionFailed):
            if metadata.get("deletionTimestamp"):
                options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
                await client.delete(PODS, key.name, key.namespace, options=options)
            elif phase in (None, "", "Pending") and which(pod):
                await set_running(client, key, ip=f"10.0.{hash(key) % 256}.{hash(key.name) % 254 + 1}")
            elif phase == "Running" and (code := exit_code(pod)) is not None:
                await set_ended(client, key, code)

    async def follow() -> None:
        found = await client.list(PODS)
        for pod in found["items"]:
            await act(pod)
        async for event in client.watch(PODS, resource_version=found["metadata"]["resourceVersion"]):
            if event.type in ("ADDED", "MODIFIED"):
                await act(event.decode())

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
