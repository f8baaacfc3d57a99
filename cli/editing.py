"""A text in $KUBE_EDITOR or $EDITOR until what was made of it is accepted: for edit, create --edit and edit-last-applied."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli import problems
from cli.printers import json_text, yaml_text
from machinery.errors import APIError

_HEAD = (
    "# Please edit the object below. Lines beginning with a '#' will be ignored,\n"
    "# and an empty file will abort the edit. If an error occurs while saving this file will be\n"
    "# reopened with the relevant failures.\n#\n"
)


def edit_object(obj: dict[str, Any], form: str, accept: Callable[[dict[str, Any]], None], *, windows: bool) -> None:
    """Let the user change an object until `accept` takes it, or they leave it.

    Args:
        obj: what is shown at first.
        form: "yaml" or "json".
        accept: gets the changed object; an APIError or ClickException opens the editor again with its words on top.
        windows: whether lines end as on Windows.

    Raises: ClickException when the editor fails, or, where nobody sits at a terminal, what `accept` raised.
    """
    form = form or "yaml"
    text = (_HEAD if form == "yaml" else "") + (yaml_text if form == "yaml" else json_text)(obj)
    while True:
        changed = _edited(text, form, windows=windows)
        if changed == text or not _content(changed):
            what = "no changes made" if changed == text else "saved file was empty"
            click.echo(f"Edit cancelled, {what}.", err=True)
            return
        try:
            accept(_parsed(changed))
        except (APIError, click.ClickException) as error:
            said = problems.text_of(error) if isinstance(error, APIError) else error.format_message()
            note = "".join(f"# {line}\n" for line in said.splitlines())
            text = _HEAD + note + "#\n" + _content(changed)
            if os.environ.get("WHERRY_EDIT_ONCE") or not sys.stdin.isatty():
                kept = _kept(changed, form)
                raise click.ClickException(f'{said}\nA copy of your changes has been stored to "{kept}"') from error
        else:
            return


def _content(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def _parsed(text: str) -> dict[str, Any]:
    from cli.manifests import parse

    found = list(parse("edited-file", text))
    if len(found) != 1:
        raise click.ClickException("the edited file must hold one object")
    return found[0]


def _edited(text: str, suffix: str, *, windows: bool) -> str:
    editor = os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", prefix="wherry-edit-", suffix=f".{suffix}") as file:
        file.write(text.replace("\n", "\r\n") if windows else text)
        file.flush()
        done = subprocess.run([*shlex.split(editor), file.name], check=False)
        if done.returncode:
            raise click.ClickException(f'there was a problem with the editor "{editor}"')
        return Path(file.name).read_text()


def _kept(text: str, suffix: str) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="wherry-edit-", suffix=f".{suffix}", delete=False) as file:
        file.write(text)
        return file.name
