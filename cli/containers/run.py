"""Docker's `run`: a pod of one container, made through the API and joined with our streams."""

import contextlib
import itertools
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.containers.naming import (
    REMOVE,
    RUN_LABEL,
    SPEC,
    DockerError,
    exit_code_of,
    main_status,
    pod_id,
    random_name,
    state_of,
)
from cli.containers.ports import check_ports, port
from cli.containers.run_options import extend_pod, more_options, written_id
from cli.containers.volumes import own_all, volume_of
from cli.durations import seconds
from cli.framework import verb
from cli.printers import plain_json
from cli.selection import Selected
from cli.session import Session
from cli.streaming import DETACH, StreamRequest, run_stream
from cli.watching import watch_one
from machinery.compose import values
from machinery.errors import AlreadyExists, APIError

Seen = Iterator[dict[str, Any] | None]
_CPU_PERIOD, _SHARES_A_CPU = 100000, 1024
_START_SECONDS = 120.0
_FOREVER_SECONDS = 365 * 24 * 3600.0
_QUIET_SECONDS = 0.1
"""How long a terminal that says nothing is given before what was said earlier is shown."""


@verb("run", context_settings={"allow_interspersed_args": False})
@click.argument("image")
@click.argument("command", nargs=-1)
@options.reachable
@options.in_namespace
@click.option("-i", "--interactive", is_flag=True)
@click.option("-t", "--tty", is_flag=True)
@click.option("-d", "--detach", is_flag=True)
@click.option("-p", "--publish", multiple=True, help="[IP:]HOST:CONTAINER[/PROTOCOL].")
@click.option("-v", "--volume", multiple=True, help="HOST_PATH|NAME:PATH[:ro].")
@click.option("--mount", "mounts", multiple=True, help="type=bind,source=…,target=….")
@click.option("--tmpfs", multiple=True)
@click.option("-e", "--env", "envs", multiple=True)
@click.option("--env-file", "env_files", multiple=True)
@click.option("--name", default="")
@click.option("--rm", "removes", is_flag=True)
@click.option("--restart", default="no", help="no, on-failure, always or unless-stopped.")
@click.option("-m", "--memory", default="")
@click.option("--cpus", default="")
@click.option("--network", "--net", "network", default="", help="bridge or host.")
@click.option("--entrypoint", default=None)
@click.option("-w", "--workdir", default="")
@click.option("-u", "--user", "who", default="", help="UID[:GID].")
@click.option("--read-only", is_flag=True)
@click.option("--cap-add", multiple=True)
@click.option("--cap-drop", multiple=True)
@click.option("--privileged", is_flag=True)
@click.option("-h", "--hostname", default="")
@click.option("--add-host", multiple=True)
@click.option("--dns", multiple=True)
@click.option("-l", "--label", "labels", multiple=True)
@click.option("--pull", type=click.Choice(["always", "missing", "never"]), default="missing")
@click.option("--stop-timeout", default=10)
@click.option("--health-cmd", default="")
@click.option("--health-interval", default="30s")
@click.option("--health-timeout", default="30s")
@click.option("--health-retries", default=3)
@click.option("--health-start-period", default="0s")
@click.option("--no-healthcheck", is_flag=True)
@more_options
def run_container(image: str, command: Sequence[str], **given: Any) -> None:
    """Run a container: run [OPTIONS] IMAGE [COMMAND] [ARG…]."""
    session = Session(given)
    name = given["name"] or random_name()
    try:
        pod = container_pod(name, image, list(command), given)
        extend_pod(pod, image, given)
        check_ports(session, pod)
        known = session.discovery.find("pods")
        own_all(session, pod["spec"].get("volumes") or ())
        made = session.connection.json(
            "POST", known.resource.path(session.namespace), body=pod, params={"fieldManager": "wherry-run"}
        )
    except AlreadyExists as error:
        message = f'Conflict. The container name "/{name}" is already in use. You have to remove (or rename) that container to be able to reuse that name.'
        raise DockerError(message, 125) from error
    except APIError as error:
        raise DockerError(str(error), 125) from error
    if given["cidfile"]:
        written_id(given["cidfile"], pod_id(made))
    one = Selected(known, session.namespace, name)
    # One watch from here to its end, if that is soon: each connection more would cost its TLS handshake.
    seen = watch_one(session, one, _START_SECONDS, made=made)
    if given["detach"]:
        _check_start(session, one, _started(session, one, seen))
        click.echo(pod_id(made))
        return
    sys.exit(joined(session, one, seen, given))


def container_pod(name: str, image: str, command: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that Docker's options ask for. Raises: DockerError."""
    container: dict[str, Any] = {"name": "main", "image": image, **_process(command, given), **_limits(given)}
    container["imagePullPolicy"] = {"always": "Always", "missing": "IfNotPresent", "never": "Never"}[given["pull"]]
    ports = [port(text) for text in given["publish"]]
    if ports:
        container["ports"] = ports
    context = _security(given)
    if context:
        container["securityContext"] = context
    volumes, mounts = volume_of(given["volume"], given["mounts"], given["tmpfs"])
    if mounts:
        container["volumeMounts"] = mounts
    if given["health_cmd"] and not given["no_healthcheck"]:
        container["readinessProbe"] = _health(given)
    spec: dict[str, Any] = {
        "containers": [container], "restartPolicy": restart_policy(given["restart"]), "enableServiceLinks": False,
        "automountServiceAccountToken": False, "terminationGracePeriodSeconds": given["stop_timeout"], **_network(given),
    }  # fmt: skip
    if volumes:
        spec["volumes"] = volumes
    labels = {RUN_LABEL: name, **({REMOVE: "true"} if given["removes"] else {})}
    notes = {f"label.wherry.dev/{key}": value for key, _, value in (text.partition("=") for text in given["labels"])}
    metadata = {"name": name, "labels": labels, "annotations": {**notes, SPEC: plain_json(spec).decode()}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _health(given: dict[str, Any]) -> dict[str, Any]:
    """Return the probe of Docker's health options; Docker's zero stands for its default there as well."""

    def whole(name: str) -> int:
        return max(int(seconds(given[name])), 1)

    return {
        "exec": {"command": ["sh", "-c", given["health_cmd"]]}, "periodSeconds": whole("health_interval"),
        "timeoutSeconds": whole("health_timeout"), "failureThreshold": given["health_retries"] or 3,
        "initialDelaySeconds": int(seconds(given["health_start_period"])),
    }  # fmt: skip


def restart_policy(text: str) -> str:
    """Return the pod's restart policy for Docker's word. Raises: DockerError."""
    word = text.partition(":")[0]
    found = {"no": "Never", "": "Never", "on-failure": "OnFailure", "always": "Always", "unless-stopped": "Always"}
    if word not in found:
        raise DockerError(
            f"invalid restart policy: unknown policy '{word}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            125,
        )
    return found[word]


def _process(command: list[str], given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given["entrypoint"]:
        found["command"] = [values.literal(given["entrypoint"])]
    if command:
        found["args"] = [values.literal(word) for word in command]
    if given["workdir"]:
        found["workingDir"] = given["workdir"]
    if given["interactive"]:
        found["stdin"] = True
    if given["interactive"] and not (given["detach"] or given["tty"]):
        found["stdinOnce"] = True  # the end of our input is the end of its; a terminal may be joined again
    if given["tty"]:
        found["tty"] = True
    env = environment(given["envs"], given["env_files"])
    return {**found, "env": env} if env else found


def environment(envs: Sequence[str], files: Sequence[str]) -> list[dict[str, str]]:
    """Return the variables of files and options, the later ones winning; a bare name takes our own value."""
    import os

    found: dict[str, str] = {}
    for path in files:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            raise DockerError(f"open {path}: no such file or directory", 125) from error
        envs = [*(line for line in lines if line.strip() and not line.lstrip().startswith("#")), *envs]
    for text in envs:
        key, equals, value = text.partition("=")
        if equals:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return [{"name": key, "value": values.literal(value)} for key, value in found.items()]


def byte_size(text: str) -> str:
    """Return Docker's size (512m, 1g) as a quantity. Raises: DockerError."""
    try:
        return values.byte_size(text)
    except values.ComposeError as error:
        raise DockerError(str(error), 125) from error


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    limits = {"memory": byte_size(given["memory"])} if given["memory"] else {}
    if given["cpus"]:
        limits["cpu"] = f"{int(float(given['cpus']) * 1000)}m"
    elif given["cpu_quota"] > 0:
        limits["cpu"] = f"{given['cpu_quota'] * 1000 // (given['cpu_period'] or _CPU_PERIOD)}m"
    requests = dict.fromkeys(limits, "0")  # Docker's limits reserve nothing
    if given["memory_reservation"]:
        requests["memory"] = byte_size(given["memory_reservation"])
    if given["cpu_shares"]:
        requests["cpu"] = f"{given['cpu_shares'] * 1000 // _SHARES_A_CPU}m"
    found = {"limits": limits, "requests": requests}
    return {"resources": {key: value for key, value in found.items() if value}} if limits or requests else {}


def _security(given: dict[str, Any]) -> dict[str, Any]:
    context: dict[str, Any] = {}
    if given["who"]:
        uid, _, gid = given["who"].partition(":")
        uid = "0" if uid == "root" else uid
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise DockerError(f"unable to find user {given['who']}: give its number, UID[:GID]", 125)
        context["runAsUser"] = int(uid)
        context |= {"runAsGroup": int(gid)} if gid else {}
    if given["read_only"]:
        context["readOnlyRootFilesystem"] = True
    if given["privileged"]:
        context["privileged"] = True
    names = {"add": given["cap_add"], "drop": given["cap_drop"]}
    capabilities = {key: [one.upper().removeprefix("CAP_") for one in value] for key, value in names.items() if value}
    return {**context, "capabilities": capabilities} if capabilities else context


def _network(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given["network"] == "host":
        found["hostNetwork"] = True
    elif given["network"] not in ("", "bridge", "default"):
        raise DockerError(
            f"network {given['network']} not found: containers share the cluster's network (bridge, host)", 125
        )
    if given["hostname"]:
        found["hostname"] = given["hostname"]
    if given["add_host"]:
        pairs = [re.split(r"[:=]", text, maxsplit=1) for text in given["add_host"]]
        found["hostAliases"] = [{"ip": address, "hostnames": [name]} for name, address in pairs]
    return found


def _started(session: Session, one: Selected, seen: Seen) -> dict[str, Any]:
    """Wait until a container runs or has ended, and return its pod. Raises: DockerError when it can't start."""
    for pod in seen:
        if pod is None:
            raise DockerError(f"container {one.name} was removed", 125)
        state = main_status(pod).get("state") or {}
        if (
            "running" in state
            or "terminated" in state
            or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        ):
            return pod
        waiting = state.get("waiting") or {}
        if waiting.get("reason", "") not in ("", "ContainerCreating", "PodInitializing"):
            _give_up(session, one, waiting)
    raise DockerError(f"container {one.name} did not start in time", 125)


def _give_up(session: Session, one: Selected, waiting: dict[str, Any]) -> None:
    """Remove a container that can't start, and say why with the exit code a shell would give."""
    message = waiting.get("message") or waiting["reason"]
    with contextlib.suppress(APIError):
        session.connection.json("DELETE", one.path, body={"gracePeriodSeconds": 0})
    if "Image" in waiting["reason"] or "Pull" in waiting["reason"]:
        raise DockerError(f"Unable to find image: {message}", 125)
    missing = any(words in message for words in ("not found", "no such file"))
    code = 127 if missing else 126 if "permission denied" in message.lower() else 125
    raise DockerError(f"failed to create task for container: {message}", code)


def _check_start(session: Session, one: Selected, pod: dict[str, Any]) -> None:
    """Raise DockerError when the container has ended because its command could not be started."""
    status, state = pod.get("status") or {}, main_status(pod).get("state") or {}
    if status.get("phase") == "Failed" and "terminated" not in state and status.get("reason") != "DeadlineExceeded":
        _give_up(session, one, {"reason": status.get("reason", ""), "message": status.get("message", "")})
    ended = state.get("terminated") or {}
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        _give_up(session, one, {"reason": ended["reason"], "message": ended.get("message", "")})


def joined(session: Session, one: Selected, seen: Seen, given: dict[str, Any]) -> int:
    """Join a container with our streams to its end; returns its exit code, or 0 when we detached."""
    try:
        pod = _started(session, one, seen)
        _check_start(session, one, pod)
        if given["tty"] or given["interactive"]:
            is_over = state_of(pod) != "running"
            try:
                if not is_over and not _attached(session, one, given):
                    return 0
            except (APIError, click.ClickException) as error:
                # It has ended, and its status does not say so yet.
                is_over = any(words in str(error) for words in ("is not running", "container not found"))
                if not is_over:
                    raise
            if is_over:
                _print_log(session, one, follow=False)
        else:
            _print_log(session, one, follow=True)
        code = _ended(pod, itertools.chain(seen, watch_one(session, one, _FOREVER_SECONDS)))
    except KeyboardInterrupt:
        with contextlib.suppress(APIError):
            session.connection.json("DELETE", one.path, body={"gracePeriodSeconds": 1})
        return 130
    if given["removes"]:
        with contextlib.suppress(APIError):
            session.connection.json("DELETE", one.path, body={"gracePeriodSeconds": 0})
    return code


def _print_log(session: Session, one: Selected, *, follow: bool) -> None:
    params = {"follow": "true" if follow else None, "container": "main"}
    for piece in session.connection.pieces(f"{one.path}/log", params):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _attached(session: Session, one: Selected, given: dict[str, Any]) -> bool:
    """Attach to the running container; False when the user left it running."""
    is_terminal = bool(given["tty"])
    if is_terminal and not sys.stdin.isatty():
        raise DockerError("the input device is not a TTY", 1)
    request = StreamRequest(
        one.namespace, one.name, "main", stdin=bool(given["interactive"]), tty=is_terminal,
        detach=DETACH if is_terminal and given["interactive"] else b"",
    )  # fmt: skip
    connection = session.connection.another()

    def show_earlier() -> None:
        """Show what was printed before we were there: a prompt that would otherwise never be seen."""
        time.sleep(_QUIET_SECONDS)
        with contextlib.suppress(APIError, click.ClickException):
            text = connection.request("GET", f"{one.path}/log", params={"container": "main"}, accept="*/*")
            sys.stdout.buffer.write(text.rstrip(b"\n") if is_terminal else b"")
            sys.stdout.buffer.flush()

    watcher = threading.Thread(target=show_earlier, daemon=True)
    code = run_stream(session.connection, request, on_open=watcher.start if is_terminal else None)
    if code is None and is_terminal:
        pod = one.read(session)
        return state_of(pod) != "running"
    return True


def _ended(started: dict[str, Any], seen: Seen) -> int:
    """Return the exit code of a container that was seen to start, when it is there."""
    for pod in itertools.chain((started,), seen):
        if pod is None:
            return 137
        if "terminated" in (main_status(pod).get("state") or {}) or state_of(pod) == "exited":
            return exit_code_of(pod)
    return 1
