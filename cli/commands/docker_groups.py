"""Docker's verbs under the names of what they are about: `wherry container ls`, `wherry image rm`."""

import click

from cli import options
from cli.framework import LazyGroup, Source, verb

_CONTAINER = {
    "ls": "containers:ps", "ps": "containers:ps", "list": "containers:ps", "run": "run:run", "stop": "containers:stop",
    "kill": "containers:kill", "start": "containers:start", "restart": "containers:restart", "rm": "containers:rm",
    "logs": "logs:logs", "exec": "exec:exec_", "attach": "exec:attach", "cp": "copy:cp", "inspect": "images:inspect",
    "port": "containers:port", "stats": "containers:stats", "top": "top:top", "wait": "wait:wait",
    "prune": "docker_groups:container_prune",
}  # fmt: skip
_IMAGE = {
    "ls": "images:images", "list": "images:images", "pull": "images:pull", "push": "images:push", "rm": "images:rmi",
    "inspect": "images:inspect", "history": "images:history", "tag": "images:tag", "save": "images:save",
    "load": "images:load", "build": "build:build", "prune": "docker_groups:image_prune",
}  # fmt: skip


def _sources(places: dict[str, str]) -> dict[str, Source]:
    return {name: Source(f"cli.commands.{place}", "", "Verbs") for name, place in places.items()}


container = LazyGroup("container", sources=_sources(_CONTAINER), help="Docker's verbs about containers.")
image = LazyGroup("image", sources=_sources(_IMAGE), help="Docker's verbs about images.")


@verb()
@options.reachable
@options.in_namespace
@click.option("-f", "--force", is_flag=True)
def container_prune(force: bool, **given: str) -> None:
    """Remove containers that have ended."""
    from cli.commands.containers import prune_containers
    from cli.session import Session

    if not force:
        click.confirm(
            "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?", abort=True
        )
    prune_containers(Session(dict(given)))


@verb()
@options.reachable
@options.in_namespace
@click.option("-f", "--force", is_flag=True)
@click.option("-a", "--all", "everything", is_flag=True, help="All images that no container uses.")
def image_prune(force: bool, everything: bool, **given: str) -> None:
    """Remove images without a name."""
    from cli.commands.containers import prune_images
    from cli.session import Session

    what = "images without at least one container associated to them" if everything else "dangling images"
    if not force:
        click.confirm(f"WARNING! This will remove all {what}.\nAre you sure you want to continue?", abort=True)
    prune_images(Session(dict(given)), everything=everything)
