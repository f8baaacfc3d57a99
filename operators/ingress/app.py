"""The controller, put together: it watches, writes HAProxy's configuration, and has it taken.

No connection is lost by that: HAProxy runs as a master with workers. Told to reload, it hands its listeners to a new
worker, and the old one serves its connections to their end.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from machinery.api.meta import ObjectKey, Resource
from machinery.api.resources import ENDPOINT_SLICES, INGRESS_CLASSES, INGRESSES, NAMESPACES, SECRETS, SERVICES
from machinery.client.informer import Informer
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import AlreadyExists, APIError
from operators.ingress import gateway, haproxy, model
from operators.ingress.grants import Grants
from operators.ingress.views import EndpointSlice, Ingress, IngressClass, Namespace, Secret, Service

log = logging.getLogger(__name__)

Object = dict[str, Any]

CONTROLLER, CLASS = "wherry/ingress", "wherry"
_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_DEFAULT = "ingressclass.kubernetes.io/is-default-class"
_SERVICE_LABEL = "kubernetes.io/service-name"
_GATHER_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_KINDS_SECONDS = 10.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Config:
    """What the controller is told: where HAProxy listens, and the addresses to tell in the status."""

    client: ClientConfig
    listen: haproxy.Listen
    addresses: tuple[str, ...]


async def run(config: Config) -> None:
    """Serve until cancelled."""
    config.listen.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with Client(config.client, user_agent="wherry-ingress") as client:
        controller = _Controller(config, client)
        try:
            async with asyncio.TaskGroup() as group:
                for informer in controller.informers:
                    group.create_task(informer.run())
                for informer in controller.informers:
                    await informer.synced()
                group.create_task(controller.run())
                group.create_task(controller.make_gateway_kinds())
                await controller.kinds_are_served()
                for informer in controller.of_gateways:
                    group.create_task(informer.run())
        finally:
            await controller.proxy.stop()


class _Controller:
    def __init__(self, config: Config, client: Client) -> None:
        self._config = config
        self._client = client
        self.proxy = Proxy(config.listen)
        self._ingresses: Informer[Ingress] = Informer(client, INGRESSES, Ingress)
        self._classes: Informer[IngressClass] = Informer(client, INGRESS_CLASSES, IngressClass)
        self._services: Informer[Service] = Informer(client, SERVICES, Service)
        self._slices: Informer[EndpointSlice] = Informer(client, ENDPOINT_SLICES, EndpointSlice)
        self._secrets: Informer[Secret] = Informer(client, SECRETS, Secret, field_selector="type=kubernetes.io/tls")
        self._slices.add_index(
            "service", lambda one: [f"{one.metadata.namespace}/{one.metadata.labels.get(_SERVICE_LABEL)}"]
        )
        self._namespaces: Informer[Namespace] = Informer(client, NAMESPACES, Namespace)
        self.informers: tuple[Informer[Any], ...] = (
            self._ingresses, self._classes, self._services, self._slices, self._secrets, self._namespaces,
        )  # fmt: skip
        # Apart: without its kinds, or with an old version of them, Ingresses are served all the same.
        self._gateway_classes: Informer[Object] = Informer(client, gateway.GATEWAY_CLASSES, dict)
        self._gateways: Informer[Object] = Informer(client, gateway.GATEWAYS, dict)
        self._routes: Informer[Object] = Informer(client, gateway.HTTP_ROUTES, dict)
        self._grants: Informer[Object] = Informer(client, gateway.REFERENCE_GRANTS, dict)
        self.of_gateways = (self._gateway_classes, self._gateways, self._routes, self._grants)
        self._changed = asyncio.Event()
        for informer in (*self.informers, *self.of_gateways):
            informer.add_handler(lambda _old, _new: self._changed.set())
        self._cluster = model.Cluster(
            lambda namespace, name: self._services.get(ObjectKey(namespace, name)),
            lambda namespace, name: self._slices.by_index("service", f"{namespace}/{name}"),
            lambda namespace, name: self._secrets.get(ObjectKey(namespace, name)),
            self._labels,
            lambda: Grants(self._grants.list()),
        )

    def _labels(self, name: str) -> Mapping[str, str] | None:
        namespace = self._namespaces.get(ObjectKey("", name))
        return namespace.metadata.labels if namespace is not None else None

    async def run(self) -> None:
        await self._make_class()
        while True:
            self._changed.clear()
            mine = self._mine()
            try:
                wanted = model.build(mine, self._cluster)
                answer = gateway.extend(
                    wanted, self._gateway_classes.list(), self._gateways.list(), self._routes.list(), self._cluster,
                    self._config.addresses, (self._config.listen.http_port, self._config.listen.https_port),
                )  # fmt: skip
                await self.proxy.show(wanted)
                await self._tell(mine)
                await self._tell_gateways(answer)
                await self._changed.wait()
                await asyncio.sleep(_GATHER_SECONDS)
            except (OSError, ProxyError, APIError, ConnectionFailed) as error:
                log.warning("ingress: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _make_class(self) -> None:
        """Our class is the default unless there is one already."""
        is_first = not any(one.metadata.annotations.get(_DEFAULT) == "true" for one in self._classes.list())
        annotations = {_DEFAULT: "true"} if is_first else {}
        body = {"metadata": {"name": CLASS, "annotations": annotations}, "spec": {"controller": CONTROLLER}}
        with contextlib.suppress(AlreadyExists):
            await self._client.create(INGRESS_CLASSES, body)

    async def make_gateway_kinds(self) -> None:
        """Have the Gateway API's kinds and a class of ours, where they are not there."""
        text = resources.files("manifests").joinpath("gateway-api.yaml").read_text()
        for definition in yaml.safe_load_all(text):
            with contextlib.suppress(AlreadyExists):
                await self._client.create(_DEFINITIONS, definition)
        await self._gateway_classes.synced()
        body = {"metadata": {"name": CLASS}, "spec": {"controllerName": gateway.CONTROLLER}}
        with contextlib.suppress(AlreadyExists):
            await self._client.create(gateway.GATEWAY_CLASSES, body)

    async def kinds_are_served(self) -> None:
        """Wait for the Gateway API's kinds, for a while: who asks too soon is told to come back much later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _KINDS_SECONDS
        for resource in (one.resource for one in self.of_gateways):
            while loop.time() < deadline:
                with contextlib.suppress(APIError, ConnectionFailed):
                    await self._client.list(resource)
                    break
                await asyncio.sleep(_GATHER_SECONDS)

    async def _tell_gateways(self, answer: gateway.Answer) -> None:
        for (resource, namespace, name), status in answer.statuses.items():
            informer = next(one for one in self.of_gateways if one.resource == resource)
            found = informer.get(ObjectKey(namespace, name))
            if found is not None and not status.items() <= (found.get("status") or {}).items():
                await self._client.patch(resource, name, {"status": status}, namespace, subresource="status")

    def _mine(self) -> list[Ingress]:
        ours = [one for one in self._classes.list() if one.spec.get("controller") == CONTROLLER]
        names = frozenset(one.metadata.name for one in ours)
        is_default = any(one.metadata.annotations.get(_DEFAULT) == "true" for one in ours)
        return [one for one in self._ingresses.list() if model.is_ours(one, names, is_default=is_default)]

    async def _tell(self, ingresses: list[Ingress]) -> None:
        wanted = [{"ip": address} for address in self._config.addresses]
        for one in ingresses:
            present = (one.status.get("loadBalancer") or {}).get("ingress") or []
            if [row.get("ip") for row in present] != [row["ip"] for row in wanted]:
                patch = {"status": {"loadBalancer": {"ingress": wanted}}}
                await self._client.patch(
                    INGRESSES, one.metadata.name, patch, one.metadata.namespace, subresource="status"
                )


class ProxyError(Exception):
    """HAProxy does not take its configuration; the one before goes on."""


class Proxy:
    """One HAProxy: its files and its process."""

    def __init__(self, listen: haproxy.Listen) -> None:
        self._listen = listen
        self._shown: Any = None
        self._process: asyncio.subprocess.Process | None = None

    async def show(self, wanted: model.Model) -> None:
        """Have HAProxy serve a model. Raises: ProxyError, OSError."""
        if wanted == self._shown and self._process is not None and self._process.returncode is None:
            return
        await asyncio.to_thread(self._write, wanted)
        candidate, file = self._listen.folder / "haproxy.cfg.new", self._listen.folder / "haproxy.cfg"
        check = await asyncio.create_subprocess_exec(
            "haproxy", "-c", "-q", "-f", str(candidate), stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await check.communicate()
        if check.returncode != 0:
            raise ProxyError(complaint.decode(errors="replace").strip()[:1000])
        candidate.replace(file)
        if self._process is None or self._process.returncode is not None:
            # -W: a master and its workers; -db: in the foreground. It ends with us, however we end.
            argv = ["setpriv", "--pdeathsig", "TERM", "haproxy", "-W", "-db", "-f", str(file)]
            self._process = await asyncio.create_subprocess_exec(*argv)
        else:
            self._process.send_signal(signal.SIGUSR2)
        self._shown = wanted

    def _write(self, wanted: model.Model) -> None:
        folder = self._listen.folder
        for one in wanted.certificates:
            _private(folder / f"{one.name}.pem", one.pem)
        _private(folder / "certificates", haproxy.certificate_list(wanted, self._listen).encode())
        _private(folder / "haproxy.cfg.new", haproxy.configuration(wanted, self._listen).encode())

    async def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()


def _private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
