"""Where the instructions of a Dockerfile are, and mistakes that can be told before anything is built.

The builder names the step that failed and no line; people look for the line.
Source: https://docs.docker.com/reference/dockerfile/
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KEYWORDS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD",
    "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_][A-Za-z0-9_]*)\1")
_ESCAPE = re.compile(r"#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its line and column from one, its keyword in capitals, and all that it says in one line."""

    line: int
    column: int
    keyword: str
    text: str


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of a Dockerfile, in order; comments and blank lines within them are left out."""
    lines = text.splitlines()
    escape, at = _directives(lines)
    while at < len(lines):
        if _says_nothing(lines[at]):
            at += 1
            continue
        start, line = at, lines[at]
        whole, at = _whole(lines, at, escape)
        yield Instruction(start + 1, len(line) - len(line.lstrip()) + 1, whole.split()[0].upper(), whole)
        at = _past_heredocs(lines, at, whole)


def _directives(lines: Sequence[str]) -> tuple[str, int]:
    """Return the sign that continues a line, and the first line that is no directive."""
    escape, at = "\\", 0
    while at < len(lines) and re.match(r"#\s*\w+\s*=", lines[at]):
        escape = found[1] if (found := _ESCAPE.match(lines[at])) else escape
        at += 1
    return escape, at


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _whole(lines: Sequence[str], at: int, escape: str) -> tuple[str, int]:
    """Return an instruction as one line, and the line after it."""
    parts: list[str] = []
    goes_on = True
    while goes_on and at < len(lines):
        part = lines[at].strip()
        at += 1
        if parts and _says_nothing(part):
            continue
        goes_on = part.endswith(escape)
        parts.append(part.removesuffix(escape).rstrip() if goes_on else part)
    return " ".join(part for part in parts if part) or escape, at


def _past_heredocs(lines: Sequence[str], at: int, whole: str) -> int:
    """Return the line after the texts that belong to an instruction."""
    for match in _HEREDOC.finditer(whole) if whole.split()[0].upper() in ("RUN", "COPY", "ADD") else ():
        while at < len(lines) and lines[at].strip() != match[2]:
            at += 1
        at += 1
    return at


def mistake(text: str) -> tuple[int, int, str] | None:
    """Return line, column and words for the first instruction that is none, or for a file that does not begin with one."""
    found = list(instructions(text))
    if not found:
        return 1, 1, "file with no instructions"
    for one in found:
        if one.keyword not in KEYWORDS:
            near = difflib.get_close_matches(one.keyword, KEYWORDS, 1, 0.6)
            return (
                one.line,
                one.column,
                f"unknown instruction: {one.keyword}" + (f" (did you mean {near[0]}?)" if near else ""),
            )
        if len(one.text.split()) == 1:
            return one.line, one.column, f"{one.keyword} requires at least one argument"
    first = next((one for one in found if one.keyword != "ARG"), None)
    if first is None or first.keyword != "FROM":
        place = first or found[0]
        return place.line, place.column, "no build stage in current context"
    return None


def place_of(text: str, step: str, after: int = 0) -> tuple[int, int] | None:
    """Return line and column of the instruction that a builder tells as `step`, the first one after a line.

    Variables may be filled in there, so that only its keyword and first words are sure to be as written.
    """
    said = step.split()
    candidates = [one for one in instructions(text) if one.line > after and said and one.keyword == said[0].upper()]
    for one in candidates:
        if one.text.split()[1:] == said[1:]:
            return one.line, one.column
    return (candidates[0].line, candidates[0].column) if candidates else None
