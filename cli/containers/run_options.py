"""The less used half of `docker run`'s options, and what they come to in a pod."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.containers.naming import DockerError
from machinery.compose import extras
from machinery.compose.values import ComposeError

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--annotation", "annotations", multiple=True, help="KEY=VALUE, on the pod."),
    click.option("-a", "--attach", "streams", multiple=True, help="stdin, stdout, stderr."),
    click.option("--cidfile", default="", help="A file to write the container's id to."),
    click.option("-c", "--cpu-shares", default=0, help="A weight; 1024 is what a CPU has. The pod's request."),
    click.option("--cpu-quota", default=0), click.option("--cpu-period", default=0),
    click.option("--memory-reservation", default="", help="What is set aside: the pod's request."),
    click.option("--memory-swap", default="", help="As much as --memory, or -1: pods do not swap."),
    click.option("--dns-option", "--dns-opt", "dns_opt", multiple=True), click.option("--dns-search", multiple=True),
    click.option("--expose", multiple=True, help="A port the container listens at."),
    click.option("-P", "--publish-all", is_flag=True, help="Lead free ports of the host to all exposed ones."),
    click.option("--group-add", multiple=True, help="A group's number."),
    click.option("--ipc", default="", help="host, or private."), click.option("--pid", default="", help="host."),
    click.option("--uts", default="", help="host, with --network host."),
    click.option("--userns", "userns_mode", default="", help="host."),
    click.option("--label-file", "label_files", multiple=True),
    click.option("--log-driver", default="", help="json-file: pods have that one."),
    click.option("--log-opt", multiple=True, hidden=True),
    click.option("--runtime", default="", help="A RuntimeClass."),
    click.option("--security-opt", multiple=True, help="no-new-privileges, seccomp=unconfined."),
    click.option("--shm-size", default="", help="How large /dev/shm may become."),
    click.option("--stop-signal", default=""), click.option("--sysctl", "sysctls", multiple=True, help="NAME=VALUE."),
    click.option("--health-start-interval", default="", hidden=True),
    click.option("--sig-proxy/--no-sig-proxy", default=True, hidden=True),
    click.option("--disable-content-trust/--no-disable-content-trust", default=True, hidden=True),
    click.option("--detach-keys", default="ctrl-p,ctrl-q", hidden=True),
    click.option("--init", is_flag=True, help="A first process that reaps the others."),
    click.option("--platform", default="", hidden=True), click.option("-q", "--quiet", is_flag=True, hidden=True),
)  # fmt: skip


def more_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def extend_pod(pod: dict[str, Any], image: str, given: dict[str, Any]) -> None:
    """Add to a pod what the options ask for. Raises: DockerError."""
    _refuse(given)
    spec, metadata = pod["spec"], pod["metadata"]
    if given["streams"] and "stdin" in [one.lower() for one in given["streams"]]:
        spec["containers"][0]["stdin"] = True
        given["interactive"] = True
    try:
        extras.extend(spec, given)
    except ComposeError as error:
        raise DockerError(str(error), 125) from error
    notes = dict(_pair(text) for text in given["annotations"])
    for path in given["label_files"]:
        lines = [line for line in _lines(path) if line.strip() and not line.startswith("#")]
        notes |= {f"label.wherry.dev/{key}": value for key, value in map(_pair, lines)}
    metadata["annotations"] |= notes
    _expose(spec["containers"][0], image, given)


def _refuse(given: Mapping[str, Any]) -> None:
    if given["log_driver"] not in ("", "json-file", "local"):
        raise DockerError(f"logger: no log driver named '{given['log_driver']}' is registered", 125)
    if given["uts"] not in ("", "private") and given["network"] != "host":
        raise DockerError("--uts host goes with --network host: pods have both or none", 125)
    swap = given["memory_swap"]
    if swap not in ("", "-1", "0", given["memory"]):
        raise DockerError("--memory-swap: pods do not swap; give what --memory says", 125)


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError as error:
        raise DockerError(f"open {path}: no such file or directory", 125) from error


def _expose(container: dict[str, Any], image: str, given: Mapping[str, Any]) -> None:
    """Note exposed ports; with --publish-all, lead free ports of the host to them and to those the image exposes."""
    from cli.containers.ports import port

    texts = list(given["expose"]) + (_exposed(image) if given["publish_all"] else [])
    present = {(one["containerPort"], one["protocol"]) for one in container.get("ports") or ()}
    for text in dict.fromkeys(texts):
        number, _, protocol = text.partition("/")
        first, _, last = number.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise DockerError(f"invalid range format for --expose: {text}", 125)
        for one in range(int(first), int(last or first) + 1):
            found = port(f"{one}/{protocol or 'tcp'}")
            if not given["publish_all"]:
                found.pop("hostPort", None)
            if (found["containerPort"], found["protocol"]) not in present:
                container.setdefault("ports", []).append(found)


def _exposed(image: str) -> list[str]:
    """Return the ports that an image says its program listens at."""
    from cli.commands.images import find_image, full_name, image_view
    from cli.containers.node import Images

    with Images() as node:
        if full_name(image) not in {tag for one in node.call("List") for tag in one["tags"]}:
            node.pull(full_name(image))
        return list(image_view(find_image(node, image))["Config"].get("ExposedPorts") or ())


def written_id(path: str, text: str) -> None:
    """Write a container's id to a new file. Raises: DockerError."""
    try:
        with open(path, "x") as file:
            file.write(text)
    except OSError as error:
        raise DockerError(
            f"container ID file found, make sure the other container isn't running or delete {path}", 125
        ) from error
