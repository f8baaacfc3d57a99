"""`wherry events` as docker events: what happened to containers since a time, and what happens until another."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import orjson

from cli.containers.happenings import Happening, between, gone, of_pod
from cli.containers.naming import RUN_LABEL, DockerError, Pod
from cli.durations import seconds
from cli.session import Session
from machinery.api.meta import parse_time

_KEYS = ("container", "event", "image", "label", "type")


def show(session: Session, *, since: str, until: str, filters: Sequence[str], template: str) -> None:
    """Print happenings until `until`, or until we are stopped. Raises: DockerError, APIError."""
    passes = _filter(filters)
    first, last = time_of(since), time_of(until)
    path = f"/api/v1/namespaces/{session.namespace}/pods"
    params: dict[str, Any] = {"labelSelector": RUN_LABEL}
    found = session.connection.json("GET", path, params=params)
    pods: dict[str, Pod] = {one["metadata"]["uid"]: one for one in found["items"]}
    if first is not None:
        past = sorted((one for pod in pods.values() for one in of_pod(pod)), key=lambda one: one.at)
        for one in past:
            if first <= one.at and (last is None or one.at <= last) and passes(one):
                _print(one, template)
    left = (last - datetime.now(UTC)).total_seconds() if last is not None else None
    if left is not None and left <= 0:
        return
    params |= {"watch": "true", "resourceVersion": found["metadata"]["resourceVersion"]}
    if left is not None:
        params["timeoutSeconds"] = max(round(left), 1)
    for line in session.connection.lines(path, params):
        change = orjson.loads(line)
        for one in _news(pods, change["type"], change["object"]):
            if passes(one):
                _print(one, template)


def _news(pods: dict[str, Pod], kind: str, pod: Pod) -> list[Happening]:
    if kind not in ("ADDED", "MODIFIED", "DELETED"):
        return []
    uid = pod["metadata"]["uid"]
    before = pods.get(uid)
    found = list(between(before, pod))
    if kind == "DELETED":
        pods.pop(uid, None)
        return [*found, gone(pod, datetime.now(UTC))]
    pods[uid] = pod
    return found


def _print(one: Happening, template: str) -> None:
    if not template:
        click.echo(one.line())
    else:
        from cli.containers.formatting import formatted

        click.echo(formatted(template, [one.view()]))
    sys.stdout.flush()


def _filter(texts: Sequence[str]) -> Callable[[Happening], bool]:
    """Return what holds for happenings that pass: one of the values of each key. Raises: DockerError."""
    wanted: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise DockerError(
                f'invalid argument "{text}" for "-f, --filter" flag: bad format of filter (expected name=value)'
            )
        if key not in _KEYS:
            raise DockerError(f"invalid filter '{key}'")
        wanted.setdefault(key, []).append(value)

    def passes(one: Happening) -> bool:
        return all(any(_is(one, key, value) for value in values) for key, values in wanted.items())

    return passes


def _is(one: Happening, key: str, value: str) -> bool:
    match key:
        case "container":
            return one.attributes["name"] == value or one.identity.startswith(value)
        case "event":
            return one.action.partition(":")[0] == value
        case "image":
            return one.attributes["image"] in (value, f"{value}:latest")
        case "type":
            return value == "container"
    name, equals, text = value.partition("=")
    return name in one.attributes and (not equals or one.attributes[name] == text)


def time_of(text: str) -> datetime | None:
    """Return the time a word means: a date, seconds since 1970, or how long ago; None for none. Raises: DockerError."""
    if not text:
        return None
    try:
        if text.replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(text), UTC)
        if text[0].isdigit() and "-" in text:
            return parse_time(text) if "T" in text and text.endswith("Z") else _local(text)
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except (ValueError, click.ClickException) as error:
        raise DockerError(f'failed to parse value as time or duration: "{text}"') from error


def _local(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.astimezone()
