"""Filters of HTTPRoutes as lines of HAProxy's configuration: headers, redirects, rewritten paths and hosts; pure.

A rule has a backend of its own, so its filters are that backend's lines. Text of users becomes quoted arguments, and
only letters that mean nothing to HAProxy's formats and expressions are taken where there is no quoting.
Source: https://gateway-api.sigs.k8s.io/reference/spec/#httproutefilter
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[ -~]*")
_HOST = re.compile(r"[a-z0-9.-]+")
_PATH = re.compile(r"/[A-Za-z0-9/_.~-]*")
_PORTS = {"http": 80, "https": 443}
Object = Mapping[str, Any]


class Unsupported(ValueError):
    """A filter that is not served, or does not make sense where it stands."""


def lines_of(rule: Object, ports: tuple[int, int]) -> list[str]:
    """Return the lines of a rule's filters, in the order they work.

    Args: `ports` are those for HTTP and for TLS at which HAProxy is reached: redirects name unusual ones.
    Raises: Unsupported.
    """
    found: list[str] = []
    last: list[str] = []
    filters = rule.get("filters") or ()
    kinds = [one.get("type") for one in filters]
    if "RequestRedirect" in kinds and ("URLRewrite" in kinds or rule.get("backendRefs")):
        raise Unsupported("RequestRedirect stands alone")
    for one in filters:
        match one.get("type"):
            case "RequestHeaderModifier":
                found += _headers("http-request", one.get("requestHeaderModifier") or {})
            case "ResponseHeaderModifier":
                found += _headers("http-response", one.get("responseHeaderModifier") or {})
            case "URLRewrite":
                found += _rewrite(rule, one.get("urlRewrite") or {})
            case "RequestRedirect":
                last += _redirect(rule, one.get("requestRedirect") or {}, ports)
            case kind:
                raise Unsupported(f"{kind} is not served")
    return found + last


def _headers(where: str, spec: Object) -> Iterator[str]:
    for word, verb in (("set", "set-header"), ("add", "add-header")):
        for one in spec.get(word) or ():
            yield f"{where} {verb} {_taken(_NAME, one.get('name', ''))} {_format(one.get('value', ''))}"
    for name in spec.get("remove") or ():
        yield f"{where} del-header {_taken(_NAME, name)}"


def _rewrite(rule: Object, spec: Object) -> Iterator[str]:
    if host := spec.get("hostname"):
        yield f"http-request set-header Host {_taken(_HOST, host)}"
    if path := spec.get("path"):
        yield _path(rule, path)


def _path(rule: Object, spec: Object) -> str:
    if spec.get("type") == "ReplaceFullPath":
        return f"http-request set-path {_taken(_PATH, spec.get('replaceFullPath', ''))}"
    if spec.get("type") != "ReplacePrefixMatch":
        raise Unsupported("this replacement of paths is not served")
    paths = [one.get("path") or {} for one in rule.get("matches") or [{}]]
    prefixes = {one.get("value", "/") for one in paths if one.get("type", "PathPrefix") == "PathPrefix"}
    if len(prefixes) != 1 or any(one.get("type", "PathPrefix") != "PathPrefix" for one in paths):
        raise Unsupported("ReplacePrefixMatch takes one prefix")
    old = re.escape(prefixes.pop().rstrip("/"))
    new = _taken(_PATH, spec.get("replacePrefixMatch") or "/").rstrip("/")
    if not new:  # a path is never empty
        return rf"http-request replace-path '^{old}/?(.*)$' '/\1'"
    return rf"http-request replace-path '^{old}(.*)$' '{new}\1'"


def _redirect(rule: Object, spec: Object, ports: tuple[int, int]) -> Iterator[str]:
    code = spec.get("statusCode", 302)
    scheme, given = spec.get("scheme"), spec.get("port")
    if code not in (301, 302, 303, 307, 308) or scheme not in (None, "http", "https"):
        raise Unsupported("this redirect is not served")
    host = _taken(_HOST, spec["hostname"]) if spec.get("hostname") else "%[var(txn.host)]"
    if spec.get("path"):
        yield _path(rule, spec["path"])
    for came_by, condition, reached_at in (("http", "!{ ssl_fc }", ports[0]), ("https", "{ ssl_fc }", ports[1])):
        to = scheme or came_by
        port = given or (_PORTS[to] if scheme else reached_at)
        shown = "" if port == _PORTS[to] else f":{int(port)}"
        yield f"http-request redirect code {code} location {to}://{host}{shown}%[pathq] if {condition}"


def _taken(pattern: re.Pattern[str], text: object) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise Unsupported(f"{text!r} is not taken")
    return text if "'" not in text and "%" not in text and "#" not in text and "$" not in text else _format(text)


def _format(text: object) -> str:
    """Return a text as one argument that is a format: quoted, with its percent signs standing for themselves."""
    if not isinstance(text, str) or not _VALUE.fullmatch(text):
        raise Unsupported(f"{text!r} is not taken")
    return "'" + text.replace("%", "%%").replace("'", "'\\''") + "'"
