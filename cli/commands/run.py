"""`wherry run`: kubectl's `run NAME --image=IMAGE`, or Docker's `run [OPTIONS] IMAGE [COMMAND]`.

The presence of --image decides which of the two is meant.
"""

import sys
from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.durations import seconds
from cli.framework import Verb
from cli.pods import status_of
from cli.selection import Selected
from cli.session import Session
from cli.watching import watch_one

_START_SECONDS = 60.0


class _Run(Verb):
    """Chooses by the arguments whose `run` it is."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of kubectl's run, or of Docker's when no --image is given."""
        before = args[: args.index("--")] if "--" in args else args
        if any(arg == "--image" or arg.startswith("--image=") for arg in before) or before[:1] in (["-h"], ["--help"]):
            return super().make_context(info_name, args, parent, **extra)
        from cli.containers.run import run_container

        return run_container.make_context(info_name, args, parent, **extra)


@click.command("run", cls=_Run)
@click.argument("words", nargs=-1, required=True)
@options.connected
@options.namespaced
@options.dry_run
@options.output
@options.field_manager
@options.show_managed_fields
@click.option("--image", required=True, help="kubectl's form: run NAME --image=IMAGE.")
@click.option("--template", default="", hidden=True)
@click.option("--save-config", is_flag=True, hidden=True)
@click.option("--port", default="")
@click.option("--env", "-e", "envs", multiple=True)
@click.option("--labels", "-l", default="")
@click.option("--annotations", multiple=True)
@click.option("--restart", type=click.Choice(["Always", "OnFailure", "Never"]), default="Always")
@click.option("--command", "is_command", is_flag=True, help="What stands behind -- is the command, not its arguments.")
@click.option("-i", "--stdin", is_flag=True)
@click.option("-t", "--tty", is_flag=True)
@click.option("--attach", is_flag=True, default=None)
@click.option("--rm", "removes", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--expose", "exposes", is_flag=True, help="With --port: a service too.")
@click.option("--image-pull-policy", default="")
@click.option("--privileged", is_flag=True)
@click.option("--overrides", default="")
@options.override_type
@click.option("--leave-stdin-open", is_flag=True, hidden=True)
@click.option("--pod-running-timeout", default="1m0s", hidden=True)
@click.option("--cascade", default="background", hidden=True)
@click.option("--grace-period", default=-1, help="With --rm: seconds the pod has to end.")
@click.option("--force", is_flag=True, help="With --rm: do not wait for the pod's end.")
@click.option("--timeout", default="0s", hidden=True)
@click.option("--wait/--no-wait", "waits", default=False, hidden=True)
def run(words: Sequence[str], **given: Any) -> None:
    """Run a container: run IMAGE [COMMAND] as Docker does, or run NAME --image=IMAGE as kubectl does."""
    from cli.commands.expose import with_overrides
    from cli.making import make

    session = Session(given)
    name, *arguments = words
    attaches = given["attach"] or (given["stdin"] and given["attach"] is not False)
    if given["removes"] and not attaches:
        raise click.ClickException("--rm should only be used for attached containers")
    if given["tty"] and not given["stdin"]:
        raise click.ClickException("-i/--stdin is required for containers with -t/--tty=true")
    pod = with_overrides(_pod(name, arguments, given), given)
    if given["exposes"] and not given["port"]:
        raise click.ClickException("--port must be set when exposing a service")
    if attaches and not given["output"] and given["dry_run"] == "none":
        _attached(session, name, pod, given)
    if given["exposes"]:
        make(session, _service(name, given), given, manager="kubectl-run")
    make(session, pod, given, manager="kubectl-run")


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def _pod(name: str, arguments: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = {"image": given["image"], "name": name, "resources": {}, **_streams(given)}
    if arguments:
        container["command" if given["is_command"] else "args"] = list(arguments)
    if wrong := [text for text in given["envs"] if "=" not in text]:
        raise click.ClickException(f"invalid env: {wrong[0]}")
    if given["envs"]:
        container["env"] = [dict(zip(("name", "value"), text.split("=", 1), strict=True)) for text in given["envs"]]
    if given["port"]:
        container["ports"] = [{"containerPort": int(given["port"])}]
    if given["image_pull_policy"]:
        container["imagePullPolicy"] = given["image_pull_policy"]
    if given["privileged"]:
        container["securityContext"] = {"privileged": True}
    metadata: dict[str, Any] = {"labels": _pairs(given["labels"]) or {"run": name}, "name": name}
    if given["annotations"]:
        metadata["annotations"] = dict(pair for text in given["annotations"] for pair in _pairs(text).items())
    spec = {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": given["restart"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {}}


def _streams(given: dict[str, Any]) -> dict[str, Any]:
    stdin = {"stdin": True, "stdinOnce": True} if given["stdin"] else {}
    return {**stdin, "tty": True} if given["tty"] else stdin


def _service(name: str, given: dict[str, Any]) -> dict[str, Any]:
    port = int(given["port"])
    spec = {
        "ports": [{"port": port, "protocol": "TCP", "targetPort": port}],
        "selector": _pairs(given["labels"]) or {"run": name},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _attached(session: Session, name: str, pod: dict[str, Any], given: dict[str, Any]) -> None:
    """Create the pod, join it with our streams to the end, and leave with its exit code."""
    from cli.streaming import ATTACHED, StreamRequest, run_stream

    known = session.discovery.find("pods")
    one = Selected(known, session.namespace, name)
    session.connection.json(
        "POST", known.resource.path(session.namespace), body=pod, params={"fieldManager": "kubectl-run"}
    )
    code = 0
    try:
        if _started(session, one, name, seconds(given["pod_running_timeout"])):
            if given["stdin"] and not given["quiet"]:
                click.echo(ATTACHED, err=True)
            tty = bool(given["tty"])
            run_stream(session.connection, StreamRequest(one.namespace, name, name, stdin=given["stdin"], tty=tty))
        else:
            sys.stdout.buffer.write(session.connection.request("GET", f"{one.path}/log", accept="*/*"))
            sys.stdout.flush()
        code = _ended(session, one, name) if given["restart"] != "Always" else 0
    finally:
        if given["removes"]:
            grace = 0 if given["force"] else given["grace_period"]
            session.connection.json(
                "DELETE", one.path,
                body={"propagationPolicy": given["cascade"].capitalize(), **({"gracePeriodSeconds": grace} if grace >= 0 else {})},
            )  # fmt: skip
            if not given["quiet"]:
                click.echo(f'pod "{name}" deleted from {one.namespace} namespace')
    sys.exit(code)


def _started(session: Session, one: Selected, container: str, limit_seconds: float) -> bool:
    """Wait for the container to run; False when it has ended already."""
    for pod in watch_one(session, one, limit_seconds):
        state = status_of(pod or {}, container).get("state") or {}
        if "running" in state or "terminated" in state:
            return "running" in state
    raise click.ClickException("timed out waiting for the condition")


def _ended(session: Session, one: Selected, container: str) -> int:
    for pod in watch_one(session, one, _START_SECONDS):
        state = status_of(pod or {}, container).get("state") or {}
        if "terminated" in state:
            return int(state["terminated"].get("exitCode", 0))
        if pod is None:
            return 0
    return 0
