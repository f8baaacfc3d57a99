"""Startup, readiness and liveness probes: exec, HTTP, TCP and gRPC.

Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc

from agent.cri.client import Runtime, RuntimeFailure

KINDS = ("startupProbe", "readinessProbe", "livenessProbe")
_NAMES = {"startupProbe": "Startup", "readinessProbe": "Readiness", "livenessProbe": "Liveness"}
_MAX_BODY = 10 * 1024
_MAX_REDIRECTS = 10
_USER_AGENT = "kube-probe/1.36"


@dataclass(frozen=True, slots=True)
class Target:
    """The container a probe looks at."""

    pod: Mapping[str, Any]
    container: Mapping[str, Any]
    container_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe has come to after its thresholds; `message` tells of the last failure."""

    kind: str
    healthy: bool
    message: str = ""


class Prober:
    """Runs the probes of one container until closed."""

    def __init__(
        self,
        runtime: Runtime,
        target: Target,
        tell: Callable[[Verdict], None],
        warn: Callable[[str, str], None],
        observe: Callable[[str, bool, float], None] = lambda *_: None,
    ) -> None:
        """Make one; it begins at once.

        Args:
            runtime: runs what is an exec probe.
            target: what is probed.
            tell: called when a verdict changes.
            warn: called with the reason and text of what is worth an event.
            observe: told of each probe: its kind (Liveness, …), whether it was good, and its seconds.
        """
        self._runtime = runtime
        self._observe = observe
        self._target = target
        self._tell = tell
        self._warn = warn
        self._started = asyncio.Event()
        if "startupProbe" not in target.container:
            self._started.set()
        self._tasks = {kind: asyncio.create_task(self._run(kind)) for kind in KINDS if target.container.get(kind)}

    def keep(self, kinds: Sequence[str]) -> None:
        """Stop all probes but those of these kinds."""
        for kind, task in self._tasks.items():
            if kind not in kinds:
                task.cancel()

    async def close(self) -> None:
        """Stop probing."""
        self.keep(())
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, kind: str) -> None:
        probe = self._target.container[kind]
        if self._runtime.is_simulated:
            self._tell(Verdict(kind, True))
            return
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        if kind != "startupProbe":
            await self._started.wait()
        told: bool | None = None
        good = bad = 0
        while True:
            began = time.perf_counter()
            healthy, message = await self._once(probe)
            self._observe(_NAMES[kind], healthy, time.perf_counter() - began)
            good, bad = (good + 1, 0) if healthy else (0, bad + 1)
            self._tell_of(kind, message, healthy=healthy)
            verdict: bool | None = None
            if good >= probe.get("successThreshold", 1):
                verdict = True
            elif bad >= probe.get("failureThreshold", 3):
                verdict = False
            if verdict is not None and verdict != told:
                told = verdict
                self._tell(Verdict(kind, verdict, message))
                if kind == "startupProbe" and verdict:
                    self._started.set()
                    return
                if kind != "readinessProbe" and not verdict:
                    return  # the container is going to be killed
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def _tell_of(self, kind: str, message: str, *, healthy: bool) -> None:
        if not healthy:
            self._warn("Unhealthy", f"{_NAMES[kind]} probe failed: {message}")
        elif message:
            self._warn("ProbeWarning", f"{_NAMES[kind]} probe warning: {message}")

    async def _once(self, probe: Mapping[str, Any]) -> tuple[bool, str]:
        seconds = probe.get("timeoutSeconds", 1)
        try:
            if "exec" in probe:
                return await self._exec(probe["exec"].get("command") or [], seconds)
            async with asyncio.timeout(seconds):
                if "httpGet" in probe:
                    return await self._http(probe["httpGet"])
                if "tcpSocket" in probe:
                    return await self._tcp(probe["tcpSocket"])
                return await self._grpc(probe["grpc"])
        except TimeoutError:
            return False, f"timed out after {seconds}s"
        except (OSError, asyncio.IncompleteReadError, ValueError, grpc.aio.AioRpcError) as error:
            return False, str(error) or type(error).__name__

    async def _exec(self, command: list[str], seconds: int) -> tuple[bool, str]:
        try:
            code, output = await self._runtime.exec_sync(self._target.container_id, command, seconds)
        except RuntimeFailure as error:
            if error.code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return False, f"command timed out: {command} timed out after {seconds}s"
            return False, str(error)
        return code == 0, output[:_MAX_BODY] if code else ""

    def port(self, port: int | str) -> int:
        """Return a port given by number or by the name of one of the container's. Raises: ValueError."""
        if isinstance(port, int) or port.isdigit():
            return int(port)
        for one in self._target.container.get("ports") or ():
            if one.get("name") == port:
                return int(one["containerPort"])
        raise ValueError(f"couldn't find port: {port!r}")

    async def _tcp(self, probe: Mapping[str, Any]) -> tuple[bool, str]:
        _, writer = await asyncio.open_connection(probe.get("host") or self._target.host, self.port(probe["port"]))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True, ""

    async def _http(self, probe: Mapping[str, Any]) -> tuple[bool, str]:
        """Ask; an answer that leads elsewhere on the same host is followed, one that leads away is good."""
        path = _path(probe.get("path", "/"))
        for _ in range(_MAX_REDIRECTS):
            code, location, body = await self._ask_http(probe, path)
            target = urlsplit(location)
            asked = probe.get("host") or self._target.host
            if 300 <= code < 400 and location and (target.hostname or asked) != asked:
                return True, f"Probe terminated redirects, Response body: {body}"
            if not 300 <= code < 400 or not location:
                return 200 <= code < 400, "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
            path = _path(urlunsplit(("", "", target.path, target.query, "")) or "/")
        return False, f"stopped after {_MAX_REDIRECTS} redirects"

    async def _ask_http(self, probe: Mapping[str, Any], path: str) -> tuple[int, str, str]:
        """Make one request; returns code, where it leads, and the body if it does. Raises: OSError, ValueError."""
        host, port = probe.get("host") or self._target.host, self.port(probe["port"])
        context: ssl.SSLContext | None = None
        if probe.get("scheme", "HTTP") == "HTTPS":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            headers = {"Host": f"{host}:{port}", "User-Agent": _USER_AGENT, "Accept": "*/*", "Connection": "close"}
            headers.update({one["name"]: one["value"] for one in probe.get("httpHeaders") or ()})
            lines = [
                f"GET {path} HTTP/1.1",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            await writer.drain()
            status = (await reader.readuntil(b"\r\n")).decode(errors="replace").split()
            location = body = ""
            while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode(errors="replace").partition(":")
                if name.lower() == "location":
                    location = value.strip()
            if location:
                body = (await reader.read(_MAX_BODY)).decode(errors="replace")
        finally:
            writer.close()
        if len(status) < 2 or not status[1].isdigit():
            raise ValueError(f"malformed HTTP response {' '.join(status)!r}")
        return int(status[1]), location, body

    async def _grpc(self, probe: Mapping[str, Any]) -> tuple[bool, str]:
        """Ask grpc.health.v1.Health: a request holds the service as field 1, an answer the status as field 1."""
        service = (probe.get("service") or "").encode()
        request = b"\x0a" + bytes([len(service)]) + service if service else b""
        async with grpc.aio.insecure_channel(f"{self._target.host}:{probe['port']}") as channel:
            answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(request)
        is_serving = answer == b"\x08\x01"
        return is_serving, "" if is_serving else "service unhealthy"


def _path(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
