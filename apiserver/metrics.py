"""What the server counts, under the names users know from Kubernetes.

Source: https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "apiserver_request_total", "Requests by verb, resource and HTTP code.",
    ["verb", "group", "version", "resource", "subresource", "code"], registry=REGISTRY,
)  # fmt: skip
DURATION = Histogram(
    "apiserver_request_duration_seconds", "Response latency of requests other than watches, in seconds.",
    ["verb", "resource"], registry=REGISTRY, buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)  # fmt: skip
WATCHES = Gauge(
    "apiserver_longrunning_requests", "Watches and streams now being served.", ["verb", "resource"], registry=REGISTRY
)


@functools.lru_cache(maxsize=10_000)
def requests(verb: str, group: str, version: str, resource: str, subresource: str, code: int) -> Counter:
    """Return the counter of such requests; found once for all of the same labels."""
    return REQUESTS.labels(verb, group, version, resource, subresource, code)


@functools.lru_cache(maxsize=10_000)
def duration(verb: str, resource: str) -> Histogram:
    """Return the histogram of such requests."""
    return DURATION.labels(verb, resource)


def exposition() -> bytes:
    """Return all metrics in the Prometheus text format."""
    return generate_latest(REGISTRY)
