"""Follows one object: as it is, then each change, until a time is up."""

import time
from collections.abc import Iterator
from typing import Any

import click
import orjson

from cli.selection import Selected
from cli.session import Session


def watch_one(
    session: Session, one: Selected, limit_seconds: float, *, made: dict[str, Any] | None = None
) -> Iterator[dict[str, Any] | None]:
    """Yield an object as it is and after each change, None when it is not there; ends when the time is up.

    Args:
        session: the call.
        one: the object.
        limit_seconds: how long it is followed.
        made: the object as its maker was answered: what comes after that is watched, and nothing asked before.

    Raises: APIError, ClickException.
    """
    deadline = time.monotonic() + limit_seconds
    collection = one.known.resource.path(one.namespace)
    by_name = {"fieldSelector": f"metadata.name={one.name}"}
    while True:
        if made is not None:
            found, made = {"items": [made], "metadata": made["metadata"]}, None
        else:
            found = session.connection.json("GET", collection, params=by_name)
        yield found["items"][0] if found["items"] else None
        left = int(deadline - time.monotonic())
        if left < 1 and time.monotonic() > deadline:
            return
        params = {
            **by_name, "watch": "true", "timeoutSeconds": max(left, 1),
            "resourceVersion": found["metadata"]["resourceVersion"],
        }  # fmt: skip
        for line in session.connection.lines(collection, params):
            event = orjson.loads(line)
            if event["type"] == "ERROR":
                if event["object"].get("code") == 410:
                    break  # too old: list again
                raise click.ClickException(event["object"].get("message", "the watch failed"))
            if event["type"] != "BOOKMARK":
                yield None if event["type"] == "DELETED" else event["object"]
        if time.monotonic() >= deadline:
            return
