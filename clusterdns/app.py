"""The DNS server, put together: reads top to bottom as what happens at its start."""

import asyncio
import contextlib
import gc
import logging
from dataclasses import dataclass, field
from pathlib import Path

from clusterdns import settings
from clusterdns.forward import Forwarder, Server, Upstreams
from clusterdns.server import Server as NameServer
from clusterdns.service import NAME, NAMESPACE, Publisher
from clusterdns.views import ConfigMap, EndpointSlice, Service
from clusterdns.zone import Zone
from machinery.api.resources import CONFIG_MAPS, ENDPOINT_SLICES, SERVICES
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.probe_server import Answer, ProbeServer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """What the server is told at its start.

    Attributes:
        addresses: where it listens.
        cluster_address: the Service's address, which pods are told.
        node: names our EndpointSlice.
        upstreams: who is asked about other names; those of resolv.conf when left out.
        status_port: where health and metrics are told, on loopback; 0 for nowhere.
    """

    client: ClientConfig
    addresses: tuple[str, ...]
    cluster_address: str
    node: str
    port: int = 53
    domain: str = "cluster.local"
    upstreams: tuple[Server, ...] = ()
    resolv_conf: Path = field(default=Path("/etc/resolv.conf"))
    status_port: int = 0


async def run(config: Config) -> None:
    """Serve until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(config.client, user_agent="wherry-dns"))
        services: Informer[Service] = Informer(client, SERVICES, Service)
        slices: Informer[EndpointSlice] = Informer(client, ENDPOINT_SLICES, EndpointSlice)
        maps: Informer[ConfigMap] = Informer(
            client, CONFIG_MAPS, ConfigMap, namespace=NAMESPACE, field_selector=f"metadata.name={NAME}"
        )
        avoid = frozenset({config.cluster_address, *config.addresses})
        forwarder = Forwarder(Upstreams(config.upstreams, config.resolv_conf, avoid))
        server = NameServer(Zone(config.domain, services, slices, config.cluster_address), forwarder)
        stack.push_async_callback(server.close)
        publisher = Publisher(client, services, slices, config.cluster_address, config.node)
        _follow(server, forwarder, config, services, slices, maps)
        async with asyncio.TaskGroup() as group:
            for informer in (services, slices, maps):
                group.create_task(informer.run())
            await _serve_status(stack, config, server, forwarder, services, slices)
            # Before both are known, "no such name" would be a lie that clients remember.
            await services.synced()
            await slices.synced()
            ports = [await server.listen(address, config.port) for address in config.addresses]
            gc.freeze()  # what is here stays: it need not be looked through again
            group.create_task(publisher.run(config.addresses[0], ports[0]))


def _follow(
    server: NameServer, forwarder: Forwarder, config: Config, services: Informer[Service],
    slices: Informer[EndpointSlice], maps: Informer[ConfigMap],
) -> None:  # fmt: skip
    services.add_handler(lambda _old, _new: server.forget())
    slices.add_handler(lambda _old, _new: server.forget())

    def changed(_: ConfigMap | None, new: ConfigMap | None) -> None:
        stubs, servers = settings.read((new.data if new is not None else None) or {})
        forwarder.upstreams.stubs, forwarder.upstreams.given = stubs, servers or config.upstreams
        forwarder.forget()
        server.forget()

    maps.add_handler(changed)


async def _serve_status(
    stack: contextlib.AsyncExitStack, config: Config, server: NameServer, forwarder: Forwarder,
    services: Informer[Service], slices: Informer[EndpointSlice],
) -> None:  # fmt: skip
    if not config.status_port:
        return

    def answer(path: str) -> Answer:
        match path:
            case "/health":
                return Answer(200, "OK")
            case "/ready":
                ready = services.is_synced and slices.is_synced
                return Answer(200, "OK") if ready else Answer(503, "kubernetes")
            case "/metrics":
                return Answer(200, metrics(server, forwarder))
        return Answer(404, "404 page not found")

    probes = ProbeServer(answer)
    await probes.listen("127.0.0.1", config.status_port)
    stack.callback(probes.close)


def metrics(server: NameServer, forwarder: Forwarder) -> str:
    """Return the counters in Prometheus' text form, under CoreDNS' names."""
    counts = server.counts
    rows = [
        ('coredns_dns_requests_total{proto="udp"}', counts.udp),
        ('coredns_dns_requests_total{proto="tcp"}', counts.tcp),
        ("coredns_cache_hits_total", counts.prepared), ("coredns_forward_requests_total", forwarder.asked),
        ("coredns_forward_failures_total", counts.failed),
    ]  # fmt: skip
    lines = []
    for name, value in rows:
        bare = name.partition("{")[0]
        if f"# TYPE {bare} counter" not in lines:
            lines.append(f"# TYPE {bare} counter")
        lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"
