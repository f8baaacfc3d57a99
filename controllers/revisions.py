"""The history of a template: one ControllerRevision for each state it has had, as StatefulSets and DaemonSets keep it.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#revision-history
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from controllers.apps_views import ControllerRevision
from controllers.informers import InformerFactory
from controllers.ownership import Claimer, candidates, index_by_controller, owner_reference
from controllers.rollout import template_hash
from controllers.views import ObjectMeta
from machinery.api.meta import Resource
from machinery.api.resources import CONTROLLER_REVISIONS
from machinery.api.selectors import LabelSelector
from machinery.client.rest import Client
from machinery.errors import AlreadyExists, NotFound

HASH_LABEL = "controller-revision-hash"
"""On pods: a DaemonSet's bear the hash of their revision, a StatefulSet's its name."""
_OWN_HASH_LABEL = "controller.kubernetes.io/hash"
_TRIES = 5


def data_of(template: dict[str, Any]) -> dict[str, Any]:
    """Return a revision's data: the patch that brings this template back."""
    return {"spec": {"template": {**template, "$patch": "replace"}}}


def template_of(revision: ControllerRevision) -> dict[str, Any]:
    """Return the template a revision holds."""
    template = dict((revision.data.get("spec") or {}).get("template") or {})
    template.pop("$patch", None)
    return template


class History:
    """Keeps the revisions of the owners of one kind."""

    def __init__(self, client: Client, informers: InformerFactory, owners: Resource) -> None:
        self._client = client
        self._owners = owners
        self._revisions = informers.informer(CONTROLLER_REVISIONS, ControllerRevision)
        self._claimer = Claimer(client, owners, CONTROLLER_REVISIONS)
        index_by_controller(self._revisions)

    async def list(self, owner: ObjectMeta, selector: LabelSelector) -> list[ControllerRevision]:
        """Return the owner's revisions, oldest first; those it lost are taken back."""
        found = await self._claimer.claim(owner, selector, candidates(self._revisions, owner))
        return sorted(found, key=lambda one: (one.revision, one.metadata.creationTimestamp, one.metadata.name))

    async def current(
        self, owner: ObjectMeta, template: dict[str, Any], known: Sequence[ControllerRevision], collisions: int
    ) -> tuple[ControllerRevision, int]:
        """Return the revision of a template, made or made the newest where needed, and the count of collisions."""
        data = data_of(template)
        number = (known[-1].revision if known else 0) + 1
        same = [one for one in known if one.data == data]
        if same:
            if same[-1] is known[-1]:
                return same[-1], collisions
            return await self._renumber(same[-1], number), collisions
        for _ in range(_TRIES):
            made = await self._create(owner, template, data, number, collisions)
            if made is not None:
                return made, collisions
            collisions += 1
        raise AlreadyExists(f"no name is free for a revision of {owner.name}")

    async def _create(
        self, owner: ObjectMeta, template: dict[str, Any], data: dict[str, Any], number: int, collisions: int
    ) -> ControllerRevision | None:
        """Create a revision. Return None when its name is taken by another."""
        digest = template_hash(template, collisions)
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: digest, _OWN_HASH_LABEL: digest}
        name = f"{owner.name}-{digest}"
        body = {
            "metadata": {
                "name": name, "namespace": owner.namespace, "labels": labels,
                "ownerReferences": [owner_reference(self._owners, owner)],
            },
            "data": data, "revision": number,
        }  # fmt: skip
        try:
            made = await self._client.create(CONTROLLER_REVISIONS, body, owner.namespace)
        except AlreadyExists:
            made = await self._client.get(CONTROLLER_REVISIONS, name, owner.namespace)
            if made["data"] != data:
                return None
        return msgspec.convert(made, ControllerRevision)

    async def _renumber(self, revision: ControllerRevision, number: int) -> ControllerRevision:
        metadata = revision.metadata
        patch = {"metadata": {"uid": metadata.uid}, "revision": number}
        found = await self._client.patch(CONTROLLER_REVISIONS, metadata.name, patch, metadata.namespace)
        return msgspec.convert(found, ControllerRevision)

    async def trim(self, known: Sequence[ControllerRevision], live: Iterable[str], limit: int | None) -> None:
        """Delete the oldest revisions beyond `limit`; those in use (by name) stay and do not count."""
        used = set(live)
        idle = [one for one in known if one.metadata.name not in used]
        for one in idle[: max(len(idle) - (10 if limit is None else limit), 0)]:
            try:
                await self._client.delete(CONTROLLER_REVISIONS, one.metadata.name, one.metadata.namespace)
            except NotFound:
                continue
