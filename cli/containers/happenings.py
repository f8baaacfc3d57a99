"""What happens to containers in Docker's words, made of how their pods change.

Pure. The API keeps no list of this: what a pod tells of itself is what is known of the past.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cli.containers.naming import Pod, exit_code_of, main_status, pod_id
from machinery.api.meta import parse_time

ACTIONS = ("create", "start", "die", "destroy", "health_status: healthy", "health_status: unhealthy")


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened to a container, when, and what is told beside it."""

    at: datetime
    action: str
    identity: str
    attributes: Mapping[str, str]

    def line(self) -> str:
        """Return the line that docker events prints."""
        told = ", ".join(f"{name}={value}" for name, value in sorted(self.attributes.items()))
        return f"{self.at:%Y-%m-%dT%H:%M:%S.%f}000Z container {self.action} {self.identity} ({told})"

    def view(self) -> dict[str, Any]:
        """Return what --format sees."""
        seconds = int(self.at.timestamp())
        return {
            "Type": "container", "Action": self.action, "ID": self.identity, "Status": self.action,
            "From": self.attributes["image"], "Scope": "local", "Time": seconds,
            "TimeNano": int(self.at.timestamp() * 1e9), "id": self.identity, "status": self.action,
            "Actor": {"ID": self.identity, "Attributes": dict(self.attributes)}, "time": seconds,
        }  # fmt: skip


def of_pod(pod: Pod) -> Iterator[Happening]:
    """Yield what a pod tells of its own past, the oldest first."""
    yield _made(pod, "create", pod["metadata"]["creationTimestamp"])
    status = main_status(pod)
    for field in ("lastState", "state"):
        state = status.get(field) or {}
        ended = state.get("terminated") or {}
        if began := (ended or state.get("running") or {}).get("startedAt"):
            yield _made(pod, "start", began)
        if ended.get("finishedAt"):
            yield _made(pod, "die", ended["finishedAt"], exitCode=str(exit_code_of(pod)))


def between(before: Pod | None, pod: Pod) -> Iterator[Happening]:
    """Yield what has happened from one look at a pod to the next."""
    known = {(one.action, one.at) for one in of_pod(before)} if before else set()
    yield from (one for one in of_pod(pod) if (one.action, one.at) not in known)
    was, now = (_health(one) for one in (before, pod))
    if now != was and (now == "healthy" or (now and was)):  # before it was ever healthy it is starting
        changed = main_status(pod).get("state", {}).get("running", {}).get("startedAt")
        stamp = next((c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "Ready"), changed)
        yield _made(pod, f"health_status: {now}", stamp)


def gone(pod: Pod, at: datetime) -> Happening:
    """Return the end of a container."""
    return Happening(at, "destroy", pod_id(pod), _attributes(pod))


def _health(pod: Pod | None) -> str:
    if pod is None or "readinessProbe" not in pod["spec"]["containers"][0]:
        return ""
    status = main_status(pod)
    if "running" not in (status.get("state") or {}):
        return ""
    return "healthy" if status.get("ready") else "unhealthy"


def _attributes(pod: Pod) -> dict[str, str]:
    labels = {
        key.removeprefix("label.wherry.dev/"): value
        for key, value in (pod["metadata"].get("annotations") or {}).items() if key.startswith("label.wherry.dev/")
    }  # fmt: skip
    return {**labels, "image": pod["spec"]["containers"][0]["image"], "name": pod["metadata"]["name"]}


def _made(pod: Pod, action: str, stamp: str, **more: str) -> Happening:
    return Happening(parse_time(stamp), action, pod_id(pod), {**_attributes(pod), **more})
