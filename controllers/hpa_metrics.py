"""Reading metrics from the APIs that metrics servers and adapters serve.

Sources: https://kubernetes.io/docs/reference/external-api/metrics.v1beta1/,
https://kubernetes.io/docs/reference/external-api/custom-metrics.v1beta2/,
https://kubernetes.io/docs/reference/external-api/external-metrics.v1beta1/
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson

from controllers.hpa_replicas import Sample, Unknown
from machinery.api.meta import Resource, parse_time
from machinery.api.quantity import cpu_millis
from machinery.api.selectors import from_label_selector
from machinery.client.rest import Client
from machinery.errors import APIError, NotFound

_RESOURCES = "/apis/metrics.k8s.io/v1beta1"
_CUSTOM = ("/apis/custom.metrics.k8s.io/v1beta2", "/apis/custom.metrics.k8s.io/v1beta1")
_EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
_WINDOW_SECONDS = 60.0


def thousandths(text: str | float) -> int:
    """Return a quantity in thousandths, rounded up. Raises: QuantityError."""
    return cpu_millis(text)


def seconds(text: str) -> float:
    """Return a Go duration such as "30s" or "1m0.5s" in seconds."""
    total, number = 0.0, ""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    for letter in text:
        if letter in units and number:
            total, number = total + float(number) * units[letter], ""
        elif letter.isdigit() or letter == ".":
            number += letter
    return total or _WINDOW_SECONDS


class MetricsReader:
    """Asks for metrics. All methods raise Unknown when there are none to be had."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def of_resource(self, name: str, namespace: str, selector: str, container: str = "") -> Mapping[str, Sample]:
        """Return what pods use of CPU or memory, by pod; of one container where that is named."""
        path = f"{_RESOURCES}/namespaces/{namespace}/pods"
        items = await self._items(
            path, {"labelSelector": selector}, "unable to fetch metrics from resource metrics API"
        )
        found = {}
        for item in items:
            usages = [
                one["usage"][name]
                for one in item.get("containers") or ()
                if name in (one.get("usage") or {}) and container in ("", one["name"])
            ]
            if usages:
                total = sum(map(thousandths, usages))
                window = seconds(item.get("window") or "")
                found[item["metadata"]["name"]] = Sample(total, _time(item), window)
        if not found:
            raise Unknown("no metrics returned from resource metrics API")
        return found

    async def of_pods(self, metric: Mapping[str, Any], namespace: str, selector: str) -> Mapping[str, Sample]:
        """Return a metric of their own of each of the pods, in thousandths."""
        path = f"namespaces/{namespace}/pods/*/{quote(metric['name'], safe='')}"
        items = await self._custom(path, metric, {"labelSelector": selector})
        return {
            item["describedObject"]["name"]: Sample(
                thousandths(item["value"]), _time(item), float(item.get("windowSeconds") or _WINDOW_SECONDS)
            )
            for item in items
        }

    async def of_object(self, metric: Mapping[str, Any], namespace: str, resource: Resource, name: str) -> int:
        """Return a metric of one object, in thousandths."""
        metric_name = quote(metric["name"], safe="")
        if resource.group_resource == "namespaces":
            path = f"namespaces/{name}/metrics/{metric_name}"
        elif resource.namespaced:
            path = f"namespaces/{namespace}/{resource.group_resource}/{name}/{metric_name}"
        else:
            path = f"{resource.group_resource}/{name}/{metric_name}"
        items = await self._custom(path, metric, {})
        return thousandths(items[0]["value"])

    async def of_external(self, metric: Mapping[str, Any], namespace: str) -> int:
        """Return the sum of a metric from outside the cluster, in thousandths."""
        path = f"{_EXTERNAL}/namespaces/{namespace}/{quote(metric['name'], safe='')}"
        params = {"labelSelector": _selector(metric)}
        items = await self._items(path, params, "unable to fetch metrics from external metrics API")
        if not items:
            raise Unknown("no metrics returned from external metrics API")
        return sum(thousandths(item["value"]) for item in items)

    async def _custom(self, path: str, metric: Mapping[str, Any], params: Mapping[str, str]) -> list[dict[str, Any]]:
        told = "unable to fetch metrics from custom metrics API"
        asked = {**params, "metricLabelSelector": _selector(metric)}
        try:
            items = await self._get(f"{_CUSTOM[0]}/{path}", asked)
        except NotFound:  # an adapter of the older version
            items = await self._items(f"{_CUSTOM[1]}/{path}", asked, told)
        except APIError as error:
            raise Unknown(f"{told}: {error}") from error
        if not items:
            raise Unknown("no metrics returned from custom metrics API")
        return items

    async def _items(self, path: str, params: Mapping[str, str], told: str) -> list[dict[str, Any]]:
        try:
            return await self._get(path, params)
        except APIError as error:
            raise Unknown(f"{told}: {error}") from error

    async def _get(self, path: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        given = {name: value for name, value in params.items() if value}
        answer = orjson.loads(await self._client.request("GET", path, params=given))
        return list(answer.get("items") or ())


def _selector(metric: Mapping[str, Any]) -> str:
    return str(from_label_selector(metric["selector"])) if metric.get("selector") else ""


def _time(item: Mapping[str, Any]) -> datetime:
    text = item.get("timestamp")
    return parse_time(text) if text else datetime.now(UTC)
