"""Writes a pod's status to the API, when it says something new."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from agent.dra.claims import ClaimError
from agent.dra.health import told
from agent.pod_conditions import make_condition
from agent.pod_context import PodContext
from agent.pod_state import all_specs
from agent.pod_status import make_status, timestamp
from machinery.api.resources import PODS
from machinery.client.rest import PatchType
from machinery.errors import Conflict, NotFound

log = logging.getLogger(__name__)

_DISRUPTED = "DisruptionTarget"
_GROUPS = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
# Written as null where there is nothing to say, else a merge would keep what was said before.
_CLEARED = ("reason", "message")


class PodReporter:
    """Reports one pod."""

    def __init__(self, context: PodContext) -> None:
        self._context = context
        self._written: Any = None
        self._lock = asyncio.Lock()

    def now(self) -> str | None:
        """Return the time as the API tells it."""
        return timestamp(time.time())

    def quality(self) -> str | None:
        """Return the pod's QoS class."""
        return (self._context.pod.get("status") or {}).get("qosClass")

    async def report(
        self, override: Mapping[str, Any] | None = None, *, disrupted: bool = False, is_final: bool = False
    ) -> None:
        """Write what is seen now.

        Args:
            override: replaces parts of it, such as a phase the node decided.
            is_final: all containers were ended for good.
            disrupted: the node ended the pod for its own sake, which its controllers count in another way.
        """
        context = self._context
        config = context.node.config
        pod = context.pod if override is None else {**context.pod, "status": {**self._old(), **override}}
        async with self._lock:
            status = make_status(
                pod, context.seen, context.memory, time.time(), config.node_ip, context.node.container_scheme,
                is_final=is_final,
            )  # fmt: skip
            status |= context.node.resizes.status(context.pod, status)
            self._add_health(status)
            if not context.node.runtime.is_simulated:
                await asyncio.to_thread(self._add_messages, status)
            if disrupted:
                why = ("TerminationByKubelet", str((override or {}).get("message", "")))
                old = next((one for one in self._old().get("conditions") or () if one["type"] == _DISRUPTED), None)
                generation = context.pod["metadata"].get("generation")
                status["conditions"].append(make_condition(_DISRUPTED, True, why, old, time.time(), generation))
            await self.write({**status, **(override or {})})

    def _old(self) -> Mapping[str, Any]:
        return self._context.pod.get("status") or {}

    def _add_health(self, status: dict[str, Any]) -> None:
        """Add how the devices are that containers were given."""
        node, pod, uid = self._context.node, self._context.pod, self._context.uid
        devices, claims = node.devices, node.claims
        has_devices = devices is not None and uid in devices.holders()
        has_claims = claims is not None and bool(pod["spec"].get("resourceClaims"))
        if not (has_devices or has_claims):
            return
        specs = {spec["name"]: spec for _, spec in all_specs(pod)}
        for one in (one for group in _GROUPS for one in status.get(group, ())):
            found = devices.health(uid, one["name"]) if devices is not None else []
            if claims is not None and has_claims:
                with contextlib.suppress(ClaimError):  # its claims have yet to be made
                    found += told(claims.given(pod, specs[one["name"]]), claims.health)
            if found:
                one["allocatedResourcesStatus"] = found

    def _add_messages(self, status: dict[str, Any]) -> None:
        """Add what containers left in their termination message files."""
        specs = {spec["name"]: spec for _, spec in all_specs(self._context.pod)}
        for one in (one for group in _GROUPS for one in status.get(group, ())):
            for field, attempt in (("state", one["restartCount"]), ("lastState", one["restartCount"] - 1)):
                ended = one[field].get("terminated")
                if ended is None or ended.get("message"):
                    continue
                number = attempt if "waiting" not in one["state"] else one["restartCount"]
                text = self._context.node.termination_message(
                    self._context.pod, specs[one["name"]], number, failed=ended["exitCode"] != 0
                )
                if text:
                    ended["message"] = text

    async def write(self, status: dict[str, Any]) -> None:
        """Send a status when it says something new. A pod that is gone or another by now needs none."""
        if self._context.is_static:
            self._context.keep_status(status)
        shown = self._context.shown
        if shown is None or (status, shown["metadata"]["uid"]) == self._written:
            return
        metadata = shown["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, "status": _as_patch(status)}
        began = time.perf_counter()
        try:
            await self._context.node.client.patch(
                PODS, metadata["name"], patch, metadata["namespace"], type=PatchType.STRATEGIC, subresource="status"
            )
        except (NotFound, Conflict) as error:
            log.debug("status of %s was not written: %s", self._context.name, error)
            return
        seconds = time.perf_counter() - began
        self._context.node.metrics.observe("kubelet_pod_status_sync_duration_seconds", seconds)
        self._written = (status, metadata["uid"])


def _as_patch(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategic merge patch that leaves nothing of an older status standing beside the new one."""
    body = dict(status)
    for field in ("podIPs", "hostIPs"):
        if field in body:
            body[field] = [{"$patch": "replace"}, *body[field]]
    if "conditions" in body:
        body["conditions"] = [{**dict.fromkeys(_CLEARED), **one} for one in body["conditions"]]
    return body
