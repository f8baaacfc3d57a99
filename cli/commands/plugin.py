"""`wherry plugin list` and `wherry options`."""

import os
from pathlib import Path

import click

from cli.framework import verb, verb_group
from cli.options import LEADING_OPTIONS


@verb_group()
def plugin() -> None:
    """List plugins: programs named wherry-WORD or kubectl-WORD on PATH."""


@plugin.command("list")
@click.option("--name-only", is_flag=True)
def list_(name_only: bool) -> None:
    """List plugins on PATH."""
    found = [
        path
        for folder in os.environ.get("PATH", "").split(os.pathsep) if folder and Path(folder).is_dir()
        for path in sorted(Path(folder).iterdir())
        if path.name.startswith(("wherry-", "kubectl-")) and path.is_file()
    ]  # fmt: skip
    if not found:
        raise click.ClickException("unable to find any wherry plugins in your PATH")
    click.echo("The following compatible plugins are available:\n")
    for path in found:
        click.echo(path.name if name_only else str(path))
        if not os.access(path, os.X_OK):
            click.echo(f"  - warning: {path} identified as a wherry plugin, but it is not executable", err=True)


@verb("options")
def options_() -> None:
    """List the options all commands take."""
    click.echo("The following options can be passed to any command:\n")
    for name in sorted(LEADING_OPTIONS):
        if name.startswith("--"):
            click.echo(f"    {name}=''")
