"""Extenders: processes of other people that are asked over HTTP which nodes suit, and how well, and may bind.

Source: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-Extender
"""

import base64
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from machinery.api.resources import NODES, PODS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, NotFound
from scheduler.durations import duration_seconds
from scheduler.framework.plugin import MAX_SCORE, Victims
from scheduler.pods import Pod
from scheduler.table import Node, NodeTable

Object = Mapping[str, Any]
_MAX_EXTENDER_SCORE = 10
_TIMEOUT_SECONDS = 5.0  # as upstream


class ExtenderFailed(Exception):
    """An extender did not answer, or said that it failed."""


class Filtered(NamedTuple):
    """What an extender says of nodes."""

    names: list[str]
    """Those it lets through."""
    failed: dict[str, str]
    """Why it does not others."""
    hopeless: dict[str, str]
    """Why it does not others, where pods leaving would not help."""


class Extender:
    """One extender."""

    def __init__(self, settings: Object, client: Client, api: Client) -> None:
        self.settings = settings
        self._api = api
        self.ignorable = bool(settings.get("ignorable"))
        self.weight = int(settings.get("weight") or 1)
        self._client = client
        self._path = urlsplit(settings["urlPrefix"]).path.rstrip("/")
        self._managed = frozenset(one["name"] for one in settings.get("managedResources") or ())

    @property
    def binds(self) -> bool:
        """Whether it binds pods itself."""
        return bool(self.settings.get("bindVerb"))

    def is_interested(self, pod: Pod) -> bool:
        """Say whether it wants to be asked about a pod."""
        return not self._managed or not self._managed.isdisjoint(pod.shape.needs.requests)

    @property
    def preempts(self) -> bool:
        """Whether it has a say in which pods are preempted."""
        return bool(self.settings.get("preemptVerb"))

    async def filter(self, pod: Object, names: list[str]) -> Filtered:
        """Return which nodes it lets through. Raises: ExtenderFailed."""
        verb = self.settings.get("filterVerb")
        if not verb:
            return Filtered(names, {}, {})
        answer = await self._ask(verb, await self._arguments(pod, names))
        if answer.get("error"):
            raise ExtenderFailed(str(answer["error"]))
        if answer.get("nodenames") is not None:
            passed = set(answer["nodenames"])
        else:
            items = (answer.get("nodes") or {}).get("items") or ()
            passed = {one["metadata"]["name"] for one in items}
        if unknown := sorted(passed.difference(names)):
            text = f'claims a filtered node "{unknown[0]}" which is not found in the input node list'
            raise ExtenderFailed(f'extender "{self.settings["urlPrefix"]}" {text}')
        hopeless = dict(answer.get("failedAndUnresolvableNodes") or {})
        failed = {name: why for name, why in (answer.get("failedNodes") or {}).items() if name not in hopeless}
        return Filtered([name for name in names if name in passed], failed, hopeless)

    async def prioritize(self, pod: Object, names: list[str]) -> dict[str, int]:
        """Return what it adds to the scores of nodes. Raises: ExtenderFailed."""
        verb = self.settings.get("prioritizeVerb")
        if not verb:
            return {}
        answer = await self._ask(verb, await self._arguments(pod, names))
        step = self.weight * (MAX_SCORE // _MAX_EXTENDER_SCORE)
        return {one["host"]: int(one["score"]) * step for one in answer or ()}

    async def preempt(self, pod: Object, options: Mapping[str, Victims], table: NodeTable) -> dict[str, Victims]:
        """Return which of these nodes remain, and who would have to go there. Raises: ExtenderFailed."""
        if self.settings.get("nodeCacheCapable"):
            theirs = {
                name: {"pods": [{"uid": pod.uid} for pod in one.pods], "numPDBViolations": one.violations}
                for name, one in options.items()
            }
            answer = await self._ask(self.settings["preemptVerb"], {"pod": pod, "nodeNameToMetaVictims": theirs})
        else:
            whole = {
                name: {"pods": await self._whole(one.pods), "numPDBViolations": one.violations}
                for name, one in options.items()
            }
            answer = await self._ask(self.settings["preemptVerb"], {"pod": pod, "nodeNameToVictims": whole})
        found = {}
        for name, given in (answer.get("nodeNameToMetaVictims") or {}).items():
            pods = tuple(self._find(table.by_name.get(name), one) for one in (given or {}).get("pods") or ())
            if pods:
                found[name] = Victims(pods, int(given.get("numPDBViolations") or 0))
            elif not self.ignorable:
                raise ExtenderFailed(f'expected at least one victim pod on node "{name}"')
        return found

    def _find(self, node: Node | None, given: Object) -> Pod:
        uid, url = given.get("uid", ""), self.settings["urlPrefix"]
        if node is None:
            raise ExtenderFailed(f"extender: {url} claims to preempt pods on a node that is not there")
        if (pod := node.pods.get(uid)) is None:
            text = f"claims to preempt pod (UID: {uid}) on node: {node.name}, but the pod is not found on that node"
            raise ExtenderFailed(f"extender: {url} {text}")
        return pod

    async def _whole(self, pods: Sequence[Pod]) -> list[Any]:
        found = []
        for pod in pods:  # whole: the scheduler keeps little of a pod
            with contextlib.suppress(NotFound):
                found.append(await self._api.get(PODS, pod.key.name, pod.key.namespace))
        return found

    async def bind(self, pod: Pod, node: str) -> None:
        """Have a pod bound. Raises: ExtenderFailed."""
        arguments = {
            "podName": pod.name, "podNamespace": pod.key.namespace, "podUID": pod.uid, "node": node,
        }  # fmt: skip
        answer = await self._ask(self.settings["bindVerb"], arguments)
        if answer and answer.get("error"):
            raise ExtenderFailed(str(answer["error"]))

    async def _arguments(self, pod: Object, names: list[str]) -> dict[str, Any]:
        if self.settings.get("nodeCacheCapable"):
            return {"pod": pod, "nodes": None, "nodenames": names}
        wanted = set(names)
        listed = (await self._api.list(NODES))["items"]  # whole: the scheduler keeps little of a node
        items = [one for one in listed if one["metadata"]["name"] in wanted]
        return {"pod": pod, "nodes": {"metadata": {}, "items": items}, "nodenames": None}

    async def _ask(self, verb: str, arguments: Object) -> Any:
        headers = {"Content-Type": "application/json"}
        try:
            body = await self._client.request(
                "POST", f"{self._path}/{verb}", body=orjson.dumps(arguments), headers=headers
            )
            return orjson.loads(body)
        except (APIError, ConnectionFailed, orjson.JSONDecodeError) as error:
            raise ExtenderFailed(f"extender {self.settings['urlPrefix']}: {error}") from error


@contextlib.asynccontextmanager
async def extenders(given: Sequence[Object], api: Client) -> AsyncIterator[list[Extender]]:
    """Yield the extenders that some settings name, with their connections open while the block lasts."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for one in given:
            parts, tls = urlsplit(one["urlPrefix"]), one.get("tlsConfig") or {}
            scheme = "https" if one.get("enableHTTPS") else parts.scheme or "http"
            authority = tls.get("caFile") or tls.get("caData")
            config = ClientConfig(
                server=f"{scheme}://{parts.netloc}",
                ca_file=tls.get("caFile", ""),
                ca_data=base64.b64decode(tls.get("caData") or ""),
                cert_file=tls.get("certFile", ""),
                cert_data=base64.b64decode(tls.get("certData") or ""),
                key_file=tls.get("keyFile", ""),
                key_data=base64.b64decode(tls.get("keyData") or ""),
                insecure=bool(tls.get("insecure")) or (bool(one.get("enableHTTPS")) and not authority),
                tls_server_name=tls.get("serverName", ""),
            )
            timeout = duration_seconds(one["httpTimeout"]) if one.get("httpTimeout") else _TIMEOUT_SECONDS
            client = Client(config, user_agent="wherry-scheduler", timeout_seconds=timeout)
            found.append(Extender(one, await stack.enter_async_context(client), api))
        yield found
