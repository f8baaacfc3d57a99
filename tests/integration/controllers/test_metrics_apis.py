"""What an autoscaler asks metrics adapters, and how it takes their answers; a small HTTP server plays the adapter.

Shapes: https://kubernetes.io/docs/reference/external-api/custom-metrics.v1beta2/ and .../external-metrics.v1beta1/
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from controllers.hpa_metrics import MetricsReader
from controllers.hpa_replicas import Sample, Unknown
from machinery.api.meta import Resource
from machinery.api.resources import NAMESPACES, NODES
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client

INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
CUSTOM, EXTERNAL = "/apis/custom.metrics.k8s.io/v1beta2", "/apis/external.metrics.k8s.io/v1beta1"
TIME = "2026-01-02T03:04:05Z"
PACKETS = {"name": "packets-per-second", "selector": {"matchLabels": {"port": "http"}}}


def value(kind: str, name: str, amount: str, **more: Any) -> dict[str, Any]:
    described = {"kind": kind, "namespace": "shop", "name": name, "apiVersion": "/v1"}
    metric = {"name": "packets-per-second"}
    return {"describedObject": described, "metric": metric, "timestamp": TIME, "value": amount, **more}


class Adapter:
    """Answers by path; what isn't there is not found."""

    def __init__(self) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.raw_path.partition("?")[0], dict(request.query)))
        if request.path not in self.answers:
            status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "no such metric"}
            return web.json_response({**status, "code": 404}, status=404)
        return web.json_response({"kind": "MetricValueList", "items": self.answers[request.path]})


@pytest.fixture
async def adapter() -> AsyncIterator[tuple[Adapter, MetricsReader]]:
    found = Adapter()
    runner = web.ServerRunner(web.Server(found.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = ClientConfig(server=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        async with Client(config) as client:
            yield found, MetricsReader(client)
    finally:
        await runner.cleanup()


async def test_a_metric_of_pods_is_asked_for_by_their_labels(adapter: tuple[Adapter, MetricsReader]) -> None:
    server, reader = adapter
    path = f"{CUSTOM}/namespaces/shop/pods/*/packets-per-second"
    server.answers[path] = [value("Pod", "a", "1500m"), value("Pod", "b", "2k", windowSeconds=30)]
    found = await reader.of_pods(PACKETS, "shop", "app=web")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found == {"a": Sample(1500, at, 60.0), "b": Sample(2_000_000, at, 30.0)}
    assert server.asked == [(path, {"labelSelector": "app=web", "metricLabelSelector": "port=http"})]


@pytest.mark.parametrize(
    ("resource", "name", "path"),
    [
        (INGRESSES, "front", "namespaces/shop/ingresses.networking.k8s.io/front/packets-per-second"),
        (NODES, "n1", "nodes/n1/packets-per-second"),
        (NAMESPACES, "shop", "namespaces/shop/metrics/packets-per-second"),
    ],
    ids=["namespaced", "of-the-cluster", "namespace"],
)
async def test_a_metric_of_an_object_is_asked_for_by_its_name(
    adapter: tuple[Adapter, MetricsReader], resource: Resource, name: str, path: str
) -> None:
    server, reader = adapter
    server.answers[f"{CUSTOM}/{path}"] = [value(resource.kind, name, "2500m")]
    assert await reader.of_object(PACKETS, "shop", resource, name) == 2500


async def test_an_adapter_of_the_older_version_is_asked_too(adapter: tuple[Adapter, MetricsReader]) -> None:
    server, reader = adapter
    older = CUSTOM.replace("v1beta2", "v1beta1")
    server.answers[f"{older}/namespaces/shop/pods/*/packets-per-second"] = [value("Pod", "a", "7")]
    assert (await reader.of_pods(PACKETS, "shop", "app=web"))["a"].value == 7000


async def test_external_metrics_are_added_up(adapter: tuple[Adapter, MetricsReader]) -> None:
    server, reader = adapter
    path = f"{EXTERNAL}/namespaces/shop/queue_length"
    row = {"metricName": "queue_length", "metricLabels": {"queue": "work"}, "timestamp": TIME}
    server.answers[path] = [{**row, "value": "30"}, {**row, "value": "500m"}]
    metric = {"name": "queue_length", "selector": {"matchExpressions": [{"key": "queue", "operator": "In", "values": ["work"]}]}}  # fmt: skip
    assert await reader.of_external(metric, "shop") == 30_500
    assert server.asked == [(path, {"labelSelector": "queue in (work)"})]


async def test_what_adapters_do_not_have_is_told_in_kubernetes_words(adapter: tuple[Adapter, MetricsReader]) -> None:
    server, reader = adapter
    with pytest.raises(Unknown, match="unable to fetch metrics from custom metrics API: no such metric"):
        await reader.of_pods(PACKETS, "shop", "app=web")
    with pytest.raises(Unknown, match="unable to fetch metrics from external metrics API: no such metric"):
        await reader.of_external({"name": "queue_length"}, "shop")
    server.answers[f"{EXTERNAL}/namespaces/shop/queue_length"] = []
    with pytest.raises(Unknown, match="no metrics returned from external metrics API"):
        await reader.of_external({"name": "queue_length"}, "shop")
