"""Has drivers prepare the devices of pods' ResourceClaims, and give them up when no pod of the node uses them any more.

What is prepared is written down before a container uses it, so that an agent's restart forgets no device.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from agent.dra.health import SERVICE as HEALTH
from agent.dra.health import DriverHealth
from agent.plugins.watcher import OPTIONS, RegistrationError
from machinery.api.resources import RESOURCE_CLAIMS, RESOURCE_SLICES
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, NotFound

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
STATE_FILE = "dra_manager_state"
SERVICE = "v1.DRAPlugin"
_CALL_SECONDS = 45.0
WIPE_SECONDS = 30.0


class ClaimError(Exception):
    """A pod's claims can't be prepared or given up now; users see the text."""


class ResourceClaims:
    """The registered drivers, and the claims they have prepared.

    A prepared claim is {namespace, name, pods: [uid], devices: {driver: [{requests: [name], cdi: [id], pool,
    device}]}}, by its uid.
    """

    def __init__(self, client: Client, folder: Path, node_name: str, *, wipe_seconds: float = WIPE_SECONDS) -> None:
        """Make one.

        Args:
            client: talks to the API server.
            folder: where the state is kept.
            node_name: whose devices there are.
            wipe_seconds: how long a driver may be away before its devices are taken from the API.
        """
        self._client = client
        self._node_name = node_name
        self._wipe_seconds = wipe_seconds
        self._absence = asyncio.Event()  # a driver went; set at first, for some may never have come back
        self._absence.set()
        self._path = folder / STATE_FILE
        self._endpoints: dict[str, str] = {}
        self.on_health: Callable[[set[str]], None] = lambda _: None  # told the uids of pods that have such devices
        self.health = DriverHealth(lambda: self.on_health(self._holders()))
        self._lock = asyncio.Lock()
        self._prepared: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._prepared = json.loads(self._path.read_text())

    def _holders(self) -> set[str]:
        return {uid for one in self._prepared.values() for uid in one["pods"]}

    # ---- drivers (agent/plugins/watcher.py)

    async def register(self, name: str, endpoint: str, versions: list[str]) -> None:
        """Take a driver in. Raises: RegistrationError."""
        if SERVICE not in versions:
            text = f"none of the DRA gRPC service versions {versions} of the plugin are supported, only {SERVICE} is"
            raise RegistrationError(text)
        self._endpoints[name] = endpoint
        if HEALTH in versions:
            self.health.follow(name, endpoint)

    async def deregister(self, name: str) -> None:
        """Let go of a driver; what it prepared stays known."""
        self._endpoints.pop(name, None)
        self.health.drop(name)
        self._absence.set()

    async def run(self) -> None:
        """Take from the API what drivers offered that are gone for good; for ever."""
        while True:
            await self._absence.wait()
            self._absence.clear()
            await asyncio.sleep(self._wipe_seconds)  # it may only be replaced by a newer one
            try:
                await self._wipe()
            except (APIError, ConnectionFailed) as error:
                log.info("devices of drivers that are gone: %s", error)
                self._absence.set()

    async def _wipe(self) -> None:
        selector = f"spec.nodeName={self._node_name}"
        for one in (await self._client.list(RESOURCE_SLICES, field_selector=selector))["items"]:
            driver = one["spec"]["driver"]
            if driver not in self._endpoints:
                log.info("driver %s is gone: removing its ResourceSlice %s", driver, one["metadata"]["name"])
                with contextlib.suppress(NotFound):
                    await self._client.delete(RESOURCE_SLICES, one["metadata"]["name"])

    # ---- pods

    async def prepare(self, pod: Pod) -> None:
        """Have all devices of a pod's claims prepared. Raises: ClaimError, APIError, ConnectionFailed."""
        if not pod["spec"].get("resourceClaims") and not _for_resources(pod):
            return
        uid = pod["metadata"]["uid"]
        async with self._lock:
            missing: dict[str, dict[str, Any]] = {}
            for _, name in _claim_names(pod):
                claim = await self._usable(pod, name)
                known = self._prepared.get(claim["metadata"]["uid"])
                if known is None:
                    missing[claim["metadata"]["uid"]] = claim
                elif uid not in known["pods"]:
                    known["pods"].append(uid)
            try:
                for claim_uid, claim in missing.items():
                    self._prepared[claim_uid] = await self._prepare(claim, uid)
            finally:  # what was prepared before one failed must be given up some day, too
                await asyncio.to_thread(self._save)

    async def _usable(self, pod: Pod, name: str) -> dict[str, Any]:
        """Return a claim that is allocated, and for this pod."""
        metadata = pod["metadata"]
        try:
            claim: dict[str, Any] = await self._client.get(RESOURCE_CLAIMS, name, metadata["namespace"])
        except NotFound as error:
            raise ClaimError(f"failed to fetch ResourceClaim {name} referenced by pod {metadata['name']}") from error
        status = claim.get("status") or {}
        if not status.get("allocation"):
            raise ClaimError(f"resource claim {name} is not allocated")
        if metadata["uid"] not in {one.get("uid") for one in status.get("reservedFor") or ()}:
            whose = f"pod {metadata['name']}({metadata['uid']})"
            raise ClaimError(f"{whose} is not allowed to use resource claim {name}({claim['metadata']['uid']})")
        return claim

    async def _prepare(self, claim: Mapping[str, Any], uid: str) -> dict[str, Any]:
        from agent.dra import api_pb2 as api

        name, claim_uid = claim["metadata"]["name"], claim["metadata"]["uid"]
        found: dict[str, list[dict[str, Any]]] = {}
        for driver in _drivers(claim):
            request = api.NodePrepareResourcesRequest(claims=[_named(claim_uid, claim["metadata"])])
            answer = await self._call(driver, "NodePrepareResources", request)
            result = answer.claims.get(claim_uid)
            if result is None:
                raise ClaimError("NodePrepareResources skipped 1 ResourceClaim")
            if result.error:
                raise ClaimError(f"NodePrepareResources failed for ResourceClaim {name}: {result.error}")
            found[driver] = [
                {
                    "requests": list(one.request_names), "cdi": list(one.cdi_device_ids), "pool": one.pool_name,
                    "device": one.device_name,
                }
                for one in result.devices
            ]  # fmt: skip
        return {"namespace": claim["metadata"]["namespace"], "name": name, "pods": [uid], "devices": found}

    async def release(self, uid: str) -> None:
        """Give up what only this pod used. Raises: ClaimError, while a driver is away or does not let go."""
        if not any(uid in one["pods"] for one in self._prepared.values()):
            return
        from agent.dra import api_pb2 as api

        async with self._lock:
            for claim_uid, known in [*self._prepared.items()]:
                if known["pods"] == [uid]:
                    for driver in known["devices"]:
                        request = api.NodeUnprepareResourcesRequest(claims=[_named(claim_uid, known)])
                        answer = await self._call(driver, "NodeUnprepareResources", request)
                        if error := answer.claims[claim_uid].error:
                            text = f"NodeUnprepareResources failed for ResourceClaim {known['name']}: {error}"
                            raise ClaimError(text)
                    del self._prepared[claim_uid]
                elif uid in known["pods"]:
                    known["pods"].remove(uid)
                await asyncio.to_thread(self._save)

    async def _call(self, driver: str, method: str, request: Any) -> Any:
        from agent.dra import api_pb2_grpc

        endpoint = self._endpoints.get(driver)
        if endpoint is None:
            raise ClaimError(f"{method}: DRA driver {driver} is not registered")
        async with grpc.aio.insecure_channel(f"unix:{endpoint}", options=OPTIONS) as channel:
            stub: Any = api_pb2_grpc.DRAPluginStub(channel)
            try:
                return await getattr(stub, method)(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise ClaimError(f"{method} failed: {error.details()}") from error

    def cdi_names(self, pod: Pod, container: Mapping[str, Any]) -> list[str]:
        """Return the names by which the runtime knows the devices of the claims that a container uses."""
        return list(dict.fromkeys(name for *_, device in self.given(pod, container) for name in device["cdi"]))

    def given(
        self, pod: Pod, container: Mapping[str, Any]
    ) -> Iterator[tuple[Mapping[str, Any], str, str, dict[str, Any]]]:
        """Yield each device a container has by its claims: how it asked, the claim's name, the driver, the device."""
        names, told = dict(_claim_names(pod)), _for_resources(pod)
        wishes: list[tuple[Mapping[str, Any], str]] = [
            (wanted, names.get(wanted["name"], "")) for wanted in (container.get("resources") or {}).get("claims") or ()
        ]
        wishes += [
            ({"name": told["resourceClaimName"], "request": mapping["requestName"]}, told["resourceClaimName"])
            for mapping in told.get("requestMappings") or ()
            if mapping["containerName"] == container["name"]
        ]
        if not wishes:
            return
        prepared = {(one["namespace"], one["name"]): one for one in self._prepared.values()}
        for wanted, name in wishes:
            known = prepared.get((pod["metadata"]["namespace"], name))
            for driver, devices in (known or {"devices": {}})["devices"].items():
                for device in devices:
                    if _is_meant(wanted.get("request"), device["requests"]):
                        yield wanted, name, driver, device

    def _save(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._prepared))
        new.replace(self._path)


def _named(uid: str, metadata: Mapping[str, Any]) -> Any:
    from agent.dra import api_pb2 as api

    return api.Claim(namespace=metadata["namespace"], uid=uid, name=metadata["name"])


def _claim_names(pod: Pod) -> Iterator[tuple[str, str]]:
    """Yield how the pod calls each of its claims, and the claim itself, where one turned out to be needed.

    The one made for its extended resources comes last; the pod has no name for it.
    """
    made = {
        one["name"]: one.get("resourceClaimName")
        for one in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    for one in pod["spec"].get("resourceClaims") or ():
        if "resourceClaimName" in one:
            yield one["name"], one["resourceClaimName"]
        elif one["name"] not in made:
            raise ClaimError(f"pod {pod['metadata']['name']}: ResourceClaim {one['name']} not created yet")
        elif made[one["name"]]:
            yield one["name"], str(made[one["name"]])
    if told := _for_resources(pod):
        yield "", told["resourceClaimName"]


def _for_resources(pod: Pod) -> Mapping[str, Any]:
    """Return what is told of the claim behind a pod's extended resources."""
    return (pod.get("status") or {}).get("extendedResourceClaimStatus") or {}


def _drivers(claim: Mapping[str, Any]) -> list[str]:
    results = (claim["status"]["allocation"].get("devices") or {}).get("results") or ()
    return sorted({one["driver"] for one in results})


def _is_meant(request: str | None, requests: list[str]) -> bool:
    """Whether a device is for the request a container names; alternatives of one bear its name before a slash."""
    return not request or not requests or any(one.partition("/")[0] == request for one in requests)
