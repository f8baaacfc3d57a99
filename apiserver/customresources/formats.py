"""The string formats that schemas may name; those not known here hold for every string.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation
"""

import base64
import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime
from urllib.parse import urlsplit

_HOST = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|0|\d+ ?(ns|us|ms|s|m|h|d|w)")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}")


def _parses(read: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            read(text)
        except ValueError:
            return False
        return True

    return check


def _uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme) or text.startswith("/")


def _date_time(text: str) -> bool:
    if not _DATE_TIME.fullmatch(text):
        return False
    return _parses(datetime.fromisoformat)(text.upper().replace("Z", "+00:00"))


def _cidr(text: str) -> bool:
    return "/" in text and _parses(lambda one: ipaddress.ip_network(one, strict=False))(text)


def _dotted(text: str) -> bool:
    return len(text) <= 63 and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", text) is not None


_CHECKS: dict[str, Callable[[str], bool]] = {
    "date-time": _date_time, "datetime": _date_time,
    "date": lambda text: re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None and _parses(date.fromisoformat)(text),
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "hostname": lambda text: len(text) <= 255 and _HOST.fullmatch(text) is not None,
    "ipv4": _parses(ipaddress.IPv4Address), "ipv6": _parses(ipaddress.IPv6Address), "cidr": _cidr,
    "mac": lambda text: _MAC.fullmatch(text) is not None,
    "uri": _parses(lambda text: _uri(text) or int("x")),
    "uuid": _parses(uuid.UUID), "uuid3": _parses(uuid.UUID), "uuid4": _parses(uuid.UUID), "uuid5": _parses(uuid.UUID),
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "k8s-short-name": _dotted,
    "k8s-long-name": lambda text: len(text) <= 253 and all(_dotted(part) for part in text.split(".")),
}  # fmt: skip


def matches(name: str, text: str) -> bool:
    """Whether a string is of a format."""
    check = _CHECKS.get(name)
    return check is None or check(text)
