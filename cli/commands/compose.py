"""`wherry compose`: the services of a Compose file, run in a namespace of the project's own."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from cli import options
from cli.commands.compose_logs import follow, headed
from cli.containers.listing import ports_text
from cli.containers.naming import status_text
from cli.containers.ports import free_port
from cli.framework import VerbGroup
from cli.printers import json_text, rows_text, yaml_text
from cli.selection import Selected
from cli.session import Session
from cli.watching import watch_one
from machinery.compose.manifests import ONE_OFF, PROJECT, SERVICE, image_of, runs_once, service_objects, shared_objects
from machinery.compose.project import Project, dependencies, in_order, load, pairs
from machinery.compose.values import ComposeError
from machinery.errors import APIError, NotFound

_UP_SECONDS = 300.0
_STOP_SECONDS = 10
_MORE = ("images", "kill", "port", "rm", "top", "version")
Object = dict[str, Any]


class _ComposeVerbs(VerbGroup):
    """The verbs of Compose: a mistake in a project is an error of the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs; those used now and then are in a module of their own."""
        return sorted({*super().list_commands(ctx), *_MORE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb; None when there is none of that name."""
        if cmd_name in _MORE:
            from cli.commands import compose_more

            found: click.Command = getattr(compose_more, cmd_name)
            return found
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. Raises: ClickException."""
        try:
            return super().invoke(ctx)
        except ComposeError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_ComposeVerbs)
@options.reachable
@click.option("-f", "--file", "files", multiple=True)
@click.option("-p", "--project-name", default="")
@click.option("--profile", "profiles", multiple=True)
@click.option("--env-file", default="")
@click.option("--project-directory", default="")
@click.pass_context
def compose(ctx: click.Context, **given: Any) -> None:
    """Run the services of a Compose file."""
    ctx.obj = given


class Call:
    """One call: the project, and the cluster when it is needed."""

    def __init__(self, given: Object) -> None:
        self.given = dict(given)
        self.project: Project = load(
            given["files"], name=given["project_name"], profiles=given["profiles"], env_file=given["env_file"],
            folder=given["project_directory"], free_port=free_port,
        )  # fmt: skip

    def session(self) -> Session:
        """Return a session in the project's namespace."""
        found = Session(dict(self.given))
        found.asked_namespace = self.project.name
        return found


def apply(session: Session, obj: Object) -> Object:
    """Bring one object to what is wanted, by server-side apply. Raises: APIError."""
    resource = session.discovery.of_kind(obj["apiVersion"], obj["kind"]).resource
    metadata = obj["metadata"]
    import orjson

    return session.connection.json(
        "PATCH", resource.path(metadata.get("namespace", ""), metadata["name"]), body=orjson.dumps(obj),
        content_type="application/apply-patch+yaml", params={"fieldManager": "wherry-compose", "force": "true"},
    )  # fmt: skip


@compose.command()
@click.argument("services", nargs=-1)
@click.option("-d", "--detach", is_flag=True)
@click.option("--build", "builds", is_flag=True)
@click.option("--scale", "scales", multiple=True, help="SERVICE=NUMBER.")
@click.option("--wait", "waits", is_flag=True)
@click.option("--remove-orphans", is_flag=True)
@click.option("--no-build", is_flag=True)
@click.option("--force-recreate", is_flag=True, hidden=True)
@click.option("-t", "--timeout", type=int, default=None, help="Seconds that containers have to end at Ctrl-C.")
@click.option("--no-deps", is_flag=True, help="Leave alone what the services need.")
@click.option("--no-start", is_flag=True, help="Make them, and no containers yet.")
@click.option("--abort-on-container-exit", "aborts", is_flag=True, help="Stop all when a container has ended.")
@click.option("--exit-code-from", default="", help="Stop all when this service has ended, and end with its code.")
@click.option("--no-log-prefix", is_flag=True)
@click.option("--timestamps", is_flag=True)
@click.option("--no-color", is_flag=True, hidden=True)
@click.option("--no-recreate", is_flag=True, hidden=True)
@click.option("--quiet-pull", is_flag=True, hidden=True)
@click.option("--quiet-build", is_flag=True, hidden=True)
@click.option("-y", "--yes", is_flag=True, hidden=True)
@click.pass_obj
def up(given: Object, services: Sequence[str], detach: bool, builds: bool, **more: Any) -> None:
    """Create and start services; in the foreground, follow their logs and stop them at Ctrl-C."""
    call = Call(given)
    project, session = call.project, call.session()
    counts = {name: int(count) for name, _, count in (text.partition("=") for text in more["scales"])}
    wanted = list(services) if more["no_deps"] and services else in_order(project, services)
    if not more["no_build"]:
        _build(project, wanted, always=builds)
    for obj in shared_objects(project):
        apply(session, obj)
    if detach or more["no_start"]:
        _start(session, project, wanted, dict.fromkeys(wanted, 0) if more["no_start"] else counts)
        _remove_orphans(session, project)
        if more["waits"] and not more["no_start"]:
            _await_all(session, project, wanted)
        return
    try:  # from here on Ctrl-C stops what was started, however far that had come
        _start(session, project, wanted, counts)
        _remove_orphans(session, project)
        _await_all(session, project, wanted)
        watched = [more["exit_code_from"]] if more["exit_code_from"] else wanted if more["aborts"] else []
        code = follow(
            session,
            lambda: pods_of(session, project, wanted),
            wanted,
            watched,
            prefix=not more["no_log_prefix"],
            timestamps=more["timestamps"],
        )
    except KeyboardInterrupt:
        click.echo("Gracefully Stopping... press Ctrl+C again to leave them", err=True)
        session.connection.close()  # it may have been left in the middle of a request
        raise
    finally:
        stop_services(session, project, wanted, more["timeout"])
    sys.exit(code)


def stop_services(session: Session, project: Project, names: Sequence[str], grace_seconds: int | None = None) -> None:
    """Stop services, as far as they have been made, and wait until their containers have ended."""
    stopped = [name for name in names if not runs_once(project, name) and _scale(session, project, name, 0)]
    _hurry(session, project, stopped, grace_seconds)
    deadline = time.monotonic() + _STOP_SECONDS + (grace_seconds or _STOP_SECONDS)
    while stopped and pods_of(session, project, stopped) and time.monotonic() < deadline:
        time.sleep(0.1)
    for name in stopped:
        click.echo(f" Container {project.name}-{name}  Stopped", err=True)


def _start(session: Session, project: Project, names: Sequence[str], counts: dict[str, int]) -> None:
    """Bring services about in order, each when those it needs are as it needs them."""
    for name in names:
        for other, condition in dependencies(project.services[name]).items():
            if other in names:
                _await(session, project, other, condition)
        for obj in service_objects(project, name, replicas=counts.get(name)):
            _apply_workload(session, obj)
        click.echo(f" Container {project.name}-{name}  Started", err=True)


def _await_all(session: Session, project: Project, names: Sequence[str]) -> None:
    for name in names:
        _await(session, project, name, "service_healthy" if not runs_once(project, name) else "service_started")


def _apply_workload(session: Session, obj: Object) -> None:
    """Apply a workload; a job that is over or differs is made anew: it is to run again, and can't be changed."""
    if obj["kind"] != "Job":
        apply(session, obj)
        return
    from cli.deleting import delete_and_wait

    known = session.discovery.of_kind(obj["apiVersion"], obj["kind"])
    one = Selected(known, obj["metadata"]["namespace"], obj["metadata"]["name"])
    try:
        status = session.connection.json("GET", one.path).get("status") or {}
        if any(status.get(field) for field in ("completionTime", "failed")):
            delete_and_wait(session, [one], policy="Foreground")
    except NotFound:
        pass
    try:
        apply(session, obj)
    except APIError:
        delete_and_wait(session, [one], policy="Foreground")
        apply(session, obj)


def _workload(session: Session, project: Project, name: str) -> Selected:
    known = session.discovery.find("jobs.batch" if runs_once(project, name) else "deployments.apps")
    return Selected(known, project.name, name)


def _await(session: Session, project: Project, name: str, condition: str) -> None:
    """Wait until a service is as another needs it. Raises: ClickException when it fails or takes too long."""
    one = _workload(session, project, name)
    for obj in watch_one(session, one, _UP_SECONDS):
        status = (obj or {}).get("status") or {}
        if status.get("failed") and condition != "service_started":
            raise click.ClickException(f'service "{name}" didn\'t complete successfully')
        if condition == "service_completed_successfully":
            if status.get("succeeded"):
                return
        elif one.known.resource.kind == "Job":
            if status.get("active") or status.get("succeeded") or status.get("failed"):
                return
        elif obj is not None and _is_up(obj, status, healthy=condition == "service_healthy"):
            return
    raise click.ClickException(f"dependency failed to start: {name} is not as wanted ({condition}) in time")


def _is_up(obj: Object, status: Object, *, healthy: bool) -> bool:
    seen = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
    count = obj["spec"].get("replicas", 1)
    return seen and int(status.get("readyReplicas" if healthy else "replicas", 0)) >= count


def _remove_orphans(session: Session, project: Project) -> None:
    """Delete workloads of services the file no longer has."""
    for kind in ("deployments.apps", "jobs.batch", "services"):
        known = session.discovery.find(kind)
        path = known.resource.path(project.name)
        for obj in session.connection.json("GET", path, params={"labelSelector": f"{PROJECT}={project.name}"})["items"]:
            service = obj["metadata"]["labels"].get(SERVICE)
            if service and service not in (project.document.get("services") or {}):
                session.connection.json(
                    "DELETE",
                    known.resource.path(project.name, obj["metadata"]["name"]),
                    body={"propagationPolicy": "Background"},
                )
                if kind != "services":
                    click.echo(f" Container {project.name}-{service}  Removed", err=True)


def _hurry(session: Session, project: Project, names: Sequence[str], grace_seconds: int | None) -> None:
    """Give containers that are to end so many seconds; None for what the file says."""
    for pod in pods_of(session, project, names) if grace_seconds is not None else ():
        with contextlib.suppress(NotFound):
            path = f"/api/v1/namespaces/{project.name}/pods/{pod['metadata']['name']}"
            session.connection.json("DELETE", path, body={"gracePeriodSeconds": grace_seconds})


@compose.command()
@click.option("-v", "--volumes", is_flag=True, help="Named volumes too.")
@click.option("--rmi", default="", hidden=True)
@click.option("--remove-orphans", is_flag=True, hidden=True)
@click.option("-t", "--timeout", type=int, default=None, help="Seconds that containers have to end.")
@click.pass_obj
def down(given: Object, volumes: bool, **more: Any) -> None:
    """Stop and remove what `up` made."""
    call = Call(given)
    project, session = call.project, call.session()
    kinds = ["deployments.apps", "jobs.batch", "services", "secrets", "configmaps"]
    found = [
        Selected(known, project.name, obj["metadata"]["name"], live=obj)
        for known in map(session.discovery.find, [*kinds, *(["persistentvolumeclaims"] if volumes else [])])
        for obj in _labelled(session, known.resource.path(project.name), project)
    ]  # fmt: skip
    for one in found:
        session.connection.json("DELETE", one.path, body={"propagationPolicy": "Foreground"})
        service = ((one.live or {}).get("metadata") or {}).get("labels", {}).get(SERVICE)
        if service and one.known.resource.kind != "Service":
            click.echo(f" Container {project.name}-{service}  Removed", err=True)
    for pod in _labelled(session, f"/api/v1/namespaces/{project.name}/pods", project):
        if ONE_OFF in pod["metadata"]["labels"]:
            session.connection.json("DELETE", f"/api/v1/namespaces/{project.name}/pods/{pod['metadata']['name']}")
    _hurry(session, project, list(project.services), more["timeout"])
    deadline = time.monotonic() + _UP_SECONDS
    while _labelled(session, f"/api/v1/namespaces/{project.name}/pods", project):
        if time.monotonic() > deadline:
            raise click.ClickException("timed out waiting for containers to end")
        time.sleep(0.1)
    if volumes or not _labelled(session, f"/api/v1/namespaces/{project.name}/persistentvolumeclaims", project):
        try:
            session.connection.json("DELETE", f"/api/v1/namespaces/{project.name}")
        except NotFound:
            return
        click.echo(f" Network {project.name}_default  Removed", err=True)


def _labelled(session: Session, path: str, project: Project) -> list[Object]:
    return list(session.connection.json("GET", path, params={"labelSelector": f"{PROJECT}={project.name}"})["items"])


def _build(project: Project, names: Sequence[str], *, always: bool, **more: Any) -> None:
    from cli.commands.build import build_image
    from cli.commands.images import full_name
    from cli.containers.node import Images

    with_build = [name for name in names if project.services[name].get("build")]
    if not with_build:
        return
    with Images() as node:
        known = {tag for image in node.call("List") for tag in image["tags"]}
    for name in with_build:
        image = image_of(project, name)
        if not always and full_name(image) in known:
            continue
        spec = project.services[name]["build"]
        spec = {"context": spec} if isinstance(spec, str) else spec
        context = project.path(spec.get("context", "."))
        build_image(
            str(context) if "://" not in str(spec.get("context")) else spec["context"], [image],
            dockerfile=str(context / spec["dockerfile"]) if spec.get("dockerfile") else "", target=spec.get("target", ""),
            arguments=[
                *(f"{key}={value}" for key, value in pairs(spec.get("args")).items() if value is not None),
                *more.get("arguments", ()),
            ],
            no_cache=bool(spec.get("no_cache") or more.get("no_cache")), pull=bool(more.get("pull")),
            quiet=bool(more.get("quiet")),
        )  # fmt: skip


@compose.command()
@click.argument("services", nargs=-1)
@click.option("--no-cache", is_flag=True)
@click.option("--pull", is_flag=True, help="Look for newer base images.")
@click.option("--build-arg", "arguments", multiple=True)
@click.option("-q", "--quiet", is_flag=True)
@click.pass_obj
def build(given: Object, services: Sequence[str], **more: Any) -> None:
    """Build the images of services."""
    project = Call(given).project
    _build(project, services or list(project.services), always=True, **more)


@compose.command()
@click.argument("services", nargs=-1)
@click.option("-q", "--quiet", is_flag=True)
@click.pass_obj
def pull(given: Object, services: Sequence[str], quiet: bool) -> None:
    """Fetch the images of services."""
    from cli.commands.images import full_name
    from cli.containers.node import Images

    project = Call(given).project
    with Images() as node:
        for name in services or project.services:
            if not project.services[name].get("build"):
                node.pull(full_name(image_of(project, name)))
                click.echo(f" {name} Pulled", err=True)


def pods_of(session: Session, project: Project, services: Sequence[str] = ()) -> list[Object]:
    """Return the pods of services, or of all; those of `compose run` are no service's."""
    found = _labelled(session, f"/api/v1/namespaces/{project.name}/pods", project)
    named = ((pod, pod["metadata"]["labels"].get(SERVICE)) for pod in found)
    return [pod for pod, service in named if (service in services if services else service)]


@compose.command()
@click.argument("services", nargs=-1)
@click.option("-a", "--all", "everything", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--services", "names_only", is_flag=True)
@click.option("--format", "form", default="table")
@click.pass_obj
def ps(given: Object, services: Sequence[str], everything: bool, quiet: bool, names_only: bool, form: str) -> None:
    """List the project's containers."""
    call = Call(given)
    pods = [
        pod
        for pod in pods_of(call.session(), call.project, services)
        if everything or not status_text(pod).startswith("Exited")
    ]
    if names_only or quiet:
        for text in dict.fromkeys(
            pod["metadata"]["labels"][SERVICE] if names_only else pod["metadata"]["name"] for pod in pods
        ):
            click.echo(text)
        return
    rows = [
        [
            pod["metadata"]["name"], pod["spec"]["containers"][0]["image"], pod["metadata"]["labels"][SERVICE],
            status_text(pod), ports_text(pod),
        ]
        for pod in pods
    ]  # fmt: skip
    if form == "json":
        click.echo(
            json_text([dict(zip(("Name", "Image", "Service", "Status", "Ports"), row, strict=True)) for row in rows])
        )
    else:
        click.echo(rows_text(["NAME", "IMAGE", "SERVICE", "STATUS", "PORTS"], rows))


def _run_options(command: Any) -> Any:
    from cli.commands.compose_run import OPTIONS

    for option in reversed(OPTIONS):
        command = option(command)
    return command


@compose.command()
@click.argument("services", nargs=-1)
@click.option("-f", "--follow", is_flag=True)
@click.option("-n", "--tail", default="all")
@click.option("-t", "--timestamps", is_flag=True)
@click.option("--no-log-prefix", is_flag=True)
@click.option("--since", default="", help="A time, or so long ago.")
@click.option("--index", default=0, help="The container of this number alone.")
@click.option("--no-color", is_flag=True, hidden=True)
@click.pass_obj
def logs(given: Object, services: Sequence[str], follow: bool, index: int, **more: Any) -> None:
    """Show what services print."""
    from cli.commands.logs import log_printer

    call = Call(given)
    session = call.session()
    pods = pods_of(session, call.project, services)
    head = headed(services or list(call.project.services), prefix=not more["no_log_prefix"])
    printer = log_printer(
        session, pods[index - 1 : index] if index else pods, head, follow=follow, tail=more["tail"],
        timestamps=more["timestamps"], since=more["since"],
    )  # fmt: skip
    printer.run()


@compose.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("service")
@click.argument("command", nargs=-1)
@_run_options
@click.pass_obj
def run(given: Object, service: str, command: Sequence[str], **more: Any) -> None:
    """Run a command in a container of its own that is like a service's."""
    from cli.commands.compose_run import one_off, run_one

    call = Call(given)
    project, session = call.project, call.session()
    if service not in project.services:
        raise click.ClickException(f"no such service: {service}")
    needed = [] if more["no_deps"] else [name for name in in_order(project, [service]) if name != service]
    _build(project, [*needed, service], always=more["builds"])
    for obj in shared_objects(project):
        apply(session, obj)
    _start(session, project, needed, {})
    for name, condition in dependencies(project.services[service]).items():
        if name in needed:
            _await(session, project, name, condition)
    sys.exit(run_one(session, project, service, one_off(project, service, command, more), more))


@compose.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("service")
@click.argument("command", nargs=-1, required=True)
@click.option("-T", "--no-tty", is_flag=True)
@click.option("-i", "--interactive", is_flag=True, hidden=True)
@click.option("-t", "--tty", is_flag=True, hidden=True)
@click.option("-d", "--detach", is_flag=True)
@click.option("-e", "--env", "envs", multiple=True)
@click.option("-w", "--workdir", default="")
@click.option("--index", default=1)
@click.pass_obj
def exec_(given: Object, service: str, command: Sequence[str], no_tty: bool, index: int, **more: Any) -> None:
    """Run a command in a service's container."""
    from cli.commands.exec import surrounded
    from cli.streaming import StreamRequest, run_stream

    call = Call(given)
    session = call.session()
    pods = [pod for pod in pods_of(session, call.project, [service]) if status_text(pod).startswith("Up")]
    if len(pods) < index:
        raise click.ClickException(f'service "{service}" is not running')
    pod = pods[index - 1]
    tty = sys.stdin.isatty() and not no_tty
    request = StreamRequest(
        call.project.name,
        pod["metadata"]["name"],
        pod["spec"]["containers"][0]["name"],
        surrounded(command, more, detach=more["detach"]),
        stdin=not more["detach"],
        tty=tty,
    )
    sys.exit(run_stream(session.connection, request) or 0)


def _scale(session: Session, project: Project, name: str, count: int | None) -> bool:
    """Set the replicas of a service, None for what the file says; returns whether there is such a workload."""
    body = project.services[name]
    wanted = count if count is not None else (body.get("deploy") or {}).get("replicas", body.get("scale", 1))
    path, patch = f"{_workload(session, project, name).path}/scale", {"spec": {"replicas": wanted}}
    try:
        session.connection.json("PATCH", path, body=patch, content_type="application/merge-patch+json")
    except NotFound:
        return False
    return True


def _start_again(session: Session, project: Project, names: Sequence[str], _: int | None) -> None:
    for name in names:
        if not runs_once(project, name) and _scale(session, project, name, None):
            click.echo(f" Container {project.name}-{name}  Started", err=True)


def _services_command(
    name: str, text: str, action: Callable[[Session, Project, Sequence[str], int | None], None]
) -> None:
    @compose.command(name, help=text)
    @click.argument("services", nargs=-1)
    @click.option("-t", "--timeout", type=int, default=None, help="Seconds that containers have to end.")
    @click.pass_obj
    def command(given: Object, services: Sequence[str], timeout: int | None) -> None:
        call = Call(given)
        action(call.session(), call.project, services or list(call.project.services), timeout)


def _restart(session: Session, project: Project, services: Sequence[str], grace_seconds: int | None) -> None:
    for pod in pods_of(session, project, services):
        body = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        path = f"/api/v1/namespaces/{project.name}/pods/{pod['metadata']['name']}"
        session.connection.json("DELETE", path, body=body)
    for name in services:
        _await(session, project, name, "service_started")
        click.echo(f" Container {project.name}-{name}  Started", err=True)


_services_command("stop", "Stop services; they stay.", stop_services)
_services_command(
    "start",
    "Start services that were stopped.",
    _start_again,
)
_services_command("restart", "Start services anew.", _restart)


@compose.command("config")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--services", "names_only", is_flag=True)
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml")
@click.pass_obj
def config(given: Object, quiet: bool, names_only: bool, form: str) -> None:
    """Check the files and print what they come to."""
    project = Call(given).project
    if names_only:
        click.echo("\n".join(project.services))
    elif not quiet:
        whole = {**project.document, "name": project.name, "services": project.services}
        click.echo(json_text(whole) if form == "json" else yaml_text(whole), nl=form == "json")


@compose.command("convert")
@click.pass_obj
def convert(given: Object) -> None:
    """Print the manifests of the project."""
    project = Call(given).project
    found = shared_objects(project) + [obj for name in in_order(project) for obj in service_objects(project, name)]
    click.echo("---\n".join(yaml_text(obj) for obj in found), nl=False)


@compose.command("ls")
@click.option("-a", "--all", "everything", is_flag=True, hidden=True)
@click.option("-q", "--quiet", is_flag=True)
@click.pass_obj
def ls(given: Object, everything: bool, quiet: bool) -> None:
    """List projects."""
    session = Session({key: given[key] for key in ("kubeconfig", "context")})
    found = session.connection.json("GET", "/api/v1/namespaces", params={"labelSelector": PROJECT})["items"]
    rows = []
    for one in found:
        name = one["metadata"]["name"]
        pods = session.connection.json("GET", f"/api/v1/namespaces/{name}/pods", params={"labelSelector": PROJECT})[
            "items"
        ]
        rows.append([name, f"running({sum(status_text(pod).startswith('Up') for pod in pods)})"])
    click.echo("\n".join(row[0] for row in rows) if quiet else rows_text(["NAME", "STATUS"], rows))
