"""What the controller manager tells of itself, in Prometheus' text: its queues, and whether it leads.

Written out by hand, for the names are few and the library would cost every idle manager its memory.
Sources: https://kubernetes.io/docs/reference/instrumentation/metrics/,
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Iterable, Iterator

from controllers.reconciler import Controller
from machinery.client.workqueue import Durations

log = logging.getLogger(__name__)

_STARTED = time.time()
_MAX_HEAD_BYTES = 8192
_READ_SECONDS = 10.0
_QUEUE_METRICS = (
    ("workqueue_depth", "gauge", "Current depth of workqueue", len),
    ("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", lambda queue: queue.adds),
    ("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", lambda q: q.retries),
    (
        "workqueue_unfinished_work_seconds", "gauge",
        "How many seconds of work has done that is in progress and hasn't been observed by work_duration.",
        lambda queue: sum(queue.unfinished_seconds()),
    ),
    (
        "workqueue_longest_running_processor_seconds", "gauge",
        "How many seconds has the longest running processor for workqueue been running.",
        lambda queue: max(queue.unfinished_seconds(), default=0.0),
    ),
)  # fmt: skip
_DURATION_METRICS = (
    ("workqueue_queue_duration_seconds", "How long in seconds an item stays in workqueue before being requested.",
     lambda queue: queue.waits),
    ("workqueue_work_duration_seconds", "How long in seconds processing an item from workqueue takes.",
     lambda queue: queue.works),
)  # fmt: skip


class Observed:
    """What is told; the manager keeps it up to date."""

    def __init__(self, lease: str) -> None:
        self._lease = lease
        self.controllers: Iterable[Controller[object]] = ()
        self.leads = False

    def text(self) -> str:
        """Return all metrics."""
        return "\n".join((*self._of_queues(), *self._of_process(), ""))

    def _of_queues(self) -> Iterator[str]:
        for name, kind, told, read in _QUEUE_METRICS:
            yield from _head(name, kind, told)
            for one in self.controllers:
                yield f'{name}{{name="{one.name}"}} {_number(float(read(one.queue)))}'
        for name, told, durations in _DURATION_METRICS:
            yield from _head(name, "histogram", told)
            for one in self.controllers:
                yield from _histogram(name, f'name="{one.name}"', durations(one.queue))

    def _of_process(self) -> Iterator[str]:
        yield from _head("leader_election_master_status", "gauge", "Gauge of if the reporting system is master")
        yield f'leader_election_master_status{{name="{self._lease}"}} {int(self.leads)}'
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield from _head("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")
        yield f"process_cpu_seconds_total {_number(used.ru_utime + used.ru_stime)}"
        yield from _head("process_resident_memory_bytes", "gauge", "Resident memory size in bytes, at its highest.")
        yield f"process_resident_memory_bytes {used.ru_maxrss * 1024}"
        yield from _head(
            "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."
        )
        yield f"process_start_time_seconds {_number(_STARTED)}"


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _head(name: str, kind: str, told: str) -> Iterator[str]:
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"


def _histogram(name: str, labels: str, found: Durations) -> Iterator[str]:
    total = 0
    for bound, count in zip(found.BOUNDS, found.counts, strict=False):
        total += count
        yield f'{name}_bucket{{{labels},le="{bound:g}"}} {total}'
    total += found.counts[-1]
    yield f'{name}_bucket{{{labels},le="+Inf"}} {total}'
    yield f"{name}_sum{{{labels}}} {_number(found.sum_seconds)}"
    yield f"{name}_count{{{labels}}} {total}"


def _number(value: float) -> str:
    return f"{value:.9g}"


class MetricsServer:
    """Answers GET /metrics, /healthz and /readyz over plain HTTP/1.0, one request a connection."""

    def __init__(self, observed: Observed) -> None:
        self._answers: dict[str, Callable[[], str]] = {
            "/metrics": observed.text, "/healthz": lambda: "ok", "/livez": lambda: "ok", "/readyz": lambda: "ok",
        }  # fmt: skip

    async def run(self, address: str) -> None:
        """Serve at "host:port" until cancelled. Raises: OSError when the address is taken; ValueError."""
        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=_MAX_HEAD_BYTES)
        log.info("metrics at http://%s/metrics", address)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b"\r\n", 1)[0].decode("latin-1")))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            log.debug("metrics: %r", error)
        finally:
            writer.close()

    def _answer(self, request: str) -> bytes:
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        answer = self._answers.get(path)
        if method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", "only GET\n"
        elif answer is None:
            status, body = "404 Not Found", "not found\n"
        else:
            status, body = "200 OK", answer()
        content = body.encode()
        head = (
            f"HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (content if method != "HEAD" else b"")
