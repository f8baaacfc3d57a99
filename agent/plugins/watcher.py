"""Finds plugins by the sockets they leave in a folder, asks each who it is, and hands it to what takes its kind.

Source: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/ (plugin registration, v1); drivers of
storage have their socket made by the sidecar node-driver-registrar.
"""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_CALL_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 60.0
OPTIONS = (("grpc.default_authority", "localhost"),)


class RegistrationError(Exception):
    """A plugin can't be taken in; it is told the text."""


class Handler(Protocol):
    """Takes plugins of one kind."""

    async def register(self, name: str, endpoint: str, versions: list[str]) -> None:
        """Take a plugin in, in place of one of the same name. Raises: RegistrationError."""

    async def deregister(self, name: str) -> None:
        """A plugin's socket is gone."""


class PluginWatcher:
    """Looks into the folder again and again: it is looked at rarely enough to cost nothing, and on any file system."""

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        """Args: `handlers` by the types that plugins name, such as "CSIPlugin"."""
        self._folder = folder
        self._handlers = handlers
        self._known: dict[tuple[str, int], tuple[str, str]] = {}  # socket and its inode -> type and name
        self._not_before: dict[tuple[str, int], tuple[float, float]] = {}  # … of one that failed: when, pause

    async def run(self) -> None:
        """Look for ever."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Take in what is new and let go of what is gone."""
        found = set(self._sockets())
        for key in set(self._known) - found:
            kind, name = self._known.pop(key)
            if (kind, name) not in self._known.values():  # not made anew under another inode
                log.info("plugin %s (%s) is gone", name, kind)
                await self._handlers[kind].deregister(name)
        now = asyncio.get_running_loop().time()
        for key in found - set(self._known):
            at, pause = self._not_before.get(key, (0.0, _LOOK_SECONDS))
            if now >= at and not await self._take_in(key):
                self._not_before[key] = (now + pause, min(pause * 2, _MAX_PAUSE_SECONDS))

    def _sockets(self) -> list[tuple[str, int]]:
        found = []
        for base, _, files in os.walk(self._folder):
            for name in files:
                with contextlib.suppress(OSError):
                    status = os.lstat(os.path.join(base, name))
                    if stat.S_ISSOCK(status.st_mode) and not name.startswith("."):
                        found.append((os.path.join(base, name), status.st_ino))
        return found

    async def _take_in(self, key: tuple[str, int]) -> bool:
        from agent.plugins import api_pb2 as api
        from agent.plugins import api_pb2_grpc

        async with grpc.aio.insecure_channel(f"unix:{key[0]}", options=OPTIONS) as channel:
            stub: Any = api_pb2_grpc.RegistrationStub(channel)
            try:
                info = await stub.GetInfo(api.InfoRequest(), timeout=_CALL_SECONDS)
                error = await self._register(info, key[0])
                status = api.RegistrationStatus(plugin_registered=not error, error=error)
                await stub.NotifyRegistrationStatus(status, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as failure:
                log.info("plugin at %s: %s", key[0], failure.details())
                return False
        if error:
            log.warning("plugin %s (%s) was refused: %s", info.name, info.type, error)
            return False
        log.info("plugin %s (%s) registered", info.name, info.type)
        self._known[key] = (info.type, info.name)
        self._not_before.pop(key, None)
        return True

    async def _register(self, info: Any, socket: str) -> str:
        handler = self._handlers.get(info.type)
        if handler is None:
            return f"no handler registered for plugin type: {info.type}"
        try:
            await handler.register(info.name, info.endpoint or socket, list(info.supported_versions))
        except RegistrationError as error:
            return str(error)
        return ""
