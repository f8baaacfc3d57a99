"""A driver of devices by ResourceClaims (DRA v1): it reads what was allocated, and describes its devices by CDI.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.dra import api_pb2 as api
from agent.dra import api_pb2_grpc
from agent.plugins import api_pb2 as registration
from agent.plugins import api_pb2_grpc as registration_grpc
from machinery.api.resources import RESOURCE_CLAIMS
from machinery.client.rest import Client

CDI = Path("/var/run/cdi")


class ToyDriver(api_pb2_grpc.DRAPluginServicer, registration_grpc.RegistrationServicer):
    """Its devices set a variable in containers; it remembers what it was asked."""

    def __init__(self, name: str, client: Client, registry: Path, devices: list[str]) -> None:
        """Args: `registry` is where the node looks for plugins."""
        self.name = name
        self.calls: list[str] = []
        self.refusal = ""
        self.registered: registration.RegistrationStatus | None = None
        self._client = client
        self._socket = registry / f"{name}-reg.sock"
        self._description = CDI / f"{name}.json"
        self._devices = devices
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._describe)
        self._server = grpc.aio.server()
        api_pb2_grpc.add_DRAPluginServicer_to_server(self, self._server)
        registration_grpc.add_RegistrationServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    def _describe(self) -> None:
        CDI.mkdir(exist_ok=True)
        devices = [{"name": one, "containerEdits": {"env": [f"TOY={one}"]}} for one in self._devices]
        text = json.dumps({"cdiVersion": "0.6.0", "kind": f"{self.name}/toy", "devices": devices})
        self._description.write_text(text)

    async def stop(self) -> None:
        """Go away, as a driver whose pod ended."""
        if self._server is not None:
            await self._server.stop(None)
        self._socket.unlink(missing_ok=True)
        self._description.unlink(missing_ok=True)

    async def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the API's name
        return registration.PluginInfo(type="DRAPlugin", name=self.name, supported_versions=["v1.DRAPlugin"])

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.registered = request
        return registration.RegistrationStatusResponse()

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

    async def NodeUnprepareResources(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = api.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            self.calls.append(f"unprepare {claim.name}")
            answer.claims[claim.uid].CopyFrom(api.NodeUnprepareResourceResponse())
        return answer
