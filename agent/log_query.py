"""Log queries: what services of the machine have logged, by journald or in files below /var/log.

Source: https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-query
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machinery.api.meta import parse_time

LOGS = Path("/var/log")
_SECONDS = 30.0
_MAX_SERVICES, _MAX_LENGTH, _MAX_LINES = 4, 256, 100_000
_UNSAFE = re.compile(r"[^a-zA-Z\-_0-9@]")
_PIECE = 64 * 1024


class BadQuery(ValueError):
    """A query that makes no sense; users see the text."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What is asked for: one file, or services with options.

    Attributes:
        since, until: bounds of time.
        boot: 0 for the present boot of the machine, -1 for the one before, …
        pattern: a regular expression that lines are to match.
    """

    services: Sequence[str] = ()
    file: str = ""
    since: datetime | None = None
    until: datetime | None = None
    tail_lines: int | None = None
    boot: int | None = None
    pattern: str = ""

    @property
    def has_options(self) -> bool:
        """Whether more is asked than all there is."""
        return any(one is not None for one in (self.since, self.until, self.tail_lines, self.boot)) or bool(
            self.pattern
        )


def parse(query: Any) -> LogQuery:
    """Return what a request's query asks for. Raises: BadQuery."""
    wanted = [one for one in query.getall("query", []) if one.strip()]
    if not wanted:
        raise BadQuery(f"query: Invalid value: {query.getall('query', [])}: query cannot be empty")
    files = [one for one in wanted if "/" in one or "\\" in one]
    services = [one for one in wanted if one not in files]
    found = LogQuery(
        services, files[0] if files else "", _time(query, "sinceTime"), _time(query, "untilTime"),
        _number(query, "tailLines"), _number(query, "boot"), query.get("pattern", ""),
    )  # fmt: skip
    _validate(found, files)
    return found


def _time(query: Any, name: str) -> datetime | None:
    text = query.get(name, "")
    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise BadQuery(f'{name}: Invalid value: "{text}": invalid time format') from error


def _number(query: Any, name: str) -> int | None:
    text = query.get(name, "")
    try:
        return int(text) if text else None
    except ValueError as error:
        raise BadQuery(f'{name}: Invalid value: "{text}": not a number') from error


def _validate(query: LogQuery, files: Sequence[str]) -> None:
    for service in query.services:
        if len(service) > _MAX_LENGTH:
            raise BadQuery(f'query: Invalid value: "{service}": length must be less than 100')
        if _UNSAFE.search(service):
            raise BadQuery(f'query: Invalid value: "{service}": input contains unsupported characters')
    if len(query.services) > _MAX_SERVICES:
        raise BadQuery(f"query: Too many: {len(query.services)}: must have at most {_MAX_SERVICES} items")
    if files and query.services:
        raise BadQuery(f"query: Invalid value: {files}, {query.services}: cannot specify a file and service")
    if len(files) > 1:
        raise BadQuery(f"query: Invalid value: {files}: cannot specify more than one file")
    if files and query.has_options:
        raise BadQuery(f"query: Invalid value: {files}: cannot specify file with options")
    _validate_options(query)


def _validate_options(query: LogQuery) -> None:
    if query.since and query.until and query.since > query.until:
        raise BadQuery("untilTime: Invalid value: must be after `sinceTime`")
    if query.boot is not None and query.boot > 0:
        raise BadQuery(f"boot: Invalid value: {query.boot}: must be less than 1")
    if query.tail_lines is not None and not 0 <= query.tail_lines <= _MAX_LINES:
        raise BadQuery(f"tailLines: Invalid value: {query.tail_lines}: must be between 0 and {_MAX_LINES}, inclusive")
    try:
        re.compile(query.pattern)
    except re.error as error:
        raise BadQuery(f'pattern: Invalid value: "{query.pattern}": {error}') from error


def find_log(name: str) -> Path | None:
    """Return a file below /var/log, None where there is none; links may not lead out. Blocks."""
    root = LOGS.resolve()
    real = (root / name.lstrip("/")).resolve()
    return real if real.is_relative_to(root) and real.is_file() else None


async def answer(query: LogQuery) -> AsyncIterator[bytes]:
    """Yield what is found; what can't be had is told in its place."""
    if query.file:
        path = await asyncio.to_thread(find_log, query.file)
        async for piece in _file(path, query.file):
            yield piece
        return
    told = [one for one in query.services if await _is_in_journal(one)]
    if told:
        async for piece in _output(_journal(query, told)):
            yield piece
    in_files = [one for one in query.services if one not in told]
    if in_files and query.has_options:
        text = f"\noptions present and query resolved to log files for {in_files}\ntry without specifying options\n"
        yield text.encode()
        return
    for service in in_files:
        names = (service, f"{service}.log", f"{service}/{service}.log")
        paths = [await asyncio.to_thread(find_log, name) for name in names]
        async for piece in _file(next((path for path in paths if path is not None), None), service):
            yield piece


async def _file(path: Path | None, name: str) -> AsyncIterator[bytes]:
    if path is None:
        yield f"\nlog not found for {name}\n".encode()
        return
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


async def _is_in_journal(service: str) -> bool:
    found = b"".join([piece async for piece in _output(["--unit", service, "--lines=1", "--quiet", "--no-pager"])])
    return bool(found.strip())


def _journal(query: LogQuery, services: Sequence[str]) -> list[str]:
    found = ["--utc", "--no-pager", "--output=short-precise"]
    for option, at in (("since", query.since), ("until", query.until)):
        if at is not None:
            found.append(f"--{option}={at.astimezone(UTC):%Y-%m-%d %H:%M:%S}")
    if query.tail_lines is not None:
        found.append(f"--lines={query.tail_lines}")
    found += [f"--unit={service}" for service in services]
    if query.pattern:
        found += [f"--grep={query.pattern}", "--case-sensitive=false"]
    return [*found, f"--boot={query.boot}"] if query.boot is not None else found


async def _output(arguments: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield what journalctl prints within its time; nothing where there is no journalctl."""
    program = shutil.which("journalctl")
    if program is None:
        return
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=nothing, stdout=pipe, stderr=nothing)
    if process.stdout is None:
        return
    try:
        async with asyncio.timeout(_SECONDS):
            while piece := await process.stdout.read(_PIECE):
                yield piece
    except TimeoutError:
        yield b"\nerror: journal output not available\n"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
