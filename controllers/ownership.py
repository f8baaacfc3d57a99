"""Whose object is it: adopting orphans a selector matches, releasing what it no longer matches.

Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from controllers.views import ObjectMeta, OwnerReference
from machinery.api.meta import ObjectKey, Resource
from machinery.api.selectors import LabelSelector
from machinery.client.informer import Informer
from machinery.client.rest import Client
from machinery.errors import Invalid, NotFound


class Owned(Protocol):
    """Anything with metadata."""

    @property
    def metadata(self) -> ObjectMeta:
        """Its metadata."""


O = TypeVar("O", bound=Owned)  # noqa: E741  # an owned thing

OWNER_INDEX = "controller-uid"
ORPHAN_INDEX = "orphans-of-namespace"


def index_by_controller(informer: Informer[Any]) -> None:
    """Let `informer` find the objects of a controller, and the objects of a namespace that have none."""
    informer.add_index(OWNER_INDEX, lambda obj: [owner.uid] if (owner := obj.metadata.controller) else [])
    informer.add_index(ORPHAN_INDEX, lambda obj: [] if obj.metadata.controller else [obj.metadata.namespace])


def candidates(informer: Informer[O], owner: ObjectMeta) -> list[O]:
    """Return the objects `owner` has or may adopt."""
    return [*informer.by_index(OWNER_INDEX, owner.uid), *informer.by_index(ORPHAN_INDEX, owner.namespace)]


def owner_reference(resource: Resource, owner: ObjectMeta) -> dict[str, Any]:
    """Return the reference by which `owner` controls another object."""
    return {
        "apiVersion": resource.api_version, "kind": resource.kind, "name": owner.name, "uid": owner.uid,
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


def reference(resource: Resource, obj: ObjectMeta) -> dict[str, str]:
    """Return the ObjectReference to an object, as Events name it."""
    return {
        "apiVersion": resource.api_version, "kind": resource.kind, "namespace": obj.namespace, "name": obj.name,
        "uid": obj.uid, "resourceVersion": obj.resourceVersion,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """What becomes of the candidates of one owner."""

    kept: list[Any]
    adopt: list[Any]
    release: list[Any]


def decide_claim(
    owner: ObjectMeta, selector: LabelSelector, objects: Iterable[O], *, wanted: Callable[[O], bool] = lambda _: True
) -> Claim:
    """Sort candidates into kept, to adopt and to release. Owners on their way out neither adopt nor release."""
    claim = Claim([], [], [])
    for obj in objects:
        controller = obj.metadata.controller
        matches = selector.matches(obj.metadata.labels)
        if controller is not None:
            if controller.uid != owner.uid:
                continue
            if matches:
                claim.kept.append(obj)
            elif owner.deletionTimestamp is None:
                claim.release.append(obj)
        elif matches and owner.deletionTimestamp is None and obj.metadata.deletionTimestamp is None and wanted(obj):
            claim.adopt.append(obj)
    return claim


class Claimer:
    """Carries claims out for one kind of owner and one kind of dependent."""

    def __init__(self, client: Client, owners: Resource, dependents: Resource, *, finalizer: str = "") -> None:
        """Args: `finalizer` is taken off what is released."""
        self._client = client
        self._finalizer = finalizer
        self._owners = owners
        self._dependents = dependents

    async def claim(
        self,
        owner: ObjectMeta,
        selector: LabelSelector,
        objects: Iterable[O],
        *,
        wanted: Callable[[O], bool] = lambda _: True,
    ) -> list[O]:
        """Adopt and release as the selector says. Return what is the owner's afterwards, adopted ones as they were."""
        claim = decide_claim(owner, selector, objects, wanted=wanted)
        for obj in claim.release:
            await self._release(owner, obj.metadata)
        mine = list(claim.kept)
        if claim.adopt and await self._may_adopt(owner):
            mine += [obj for obj in claim.adopt if await self._adopt(owner, obj.metadata)]
        return mine

    async def _may_adopt(self, owner: ObjectMeta) -> bool:
        """Ask the server, not the cache: an owner being deleted must not adopt what its deletion has just orphaned."""
        try:
            fresh = await self._client.get(self._owners, owner.name, owner.namespace)
        except NotFound:
            return False
        metadata = fresh["metadata"]
        return metadata["uid"] == owner.uid and not metadata.get("deletionTimestamp")

    async def _adopt(self, owner: ObjectMeta, obj: ObjectMeta) -> bool:
        references = [*_plain(obj.ownerReferences), owner_reference(self._owners, owner)]
        return await self._write_references(obj, references)

    async def _release(self, owner: ObjectMeta, obj: ObjectMeta) -> bool:
        kept = [reference for reference in obj.ownerReferences if reference.uid != owner.uid]
        more: dict[str, Any] = {}
        if self._finalizer in obj.finalizers:
            more["finalizers"] = [one for one in obj.finalizers if one != self._finalizer] or None
        return await self._write_references(obj, _plain(kept), **more)

    async def _write_references(self, obj: ObjectMeta, references: list[dict[str, Any]], **more: Any) -> bool:
        # The resourceVersion makes this a compare-and-swap: two owners cannot adopt one object.
        metadata = {"resourceVersion": obj.resourceVersion, "ownerReferences": references, "uid": obj.uid, **more}
        patch = {"metadata": metadata}
        try:
            await self._client.patch(self._dependents, obj.name, patch, obj.namespace)
        except (NotFound, Invalid):
            return False  # gone, or another controller was first
        return True


def _plain(references: Iterable[OwnerReference]) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": reference.apiVersion, "kind": reference.kind, "name": reference.name, "uid": reference.uid,
            **({"controller": True} if reference.controller else {}),
            **({"blockOwnerDeletion": True} if reference.blockOwnerDeletion else {}),
        }
        for reference in references
    ]  # fmt: skip


def controller_key(obj: Owned, kind: str) -> ObjectKey | None:
    """Return the key of the controller of an object, if it is of this kind."""
    owner = obj.metadata.controller
    if owner is None or owner.kind != kind:
        return None
    return ObjectKey(obj.metadata.namespace, owner.name)
