"""Which IP versions a Service has, and from which ranges its addresses come.

The server's own ranges, one of each version, come first; ServiceCIDR objects add others.
Sources: https://kubernetes.io/docs/concepts/services-networking/dual-stack/,
https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from apiserver.registry.kind import Object, invalid
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.resources import SERVICE_CIDRS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"


class ServiceRanges:
    """The ranges of Service addresses."""

    def __init__(self, cache: WatchCache, service_cidr: str) -> None:
        """Args: `service_cidr` is a range, or one of each IP version with a comma; the first is the primary."""
        self._cache = cache
        self._own = [ipaddress.ip_network(part.strip()) for part in service_cidr.split(",")]

    @property
    def families(self) -> list[str]:
        """The IP versions that can be given, the primary first."""
        return [f"IPv{one.version}" for one in self._own]

    def of(self, family: str) -> list[Network]:
        """Return the ranges of an IP version, the server's own first."""
        found = [one for one in self._own if f"IPv{one.version}" == family]
        collection = self._cache.collection(SERVICE_CIDRS.group_resource)
        for entry in collection.entries(f"/registry/{SERVICE_CIDRS.group_resource}/"):
            obj = entry.object()
            if obj["metadata"].get("deletionTimestamp"):
                continue
            found += [one for one in map(ipaddress.ip_network, obj["spec"].get("cidrs") or ()) if one not in found]
        return [one for one in found if f"IPv{one.version}" == family]


def choose_families(service: Object, asked: Sequence[str], ranges: ServiceRanges) -> tuple[list[str], str]:
    """Return a Service's IP versions and its policy.

    Args:
        service: what users wrote.
        asked: the addresses they ask for.
        ranges: what can be given.

    Raises: Invalid when it asks for what this cluster does not have.
    """
    spec = service["spec"]
    wanted = list(spec.get("ipFamilies") or [_family(service, one) for one in asked if one != "None"])
    policy = spec.get("ipFamilyPolicy") or (REQUIRE if len(wanted) > 1 else SINGLE)
    is_open = asked[:1] == ["None"] and not spec.get("selector")  # headless, and its endpoints are written by hand
    if policy == REQUIRE and len(ranges.families) < 2 and not is_open:
        raise _invalid(service, "spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
    for index, family in enumerate(wanted):
        if family not in ranges.families and not is_open:
            why = f"not configured on this cluster, configured: {', '.join(ranges.families)}"
            raise _invalid(service, f"spec.ipFamilies[{index}]", family, why)
    families = wanted or ranges.families[:1]
    if policy == SINGLE:
        if len(wanted) > 1:
            why = "must be RequireDualStack or PreferDualStack when multiple IP families are specified"
            raise _invalid(service, "spec.ipFamilyPolicy", policy, why)
        return families[:1], policy
    others = [one for one in ranges.families if one not in families]
    return (families + others)[:2], policy


def _family(service: Object, address: str) -> str:
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError as error:
        rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        raise _invalid(service, "spec.clusterIPs[0]", address, rule) from error


def asked_addresses(spec: Mapping[str, Any]) -> list[str]:
    """Return the addresses a Service asks for, the primary first."""
    found = [one for one in spec.get("clusterIPs") or () if one]
    primary = spec.get("clusterIP")
    return found or ([primary] if primary else [])


def _invalid(service: Object, path: str, value: object, why: str) -> errors.Invalid:
    name = service["metadata"].get("name", "")
    cause = invalid(path, value, why)
    text = f'Service "{name}" is invalid: {path}: {cause.message}'
    return errors.Invalid(text, kind="Service", name=name, causes=[cause])
