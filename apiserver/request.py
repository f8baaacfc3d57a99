"""What a request asks for, read from its method, path and headers alone."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from apiserver.auth.user import User
from apiserver.registry.kind import Kind

# Where a request carries its record of the audit log, when that wants its body or what admission says.
AUDIT: web.RequestKey[Any] = web.RequestKey("audit", object)

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The parts of a path as RBAC and the endpoints name them.

    `verb` is a resource verb for resource requests, the lower-case HTTP method for others.
    """

    verb: str
    path: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    field_selector: str = ""


def parse_path(path: str) -> RequestInfo | None:
    """Return what a resource path names, its verb still open; None for other paths."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, parts = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, parts = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if parts[0] == "namespaces" and len(parts) >= 2:
        namespace = parts[1]
        if len(parts) >= 3 and not (len(parts) == 3 and parts[2] in ("status", "finalize")):
            parts = parts[2:]
    padded = [*parts[:3], "", ""]
    return RequestInfo(
        "", path, is_resource=True, group=group, version=version, namespace=namespace, resource=padded[0],
        name=padded[1], subresource=padded[2], rest="/".join(parts[3:]),
    )  # fmt: skip


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false; anything but "false" and "0" is true, as upstream reads it."""
    value = query.get(name)
    return value is not None and value != "0" and value.lower() != "false"


def request_info(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """Return what a request asks for."""
    info = _request_info(method, path, flag(query, "watch"))
    return _with_selector(info, query["fieldSelector"]) if "fieldSelector" in query else info


@functools.lru_cache(maxsize=4096)
def _request_info(method: str, path: str, watches: bool) -> RequestInfo:
    info = parse_path(path)
    if info is None:
        return RequestInfo(method.lower(), path)
    if method == "GET" and info.resource == "watch" and info.name:  # as old clients ask for a watch
        parts = path.split("/")
        del parts[parts.index("watch", 3 if parts[1] == "api" else 4)]
        watched = parse_path("/".join(parts))
        return replace(watched, path=path, verb="watch") if watched is not None else info
    if method in ("GET", "HEAD"):
        verb = "get" if info.name else "watch" if watches else "list"
    elif method == "DELETE":
        verb = "delete" if info.name else "deletecollection"
    else:
        verb = _VERBS.get(method, method.lower())
    return replace(info, verb=verb)


_MANY = ("list", "watch", "deletecollection")


def _with_selector(info: RequestInfo, selector: str) -> RequestInfo:
    """Return what a request for many objects asks for, with what narrows it for authorization."""
    if info.verb not in _MANY:
        return info
    return replace(info, name=info.name or _selected_name(selector), field_selector=selector)


def _selected_name(selector: str) -> str:
    """Return the one name a field selector asks for; rules that name objects hold for it as for a get."""
    for term in selector.split(","):
        field, _, value = term.partition("=")
        if field.strip() == "metadata.name":
            return value.lstrip("=").strip()
    return ""


@dataclass(slots=True)
class Call:
    """One request on its way through the server."""

    http: Any  # aiohttp.web.Request
    info: RequestInfo
    query: Mapping[str, str]
    user: User
    kind: Kind | None = None
    told: Mapping[str, str] = field(default_factory=dict)  # headers of every answer, those that are streams too

    @property
    def known(self) -> Kind:
        """The kind asked for; only for requests that were matched with one."""
        if self.kind is None:
            raise LookupError(self.info.path)
        return self.kind


@dataclass(frozen=True, slots=True)
class Accepted:
    """The representation a client wants: media type, and the meta kind to convert to ("Table"), if any."""

    media: str
    as_kind: str = ""
    as_version: str = ""
    parameters: tuple[tuple[str, str], ...] = ()


@functools.lru_cache(maxsize=512)
def accepted(header: str) -> tuple[Accepted, ...]:
    """Return the representations of an Accept header, the client's order kept; */* stands for JSON."""
    found = []
    for part in (header or "*/*").split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        pairs = tuple((key, value) for key, _, value in (one.partition("=") for one in parameters))
        values = dict(pairs)
        if media in ("*/*", "application/*"):
            media = "application/json"
        found.append(Accepted(media, values.get("as", ""), values.get("v", ""), pairs))
    return tuple(found)


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def duration_seconds(text: str) -> float | None:
    """Return the seconds of a span as Go writes it ("1m30s"); None when it is none."""
    if text in ("", "0"):
        return 0.0
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
