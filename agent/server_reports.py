"""What the agent's server tells: pods, statistics, metrics, configuration, the machine's logs; and single commands.

The paths are the kubelet's. Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
"""

import asyncio
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from agent.cri.client import RuntimeFailure
from agent.node_services import NodeServices
from agent.pod_manager import PodManager
from agent.server_metrics import MetricPages
from agent.statistics import NodeStatistics, cpu_and_memory

LOGS = Path("/var/log")
_TEXT = {"Content-Type": "text/plain; version=0.0.4"}
_RUN_SECONDS = 60
_SECRET = ("cert", "key", "ca_file", "client")


class Reports:
    """Handlers of what is only read, and of /run."""

    def __init__(self, services: NodeServices, pods: PodManager) -> None:
        self._services = services
        self._pods = pods
        self._statistics = NodeStatistics(services, pods)
        self._pages = MetricPages(services, pods, self._statistics)

    def routes(self) -> list[web.RouteDef]:
        """Return the paths and who answers them."""
        return [
            web.get("/healthz", _healthy), web.get("/healthz/{check}", _healthy), web.get("/pods", self._list_pods),
            web.get("/pods/", self._list_pods), web.get("/runningpods/", self._running_pods),
            web.get("/stats/summary", self._summary), web.get("/metrics", self._metrics),
            web.get("/metrics/resource", self._resource_metrics), web.get("/metrics/cadvisor", self._cadvisor_metrics),
            web.get("/metrics/probes", self._probe_metrics), web.get("/configz", self._configz),
            web.get("/logs", self._logs), web.get("/logs/{path:.*}", self._logs),
            web.post("/run/{namespace}/{pod}/{container}", self._run),
            web.post("/run/{namespace}/{pod}/{uid}/{container}", self._run),
        ]  # fmt: skip

    async def _list_pods(self, _: web.Request) -> web.Response:
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(self._pods.pods())})

    async def _running_pods(self, _: web.Request) -> web.Response:
        running = [pod for pod in self._pods.pods() if (pod.get("status") or {}).get("phase") == "Running"]
        items = [{"metadata": pod["metadata"], "spec": pod["spec"], "status": {}} for pod in running]
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _summary(self, request: web.Request) -> web.Response:
        found = await self._statistics.summary()
        if request.query.get("only_cpu_and_memory") in ("true", "1"):
            return _json(cpu_and_memory(found))
        return _json(found)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._pages.agent(), headers=_TEXT)

    async def _probe_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._pages.probes(), headers=_TEXT)

    async def _resource_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._statistics.resource_metrics(), headers=_TEXT)

    async def _cadvisor_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._pages.cadvisor(), headers=_TEXT)

    async def _configz(self, _: web.Request) -> web.Response:
        config = self._services.config
        shown = {
            name: _plain(getattr(config, name)) for name in config.__dataclass_fields__ if not name.startswith(_SECRET)
        }
        body = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}
        known = {"maxPods": config.max_pods, "clusterDomain": config.cluster_domain, "clusterDNS": [config.cluster_dns]}
        return _json({"kubeletconfig": {**body, **known, "wherry": shown}})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        """Serve the machine's own logs; a link that leads out of their folder is none of them."""
        real = await asyncio.to_thread(_below_logs, request.match_info.get("path", ""))
        if real is None:
            raise web.HTTPNotFound(text="404 page not found")
        if real.is_file():
            return web.FileResponse(real)
        names = await asyncio.to_thread(lambda: sorted(one.name + "/" * one.is_dir() for one in real.iterdir()))
        links = "\n".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>' for name in names)
        return web.Response(text=f"<pre>\n{links}\n</pre>\n", content_type="text/html")

    async def _run(self, request: web.Request) -> web.Response:
        info = request.match_info
        found = self._pods.find(info["namespace"], info["pod"])
        last = found.seen.newest(info["container"]) if found is not None else None
        if last is None or last.state != "running":
            raise web.HTTPNotFound(text=f'container "{info["container"]}" of pod "{info["pod"]}" does not run here')
        command = (await request.post()).getall("cmd", []) or request.query.getall("cmd", [])
        words = [str(one) for one in command]
        if len(words) == 1:
            words = words[0].split()
        try:
            _, output = await self._services.runtime.exec_sync(last.id, words, _RUN_SECONDS)
        except RuntimeFailure as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        return web.Response(text=output)


def _below_logs(path: str) -> Path | None:
    real = (LOGS / path).resolve()
    return real if real.is_relative_to(LOGS.resolve()) and real.exists() else None


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | bool | dict) or value is None else str(value)
