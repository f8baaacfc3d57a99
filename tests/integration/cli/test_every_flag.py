"""Every verb and flag of kubectl is taken, or docs/command-line.md says why not; what it says is missing is missing."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import click
import pytest

from cli.framework import takes
from cli.main import build_group
from tests.e2e.conftest import ROOT
from tests.integration.cli.conftest import KUBECTL

pytestmark = pytest.mark.slow
_FLAG = re.compile(r"^    (?:(-\w), )?(--[\w-]+)=.*:$")
_VERB = re.compile(r"^  ([a-z][\w-]*)\s{2,}\S")
_ROW = re.compile(r"^\| `([^`]*)` \|([^|]*)\|", re.MULTILINE)


def _help(*path: str) -> str:
    return subprocess.run([KUBECTL, *path], capture_output=True, text=True, check=True).stdout


@cache
def verbs() -> dict[tuple[str, ...], set[str]]:
    """Return kubectl's verbs with their flags; the empty verb has the global ones."""
    found: dict[tuple[str, ...], set[str]] = {
        (): {m[2] for line in _help("options").splitlines() if (m := _FLAG.match(line))}
    }
    level: list[tuple[str, ...]] = [()]
    with ThreadPoolExecutor(2) as pool:
        while level:
            texts = list(pool.map(lambda path: _help(*path, "--help"), level))
            found |= {path: _flags(text) for path, text in zip(level, texts, strict=True) if path}
            level = [(*path, word) for path, text in zip(level, texts, strict=True) for word in _words(text)]
    return found


def _flags(text: str) -> set[str]:
    return {one for line in text.splitlines() if (m := _FLAG.match(line)) for one in (m[1], m[2]) if one}


def _words(text: str) -> Iterator[str]:
    section = ""
    for line in text.splitlines():
        section = line if line and line[0] != " " else section
        if "Commands" in section and (match := _VERB.match(line)):
            yield match[1]


def _said_to_be_missing() -> set[str]:
    """Return the verbs and flags that the documentation says are missing: "alpha kuberc", "run --filename"."""
    text = (ROOT / "docs/command-line.md").read_text().partition("## Not taken")[2].partition("\n## ")[0]
    rows = [(match[1], re.findall(r"`([^`]+)`", match[2])) for match in _ROW.finditer(text)]
    return {f"{verb} {flag}".removeprefix("any ").strip() for verb, flags in rows for flag in (flags or [""])}


def test_what_kubectl_takes_and_we_do_not_is_documented() -> None:
    root = build_group({})
    context = click.Context(root)
    missing = set()
    for path, flags in verbs().items():
        command: click.Command | None = root
        for word in path:
            command = command.get_command(context, word) if isinstance(command, click.Group) else None
        if command is None:
            missing.add(" ".join(path))
            continue
        own = command if path else root.get_command(context, "get")
        assert own is not None
        missing |= {" ".join((*path, flag)) for flag in flags if not takes(own, flag)}
    assert missing == _said_to_be_missing()
