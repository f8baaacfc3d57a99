"""Deletes objects and watches them go."""

import time
from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli.selection import Selected
from cli.session import Session
from machinery.errors import NotFound

FOREVER_SECONDS = 7 * 24 * 3600.0
"""What kubectl waits when no time is given."""


def from_namespace(one: Selected) -> str:
    """Return the end of the line that tells of a deletion."""
    return f" from {one.namespace} namespace" if one.namespace else ""


def delete_one(session: Session, one: Selected, body: dict[str, Any], params: dict[str, Any] | None = None) -> str:
    """Delete an object; returns its uid, or "" when the server does not tell. Raises: APIError."""
    answer = session.connection.json("DELETE", one.path, body=body, params=params or {})
    return str((answer.get("metadata") or {}).get("uid") or (answer.get("details") or {}).get("uid", ""))


def delete_and_wait(
    session: Session, found: Sequence[Selected], *, grace_seconds: int = -1, policy: str = "Background"
) -> None:
    """Delete objects and return when they are gone, with the policy Foreground after what they own.

    Raises: APIError, ClickException.
    """
    body: dict[str, Any] = {"propagationPolicy": policy}
    if grace_seconds >= 0:
        body["gracePeriodSeconds"] = grace_seconds
    going = [(one, delete_one(session, one, body)) for one in found]
    for one, uid in going:
        wait_gone(session, one, uid, FOREVER_SECONDS)


def wait_gone(session: Session, one: Selected, uid: str, limit_seconds: float) -> bool:
    """Watch an object until it is gone or another has its name; False when that takes too long."""
    deadline = time.monotonic() + limit_seconds
    try:
        present = session.connection.json("GET", one.path)
    except NotFound:
        return True
    if uid and present["metadata"]["uid"] != uid:
        return True
    params = {
        "watch": "true", "fieldSelector": f"metadata.name={one.name}",
        "timeoutSeconds": max(int(deadline - time.monotonic()), 1),
        "resourceVersion": present["metadata"]["resourceVersion"],
    }  # fmt: skip
    lines = session.connection.lines(one.known.resource.path(one.namespace), params)
    if any(orjson.loads(line)["type"] == "DELETED" for line in lines):
        return True
    click.echo(f"error: timed out waiting for the condition on {one.known.resource.plural}/{one.name}", err=True)
    return False
