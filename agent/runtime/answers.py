"""What all CRI calls have in common: errors become gRPC statuses, and work begun is finished.

A caller that goes away (its deadline passed, it was restarted) must not leave a sandbox half made, so each call runs
as a task of its own that the caller's cancellation doesn't reach.
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from grpc import StatusCode

from agent.runtime.errors import RuntimeFailure

_log = logging.getLogger(__name__)
S = TypeVar("S")

Unary = Callable[[S, Any], Awaitable[Any]]
Stream = Callable[[S, Any], AsyncIterator[Any]]


def unary(method: Unary[S]) -> Callable[[S, Any, Any], Awaitable[Any]]:
    """Make `method(self, request)` a gRPC handler."""

    @functools.wraps(method)
    async def handler(self: S, request: Any, context: Any) -> Any:
        task = asyncio.ensure_future(method(self, request))
        task.add_done_callback(_look_at)
        try:
            return await asyncio.shield(task)
        except Exception as error:  # noqa: BLE001 - every failure becomes a status
            await context.abort(*_status(method.__name__, error))

    return handler


def cancellable(method: Unary[S]) -> Callable[[S, Any, Any], Awaitable[Any]]:
    """As `unary`, for work that leaves nothing half done: it ends with its caller."""

    @functools.wraps(method)
    async def handler(self: S, request: Any, context: Any) -> Any:
        try:
            return await method(self, request)
        except Exception as error:  # noqa: BLE001 - every failure becomes a status
            await context.abort(*_status(method.__name__, error))

    return handler


def stream(method: Stream[S]) -> Callable[[S, Any, Any], AsyncIterator[Any]]:
    """Make `method(self, request)`, which yields answers, a gRPC handler."""

    @functools.wraps(method)
    async def handler(self: S, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for answer in method(self, request):
                yield answer
        except Exception as error:  # noqa: BLE001 - every failure becomes a status
            await context.abort(*_status(method.__name__, error))

    return handler


def _look_at(task: "asyncio.Future[Any]") -> None:
    """Nobody may be left to ask for the result; asyncio would complain of an error that nobody saw."""
    if not task.cancelled():
        task.exception()


def _status(call: str, error: Exception) -> tuple[StatusCode, str]:
    if isinstance(error, RuntimeFailure):
        _log.info("%s: %s", call, error)
        return error.status, str(error)
    _log.error("%s failed", call, exc_info=error)
    return StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"
