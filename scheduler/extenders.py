"""Extenders: processes of other people that are asked over HTTP which nodes suit, and how well, and may bind.

Source: https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-Extender
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from machinery.api.resources import NODES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError
from scheduler.durations import duration_seconds
from scheduler.framework.plugin import MAX_SCORE
from scheduler.pods import Pod

Object = Mapping[str, Any]
_MAX_EXTENDER_SCORE = 10


class ExtenderFailed(Exception):
    """An extender did not answer, or said that it failed."""


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

    async def filter(self, pod: Object, names: list[str]) -> tuple[list[str], dict[str, str]]:
        """Return the nodes it lets through, and why it does not the others. Raises: ExtenderFailed."""
        verb = self.settings.get("filterVerb")
        if not verb:
            return names, {}
        answer = await self._ask(verb, await self._arguments(pod, names))
        if answer.get("error"):
            raise ExtenderFailed(str(answer["error"]))
        failed = {**(answer.get("failedNodes") or {}), **(answer.get("failedAndUnresolvableNodes") or {})}
        if answer.get("nodenames") is not None:
            passed = set(answer["nodenames"])
        else:
            items = (answer.get("nodes") or {}).get("items") or ()
            passed = {one["metadata"]["name"] for one in items}
        return [name for name in names if name in passed], failed

    async def prioritize(self, pod: Object, names: list[str]) -> dict[str, int]:
        """Return what it adds to the scores of nodes. Raises: ExtenderFailed."""
        verb = self.settings.get("prioritizeVerb")
        if not verb:
            return {}
        answer = await self._ask(verb, await self._arguments(pod, names))
        step = self.weight * (MAX_SCORE // _MAX_EXTENDER_SCORE)
        return {one["host"]: int(one["score"]) * step for one in answer or ()}

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
            config = ClientConfig(
                server=f"{scheme}://{parts.netloc}",
                ca_file=tls.get("caFile", ""),
                cert_file=tls.get("certFile", ""),
                key_file=tls.get("keyFile", ""),
                insecure=bool(tls.get("insecure")),
            )
            timeout = duration_seconds(one["httpTimeout"]) if one.get("httpTimeout") else 30.0
            client = Client(config, user_agent="wherry-scheduler", timeout_seconds=timeout)
            found.append(Extender(one, await stack.enter_async_context(client), api))
        yield found
