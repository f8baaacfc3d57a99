"""Applies the rules of rules.py whenever services, endpoints or host ports change."""

import asyncio
import contextlib
import logging
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.config import AgentConfig
from agent.network.rules import HostPort, Network, compile_rules, service_ports
from agent.pod_manager import PodManager
from machinery.client.informer import Informer

log = logging.getLogger(__name__)

Object = dict[str, Any]
_RETRY_SECONDS = 1.0
# Changes that come close together are written together.
_GATHER_SECONDS = 0.01
_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/route_localnet": "1"}


class ServiceProxy:
    """Keeps this node's rules in step with the API."""

    def __init__(
        self, config: AgentConfig, services: Informer[Object], slices: Informer[Object], pods: PodManager
    ) -> None:
        self._config = config
        self._services = services
        self._slices = slices
        self._pods = pods
        self._changed = asyncio.Event()
        self._written = ""
        services.add_handler(self._note)
        slices.add_handler(self._note)
        pods.on_network_change = self._changed.set

    def _note(self, _: Object | None, __: Object | None) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Write rules for ever."""
        await asyncio.to_thread(prepare_host, self._config.service_cidr)
        await self._services.synced()
        await self._slices.synced()
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._changed.clear()
            rules = compile_rules(self._network())
            if rules == self._written:
                continue
            try:
                await apply(rules)
                self._written = rules
            except RuntimeError as error:
                log.error("the service rules were not written: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._changed.set()

    def _network(self) -> Network:
        return Network(
            self._config.pod_cidr, self._config.service_cidr, self._config.bridge,
            service_ports(self._services.list(), self._slices.list()), list(self._host_ports()),
        )  # fmt: skip

    def _host_ports(self) -> Iterator[HostPort]:
        for runtime in self._pods.runtimes():
            ip, spec = runtime.seen.ip, runtime.pod["spec"]
            if not ip or spec.get("hostNetwork"):
                continue
            for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
                for port in container.get("ports") or ():
                    if port.get("hostPort"):
                        yield _host_port(port, ip)


def _host_port(port: Mapping[str, Any], ip: str) -> HostPort:
    protocol = port.get("protocol", "TCP").lower()
    return HostPort(protocol, port.get("hostIP", ""), port["hostPort"], ip, port["containerPort"])


async def apply(rules: str) -> None:
    """Hand rules to nft as one transaction. Raises: RuntimeError with what it says."""
    done = await asyncio.to_thread(
        subprocess.run, ["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())


def prepare_host(service_cidr: str) -> None:
    """Let this machine forward, and reach service addresses itself: those need a route, though none is ever used."""
    for name, value in _SYSCTLS.items():
        with contextlib.suppress(OSError):
            Path("/proc/sys", name).write_text(value)
    argv = ["ip", "route", "replace", service_cidr, "dev", "lo"]
    subprocess.run(argv, check=False, capture_output=True)
