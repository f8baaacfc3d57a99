"""One call of a command: where the server is, what it serves, which namespace is meant."""

import sys
from typing import Any, NoReturn

from cli import options
from cli.connection import Connection, connect
from cli.framework import LEADING
from cli.resources import Discovery


class Session:
    """A connection, its discovery, and the namespace of the call."""

    def __init__(self, given: dict[str, Any]) -> None:
        """Take the global options and the namespace out of a command's arguments."""
        self.connection: Connection = connect(options.split(given))
        self.discovery = Discovery(self.connection)
        self.asked_namespace: str = given.pop("namespace", None) or LEADING.get("namespace") or ""

    @property
    def namespace(self) -> str:
        """The namespace asked for, or the context's."""
        return self.asked_namespace or self.connection.config.namespace


def leave(fine: bool) -> NoReturn:
    """End with the exit code of success or failure."""
    sys.exit(0 if fine else 1)
