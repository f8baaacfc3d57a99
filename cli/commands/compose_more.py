"""The verbs of Compose that are used now and then: kill, rm, port, top, images, version."""

from collections.abc import Sequence
from importlib import metadata

import click

from cli.commands.compose import Call, Object, pods_of, stop_services
from cli.containers.lifecycle import processes
from cli.containers.listing import ANY_ADDRESS
from cli.containers.naming import status_text
from cli.framework import verb
from cli.printers import json_text, rows_text
from cli.streaming import StreamRequest, capture
from machinery.compose.manifests import ONE_OFF, PROJECT, SERVICE


@verb()
@click.argument("services", nargs=-1)
@click.option("-s", "--signal", default="KILL")
@click.pass_obj
def kill(given: Object, services: Sequence[str], signal: str) -> None:
    """Send a signal to the containers of services; without one, end them at once."""
    call = Call(given)
    session, names = call.session(), services or list(call.project.services)
    word = signal.upper().removeprefix("SIG")
    if word in ("KILL", "9"):
        stop_services(session, call.project, names, 0)
        return
    for pod in pods_of(session, call.project, names):
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        code, _, said = capture(
            session.connection, StreamRequest(call.project.name, name, container, ("kill", f"-{word}", "1"))
        )
        if code:
            raise click.ClickException(f"cannot kill container {name}: {said.decode(errors='replace').strip()}")
        click.echo(f" Container {name}  Killed", err=True)


@verb()
@click.argument("services", nargs=-1)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-s", "--stop", "stops", is_flag=True, help="Stop them first.")
@click.option("-v", "--volumes", is_flag=True, hidden=True)
@click.pass_obj
def rm(given: Object, services: Sequence[str], force: bool, stops: bool, volumes: bool) -> None:
    """Remove services that have stopped, and containers of `compose run` that have ended."""
    call = Call(given)
    session, names = call.session(), services or list(call.project.services)
    if stops:
        stop_services(session, call.project, names, None)
    running = {
        pod["metadata"]["labels"][SERVICE] for pod in pods_of(session, call.project, names)
        if not status_text(pod).startswith("Exited")
    }  # fmt: skip
    namespace = {"labelSelector": f"{PROJECT}={call.project.name}"}
    gone = []
    for kind in ("deployments.apps", "jobs.batch", "pods"):
        resource = session.discovery.find(kind).resource
        for obj in session.connection.json("GET", resource.path(call.project.name), params=namespace)["items"]:
            labels, name = obj["metadata"]["labels"], obj["metadata"]["name"]
            service = labels.get(ONE_OFF) if kind == "pods" else labels.get(SERVICE)
            is_over = status_text(obj).startswith("Exited") if kind == "pods" else service not in running
            if service in names and is_over:
                gone.append((name, resource.path(call.project.name, name)))
    if not gone:
        click.echo("No stopped containers", err=True)
        return
    if not force:
        click.confirm(f"? Going to remove {', '.join(name for name, _ in gone)}", abort=True)
    for name, path in gone:
        session.connection.json("DELETE", path, body={"propagationPolicy": "Background"})
        click.echo(f" Container {call.project.name}-{name}  Removed", err=True)


@verb()
@click.argument("service")
@click.argument("private_port", type=int)
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp")
@click.option("--index", default=1)
@click.pass_obj
def port(given: Object, service: str, private_port: int, protocol: str, index: int) -> None:
    """Show which port of the host leads to a port of a service."""
    call = Call(given)
    pods = pods_of(call.session(), call.project, [service])
    if len(pods) < index:
        raise click.ClickException(f'service "{service}" is not running')
    for one in pods[index - 1]["spec"]["containers"][0].get("ports") or ():
        if (one["containerPort"], one.get("protocol", "TCP").lower()) == (private_port, protocol) and "hostPort" in one:
            click.echo(f"{one.get('hostIP') or ANY_ADDRESS}:{one['hostPort']}")
            return
    raise click.ClickException(f"no port {private_port}/{protocol} for container {pods[index - 1]['metadata']['name']}")


@verb()
@click.argument("services", nargs=-1)
@click.pass_obj
def top(given: Object, services: Sequence[str]) -> None:
    """Show the processes of services."""
    call = Call(given)
    session = call.session()
    for pod in pods_of(session, call.project, services):
        if status_text(pod).startswith("Up"):
            click.echo(pod["metadata"]["name"])
            processes(session, pod["metadata"]["name"], ())
            click.echo()


@verb()
@click.argument("services", nargs=-1)
@click.option("-q", "--quiet", is_flag=True)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def images(given: Object, services: Sequence[str], quiet: bool, form: str) -> None:
    """List the images of the project's containers."""
    call = Call(given)
    rows = []
    for pod in pods_of(call.session(), call.project, services):
        status = ((pod.get("status") or {}).get("containerStatuses") or [{}])[0]
        image = pod["spec"]["containers"][0]["image"]
        name, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "latest")
        rows.append([pod["metadata"]["name"], name, tag, status.get("imageID", "").rpartition("sha256:")[2][:12]])
    if quiet:
        click.echo("\n".join(dict.fromkeys(row[3] for row in rows)))
    elif form == "json":
        heads = ("ContainerName", "Repository", "Tag", "ID")
        click.echo(json_text([dict(zip(heads, row, strict=True)) for row in rows]))
    else:
        click.echo(rows_text(["CONTAINER", "REPOSITORY", "TAG", "IMAGE ID"], rows))


@verb()
@click.option("--short", is_flag=True)
def version(short: bool) -> None:
    """Show the version."""
    own = f"v{metadata.version('wherry')}"
    click.echo(own if short else f"Wherry Compose version {own}")
