"""A driver of devices by ResourceClaims (DRA v1): it reads what was allocated, and describes its devices by CDI.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.dra import api_pb2 as api
from agent.dra import api_pb2_grpc
from agent.dra import health_pb2 as health
from agent.dra import health_pb2_grpc as health_grpc
from machinery.api.resources import RESOURCE_CLAIMS
from machinery.client.rest import Client
from tests.support.plugin import Plugin

CDI = Path("/var/run/cdi")


class ToyDriver(Plugin, api_pb2_grpc.DRAPluginServicer, health_grpc.DRAResourceHealthServicer):
    """Its devices set a variable in containers; it remembers what it was asked."""

    KIND, VERSION = "DRAPlugin", "v1.DRAPlugin"

    def __init__(self, name: str, client: Client, registry: Path, devices: list[str]) -> None:
        """Args: `registry` is where the node looks for plugins."""
        super().__init__(name, registry)
        self.refusal = ""
        self.ill: asyncio.Queue[str] = asyncio.Queue()  # devices that fall ill
        self._client = client
        self._description = CDI / f"{name}.json"
        self._devices = devices
        self.pool = ""

    def add_to(self, server: grpc.aio.Server) -> None:
        api_pb2_grpc.add_DRAPluginServicer_to_server(self, server)
        health_grpc.add_DRAResourceHealthServicer_to_server(self, server)

    async def start(self) -> None:
        await asyncio.to_thread(self._describe)
        await super().start()

    def _describe(self) -> None:
        CDI.mkdir(exist_ok=True)
        devices = [{"name": one, "containerEdits": {"env": [f"TOY={one}"]}} for one in self._devices]
        text = json.dumps({"cdiVersion": "0.6.0", "kind": f"{self.name}/toy", "devices": devices})
        self._description.write_text(text)

    async def stop(self) -> None:
        await super().stop()
        self._description.unlink(missing_ok=True)

    async def NodePrepareResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = api.NodePrepareResourcesResponse()
        for claim in request.claims:
            self.calls.append(f"prepare {claim.name}")
            found = await self._client.get(RESOURCE_CLAIMS, claim.name, claim.namespace)
            assert found["metadata"]["uid"] == claim.uid
            devices = [
                api.Device(
                    request_names=[one["request"]], pool_name=one["pool"], device_name=one["device"],
                    cdi_device_ids=[f"{self.name}/toy={one['device']}"],
                )
                for one in found["status"]["allocation"]["devices"]["results"]
            ]  # fmt: skip
            result = api.NodePrepareResourceResponse(devices=devices, error=self.refusal)
            answer.claims[claim.uid].CopyFrom(result)
        return answer

    async def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        found = await super().GetInfo(request, context)
        found.supported_versions.append("v1alpha1.DRAResourceHealth")
        return found

    async def NodeWatchResources(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        words = dict.fromkeys(self._devices, health.HEALTHY)
        while True:
            yield health.NodeWatchResourcesResponse(
                devices=[
                    health.DeviceHealth(
                        device=health.DeviceIdentifier(pool_name=self.pool, device_name=name), health=word
                    )
                    for name, word in words.items()
                ]
            )
            words[await self.ill.get()] = health.UNHEALTHY

    async def NodeUnprepareResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = api.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            self.calls.append(f"unprepare {claim.name}")
            answer.claims[claim.uid].CopyFrom(api.NodeUnprepareResourceResponse())
        return answer
