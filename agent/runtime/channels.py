"""What sessions are held on: channels between a client and a command, whatever protocol carries them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol


class Channels(Protocol):
    """Numbered channels to one client, whatever carries them."""

    async def send(self, channel: int, data: bytes) -> None:
        """Send data on a channel; once the client is gone, to nobody."""

    def receive(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield channel and data until the client goes away; a closed channel is (CLOSE, its number)."""


class Session(Protocol):
    """What is done on a connection."""

    channels: set[int]
    """The channels that a client has to open before the session begins, where it opens them one by one."""

    async def __call__(self, channels: Channels) -> None:
        """Hold the session."""

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port of the pod; only for port forwarding. Raises: OSError."""


def success() -> dict[str, Any]:
    """The Status that ends a session well."""
    return {"metadata": {}, "status": "Success"}


def failure(code: int) -> dict[str, Any]:
    """The Status of a command that ended with an exit code other than 0."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def internal_error(text: str) -> dict[str, Any]:
    """The Status of a session that could not be held."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {text}",
        "reason": "InternalError",
        "details": {"causes": [{"message": text}]},
        "code": 500,
    }
