"""Asking the API server what it serves: two requests for all groups.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from machinery.api.meta import Resource
from machinery.client.rest import Client

_ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Discovered:
    """A resource, what can be done with it, and whether its version is the one its group prefers."""

    resource: Resource
    verbs: frozenset[str]
    preferred: bool


async def discover(client: Client) -> list[Discovered]:
    """Return all resources of all groups and versions, without subresources. Raises: APIError, ConnectionFailed."""
    found: list[Discovered] = []
    for path in ("/api", "/apis"):
        answer = orjson.loads(await client.request("GET", path, headers={"Accept": _ACCEPT}))
        for group in answer.get("items") or ():
            found.extend(_resources_of(group))
    return found


def _resources_of(group: Mapping[str, Any]) -> Iterator[Discovered]:
    name = group["metadata"].get("name") or ""
    seen: set[str] = set()  # plurals; versions come in order of preference
    for version in group.get("versions") or ():
        listed = version.get("resources") or ()
        for entry in listed:
            resource = Resource(
                name,
                version["version"],
                entry["resource"],
                (entry.get("responseKind") or {}).get("kind", ""),
                namespaced=entry.get("scope") == "Namespaced",
            )
            yield Discovered(resource, frozenset(entry.get("verbs") or ()), entry["resource"] not in seen)
        seen.update(entry["resource"] for entry in listed)


def deletable(found: Iterable[Discovered]) -> list[Resource]:
    """Return, in its preferred version, each resource whose objects can be listed, watched and deleted."""
    return [one.resource for one in found if one.preferred and {"list", "watch", "delete"} <= one.verbs]
