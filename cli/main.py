"""The command line's frame: finds a command, runs it, turns its errors into kubectl's words and exit codes.

Each command is imported when it is used: that keeps `wherry get` quick.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from machinery.errors import APIError

COMMANDS: Mapping[str, str] = {
    "apply": "cli.commands.apply:apply",
    "create": "cli.commands.change:create",
    "delete": "cli.commands.change:delete",
    "describe": "cli.commands.describe:describe",
    "exec": "cli.commands.pods:exec_",
    "get": "cli.commands.get:get",
    "logs": "cli.commands.pods:logs",
    "rollout": "cli.commands.rollout:rollout",
    "scale": "cli.commands.change:scale",
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name when they are called."""

    def __init__(self, *args: Any, sources: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sources = sources

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self._sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        source = self._sources.get(cmd_name)
        if source is None:
            return None
        module, _, attribute = source.partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


def build_group(extra: Mapping[str, str]) -> click.Group:
    """Return the command line: kubectl's verbs, and the commands of `extra` (name to "module:attribute")."""
    return LazyGroup(
        "wherry", sources={**COMMANDS, **extra}, help="A small cluster that speaks the Kubernetes API.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def run_cli(extra: Mapping[str, str]) -> int:
    """Run the command line and return its exit code."""
    try:
        build_group(extra).main(standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            error.show()
        else:
            text = error.format_message()
            is_plain = text.startswith(("The connection to", "Unable to connect", "error:"))
            click.echo(text if is_plain else f"error: {text}", err=True)
        return 1
    except APIError as error:
        click.echo(f"Error from server ({error.reason}): {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def main() -> None:
    """The console script without the cluster's own commands."""
    sys.exit(run_cli({}))
