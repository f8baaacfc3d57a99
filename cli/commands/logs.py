"""`wherry logs`: one container's, or those of many pods at once, each with a colour of its own."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import click

from cli import options, problems
from cli.durations import seconds
from cli.framework import verb
from cli.pods import chosen_container, container_names, find_pods
from cli.session import Session, leave
from machinery.errors import APIError, NotFound

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_SELECTED_TAIL = 10


@verb()
@click.argument("word", required=False)
@click.argument("container_word", required=False)
@options.connected
@options.namespaced
@options.selected
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-c", "--container", default="")
@click.option("--all-containers", is_flag=True)
@click.option("--all-pods", is_flag=True, help="Of all pods of a workload.")
@click.option("-p", "--previous", is_flag=True, help="Of the instance before.")
@click.option("--tail", default="-1", help="So many lines from the end; -1 or all for all.")
@click.option("--since", default="")
@click.option("--since-time", default="")
@click.option("-t", "--timestamps", is_flag=True)
@click.option("--prefix", is_flag=True, help="Put pod and container before each line.")
@click.option("--limit-bytes", default=0)
@click.option("--max-log-requests", default=5, show_default=True)
@click.option("--ignore-errors", is_flag=True)
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto")
@click.option("--insecure-skip-tls-verify-backend", is_flag=True, hidden=True)
@click.option("--pod-running-timeout", default="20s", hidden=True)
def logs(word: str | None, container_word: str | None, **given: Any) -> None:
    """Show what containers print."""
    session = Session(given)
    if container_word:
        given["container"] = container_word
    if word and given["selector"]:
        raise click.ClickException("only a selector (-l) or a POD name is allowed")
    pods, many = _pods(session, word, given)
    streams = [(pod, name) for pod in pods for name in _containers(pod, given, quiet=many)]
    if given["follow"] and len(streams) > given["max_log_requests"]:
        raise click.ClickException(
            f"you are attempting to follow {len(streams)} log streams, but maximum allowed concurrency is "
            f"{given['max_log_requests']}, use --max-log-requests to increase the limit"
        )
    leave(Printer(session, given, _params(given), streams).run())


def _pods(session: Session, word: str | None, given: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    if given["selector"]:
        path = f"/api/v1/namespaces/{session.namespace}/pods"
        pods = session.connection.json("GET", path, params={"labelSelector": given["selector"]})["items"]
        if not pods:
            click.echo(f"No resources found in {session.namespace} namespace.", err=True)
        return pods, True
    if not word:
        raise click.ClickException(
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command"
        )
    try:
        pods = find_pods(session, word, wait_seconds=seconds(given["pod_running_timeout"]))
    except NotFound as error:
        raise click.ClickException(
            f'error from server (NotFound): {error} in namespace "{session.namespace}"'
        ) from error
    if given["all_pods"]:
        given["prefix"] = True
        return pods, True
    if len(pods) > 1:
        click.echo(f"Found {len(pods)} pods, using pod/{pods[0]['metadata']['name']}", err=True)
    return pods[:1], False


def _containers(pod: dict[str, Any], given: dict[str, Any], *, quiet: bool) -> list[str]:
    if given["all_containers"]:
        return container_names(pod, ("initContainers", "containers", "ephemeralContainers"))
    return [chosen_container(pod, given["container"], quiet=quiet)]


def _params(given: dict[str, Any]) -> dict[str, Any]:
    if given["since"] and given["since_time"]:
        raise click.ClickException("at most one of `sinceTime` or `sinceSeconds` may be specified")
    tail = -1 if given["tail"] == "all" else int(given["tail"])
    if tail < 0 and given["selector"]:
        tail = _SELECTED_TAIL
    since, since_seconds = given["since"], None
    if since:
        if since[:4].isdigit() and "-" in since:  # Docker takes a date here
            given["since_time"] = since
        else:
            since_seconds = max(int(seconds(since)), 1)
    return {
        "follow": "true" if given["follow"] else None, "previous": "true" if given["previous"] else None,
        "tailLines": tail if tail >= 0 else None, "sinceSeconds": since_seconds,
        "sinceTime": given["since_time"], "timestamps": "true" if given["timestamps"] else None,
        "limitBytes": given["limit_bytes"] or None,
    }  # fmt: skip


def log_printer(
    session: Session, pods: Sequence[dict[str, Any]], heads: Callable[[dict[str, Any]], str], *, follow: bool,
    tail: str = "all", timestamps: bool = False, since: str = "",
) -> "Printer":  # fmt: skip
    """Return what prints the logs of pods, each with a colour of its own; `heads` says what stands before their lines."""
    given = {
        "follow": follow, "prefix": True, "tail": tail, "timestamps": timestamps, "color": "auto", "selector": "",
        "since": since, "since_time": "", "previous": False, "limit_bytes": 0, "ignore_errors": True, "heads": heads,
    }  # fmt: skip
    return Printer(session, given, _params(given), [(pod, container_names(pod)[0]) for pod in pods])


class Printer:
    """Prints several logs, whole lines at a time."""

    def __init__(
        self,
        session: Session,
        given: dict[str, Any],
        params: dict[str, Any],
        streams: Sequence[tuple[dict[str, Any], str]],
    ) -> None:
        self._session = session
        self._params = params
        self._streams = streams
        self._prefix = given["prefix"]
        self._ignore = given["ignore_errors"]
        self._follow = given["follow"]
        self._lock = threading.Lock()
        self._fine = True
        shows_colour = given["color"] == "always" or (given["color"] == "auto" and sys.stdout.isatty())
        self._shows_colour = shows_colour
        self._colours: dict[str, Any] = {}
        self._heads: Callable[[dict[str, Any]], str] | None = given.get("heads")
        for pod, container in streams:
            self._head(pod, container)

    def run(self) -> bool:
        """Print all, to their ends; returns whether all could be read."""
        if self._follow and len(self._streams) > 1:
            for thread in [self.start(*stream) for stream in self._streams]:
                thread.join()
        else:
            for pod, container in self._streams:
                self._one(pod, container)
        return self._fine

    def start(self, pod: dict[str, Any], container: str) -> threading.Thread:
        """Print one more log, in a thread of its own."""
        thread = threading.Thread(target=self._one, args=(pod, container), daemon=True)
        thread.start()
        return thread

    def _one(self, pod: dict[str, Any], container: str) -> None:
        try:
            self._print(pod, container)
        except APIError as error:
            if self._ignore:
                click.echo(str(error), err=True)
                return
            problems.report(error)
            self._fine = False

    def _head(self, pod: dict[str, Any], container: str) -> bytes:
        if not self._prefix:
            return b""
        name = pod["metadata"]["name"]
        text = self._heads(pod) if self._heads else f"[pod/{name}/{container}] "
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        colour = colour if self._shows_colour and text else ""
        return (f"\x1b[{colour}m{text}\x1b[0m" if colour else text).encode()

    def _print(self, pod: dict[str, Any], container: str) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        head = self._head(pod, container)
        connection = self._session.connection.another()
        pieces = connection.pieces(path, {**self._params, "container": container})
        if not head and len(self._streams) == 1:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            return
        rest = b""
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            self._write([head + line + b"\n" for line in lines])
        if rest:
            self._write([head + rest + b"\n"])

    def _write(self, lines: list[bytes]) -> None:
        with self._lock:
            sys.stdout.buffer.write(b"".join(lines))
            sys.stdout.buffer.flush()
