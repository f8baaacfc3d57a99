"""Who owns whom in the whole cluster, as far as the watches have told. Pure.

Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/
"""

from collections.abc import Iterable
from dataclasses import dataclass

from controllers.views import GraphMeta, ObjectMeta, OwnerReference
from machinery.api.meta import ObjectKey, Resource

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True, slots=True)
class Vertex:
    """One object and what it says about its owners and its deletion."""

    resource: Resource
    key: ObjectKey
    uid: str
    owners: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    deleting: bool = False

    @property
    def awaits_dependents(self) -> bool:
        """Whether it goes when its dependents are gone."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        """Whether it goes when its dependents have let go of it."""
        return self.deleting and ORPHAN in self.finalizers


def vertex(resource: Resource, metadata: GraphMeta | ObjectMeta) -> Vertex:
    """Return the vertex of an object."""
    key = ObjectKey(metadata.namespace, metadata.name)
    deleting = metadata.deletionTimestamp is not None
    return Vertex(resource, key, metadata.uid, metadata.ownerReferences, metadata.finalizers, deleting)


class OwnerGraph:
    """All objects by uid, and the dependents of each owner, whether the owner is known or not."""

    def __init__(self) -> None:
        self._vertices: dict[str, Vertex] = {}
        self._dependents: dict[str, dict[str, None]] = {}  # dicts as ordered sets

    def get(self, uid: str) -> Vertex | None:
        """Return the object of a uid, if it was seen."""
        return self._vertices.get(uid)

    def dependents(self, uid: str) -> list[Vertex]:
        """Return the objects that name `uid` as an owner."""
        return [self._vertices[dependent] for dependent in self._dependents.get(uid, ())]

    def has_dependents(self, uid: str) -> bool:
        """Say whether an object names `uid` as an owner."""
        return uid in self._dependents

    def blocking_dependents(self, uid: str) -> list[Vertex]:
        """Return the dependents whose presence holds up a foreground deletion."""
        return [
            dependent for dependent in self.dependents(uid)
            if any(owner.uid == uid and owner.blockOwnerDeletion for owner in dependent.owners)
        ]  # fmt: skip

    def is_settled(self, found: Vertex) -> bool:
        """Say whether there is nothing to do for an object: its owners are there and none waits for it to go."""
        if found.awaits_dependents or found.orphans_dependents:
            return False
        owners = [self._vertices.get(owner.uid) for owner in found.owners]
        return found.deleting or all(owner is not None and not owner.awaits_dependents for owner in owners)

    def put(self, new: Vertex) -> set[str]:
        """Enter an object as it is now. Return the uids of what must be looked at because of it."""
        old = self._vertices.get(new.uid)
        self._vertices[new.uid] = new
        before = {owner.uid for owner in old.owners} if old is not None else set()
        after = {owner.uid for owner in new.owners}
        for owner in before - after:
            self._unlink(owner, new.uid)
        for owner in after - before:
            self._dependents.setdefault(owner, {})[new.uid] = None
        affected = set() if self.is_settled(new) else {new.uid}
        if new.awaits_dependents and (old is None or not old.awaits_dependents):
            affected |= set(self._dependents.get(new.uid, ()))
        if old is not None and old.owners != new.owners:
            affected |= self._waiting(before)
        return affected

    def remove(self, uid: str) -> set[str]:
        """Take an object out. Return the uids of what must be looked at because of it."""
        old = self._vertices.pop(uid, None)
        if old is None:
            return set()
        owners = {owner.uid for owner in old.owners}
        for owner in owners:
            self._unlink(owner, uid)
        return set(self._dependents.get(uid, ())) | self._waiting(owners)

    def _waiting(self, uids: Iterable[str]) -> set[str]:
        found = (self._vertices.get(uid) for uid in uids)
        return {owner.uid for owner in found if owner is not None and owner.awaits_dependents}

    def _unlink(self, owner: str, dependent: str) -> None:
        known = self._dependents.get(owner, {})
        known.pop(dependent, None)
        if not known:
            self._dependents.pop(owner, None)
