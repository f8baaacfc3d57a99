"""A model as HAProxy's configuration; pure.

Directives: https://docs.haproxy.org/2.6/configuration.html
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.ingress.model import EXACT, Model, Need, Route

_SAFE = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where HAProxy listens, and where its files lie."""

    http_port: int
    https_port: int
    folder: Path
    address: str = "*"


def configuration(model: Model, listen: Listen) -> str:
    """Return haproxy.cfg."""
    return "\n".join([*_head(listen), *_frontend(model, listen), *_backends(model), ""])


def certificate_list(model: Model, listen: Listen) -> str:
    """Return the list of certificates and the hosts each is shown for; the first is shown to everybody else."""
    lines = []
    for one in {one.name: one for one in model.certificates}.values():
        hosts = sorted({host for other in model.certificates if other.name == one.name for host in other.hosts})
        lines.append(" ".join([str(listen.folder / f"{one.name}.pem"), "[alpn h2,http/1.1]", *hosts]))
    return "\n".join(lines) + "\n"


def _head(listen: Listen) -> Iterator[str]:
    yield from (
        "global",
        f"  stats socket {listen.folder / 'admin.sock'} mode 600 level admin expose-fd listeners",
        "  hard-stop-after 10m",
        "defaults",
        "  mode http",
        "  option forwardfor",
        "  option http-server-close",
        "  option redispatch",
        "  timeout connect 5s",
        "  timeout client 60s",
        "  timeout server 60s",
        "  timeout tunnel 1h",
        "  timeout http-request 10s",
        "  timeout http-keep-alive 60s",
    )


def _frontend(model: Model, listen: Listen) -> Iterator[str]:
    yield "frontend ingress"
    yield f"  bind {listen.address}:{listen.http_port}"
    if model.certificates:
        yield f"  bind {listen.address}:{listen.https_port} ssl crt-list {listen.folder / 'certificates'}"
    yield "  http-request set-header X-Forwarded-Proto https if { ssl_fc }"
    yield "  http-request set-header X-Forwarded-Proto http if !{ ssl_fc }"
    yield "  http-request set-var(txn.host) req.hdr(host),field(1,:),lower"
    for route in model.routes:
        host = f"{{ var(txn.host) {_host(route)} }} " if route.host else ""
        host += "".join(f"{_need(one)} " for one in route.needs)
        for condition in _path(route):
            yield f"  use_backend {_name(route.backend)} if {host}{{ path {condition} }}"
    yield f"  default_backend {_name(model.default) if model.default else 'nobody'}"


def _host(route: Route) -> str:
    if route.host.startswith("*."):
        return "-m reg ^[^.]+" + re.escape(route.host[1:]) + "$"
    return f"-m str {route.host}"


def _need(need: Need) -> str:
    match need.kind:
        case "tls":
            return "{ ssl_fc }"
        case "plain":
            return "!{ ssl_fc }"
        case "method":
            return f"{{ method {need.value} }}"
        case "param":
            return f"{{ url_param({need.name}),url_dec(1) -m str {_quoted(need.value)} }}"
        case _:
            return f"{{ req.hdr({need.name}) -m str {_quoted(need.value)} }}"


def _path(route: Route) -> Sequence[str]:
    """Exactly this path, or, for a prefix, all below it too; prefixes end at slashes."""
    path = _quoted(route.path)
    if route.kind == EXACT:
        return [f"-m str {path}"]
    bare = route.path.rstrip("/")
    return [f"-m str {_quoted(bare)}", f"-m beg {_quoted(bare + '/')}"] if bare else ["-m beg /"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _backends(model: Model) -> Iterator[str]:
    yield "backend nobody"
    yield '  http-request return status 404 content-type text/plain string "default backend - 404"'
    for name, servers in model.backends.items():
        yield f"backend {_name(name)}"
        yield from (f"  {line}" for line in model.filters.get(name, ()))
        for number, server in enumerate(servers):
            yield f"  server s{number} {server}"
        if not servers:
            yield '  http-request return status 503 content-type text/plain string "no endpoints"'


def _name(name: str) -> str:
    return _SAFE.sub("-", name)
