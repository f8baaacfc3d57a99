"""How the slices that are there become those that should be, in few writes; shared by all who keep slices.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#distribution-of-endpointslices
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from controllers.views import EndpointSlice
from machinery.api.meta import ObjectKey
from machinery.api.resources import ENDPOINT_SLICES
from machinery.client.informer import Informer
from machinery.client.rest import Client
from machinery.errors import NotFound


class Slice(NamedTuple):
    """The contents of one slice."""

    address_type: str
    ports: list[dict[str, Any]]
    endpoints: list[dict[str, Any]]


class Plan(NamedTuple):
    """What is to be written so that the slices say what they should."""

    create: list[Slice]
    update: list[tuple[EndpointSlice, Slice]]
    delete: list[EndpointSlice]


def plan(wanted: Sequence[Slice], present: Sequence[EndpointSlice], labels: dict[str, str]) -> Plan:
    """Match the slices there are with those there should be, so that few are written.

    A slice that holds many of the endpoints of a wanted one becomes it; the type of a slice can't change.
    """
    steps = Plan([], [], [])
    left = [found for found in present if found.metadata.deletionTimestamp is None]
    for contents in wanted:
        same_type = [found for found in left if found.addressType == contents.address_type]
        if not same_type:
            steps.create.append(contents)
            continue
        names = _targets(contents.endpoints)
        best = max(same_type, key=lambda found: (_holds(found, contents), len(names & _targets(found.endpoints))))
        left.remove(best)
        if not _holds(best, contents) or best.metadata.labels != labels:
            steps.update.append((best, contents))
    steps.delete.extend(left)
    return steps


def _holds(found: EndpointSlice, contents: Slice) -> bool:
    return list(found.endpoints) == contents.endpoints and list(found.ports or ()) == contents.ports


def _targets(endpoints: Iterable[dict[str, Any]]) -> set[str]:
    return {(endpoint.get("targetRef") or {}).get("uid", "") or endpoint["addresses"][0] for endpoint in endpoints}


class SliceWriter:
    """Writes slices, and knows which of those it made the cache has not shown yet."""

    def __init__(self, client: Client, slices: Informer[EndpointSlice]) -> None:
        self._client = client
        self._slices = slices
        # Acting without those just made would make them twice.
        self._unseen: dict[ObjectKey, set[str]] = {}

    def seen(self, key: ObjectKey, found: EndpointSlice) -> None:
        """Note that a slice of a Service was seen."""
        self._unseen.get(key, set()).discard(found.metadata.uid)

    def is_behind(self, key: ObjectKey) -> bool:
        """Whether the cache lacks slices we made for a Service."""
        return bool(self._unseen.get(key))

    def forget(self, key: ObjectKey) -> None:
        """Drop a Service that is gone."""
        self._unseen.pop(key, None)

    async def carry_out(
        self,
        key: ObjectKey,
        steps: Plan,
        labels: Mapping[str, str],
        owner: Mapping[str, Any],
        annotations: Mapping[str, str],
    ) -> None:
        """Write what a plan says for the Service at `key`. Raises: APIError."""
        metadata = {
            "generateName": f"{key.name}-", "namespace": key.namespace, "labels": labels,
            "annotations": annotations, "ownerReferences": [owner],
        }  # fmt: skip
        # New before old: an address in two slices is in order for a moment, one in none is an outage.
        for contents in steps.create:
            await self._create(key, metadata, contents)
        await asyncio.gather(*(self._update(old, contents, labels, annotations) for old, contents in steps.update))
        for old in steps.delete:
            with contextlib.suppress(NotFound):
                await self._client.delete(ENDPOINT_SLICES, old.metadata.name, old.metadata.namespace)

    async def _create(self, key: ObjectKey, metadata: Mapping[str, Any], contents: Slice) -> None:
        body = {
            "apiVersion": ENDPOINT_SLICES.api_version, "kind": ENDPOINT_SLICES.kind, "metadata": metadata,
            "addressType": contents.address_type, "endpoints": contents.endpoints, "ports": contents.ports,
        }  # fmt: skip
        unseen = self._unseen.setdefault(key, set())
        created = await self._client.create(ENDPOINT_SLICES, body, key.namespace)
        if self._slices.get(ObjectKey(key.namespace, created["metadata"]["name"])) is None:
            unseen.add(created["metadata"]["uid"])

    async def _update(
        self, old: EndpointSlice, contents: Slice, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> None:
        metadata = {
            "resourceVersion": old.metadata.resourceVersion, "annotations": annotations,
            "labels": {**dict.fromkeys(old.metadata.labels), **labels},
        }  # fmt: skip
        patch = {"metadata": metadata, "endpoints": contents.endpoints, "ports": contents.ports}
        await self._client.patch(ENDPOINT_SLICES, old.metadata.name, patch, old.metadata.namespace)
