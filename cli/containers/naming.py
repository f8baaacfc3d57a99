"""Containers as pods: the labels that mark them, their names and ids, and how Docker tells of their state."""

import hashlib
import re
import secrets
import time
from typing import Any

import click

from cli.session import Session
from machinery.api.meta import parse_time
from machinery.errors import NotFound

RUN_LABEL = "wherry.dev/run"
"""Marks pods made by `wherry run`."""
REMOVE = "wherry.dev/remove"
"""Marks those that go when they end."""
SPEC = "wherry.dev/container"
"""Annotation with what is needed to make the container again: `start` after `stop`."""
Pod = dict[str, Any]

_ADJECTIVES = [
    "brave",
    "calm",
    "eager",
    "gentle",
    "happy",
    "jolly",
    "keen",
    "lucid",
    "mellow",
    "nimble",
    "quiet",
    "rapid",
    "sleepy",
    "tidy",
    "vivid",
    "wise",
    "zesty",
    "bold",
]
_BOATS = [
    "barge",
    "brig",
    "canoe",
    "clipper",
    "cutter",
    "dhow",
    "dinghy",
    "ferry",
    "gig",
    "jolly",
    "kayak",
    "ketch",
    "lugger",
    "pinnace",
    "punt",
    "schooner",
    "skiff",
    "sloop",
]


_LOGGED = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')


class DockerError(click.ClickException):
    """What Docker reports as an error of its daemon: exit code 125, or 1 from other verbs."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        # skopeo's last line is one of a log; what is to be said is a part of it.
        said = _LOGGED.search(message)
        super().__init__(re.sub(r"\\(.)", r"\1", said[1]) if said else message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance too

    def format_message(self) -> str:
        """Return the message in Docker's form."""
        return f"Error response from daemon: {self.message}"


def random_name() -> str:
    """Return a name such as "brave-sloop-x7"."""
    tail = "".join(secrets.choice("bcdfghjkmnpqrstvwxz23456789") for _ in range(3))
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_BOATS)}-{tail}"


def container_id(pod: Pod) -> str:
    """Return the container's id, 64 hexadecimal digits: the runtime's, or before it has one, one made from the uid."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        found = str(status.get("containerID") or "").rpartition("//")[2]
        if len(found) == 64:
            return found
    return hashlib.sha256(pod["metadata"]["uid"].encode()).hexdigest()


def pod_id(pod: Pod) -> str:
    """Return the id that `run -d` prints: it holds from the pod's creation on."""
    return hashlib.sha256(pod["metadata"]["uid"].encode()).hexdigest()


def all_containers(session: Session) -> list[Pod]:
    """Return the pods that are containers of ours, the newest first. Raises: APIError."""
    path = f"/api/v1/namespaces/{session.namespace}/pods"
    found = session.connection.json("GET", path, params={"labelSelector": RUN_LABEL})["items"]
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


def find_container(session: Session, word: str) -> Pod:
    """Return the container of a name, or of an id's beginning. Raises: DockerError."""
    try:
        return session.connection.json("GET", f"/api/v1/namespaces/{session.namespace}/pods/{word}")
    except NotFound:
        pass
    found = [
        pod for pod in all_containers(session) if container_id(pod).startswith(word) or pod_id(pod).startswith(word)
    ]
    if len(found) != 1:
        raise DockerError(
            f"No such container: {word}" if not found else f"Multiple IDs found with provided prefix: {word}"
        )
    return found[0]


def main_status(pod: Pod) -> dict[str, Any]:
    """Return the status of the pod's first container, empty before there is one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    name = pod["spec"]["containers"][0]["name"]
    return dict(next((one for one in statuses if one["name"] == name), {}))


def state_of(pod: Pod) -> str:
    """Return created, running, restarting, exited or removing."""
    if pod["metadata"].get("deletionTimestamp"):
        return "removing"
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return "exited"
    status = main_status(pod)
    state = status.get("state") or {}
    if "running" in state:
        return "running"
    if "terminated" in state:
        return "exited" if pod["spec"].get("restartPolicy") == "Never" else "restarting"
    return "restarting" if status.get("restartCount") else "created"


def exit_code_of(pod: Pod) -> int:
    """Return the exit code of the last run, 0 when it has not ended."""
    status = main_status(pod)
    for field in ("state", "lastState"):
        ended = (status.get(field) or {}).get("terminated")
        if ended:
            return int(ended.get("exitCode", 0))
    return 137 if (pod.get("status") or {}).get("phase") == "Failed" else 0


def ago(seconds: float) -> str:
    """Return a duration in Docker's words: "5 seconds", "About a minute"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    return _long_ago(hours)


def _long_ago(hours: int) -> str:
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def since(stamp: str | None) -> float:
    """Return the seconds since a time."""
    return max(time.time() - parse_time(stamp).timestamp(), 0) if stamp else 0.0


def status_text(pod: Pod) -> str:
    """Return the STATUS column: "Up 5 seconds", "Exited (0) 3 seconds ago"."""
    state, status = state_of(pod), main_status(pod)
    current = status.get("state") or {}
    if state == "running":
        health = ""
        if pod["spec"]["containers"][0].get("readinessProbe"):
            health = " (healthy)" if status.get("ready") else " (health: starting)"
        return f"Up {ago(since(current['running'].get('startedAt')))}{health}"
    if state == "exited":
        ended = current.get("terminated") or {}
        return f"Exited ({exit_code_of(pod)}) {ago(since(ended.get('finishedAt')))} ago"
    if state == "restarting":
        return f"Restarting ({exit_code_of(pod)}) {ago(since(pod['metadata']['creationTimestamp']))} ago"
    return {"created": "Created", "removing": "Removal In Progress"}[state]
