"""All commands at once: each can be loaded, no option is there twice, and the list of commands loads none of them."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from cli.main import build_group
from cluster.main import COMMANDS


def commands() -> Iterator[tuple[str, click.Command]]:
    root = build_group(COMMANDS)
    context = click.Context(root)
    stack = [(name, root.get_command(context, name)) for name in root.list_commands(context)]
    while stack:
        name, command = stack.pop()
        assert command is not None, name
        yield name, command
        if isinstance(command, click.Group):
            stack += [(f"{name} {one}", command.get_command(context, one)) for one in command.list_commands(context)]


def test_no_option_is_there_twice() -> None:
    twice = []
    for name, command in commands():
        options = [option for param in command.params for option in (*param.opts, *param.secondary_opts)]
        twice += [f"{name}: {option}" for option in {*options} if options.count(option) > 1]
    assert not twice


def test_each_command_says_what_it_does() -> None:
    assert [name for name, command in commands() if not (command.help or "").strip()] == []


@pytest.mark.parametrize("module", ["yaml", "grpc", "aiohttp", "cli.commands.get"])
def test_help_loads_no_command(module: str) -> None:
    code = f"import sys; sys.argv = ['wherry', '--help']; from cluster.main import COMMANDS; from cli.main import run_cli; run_cli(COMMANDS); sys.exit({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "As with Docker" in done.stdout
