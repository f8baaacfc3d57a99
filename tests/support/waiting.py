"""Waiting for the world: watches with a deadline."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from machinery.api.meta import Resource
from machinery.client.rest import Client
from machinery.errors import NotFound

DEADLINE_SECONDS = 10.0


async def until(
    client: Client,
    resource: Resource,
    condition: Callable[[list[dict[str, Any]]], Any],
    *,
    namespace: str = "",
    label_selector: str = "",
    deadline_seconds: float = DEADLINE_SECONDS,
) -> list[dict[str, Any]]:
    """Wait until the objects of a resource meet a condition, and return them as they were then.

    Raises: AssertionError that shows them when they don't in time.
    """
    objects: dict[str, dict[str, Any]] = {}
    try:
        async with asyncio.timeout(deadline_seconds):
            found = await client.list(resource, namespace, label_selector=label_selector)
            objects = {obj["metadata"]["uid"]: obj for obj in found["items"]}
            version = found["metadata"]["resourceVersion"]
            if condition(list(objects.values())):
                return list(objects.values())
            events = client.watch(resource, namespace, resource_version=version, label_selector=label_selector)
            async with contextlib.aclosing(events):
                async for event in events:
                    obj = event.decode()
                    if event.type == "DELETED":
                        objects.pop(obj["metadata"]["uid"], None)
                    elif event.type != "BOOKMARK":
                        objects[obj["metadata"]["uid"]] = obj
                    if condition(list(objects.values())):
                        return list(objects.values())
    except TimeoutError:
        raise AssertionError(f"{resource.plural} are still {list(objects.values())}") from None
    raise AssertionError("the watch ended")


async def until_one(
    client: Client,
    resource: Resource,
    name: str,
    condition: Callable[[dict[str, Any]], Any],
    *,
    namespace: str = "",
    deadline_seconds: float = DEADLINE_SECONDS,
) -> dict[str, Any]:
    """Wait until the object of a name is there and meets a condition, and return it."""

    def met(objects: list[dict[str, Any]]) -> bool:
        return any(obj["metadata"]["name"] == name and condition(obj) for obj in objects)

    found = await until(client, resource, met, namespace=namespace, deadline_seconds=deadline_seconds)
    return next(obj for obj in found if obj["metadata"]["name"] == name)


async def until_gone(
    client: Client, resource: Resource, name: str, *, namespace: str = "", deadline_seconds: float = DEADLINE_SECONDS
) -> None:
    """Wait until there is no object of this name."""

    def met(objects: list[dict[str, Any]]) -> bool:
        return all(obj["metadata"]["name"] != name for obj in objects)

    await until(client, resource, met, namespace=namespace, deadline_seconds=deadline_seconds)
    with contextlib.suppress(NotFound):
        await client.get(resource, name, namespace)
        raise AssertionError(f"{resource.plural} {name} is back")
