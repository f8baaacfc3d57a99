"""Options that several commands take, and what they come to."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_GLOBAL = (
    click.option("--kubeconfig", help="Path to the kubeconfig file."),
    click.option("--context", help="The kubeconfig context to use."),
    click.option("-s", "--server", help="Address of the API server."),
    click.option("--token", help="Bearer token."),
)


def connected(command: F) -> F:
    """Add the options that say which server to talk to; the command gets them as keyword arguments."""
    for option in reversed(_GLOBAL):
        command = option(command)
    return command


namespaced = click.option("-n", "--namespace", help="The namespace; the context's by default.")
selected = click.option("-l", "--selector", default="", help="Label selector.")
output = click.option("-o", "--output", default="", help="Output format.")
files = click.option("-f", "--filename", "filenames", multiple=True, help="File, directory, URL or - to read from.")
recursive = click.option("-R", "--recursive", is_flag=True, help="Go into directories.")
dry_run = click.option(
    "--dry-run", type=click.Choice(["none", "client", "server"]), default="none", help="Do not change anything."
)


def split(given: dict[str, Any]) -> dict[str, Any]:
    """Take the global options out of a command's arguments and return them."""
    return {name: given.pop(name, None) for name in ("kubeconfig", "context", "server", "token")}
