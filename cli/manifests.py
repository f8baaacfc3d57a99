"""Reads manifests from files, directories, URLs and standard input."""

import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

_SUFFIXES = (".json", ".yaml", ".yml")


def read(filenames: Sequence[str], *, recursive: bool = False) -> list[dict[str, Any]]:
    """Return the objects of all files in order; Lists are opened. Raises: ClickException."""
    if not filenames:
        raise click.ClickException("must specify one of -f and -k")
    found = [
        obj for name in filenames for source, text in _texts(name, recursive=recursive) for obj in _parse(source, text)
    ]
    if not found:
        raise click.ClickException("no objects passed to apply")
    return found


def _texts(name: str, *, recursive: bool) -> Iterator[tuple[str, str]]:
    if name == "-":
        yield "STDIN", sys.stdin.read()
    elif name.startswith(("http://", "https://")):
        with urllib.request.urlopen(name, timeout=30) as response:  # noqa: S310 - http and https alone come here
            yield name, response.read().decode()
    elif Path(name).is_dir():
        pattern = "**/*" if recursive else "*"
        for path in sorted(Path(name).glob(pattern)):
            if path.suffix in _SUFFIXES and path.is_file():
                yield str(path), path.read_text()
    else:
        try:
            yield name, Path(name).read_text()
        except OSError as error:
            raise click.ClickException(f'the path "{name}" does not exist') from error


def _parse(source: str, text: str) -> Iterator[dict[str, Any]]:
    import yaml

    from machinery.api.yamlload import PlainLoader

    try:
        documents = [json.loads(text)] if text.lstrip().startswith("{") else yaml.load_all(text, Loader=PlainLoader)
        for document in documents:
            if document is not None:
                yield from _checked(source, document)
    except (yaml.YAMLError, ValueError) as error:
        raise click.ClickException(f"error parsing {source}: error converting YAML to JSON: {error}") from error


def _checked(source: str, document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict) or not document.get("kind"):
        raise click.ClickException(f"error validating {source}: Object 'Kind' is missing")
    if not document.get("apiVersion"):
        raise click.ClickException(f"error validating {source}: 'apiVersion' not set")
    if document["kind"] == "List":
        for item in document.get("items") or ():
            yield from _checked(source, item)
    else:
        yield document
