"""The functions Kubernetes adds to CEL: lists, regular expressions, URLs, addresses, quantities, formats, versions.

The engine hands only plain data to and fro, so a quantity, an address and the like is a map with one key that tells
what it is; functions take any value and look.
Source: https://kubernetes.io/docs/reference/using-api/cel/#cel-community-libraries
"""

import functools
import ipaddress
import itertools
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from cel_expr_python import cel

from machinery.api.patterns import compile_pattern
from machinery.api.quantity import canonical, parse_quantity
from machinery.cel import authorizing

_T = cel.Type
_QUANTITY, _IP, _CIDR, _URL, _SEMVER = "quantity", "ip", "cidr", "url", "semver"
_SEMVER_TEXT = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?"
)  # fmt: skip


def _made(kind: str, text: str) -> dict[str, str]:
    return {f"kubernetes.{kind}": text}


def _text(kind: str, value: Any) -> str:
    if not isinstance(value, Mapping) or f"kubernetes.{kind}" not in value:
        raise ValueError("no such overload")
    return str(value[f"kubernetes.{kind}"])


def _kind(value: Any) -> str:
    for key in value if isinstance(value, Mapping) else ():
        if key.startswith("kubernetes."):
            return str(key.removeprefix("kubernetes."))
    raise ValueError("no such overload")


# Lists


def _is_sorted(items: list[Any]) -> bool:
    return all(one <= two for one, two in itertools.pairwise(items))


def _extreme(name: str, pick: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def found(items: list[Any]) -> Any:
        if not items:
            raise ValueError(f"{name} called on empty list")
        return pick(items)

    return found


def _index_of(items: Any, wanted: Any) -> int:
    if isinstance(items, str):
        return items.find(wanted)
    return items.index(wanted) if wanted in items else -1


def _last_index_of(items: Any, wanted: Any) -> int:
    if isinstance(items, str):
        return items.rfind(wanted)
    return len(items) - 1 - items[::-1].index(wanted) if wanted in items else -1


# Regular expressions


def _find(text: str, pattern: str) -> str:
    match = compile_pattern(pattern).search(text)
    return str(match[0]) if match else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in compile_pattern(pattern).finditer(text)]
    return found if limit < 0 else found[:limit]


# Quantities and versions: ordered values


def _semver(text: str) -> tuple[Any, ...]:
    match = _SEMVER_TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"failed to parse semver {text!r}")
    pre = match[4]
    parts = [(0, int(one), "") if one.isdigit() else (1, 0, one) for one in pre.split(".")] if pre else []
    return int(match[1]), int(match[2]), int(match[3]), pre is None, parts


def _ordered(value: Any) -> Any:
    kind = _kind(value)
    return parse_quantity(_text(kind, value)) if kind == _QUANTITY else _semver(_text(kind, value))


def _compare(one: Any, two: Any) -> int:
    first, second = _ordered(one), _ordered(two)
    return int(first > second) - int(first < second)


def _number_of(value: Any) -> Decimal:
    return parse_quantity(_text(_QUANTITY, value))


def _plus(one: Any, two: Any, sign: int) -> dict[str, str]:
    other = Decimal(two) if isinstance(two, int) else _number_of(two)
    return _made(_QUANTITY, canonical(format(_number_of(one) + sign * other, "f")))


def _as_integer(value: Any) -> int:
    number = _number_of(value)
    if number != int(number):
        raise ValueError("cannot convert value to integer")
    return int(number)


def _parses(read: Callable[[str], Any]) -> Callable[[Any], bool]:
    def check(text: Any) -> bool:
        try:
            read(text)
        except (ValueError, TypeError):
            return False
        return True

    return check


# Addresses

_LINK_LOCAL: Mapping[int, Any] = {4: ipaddress.ip_network("224.0.0.0/24"), 6: ipaddress.ip_network("ff02::/16")}


def _ip(text: str) -> dict[str, str]:
    return _made(_IP, str(ipaddress.ip_address(text)))


def _cidr(text: str) -> dict[str, str]:
    return _made(_CIDR, str(ipaddress.ip_interface(_with_slash(text)).with_prefixlen))


def _with_slash(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"network address parse error: {text!r}")
    return text


def _address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(_text(_IP, value))


def _network(value: Any) -> Any:
    return ipaddress.ip_interface(_text(_CIDR, value)).network


def _family(value: Any) -> int:
    return _address(value).version


def _contains_ip(network: Any, other: Any) -> bool:
    address = ipaddress.ip_address(other) if isinstance(other, str) else _address(other)
    found = _network(network)
    return address.version == found.version and address in found


def _contains_cidr(network: Any, other: Any) -> bool:
    inner = ipaddress.ip_network(other, strict=False) if isinstance(other, str) else _network(other)
    outer = _network(network)
    return inner.version == outer.version and bool(inner.subnet_of(outer))


# URLs


def _url(text: str) -> dict[str, str]:
    parts = urlsplit(text)
    if not (parts.scheme and (parts.netloc or parts.path)) and not text.startswith("/"):
        raise ValueError(f"parse {text!r}: invalid URI for request")
    return _made(_URL, text)


def _parts(value: Any) -> SplitResult:
    return urlsplit(_text(_URL, value))


_D, _S, _I, _B, _L = _T.DYN, _T.STRING, _T.INT, _T.BOOL, _T.LIST
# name, result, parameters, whether the first is the receiver, and what it does
_FUNCTIONS: tuple[tuple[str, Any, list[Any], bool, Callable[..., Any]], ...] = (
    ("sum", _D, [_L], True, sum),
    ("isSorted", _B, [_L], True, _is_sorted),
    ("min", _D, [_L], True, _extreme("min", min)),
    ("max", _D, [_L], True, _extreme("max", max)),
    ("indexOf", _I, [_L, _D], True, _index_of),
    ("lastIndexOf", _I, [_L, _D], True, _last_index_of),
    ("find", _S, [_S, _S], True, _find),
    ("findAll", _T.List(_S), [_S, _S], True, _find_all),
    ("findAll", _T.List(_S), [_S, _S, _I], True, _find_all),
    ("quantity", _D, [_S], False, lambda text: _made(_QUANTITY, canonical(text))),
    ("isQuantity", _B, [_S], False, _parses(canonical)),
    ("semver", _D, [_S], False, lambda text: (_semver(text), _made(_SEMVER, text))[1]),
    ("isSemver", _B, [_S], False, _parses(_semver)),
    ("isGreaterThan", _B, [_D, _D], True, lambda one, two: _compare(one, two) > 0),
    ("isLessThan", _B, [_D, _D], True, lambda one, two: _compare(one, two) < 0),
    ("compareTo", _I, [_D, _D], True, _compare),
    ("add", _D, [_D, _D], True, lambda one, two: _plus(one, two, 1)),
    ("sub", _D, [_D, _D], True, lambda one, two: _plus(one, two, -1)),
    ("asInteger", _I, [_D], True, _as_integer),
    ("isInteger", _B, [_D], True, _parses(_as_integer)),
    ("asApproximateFloat", _T.DOUBLE, [_D], True, lambda value: float(_number_of(value))),
    ("sign", _I, [_D], True, lambda value: (_number_of(value) > 0) - (_number_of(value) < 0)),
    ("major", _I, [_D], True, lambda value: _semver(_text(_SEMVER, value))[0]),
    ("minor", _I, [_D], True, lambda value: _semver(_text(_SEMVER, value))[1]),
    ("patch", _I, [_D], True, lambda value: _semver(_text(_SEMVER, value))[2]),
    ("ip", _D, [_S], False, _ip),
    ("isIP", _B, [_S], False, _parses(_ip)),
    ("cidr", _D, [_S], False, _cidr),
    ("isCIDR", _B, [_S], False, _parses(_cidr)),
    ("ip.isCanonical", _B, [_S], False, lambda text: str(ipaddress.ip_address(text)) == text),
    ("family", _I, [_D], True, _family),
    ("isUnspecified", _B, [_D], True, lambda value: _address(value).is_unspecified),
    ("isLoopback", _B, [_D], True, lambda value: _address(value).is_loopback),
    ("isLinkLocalMulticast", _B, [_D], True, lambda value: _address(value) in _LINK_LOCAL[_family(value)]),
    ("isLinkLocalUnicast", _B, [_D], True, lambda value: _address(value).is_link_local),
    ("isGlobalUnicast", _B, [_D], True, lambda value: _is_global_unicast(_address(value))),
    ("containsIP", _B, [_D, _D], True, _contains_ip),
    ("containsCIDR", _B, [_D, _D], True, _contains_cidr),
    ("ip", _D, [_D], True, lambda value: _made(_IP, str(ipaddress.ip_interface(_text(_CIDR, value)).ip))),
    ("masked", _D, [_D], True, lambda value: _made(_CIDR, str(_network(value)))),
    ("prefixLength", _I, [_D], True, lambda value: _network(value).prefixlen),
    ("url", _D, [_S], False, _url),
    ("isURL", _B, [_S], False, _parses(_url)),
    ("getScheme", _S, [_D], True, lambda value: _parts(value).scheme),
    ("getHost", _S, [_D], True, lambda value: _parts(value).netloc.rpartition("@")[2]),
    ("getHostname", _S, [_D], True, lambda value: _parts(value).hostname or ""),
    ("getPort", _S, [_D], True, lambda value: str(_parts(value).port or "")),
    ("getEscapedPath", _S, [_D], True, lambda value: _parts(value).path),
    ("getQuery", _D, [_D], True, lambda value: parse_qs(_parts(value).query, keep_blank_values=True)),
)  # fmt: skip


def _is_global_unicast(address: Any) -> bool:
    wide = address.version == 4 and int(address) == 2**32 - 1
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local or wide)


@functools.cache
def extension() -> Any:
    """Return the extension that holds all of them."""
    overloads: dict[str, list[Any]] = {}
    for name, result, parameters, is_member, run in _FUNCTIONS:
        known = overloads.setdefault(name, [])
        identity = f"k8s_{name}_{len(known)}".replace(".", "_")
        known.append(cel.Overload(identity, result, parameters, is_member, run))
    for name, kind, count, run in authorizing.FUNCTIONS:
        known = overloads.setdefault(name, [])
        identity = f"k8s_authorizer_{name}"
        known.append(cel.Overload(identity, getattr(_T, kind.upper()), [_D, *[_S] * count], True, run))
    return cel.CelExtension("kubernetes", [cel.FunctionDecl(name, found) for name, found in overloads.items()])
