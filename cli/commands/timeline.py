"""`wherry timeline`: what happened to a pod, when, and how long each step took."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.commands.events import first_seen
from cli.framework import verb
from cli.pods import find_pods
from cli.session import Session
from machinery.api.meta import parse_time

Pod = dict[str, Any]
Moment = tuple[float, str, str]
_BAR = 30


@verb()
@click.argument("word")
@options.connected
@options.namespaced
@options.output
def timeline(word: str, output: str, **given: Any) -> None:
    """Show what happened to a pod, with durations: timeline pod/x."""
    session = Session(given)
    pod = find_pods(session, word)[0]
    metadata = pod["metadata"]
    params = {"fieldSelector": f"involvedObject.uid={metadata['uid']}"}
    events = session.connection.json("GET", f"/api/v1/namespaces/{metadata['namespace']}/events", params=params)[
        "items"
    ]
    found = moments(pod, events)
    if output == "json":
        from cli.printers import json_text

        start = found[0][0]
        click.echo(json_text([{"seconds": round(at - start, 6), "who": who, "what": what} for at, who, what in found]))
    else:
        click.echo("\n".join(lines(found)))


def moments(pod: Pod, events: Sequence[Pod]) -> list[Moment]:
    """Return what is known to have happened, in order: (seconds since 1970, who, what)."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    found = [(_seconds(metadata["creationTimestamp"]), _maker(metadata), "created")]
    for one in status.get("conditions") or ():
        if one.get("status") == "True" and one.get("lastTransitionTime"):
            who = "scheduler" if one["type"] == "PodScheduled" else "agent"
            found.append((_seconds(one["lastTransitionTime"]), who, _CONDITIONS.get(one["type"], one["type"])))
    for group in ("initContainerStatuses", "containerStatuses"):
        for one in status.get(group) or ():
            found += _container(one)
    seen = {what for _, _, what in found}
    for event in events:
        text = f"{event['reason']}: {(event.get('message') or '').strip()}"
        if event["reason"] not in ("Scheduled",) and text not in seen:
            who = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
            stamp = event.get("eventTime") or first_seen(event)
            found.append((_seconds(stamp), who, text))
    if metadata.get("deletionTimestamp"):
        found.append((_seconds(metadata["deletionTimestamp"]), "", "to be gone"))
    return sorted(found, key=lambda moment: (moment[0], _rank(moment[2])))


_ORDER = (
    "created", "scheduled", "Pulling", "Pulled", "sandbox and network ready", "initialized", "Created", "container ",
    "Started", "containers ready", "ready",
)  # fmt: skip
"""How things follow each other in one second: the API tells most times by the second."""


def _rank(what: str) -> int:
    if what in _ORDER:
        return _ORDER.index(what)
    return next((at for at, begin in enumerate(_ORDER) if what.startswith(begin)), len(_ORDER))


_CONDITIONS = {
    "PodScheduled": "scheduled", "PodReadyToStartContainers": "sandbox and network ready", "Initialized": "initialized",
    "ContainersReady": "containers ready", "Ready": "ready",
}  # fmt: skip


def _container(status: Pod) -> list[Moment]:
    found: list[Moment] = []
    for field in ("lastState", "state"):
        for kind, body in (status.get(field) or {}).items():
            if kind in ("running", "terminated") and body.get("startedAt"):
                found.append((_seconds(body["startedAt"]), "runtime", f"container {status['name']} started"))
            if kind == "terminated" and body.get("finishedAt"):
                what = f"container {status['name']} ended with {body.get('exitCode', 0)} ({body.get('reason', '')})"
                found.append((_seconds(body["finishedAt"]), "runtime", what))
    return found


def _maker(metadata: Pod) -> str:
    fields = metadata.get("managedFields") or ()
    return str(fields[0].get("manager", "")) if fields else ""


def _seconds(stamp: str) -> float:
    return parse_time(stamp).timestamp()


def lines(found: Sequence[Moment]) -> list[str]:
    """Return the moments as lines: seconds from the first, a bar for the time since the one before, who, what."""
    start, end = found[0][0], found[-1][0]
    whole = max(end - start, 1e-9)
    result, before = [], start
    width = max(len(who) for _, who, _ in found)
    for at, who, what in found:
        left, right = (round((moment - start) / whole * _BAR) for moment in (before, at))
        bar = (" " * left + "█" * (right - left)).ljust(_BAR)
        result.append(f"{at - start:8.3f}s  {bar}  {who.ljust(width)}  {what}")
        before = at
    return result
