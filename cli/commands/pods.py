"""`wherry logs` and `exec`."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.commands.change import seconds
from cli.connection import Connection, connect
from cli.resources import Discovery
from machinery.errors import APIError


def find_pods(connection: Connection, discovery: Discovery, word: str, namespace: str) -> list[dict[str, Any]]:
    """Return the pods a word names: a pod, or those a workload or service selects. Raises: ClickException."""
    kind, slash, name = word.partition("/")
    known = discovery.find(kind if slash else "pod")
    obj = connection.json("GET", known.resource.path(namespace, name if slash else word))
    if known.resource.kind == "Pod":
        return [obj]
    selector = obj["spec"].get("selector") or {}
    labels = selector.get("matchLabels", selector if known.resource.kind == "Service" else {})
    text = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    pods = connection.json("GET", f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": text})["items"]
    if not pods:
        raise click.ClickException(f"timed out waiting for the condition: no pods of {word}")
    return sorted(pods, key=lambda pod: ((pod.get("status") or {}).get("phase") != "Running", pod["metadata"]["name"]))


@click.command()
@click.argument("word", required=False)
@click.argument("container_word", required=False)
@options.connected
@options.namespaced
@options.selected
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-c", "--container", default="")
@click.option("--all-containers", is_flag=True)
@click.option("-p", "--previous", is_flag=True, help="Of the instance before.")
@click.option("--tail", default=-1)
@click.option("--since", default="")
@click.option("--since-time", default="")
@click.option("--timestamps", is_flag=True)
@click.option("--prefix", is_flag=True, help="Put pod and container before each line.")
@click.option("--limit-bytes", default=0)
def logs(word: str | None, container_word: str | None, **given: Any) -> None:
    """Show what containers print."""
    connection = connect(options.split(given))
    namespace = given["namespace"] or connection.config.namespace
    if given["selector"]:
        params = {"labelSelector": given["selector"]}
        pods = connection.json("GET", f"/api/v1/namespaces/{namespace}/pods", params=params)["items"]
    elif word:
        pods = find_pods(connection, Discovery(connection), word, namespace)
        if len(pods) > 1:
            click.echo(f"Found {len(pods)} pods, using pod/{pods[0]['metadata']['name']}", err=True)
        pods = pods[:1]
    else:
        raise click.ClickException("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.")
    tail = given["tail"] if given["tail"] >= 0 else (10 if given["selector"] else None)
    params = {
        "follow": "true" if given["follow"] else None, "previous": "true" if given["previous"] else None,
        "tailLines": tail, "sinceSeconds": int(seconds(given["since"])) if given["since"] else None,
        "sinceTime": given["since_time"], "timestamps": "true" if given["timestamps"] else None,
        "limitBytes": given["limit_bytes"] or None,
    }  # fmt: skip
    for pod in pods:
        for container in _containers(pod, given, container_word):
            _print_log(connection, pod, container, params, prefix=given["prefix"])


def _containers(pod: dict[str, Any], given: dict[str, Any], word: str | None) -> list[str]:
    spec = pod["spec"]
    if given["all_containers"]:
        return [one["name"] for group in ("initContainers", "containers") for one in spec.get(group) or ()]
    chosen = given["container"] or word or ""
    names = [one["name"] for one in spec["containers"]]
    if not chosen and len(names) > 1:
        default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        chosen = default or names[0]
        if not default:
            click.echo(f'Defaulted container "{chosen}" out of: {", ".join(names)}', err=True)
    return [chosen or names[0]]


def _print_log(
    connection: Connection, pod: dict[str, Any], container: str, params: dict[str, Any], *, prefix: bool
) -> None:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    head = f"[pod/{metadata['name']}/{container}] ".encode() if prefix else b""
    out = sys.stdout.buffer
    at_start = True
    for piece in connection.pieces(path, {**params, "container": container}):
        if head:
            lines = piece.splitlines(keepends=True)
            out.write(b"".join((head if at_start or at else b"") + line for at, line in enumerate(lines)))
            at_start = piece.endswith(b"\n")
        else:
            out.write(piece)
        out.flush()


def _late_options(words: Sequence[str]) -> tuple[str, list[str], dict[str, Any]]:
    """Return pod, command, and the options that stand between them, as kubectl takes them up to `--`."""
    word, *command = words
    found: dict[str, Any] = {"stdin": False, "tty": False, "container": ""}
    while command and command[0] != "--" and command[0].startswith("-"):
        option = command.pop(0)
        found["stdin"] |= option in ("-i", "-it", "-ti", "--stdin")
        found["tty"] |= option in ("-t", "-it", "-ti", "--tty")
        if option in ("-c", "--container") and command:
            found["container"] = command.pop(0)
        elif option.startswith("--container="):
            found["container"] = option.partition("=")[2]
    return word, command[1:] if command[:1] == ["--"] else command, found


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@options.connected
@options.namespaced
@click.option("-i", "--stdin", is_flag=True, help="Pass our input on.")
@click.option("-t", "--tty", is_flag=True, help="Be a terminal.")
@click.option("-c", "--container", default="")
@click.option("-q", "--quiet", is_flag=True)
@click.argument("words", nargs=-1, required=True)
def exec_(words: Sequence[str], stdin: bool, tty: bool, container: str, quiet: bool, **given: Any) -> None:
    """Run a command in a container: wherry exec POD [-c CONTAINER] -- COMMAND ARGS."""
    word, command, late = _late_options(words)
    stdin, tty, container = stdin or late["stdin"], tty or late["tty"], container or late["container"]
    if not command:
        raise click.ClickException("you must specify at least one command for the container")
    connection = connect(options.split(given))
    namespace = given["namespace"] or connection.config.namespace
    pod = find_pods(connection, Discovery(connection), word, namespace)[0]
    chosen = _containers(pod, {"container": container, "all_containers": False}, None)[0]
    from cli.streaming import ExecRequest, run_exec

    if tty and not sys.stdin.isatty():
        if not quiet:
            click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
        tty = False
    request = ExecRequest(namespace, pod["metadata"]["name"], chosen, tuple(command), stdin=stdin, tty=tty)
    try:
        sys.exit(asyncio.run(run_exec(connection.config, request)))
    except APIError as error:
        raise click.ClickException(str(error)) from error
