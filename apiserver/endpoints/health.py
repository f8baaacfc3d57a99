"""Health, version and metrics.

Source: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web

from apiserver.endpoints.reading import respond
from apiserver.metrics import exposition
from apiserver.request import Call
from apiserver.storage.interface import StoreError
from apiserver.storage.watch_cache import WatchCache
from machinery import errors

PATHS = ("/healthz", "/livez", "/readyz")
GIT_VERSION = "v1.36.0+wherry"
_STORE_SECONDS = 2.0
# What upstream's server starts step by step, by the names its users look for: here it is one of two steps.
_FILLED = (
    "poststarthook/generic-apiserver-start-informers", "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers", "poststarthook/crd-informer-synced",
    "poststarthook/start-kube-apiserver-admission-initializer", "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller", "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration", "autoregister-completion",
    "poststarthook/apiservice-openapi-controller", "poststarthook/apiservice-openapiv3-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
)  # fmt: skip
_BOOTSTRAPPED = (
    "poststarthook/bootstrap-controller", "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-kubernetes-service-cidr-controller", "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer", "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/start-cluster-authentication-info-controller",
)  # fmt: skip
_READY_ALONE = ("informer-sync", "shutdown")


class Health:
    """Answers whether the server lives and is ready, check by check."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self.bootstrapped = asyncio.Event()
        self.stopping = False
        self._checks: Mapping[str, Callable[[], Awaitable[str]]] = {
            "ping": self._ping, "log": self._ping, "etcd": self.store_problem, "informer-sync": self._informers,
            **dict.fromkeys(_FILLED, self._informers), **dict.fromkeys(_BOOTSTRAPPED, self._bootstrap),
            "shutdown": self._shutdown,
        }  # fmt: skip

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer /healthz, /livez or /readyz, or one check below them. Raises: NotFound for an unknown check."""
        parts = call.info.path.strip("/").split("/", 1)
        names = list(self._checks)
        if parts[0] != "readyz":
            names = [name for name in names if name not in _READY_ALONE]
        if len(parts) > 1:
            if parts[1] not in names:
                raise errors.NotFound(f"the server could not find the check {parts[1]}")
            names = [parts[1]]
        excluded = set(call.http.query.getall("exclude", []))
        results = {name: await self._checks[name]() if name not in excluded else None for name in names}
        failed = [name for name, problem in results.items() if problem]
        if not failed and "verbose" not in call.query:
            return web.Response(text="ok")
        lines = [_line(name, problem) for name, problem in results.items()]
        lines.append(f"{parts[0]} check failed" if failed else f"{parts[0]} check passed")
        return web.Response(text="\n".join(lines) + "\n", status=500 if failed else 200)

    async def _ping(self) -> str:
        return ""

    async def store_problem(self) -> str:
        """Return why the store does not answer; empty while it does."""
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await self._cache.store.health()
        except (StoreError, TimeoutError) as error:
            return f"error getting data from the store: {error}"
        return ""

    async def _informers(self) -> str:
        return "" if self._cache.ready.is_set() else "the watch cache has not read the store yet"

    async def _shutdown(self) -> str:
        return "process is shutting down" if self.stopping else ""

    async def _bootstrap(self) -> str:
        return "" if self.bootstrapped.is_set() else "not finished"


def _line(name: str, problem: str | None) -> str:
    if problem is None:
        return f"[+]{name} excluded: ok"
    return f"[-]{name} failed: {problem}" if problem else f"[+]{name} ok"


async def version(_: Call) -> web.StreamResponse:
    """Answer /version."""
    body = {
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(), "platform": f"linux/{_architecture()}",
    }  # fmt: skip
    return respond(orjson.dumps(body))


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


async def metrics(_: Call) -> web.StreamResponse:
    """Answer /metrics in the Prometheus text format."""
    return web.Response(body=await asyncio.to_thread(exposition), headers={"Content-Type": "text/plain; version=0.0.4"})
