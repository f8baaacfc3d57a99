"""Variables out of a file that another container of the pod wrote: NAME='value', a small part of what a shell reads.

Source: https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/
"""

import os
import stat
from pathlib import Path

from agent.environment import ConfigError
from agent.volumes import subpath

_LONGEST_FILE = 64 << 10


def read_beneath(root: Path, path: str) -> str | None:
    """Read a file of a volume, whatever links lie in the way; None if it isn't there. Raises: ConfigError, OSError."""
    try:
        place = subpath.open_beneath(root, path, create=False)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise ConfigError(f"env file {path!r} is not a regular file")
        with open(f"/proc/self/fd/{place}", "rb") as file:
            data = file.read(_LONGEST_FILE + 1)
    finally:
        os.close(place)
    if len(data) > _LONGEST_FILE:
        raise ConfigError(f"env file {path!r} is longer than {_LONGEST_FILE} bytes")
    return data.decode(errors="surrogateescape")


def parse(text: str) -> dict[str, str]:
    """Return the variables of a file. Raises: ConfigError, which tells the line.

    A value stands between single quotes, may go over several lines, and is taken as it is; what follows the closing
    quote can only be a comment. A space after "=" ends the value before it began. Of equal names the first counts.
    """
    found: dict[str, str] = {}
    lines = enumerate(text.split("\n"), 1)
    for number, line in lines:
        line = line.lstrip(" \t")  # noqa: PLW2901 - what is before a name says nothing
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name or name != name.strip() or " " in name or "\t" in name:
            raise _wrong(number)
        if not value or value[0] in " \t":
            found.setdefault(name, "")
            continue
        if value[0] != "'":
            raise _wrong(number)
        value = value[1:]
        while "'" not in value:
            _, following = next(lines, (0, None))
            if following is None:
                raise _wrong(number)
            value += "\n" + following
        value, _, rest = value.partition("'")
        if rest.strip(" \t\r") and not rest.lstrip(" \t").startswith("#"):
            raise _wrong(number)
        found.setdefault(name, value)
    return found


def _wrong(number: int) -> ConfigError:
    return ConfigError(f"invalid environment variable format at line {number}")
