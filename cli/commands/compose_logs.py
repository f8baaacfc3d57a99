"""What the containers of a Compose project print, line by line as Compose tells it, and how it ends."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cli.containers.naming import main_status
from cli.session import Session
from machinery.compose.manifests import SERVICE

Object = dict[str, Any]
_LOOK_AGAIN_SECONDS, _LAST_WORDS_SECONDS = 0.5, 2.0


def headed(services: Sequence[str], *, prefix: bool) -> Callable[[Object], str]:
    """Return what says before each line whose it is, as Compose does: "web-1  | ", numbered as they come."""
    numbers: dict[str, dict[str, int]] = {}
    width = max((len(name) for name in services), default=0) + 3

    def head(pod: Object) -> str:
        service, name = pod["metadata"]["labels"][SERVICE], pod["metadata"]["name"]
        known = numbers.setdefault(service, {})
        number = known.setdefault(name, len(known) + 1)
        return f"{service}-{number}".ljust(width) + "| " if prefix else ""

    return head


def follow(
    session: Session,
    pods_now: Callable[[], list[Object]],
    services: Sequence[str],
    watched: Sequence[str],
    *,
    prefix: bool,
    timestamps: bool,
) -> int:
    """Print what containers say, those that come later too, until none is left that could say something.

    Args:
        session: the call.
        pods_now: lists the pods of the services.
        services: their names, for the width of what stands before lines.
        watched: services whose end is the end of all.
        prefix: whether lines say whose they are.
        timestamps: whether they say when they were written.

    Returns: the exit code of the first container of the `watched` services that ended; else 0.
    """
    from cli.commands.logs import log_printer

    printer = log_printer(session, [], headed(services, prefix=prefix), follow=True, timestamps=timestamps)
    followed: dict[tuple[str, int], threading.Thread] = {}
    while True:
        pods = [pod for pod in pods_now() if not pod["metadata"].get("deletionTimestamp")]
        for pod in pods:
            status = main_status(pod)
            key = (pod["metadata"]["uid"], status.get("restartCount", 0))
            if key not in followed and "waiting" not in (status.get("state") or {"waiting": {}}):
                followed[key] = printer.start(pod, pod["spec"]["containers"][0]["name"])
        if ended := [code for pod in pods if (code := _exit_code(pod, watched)) is not None]:
            for thread in followed.values():  # what it said last may still be on its way
                thread.join(_LAST_WORDS_SECONDS if thread.is_alive() else 0)
            return ended[0]
        over = all((pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") for pod in pods)
        if over and not any(thread.is_alive() for thread in followed.values()):
            return 0
        time.sleep(_LOOK_AGAIN_SECONDS)


def _exit_code(pod: Object, watched: Sequence[str]) -> int | None:
    """Return what a container ended with, even if it was started again since; None while its first run lasts."""
    status = main_status(pod)
    states = (status.get("lastState") or {}, status.get("state") or {})
    ended = next((one["terminated"] for one in states if "terminated" in one), None)
    is_watched = pod["metadata"]["labels"][SERVICE] in watched
    return int(ended.get("exitCode", 0)) if ended is not None and is_watched else None
