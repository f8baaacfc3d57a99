"""`wherry patch`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.making import tell
from cli.selection import JSON_PATCH, MERGE, STRATEGIC, Selected, act
from cli.session import Session, leave

_MEDIA = {"json": JSON_PATCH, "merge": MERGE, "strategic": STRATEGIC}


@verb("patch")
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.dry_run
@options.output
@options.field_manager
@options.show_managed_fields
@click.option("--template", default="", hidden=True)
@click.option("-p", "--patch", "text", default="", help="The patch, in JSON or YAML.")
@click.option("--patch-file", default="", help="A file with the patch.")
@click.option("--type", "form", type=click.Choice(sorted(_MEDIA)), default="strategic")
@click.option("--subresource", default="")
@click.option("--local", is_flag=True, hidden=True)
def patch_(words: Sequence[str], text: str, patch_file: str, form: str, **given: Any) -> None:
    """Change fields of an object."""
    if bool(text) == bool(patch_file):
        raise click.ClickException("must specify --patch or --patch-file containing the contents of the patch")
    body = _read(text or Path(patch_file).read_text())
    session = Session(given)
    params = {
        "fieldManager": given["field_manager"] or "kubectl-patch",
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip

    def one_by_one(one: Selected) -> None:
        before = one.read(session)
        answer = before
        if given["dry_run"] != "client":
            path = one.known.resource.path(one.namespace, one.name, given["subresource"])
            answer = session.connection.json("PATCH", path, body=body, content_type=_MEDIA[form], params=params)
        same = answer["metadata"].get("resourceVersion") == before["metadata"].get("resourceVersion")
        tell(
            one.known.resource,
            answer,
            "patched (no change)" if same and given["dry_run"] == "none" else "patched",
            given,
        )

    leave(act(session, words, given, one_by_one))


def _read(text: str) -> Any:
    import yaml

    from machinery.api.yamlload import PlainLoader

    try:
        return yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise click.ClickException(f'unable to parse "{text}": {error}') from error
