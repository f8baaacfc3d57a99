"""Who is logged in: tokens stay in this process's memory, and the browser holds a random name for one.

So a token is never in a page's reach nor in the browser's files, and ends with this process.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

COOKIE = "wherry-dashboard"
IDLE_SECONDS = 3600.0
MAX_SESSIONS = 1000
_NAME_BYTES = 32


@dataclass(slots=True)
class Session:
    """One login: the user's name, and a client that acts with the user's token."""

    user: str
    client: Client
    used: float
    stack: AsyncExitStack = field(repr=False)


class Sessions:
    """All logins, by the name the browser holds."""

    def __init__(self, config: ClientConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: `config` says where the API server is and whom it is trusted by; who we are there is left out."""
        self._config = replace(
            config, cert_data=b"", cert_file="", key_data=b"", key_file="", token="", token_file=""
        )  # fmt: skip
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def client(self, token: str) -> Client:
        """Return a client that acts with a token and nothing else."""
        return Client(replace(self._config, token=token), user_agent="wherry-dashboard")

    def open(self, user: str, client: Client, stack: AsyncExitStack) -> str:
        """Begin a session and return its name; `stack` holds the client open."""
        name = secrets.token_urlsafe(_NAME_BYTES)
        self._sessions[name] = Session(user, client, self._clock(), stack)
        return name

    def find(self, name: str) -> Session | None:
        """Return a session and count it as used; None when there is none, or it was idle for an hour."""
        session = self._sessions.get(name)
        if session is None or self._clock() - session.used > IDLE_SECONDS:
            return None
        session.used = self._clock()
        return session

    async def close(self, name: str) -> None:
        """End a session."""
        if (session := self._sessions.pop(name, None)) is not None:
            await session.stack.aclose()

    async def sweep(self) -> None:
        """End what was idle too long, and the longest unused of too many."""
        by_use = sorted(self._sessions, key=lambda name: self._sessions[name].used)
        for at, name in enumerate(by_use):
            too_many = len(by_use) - at >= MAX_SESSIONS
            if too_many or self._clock() - self._sessions[name].used > IDLE_SECONDS:
                await self.close(name)

    async def close_all(self) -> None:
        """End all sessions."""
        for name in list(self._sessions):
            await self.close(name)
