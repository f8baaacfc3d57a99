"""What drivers for the tests have in common: they serve at a socket among the node's plugins, and are taken in by it."""

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio

from agent.plugins import api_pb2 as registration
from agent.plugins import api_pb2_grpc as registration_grpc


class Plugin(registration_grpc.RegistrationServicer):
    """A plugin of a node, of the kind and version that its class says."""

    KIND: str
    VERSION: str

    def __init__(self, name: str, registry: Path) -> None:
        """Args: `registry` is where the node looks for plugins."""
        self.name = name
        self.calls: list[str] = []
        self.registered: registration.RegistrationStatus | None = None
        self._socket = registry / f"{name}-reg.sock"
        self._server: grpc.aio.Server | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let a server answer what plugins of this kind are asked."""
        raise NotImplementedError

    async def start(self) -> None:
        """Serve, and wait until the node has taken the plugin in."""
        self._server = grpc.aio.server()
        self.add_to(self._server)
        registration_grpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()
        async with asyncio.timeout(20):
            while self.registered is None:  # noqa: ASYNC110 - we are told
                await asyncio.sleep(0.02)
        assert self.registered.plugin_registered, self.registered.error

    async def stop(self) -> None:
        """Go away, as a driver whose pod ended."""
        if self._server is not None:
            await self._server.stop(None)
        self._socket.unlink(missing_ok=True)

    async def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        return registration.PluginInfo(type=self.KIND, name=self.name, supported_versions=[self.VERSION])

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.registered = request
        return registration.RegistrationStatusResponse()
