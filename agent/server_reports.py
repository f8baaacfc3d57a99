"""What the agent's server tells: pods, statistics, metrics, configuration, the machine's logs; and single commands.

The paths are the kubelet's. Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
"""

import asyncio
import contextlib
import html
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from agent.config import AgentConfig
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
            web.post("/checkpoint/{namespace}/{pod}/{container}", self._checkpoint),
            web.post("/run/{namespace}/{pod}/{container}", self._run),
            web.post("/run/{namespace}/{pod}/{uid}/{container}", self._run),
        ]  # fmt: skip

    async def _list_pods(self, _: web.Request) -> web.Response:
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(self._pods.pods())})

    async def _running_pods(self, _: web.Request) -> web.Response:
        """Tell what runs as the runtime knows it: no more of a pod than whose it is, and its containers' images."""
        items = []
        for one in self._pods.runtimes():
            newest = [attempts[0] for attempts in one.seen.containers.values() if attempts]
            running = [each for each in newest if each.state == "running"]
            if not running:
                continue
            known = {key: one.pod["metadata"][key] for key in ("name", "namespace", "uid")}
            containers = [
                {"name": each.name, "image": each.image_id or each.image, "resources": {}} for each in running
            ]
            items.append({"metadata": known, "spec": {"containers": containers}, "status": {}})
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
        return _json({"kubeletconfig": {**_configuration(config), "wherry": shown}})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        """Serve the machine's own logs; a link that leads out of their folder is none of them."""
        if "query" in request.query:
            return await _query_logs(request)
        real = await asyncio.to_thread(_below_logs, request.match_info.get("path", ""))
        if real is None:
            raise web.HTTPNotFound(text="404 page not found")
        if real.is_file():
            return web.FileResponse(real)
        names = await asyncio.to_thread(lambda: sorted(one.name + "/" * one.is_dir() for one in real.iterdir()))
        links = "\n".join(f'<a href="{html.escape(name)}">{html.escape(name)}</a>' for name in names)
        return web.Response(text=f"<pre>\n{links}\n</pre>\n", content_type="text/html")

    async def _checkpoint(self, request: web.Request) -> web.Response:
        """Write a container's state to an archive in the agent's folder."""
        info = request.match_info
        found, name = self._pods.find(info["namespace"], info["pod"]), info["container"]
        if found is None:
            raise web.HTTPNotFound(text="pod does not exist")
        last = found.seen.newest(name)
        if last is None or last.state != "running":
            raise web.HTTPNotFound(text=f"container {name} does not exist")
        folder = self._services.config.data_dir / "checkpoints"
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        path = folder / f"checkpoint-{info['pod']}_{info['namespace']}-{name}-{stamp}.tar"
        seconds = request.query.get("timeout", "0")
        try:
            await self._services.runtime.checkpoint(last.id, path, int(seconds) if seconds.isdigit() else 0)
        except RuntimeFailure as error:
            code = "".join(part.title() for part in error.code.name.split("_"))
            whose = f"{info['namespace']}/{info['pod']}/{name}"
            text = f"checkpointing of {whose} failed (rpc error: code = {code} desc = {error})"
            raise web.HTTPInternalServerError(text=text) from error
        return _json({"items": [str(path)]})

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


async def _query_logs(request: web.Request) -> web.StreamResponse:
    from agent import log_query

    try:
        query = log_query.parse(request.query)
        if query.file and await asyncio.to_thread(log_query.find_log, query.file) is None:
            raise log_query.BadQuery(f"query: Invalid value: {query.file}: no such file or directory")
    except log_query.BadQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    response = web.StreamResponse(headers={"Content-Type": "text/plain;charset=UTF-8"})
    if request.headers.get("Accept-Encoding") == "gzip":
        response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):
        async for piece in log_query.answer(query):
            await response.write(piece)
        await response.write_eof()
    return response


def _configuration(config: AgentConfig) -> dict[str, Any]:
    """Return as a KubeletConfiguration what of one holds here; times are told as kubelets tell them."""
    now = config.settings
    return {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.address, "port": config.port, "maxPods": now.max_pods, "podCIDR": config.pod_cidr,
        "clusterDomain": now.cluster_domain, "clusterDNS": list(now.cluster_dns),
        "staticPodPath": str(config.static_pod_dir or ""), "podLogsDir": str(config.logs_dir),
        "containerRuntimeEndpoint": f"unix://{config.runtime_socket}", "cpuManagerPolicy": config.cpu_manager_policy,
        "memoryManagerPolicy": "None", "topologyManagerPolicy": "none", "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True, "enforceNodeAllocatable": ["pods"], "kubeReserved": now.reserved, "failSwapOn": False,
        "seccompDefault": True, "serializeImagePulls": now.max_pulls == 1, "readOnlyPort": 0, "enableServer": True,
        "enableDebuggingHandlers": True, "enableSystemLogHandler": True, "enableSystemLogQuery": True,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"}, "rotateCertificates": config.rotate_certificates,
        "serverTLSBootstrap": config.rotate_certificates,
        "evictionHard": now.eviction_hard, "imageMinimumGCAge": shown(now.image_min_age),
        "imageMaximumGCAge": shown(now.image_max_age),
        "imageGCHighThresholdPercent": now.image_gc_high, "imageGCLowThresholdPercent": now.image_gc_low,
        "nodeStatusUpdateFrequency": shown(now.status_seconds), "nodeStatusReportFrequency": shown(now.report_seconds),
        "nodeLeaseDurationSeconds": now.lease_seconds, "shutdownGracePeriod": shown(now.shutdown_seconds),
        "shutdownGracePeriodCriticalPods": shown(now.shutdown_critical_seconds),
        "shutdownGracePeriodByPodPriority": [
            {"priority": priority, "shutdownGracePeriodSeconds": int(length)}
            for priority, length in now.shutdown_by_priority
        ],
        "containerLogMaxSize": str(now.log_max_bytes), "containerLogMaxFiles": now.log_max_files,
        "containerLogMonitorInterval": shown(now.log_look_seconds), "allowedUnsafeSysctls": list(now.unsafe_sysctls),
        "podPidsLimit": now.pids_limit or -1, "maxParallelImagePulls": now.max_pulls or None,
        "crashLoopBackOff": {"maxContainerRestartPeriod": shown(now.max_backoff_seconds)},
    }  # fmt: skip


def shown(seconds: float) -> str:
    """Return a duration as Go shows it, such as 1m30s."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    rest = f"{seconds - whole + whole % 60:g}s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + rest


def _below_logs(path: str) -> Path | None:
    real = (LOGS / path).resolve()
    return real if real.is_relative_to(LOGS.resolve()) and real.exists() else None


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | bool | dict) or value is None else str(value)
