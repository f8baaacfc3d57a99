"""`wherry compose run`: one more container of a service, with a command of its own, that others do not find by its name."""

import secrets
import sys
from collections.abc import Sequence
from typing import Any

import click

from cli.containers.naming import RUN_LABEL, pod_id
from cli.containers.ports import port
from cli.containers.run import environment, joined
from cli.containers.volumes import source_of
from cli.selection import Selected
from cli.session import Session
from cli.watching import watch_one
from machinery.compose.manifests import ONE_OFF, PROJECT, pod_spec
from machinery.compose.project import Project
from machinery.compose.values import literal

_START_SECONDS = 120.0
OPTIONS = (
    click.option("-d", "--detach", is_flag=True), click.option("--rm", "removes", is_flag=True),
    click.option("--build", "builds", is_flag=True), click.option("--name", default=""),
    click.option("--entrypoint", default=""), click.option("-e", "--env", "envs", multiple=True),
    click.option("--env-from-file", "env_files", multiple=True), click.option("-w", "--workdir", default=""),
    click.option("-u", "--user", "who", default=""), click.option("-l", "--label", "labels", multiple=True),
    click.option("-i", "--interactive/--no-interactive", default=True), click.option("-T", "--no-TTY", "no_tty", is_flag=True),
    click.option("-t", "--tty", is_flag=True, hidden=True), click.option("--no-deps", is_flag=True),
    click.option("-p", "--publish", multiple=True), click.option("-P", "--service-ports", is_flag=True),
    click.option("-v", "--volume", multiple=True), click.option("--cap-add", multiple=True),
    click.option("--cap-drop", multiple=True), click.option("-q", "--quiet", is_flag=True, hidden=True),
    click.option("--quiet-build", is_flag=True, hidden=True), click.option("--quiet-pull", is_flag=True, hidden=True),
    click.option("--use-aliases", is_flag=True, hidden=True), click.option("--remove-orphans", is_flag=True, hidden=True),
    click.option("--pull", default="", hidden=True),
)  # fmt: skip


def one_off(project: Project, service: str, command: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of a run. Raises: ComposeError, DockerError."""
    name = given["name"] or f"{service}-run-{secrets.token_hex(6)}"
    spec = pod_spec(project, service)
    container = spec["containers"][0]
    container["name"] = "main"
    container.pop("readinessProbe", None)
    if not given["service_ports"]:
        container.pop("ports", None)
    if given["publish"]:
        container.setdefault("ports", []).extend(port(text) for text in given["publish"])
    _process(container, command, given)
    for at, text in enumerate(given["volume"]):
        source, _, target = text.partition(":")
        place, _, mode = target.partition(":")
        spec.setdefault("volumes", []).append({"name": f"more-{at}", **source_of(source)})
        mount = {"name": f"more-{at}", "mountPath": place, "readOnly": mode == "ro"}
        container.setdefault("volumeMounts", []).append(mount)
    spec["restartPolicy"] = "Never"
    notes = {f"label.wherry.dev/{key}": value for key, _, value in (text.partition("=") for text in given["labels"])}
    labels = {PROJECT: project.name, ONE_OFF: service, RUN_LABEL: name}
    metadata = {"name": name, "namespace": project.name, "labels": labels, "annotations": notes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _process(container: dict[str, Any], command: Sequence[str], given: dict[str, Any]) -> None:
    if given["entrypoint"]:
        container["command"] = [given["entrypoint"]]
        container.pop("args", None)
    if command:
        container["args"] = [literal(word) for word in command]
    if given["workdir"]:
        container["workingDir"] = given["workdir"]
    more = environment(given["envs"], given["env_files"])
    named = {one["name"] for one in more}
    container["env"] = [*(one for one in container.get("env") or () if one["name"] not in named), *more]
    context = container.setdefault("securityContext", {})
    if given["who"]:
        uid, _, gid = given["who"].partition(":")
        if not (uid.isdigit() and (gid or "0").isdigit()):
            raise click.ClickException(f"unable to find user {given['who']}: give its number, UID[:GID]")
        context |= {"runAsUser": int(uid)} | ({"runAsGroup": int(gid)} if gid else {})
    for field, key in (("cap_add", "add"), ("cap_drop", "drop")):
        if given[field]:
            context.setdefault("capabilities", {}).setdefault(key, []).extend(given[field])
    interactive = given["interactive"] and not given["detach"]
    given["tty"] = interactive and sys.stdin.isatty() and not given["no_tty"]
    given["interactive"] = interactive and (given["tty"] or not sys.stdin.isatty())
    container["stdin"], container["tty"] = given["interactive"], given["tty"]
    if given["interactive"] and not given["tty"]:
        container["stdinOnce"] = True


def run_one(session: Session, project: Project, service: str, pod: dict[str, Any], given: dict[str, Any]) -> int:
    """Make the pod and join it to its end; returns the exit code. Raises: APIError, DockerError."""
    known = session.discovery.find("pods")
    made = session.connection.json("POST", known.resource.path(project.name), body=pod)
    one = Selected(known, project.name, made["metadata"]["name"])
    if given["detach"]:
        click.echo(pod_id(made))
        return 0
    return joined(session, one, watch_one(session, one, _START_SECONDS, made=made), given)
