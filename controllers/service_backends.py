"""Which pods stand behind a Service, and at which ports. Pure; shared by Endpoints and EndpointSlices.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from controllers.informers import InformerFactory
from controllers.views import Container, Pod, Service, ServicePort
from machinery.api.meta import ObjectKey
from machinery.api.resources import PODS, SERVICES
from machinery.client.workqueue import WorkQueue

HEADLESS_LABEL = "service.kubernetes.io/headless"


class Port(NamedTuple):
    """One port of a backend, resolved to a number."""

    name: str
    port: int
    protocol: str
    app_protocol: str | None


class Backend(NamedTuple):
    """One pod behind a Service."""

    pod: Pod
    ports: tuple[Port, ...]
    ready: bool
    serving: bool
    terminating: bool


def is_headless(service: Service) -> bool:
    """Say whether clients are given the pods' own addresses."""
    return service.spec.clusterIP == "None"


def backends(service: Service, pods: Iterable[Pod]) -> list[Backend]:
    """Return the selected pods that have an address and have not run to their end, in the order of their names."""
    wanted = (service.spec.selector or {}).items()
    # The labels first: of thousands of pods in a namespace most are no backends.
    chosen = (
        pod for pod in pods
        if wanted <= pod.metadata.labels.items() and not pod.is_terminal and addresses(pod)
    )  # fmt: skip
    return [_backend(service, pod) for pod in sorted(chosen, key=lambda pod: pod.metadata.name)]


def _backend(service: Service, pod: Pod) -> Backend:
    serving, terminating = pod.is_ready, pod.metadata.deletionTimestamp is not None
    ready = service.spec.publishNotReadyAddresses or (serving and not terminating)
    return Backend(pod, tuple(_ports(service, pod)), ready, serving, terminating)


def addresses(pod: Pod) -> list[str]:
    """Return a pod's addresses, the first of each family."""
    return [one.ip for one in pod.status.podIPs if one.ip] or ([pod.status.podIP] if pod.status.podIP else [])


def address_of(pod: Pod, version: int) -> str | None:
    """Return a pod's address of IP version 4 or 6."""
    return next((text for text in addresses(pod) if ipaddress.ip_address(text).version == version), None)


def hostname_of(service: Service, pod: Pod) -> str:
    """Return the name under which DNS gives the pod by itself, if the service is its subdomain."""
    same = pod.spec.subdomain == service.metadata.name and pod.metadata.namespace == service.metadata.namespace
    return pod.spec.hostname if same else ""


def _ports(service: Service, pod: Pod) -> Iterator[Port]:
    for port in service.spec.ports:
        number = target_port(port, pod)
        if number is not None:
            yield Port(port.name, number, port.protocol, port.appProtocol)


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """Return the number a port of a Service has in a pod; None when the pod has no port of the name."""
    target = port.targetPort or port.port
    if isinstance(target, int):
        return target
    for container in (*pod.spec.containers, *filter(_is_sidecar, pod.spec.initContainers)):
        for candidate in container.ports:
            if candidate.name == target and candidate.protocol == port.protocol:
                return candidate.containerPort
    return None


def _is_sidecar(container: Container) -> bool:
    return container.restartPolicy == "Always"


class ServiceTrigger:
    """Puts a Service into a queue when it changes, or a pod that is or was behind it does."""

    def __init__(self, informers: InformerFactory, queue: WorkQueue[ObjectKey]) -> None:
        self._queue = queue
        self.services = informers.informer(SERVICES, Service)
        self.pods = informers.informer(PODS, Pod)
        self.services.add_handler(self._service_changed)
        self.pods.add_handler(self._pod_changed)

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        changed = new or old
        if changed is not None:
            self._queue.add(changed.metadata.key)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and new is not None and _essence(old) == _essence(new):
            return
        for pod in (old, new):
            if pod is not None:
                self.add_services_of(pod)

    def add_services_of(self, pod: Pod) -> None:
        """Put the Services of a pod into the queue."""
        labels = pod.metadata.labels.items()
        for service in self.services.list(pod.metadata.namespace):
            if service.spec.selector and service.spec.selector.items() <= labels:
                self._queue.add(service.metadata.key)


def _essence(pod: Pod) -> tuple[object, ...]:
    """Return what of a pod a Service can see: an agent's other reports need not wake anyone."""
    return (
        pod.metadata.labels, pod.metadata.deletionTimestamp, addresses(pod), pod.is_ready, pod.is_terminal,
        pod.spec.nodeName,
    )  # fmt: skip
