"""Storage drivers and their volumes, loaded when the first driver registers or the first volume needs one."""

import functools
from typing import TYPE_CHECKING

from agent.config import AgentConfig
from agent.metrics import Metrics
from agent.objects import TokenSource
from machinery.client.rest import Client

if TYPE_CHECKING:
    from agent.csi.drivers import CsiDrivers
    from agent.csi.volumes import CsiVolumes


class Storage:
    """Takes drivers in (agent/plugins/watcher.py), and has what mounts by them."""

    def __init__(self, config: AgentConfig, client: Client, tokens: TokenSource, metrics: Metrics) -> None:
        self._metrics = metrics
        self._config = config
        self._client = client
        self._tokens = tokens

    @functools.cached_property
    def drivers(self) -> "CsiDrivers":
        """The registered drivers."""
        from agent.csi.drivers import CsiDrivers

        return CsiDrivers(self._client, self._config.node_name, self._metrics)

    @functools.cached_property
    def _volumes(self) -> "CsiVolumes":
        from agent.csi.volumes import CsiVolumes

        config = self._config
        return CsiVolumes(self._client, self.drivers, self._tokens, config)

    def volumes(self) -> "CsiVolumes":
        """What mounts volumes by drivers."""
        return self._volumes

    async def register(self, name: str, endpoint: str, versions: list[str]) -> None:
        """Take a driver in. Raises: RegistrationError."""
        await self.drivers.register(name, endpoint, versions)

    async def deregister(self, name: str) -> None:
        """Let go of a driver."""
        await self.drivers.deregister(name)
