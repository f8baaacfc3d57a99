"""`wherry exec` and `wherry attach`; both serve kubectl's and Docker's spelling."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.durations import seconds
from cli.framework import verb
from cli.pods import REFUSED, chosen_container, find_pods, spec_of
from cli.session import Session
from cli.streaming import ATTACHED, DETACH, StreamRequest, run_stream


def _late_options(words: Sequence[str]) -> tuple[str, list[str], dict[str, Any]]:
    """Return pod, command, and the options that stand between them, as kubectl takes them up to `--`."""
    word, *command = words
    found: dict[str, Any] = {}
    if "--" in command and command[0].startswith("-"):
        at = command.index("--")
        context = click.get_current_context()
        context.ignore_unknown_options = False
        found, rest, _ = context.command.make_parser(context).parse_args(command[:at])
        command = [*rest, *command[at + 1 :]]
    return word, command, found


@verb("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@options.connected
@options.namespaced
@click.option("-i", "--stdin", "--interactive", is_flag=True, help="Pass our input on.")
@click.option("-t", "--tty", is_flag=True, help="Be a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the end (Docker's).")
@click.option("-c", "--container", default="")
@options.files
@click.option("-q", "--quiet", is_flag=True)
@click.option("-e", "--env", "envs", multiple=True, help="KEY=VALUE for the command (Docker's).")
@click.option("--env-file", "env_files", multiple=True, help="A file of KEY=VALUE lines (Docker's).")
@click.option("-w", "--workdir", default="", help="The command's folder (Docker's).")
@click.option("--pod-running-timeout", default="1m0s", hidden=True)
@click.argument("words", nargs=-1, required=True)
def exec_(words: Sequence[str], **given: Any) -> None:
    """Run a command in a container: wherry exec POD [-c CONTAINER] -- COMMAND ARGS."""
    if given["filenames"]:
        words = (_named_in(given), *words)
    word, command, late = _late_options(words)
    given |= {name: value for name, value in late.items() if name != "words"}
    stdin, tty, container, quiet, detach = (
        given.pop(name) for name in ("stdin", "tty", "container", "quiet", "detach")
    )
    if not command:
        raise click.ClickException("you must specify at least one command for the container")
    session = Session(given)
    pod = find_pods(session, word, wait_seconds=seconds(given["pod_running_timeout"]))[0]
    name = pod["metadata"]["name"]
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        phase = pod["status"]["phase"]
        raise click.ClickException(f"cannot exec into a container in a completed pod; current phase is {phase}")
    chosen = chosen_container(pod, container, quiet=quiet, complaint=REFUSED)
    if tty and not sys.stdin.isatty():
        if not quiet:
            click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
        tty = False
    if given["env_files"]:
        from cli.containers.run import environment

        read = environment((), given["env_files"])
        given["envs"] = (*(f"{one['name']}={one['value']}" for one in read), *given["envs"])
    argv = surrounded(command, given, detach=detach)
    request = StreamRequest(session.namespace, name, chosen, argv, stdin=stdin and not detach, tty=tty)
    code = run_stream(session.connection, request)
    if code:
        if not (tty or quiet):
            click.echo(f"command terminated with exit code {code}", err=True)
        sys.exit(code)


def _named_in(given: dict[str, Any]) -> str:
    """Return KIND/NAME of the object in the file of -f. Raises: ClickException."""
    from cli import manifests

    _, obj = manifests.read(given["filenames"])[0]
    if said := obj["metadata"].get("namespace"):
        given["namespace"] = given["namespace"] or said
    return f"{obj['kind'].lower()}/{obj['metadata']['name']}"


def surrounded(command: Sequence[str], given: dict[str, Any], *, detach: bool) -> tuple[str, ...]:
    """Return the command with what Docker's options ask for around it: the API's exec has no such fields."""
    argv = list(command)
    if given["envs"]:
        argv = ["env", *given["envs"], *argv]
    if given["workdir"]:
        argv = ["sh", "-c", 'cd "$0" && exec "$@"', given["workdir"], *argv]
    if detach:
        argv = ["sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "detached", *argv]
    return tuple(argv)


@verb()
@click.argument("word")
@options.connected
@options.namespaced
@click.option("-i", "--stdin", is_flag=True)
@click.option("-t", "--tty", is_flag=True)
@click.option("-c", "--container", default="")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--no-stdin", is_flag=True, help="Docker's: pass no input on.")
@click.option("--pod-running-timeout", default="1m0s", hidden=True)
def attach(word: str, stdin: bool, tty: bool, container: str, quiet: bool, no_stdin: bool, **given: Any) -> None:
    """Attach to a running container."""
    session = Session(given)
    pod = find_pods(session, word, wait_seconds=seconds(given["pod_running_timeout"]))[0]
    name = pod["metadata"]["name"]
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise click.ClickException(f"cannot attach a container in a completed pod; current phase is {phase}")
    chosen = chosen_container(pod, container, quiet=quiet)
    spec = spec_of(pod, chosen)
    docker_style = (pod["metadata"].get("labels") or {}).get("wherry.dev/run") is not None
    if docker_style and not no_stdin:
        stdin, tty = stdin or bool(spec.get("stdin")), tty or bool(spec.get("tty"))
    if tty and not spec.get("tty"):
        click.echo(
            f"error: Unable to use a TTY - container {chosen} did not allocate one".removeprefix("error: "), err=True
        )
        tty = False
    if spec.get("tty") and stdin and sys.stdin.isatty():
        tty = True
    if stdin and not quiet and not docker_style:
        click.echo(ATTACHED, err=True)
    request = StreamRequest(
        session.namespace, name, chosen, stdin=stdin, tty=tty or bool(spec.get("tty")), detach=DETACH if tty else b""
    )
    code = run_stream(session.connection, request)
    sys.exit(code or 0)
