"""Reads manifests from files, directories, URLs and standard input."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

_SUFFIXES = (".json", ".yaml", ".yml")


def read(filenames: Sequence[str], *, recursive: bool = False, kustomize: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of all files in order, each with the name of its file; Lists are opened.

    Raises: ClickException.
    """
    if kustomize:
        if filenames:
            raise click.ClickException("only one of -f or -k can be specified")
        from cli.kustomization import build

        return [(kustomize, obj) for obj in build(kustomize)]
    if not filenames:
        raise click.ClickException("must specify one of -f and -k")
    found = [
        (source, obj)
        for name in _each_name(filenames) for source, text in _texts(name, recursive=recursive)
        for obj in parse(source, text)
    ]  # fmt: skip
    if not found:
        raise click.ClickException("no objects passed to apply")
    return found


def _each_name(filenames: Sequence[str]) -> Iterator[str]:
    """Yield the names; one argument may hold several, with commas between."""
    for text in filenames:
        yield from [text] if Path(text).exists() or "://" in text else text.split(",")


def _texts(name: str, *, recursive: bool) -> Iterator[tuple[str, str]]:
    if name == "-":
        yield "STDIN", sys.stdin.read()
    elif name.startswith(("http://", "https://")):
        import urllib.request  # takes as long to load as a short command to run

        with urllib.request.urlopen(name, timeout=30) as response:  # noqa: S310 - http and https alone come here
            yield name, response.read().decode()
    elif Path(name).is_dir():
        pattern = "**/*" if recursive else "*"
        found = [path for path in sorted(Path(name).glob(pattern)) if path.suffix in _SUFFIXES and path.is_file()]
        if not found:
            raise click.ClickException(f"error reading [{name}]: recognized file extensions are [.json .yaml .yml]")
        for path in found:
            yield str(path), path.read_text()
    else:
        try:
            yield name, Path(name).read_text()
        except OSError as error:
            raise click.ClickException(f'the path "{name}" does not exist') from error


def parse(source: str, text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a text of YAML or JSON; `source` is named in errors. Raises: ClickException."""
    import yaml

    from machinery.api.yamlload import PlainLoader

    try:
        documents = [json.loads(text)] if text.lstrip().startswith("{") else yaml.load_all(text, Loader=PlainLoader)
        for document in documents:
            if document is not None:
                yield from _checked(source, document)
    except (yaml.YAMLError, ValueError) as error:
        raise click.ClickException(f"error parsing {source}: error converting YAML to JSON: {error}") from error


def _snippet(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), default=str)


def _checked(source: str, document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict) or not document.get("kind"):
        raise click.ClickException(f"unable to decode \"{source}\": Object 'Kind' is missing in '{_snippet(document)}'")
    if not document.get("apiVersion"):
        raise click.ClickException(
            f'error validating "{source}": error validating data: apiVersion not set; if you choose to ignore these '
            "errors, turn validation off with --validate=false"
        )
    if document["kind"] == "List":
        for item in document.get("items") or ():
            yield from _checked(source, item)
    else:
        yield document
