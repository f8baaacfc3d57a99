"""The garbage collector: what nobody owns any more goes; what is deleted takes its dependents along, or frees them.

It watches the metadata of every resource the server lets it delete. The graph is only a hint: before anything is
deleted, the absence of its owners is confirmed with the server, and a deletion names the version that was judged.
Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controllers.informers import InformerFactory
from controllers.owner_graph import FOREGROUND, ORPHAN, OwnerGraph, Vertex, vertex
from controllers.reconciler import DONE, Controller, Result
from machinery.api.meta import Resource
from machinery.client.discovery import deletable, discover
from machinery.client.events import EventRecorder
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, NotFound

log = logging.getLogger(__name__)

DISCOVERY_SECONDS = 30.0
SETTLE_SECONDS = 1.0
"""An owner may show up in its watch a moment after its dependents do in theirs."""
UNKNOWN_KIND_SECONDS = 60.0
MAX_ABSENT = 5000
"""So many owners are remembered as gone; each that is not costs a question for each of its dependents."""
_IGNORED = frozenset(("events",))
_DEFINE_KINDS = frozenset(("customresourcedefinitions.apiextensions.k8s.io", "apiservices.apiregistration.k8s.io"))


@dataclass(slots=True)
class _Owners:
    """An object's owner references, by what became of the owners."""

    solid: list[Mapping[str, Any]] = field(default_factory=list)
    waiting: list[Mapping[str, Any]] = field(default_factory=list)
    dangling: list[Mapping[str, Any]] = field(default_factory=list)
    unknown: list[Mapping[str, Any]] = field(default_factory=list)


class GarbageCollector(Controller[str]):
    """Follows owner references. Keys are uids."""

    name = "garbage-collector"
    workers = 20

    def __init__(self, client: Client, informers: InformerFactory, recorder: EventRecorder) -> None:
        super().__init__()
        self._client = client
        self._informers = informers
        self._recorder = recorder
        self._graph = OwnerGraph()
        self._watched: set[Resource] = set()
        self._kinds_changed = asyncio.Event()
        self._by_kind: dict[tuple[str, str], Resource] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()  # uids of owners known to be gone

    # ---- what wakes it

    async def run(self) -> None:
        """Watch all there is, then collect; look for new resources from time to time."""
        await self._discover()
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._rediscover())

    async def _rediscover(self) -> None:
        while True:
            try:
                async with asyncio.timeout(DISCOVERY_SECONDS):
                    await self._kinds_changed.wait()
                    await asyncio.sleep(SETTLE_SECONDS)  # several come and go together
            except TimeoutError:
                log.debug("looking for new kinds")
            self._kinds_changed.clear()
            await self._discover()

    async def _discover(self) -> None:
        try:
            found = await discover(self._client)
        except (APIError, ConnectionFailed) as error:
            log.info("discovery: %s", error)
            return
        self._by_kind = {(one.resource.api_version, one.resource.kind): one.resource for one in found}
        present = {resource for resource in deletable(found) if resource.plural not in _IGNORED}
        for resource in present - self._watched:
            self._informers.any_informer(resource).add_handler(self._handler(resource))
        for resource in self._watched - present:
            self._informers.drop(resource)
        self._watched = present

    def _handler(self, resource: Resource) -> Callable[[Any, Any], None]:
        def changed(old: Any, new: Any) -> None:
            if resource.group_resource in _DEFINE_KINDS:
                self._kinds_changed.set()
            if new is not None:
                self._look_at(self._graph.put(vertex(resource, new.metadata)))
            else:
                uid = old.metadata.uid
                if self._graph.has_dependents(uid):
                    self._note_absent(uid)
                self._look_at(self._graph.remove(uid))

        return changed

    def _look_at(self, uids: set[str]) -> None:
        for uid in uids:
            found = self._graph.get(uid)
            if found is not None and self._lacks_only_sight(found):
                self.queue.add_after(uid, SETTLE_SECONDS)
            else:
                self.queue.add(uid)

    def _lacks_only_sight(self, found: Vertex) -> bool:
        """Say whether an object is in question only because an owner has not been seen, nor seen going."""
        owners = [(owner.uid, self._graph.get(owner.uid)) for owner in found.owners]
        return not found.deleting and all(
            uid not in self._absent if owner is None else not owner.awaits_dependents for uid, owner in owners
        )

    # ---- what it does

    async def reconcile(self, key: str) -> Result:
        """Settle one object."""
        found = self._graph.get(key)
        if found is None or self._graph.is_settled(found):
            return DONE
        if found.orphans_dependents:
            await self._orphan_dependents(found)
        elif found.awaits_dependents:
            await self._await_dependents(found)
        else:
            return await self._judge(found)
        return DONE

    async def _orphan_dependents(self, owner: Vertex) -> None:
        for dependent in self._graph.dependents(owner.uid):
            live = await self._live(dependent)
            if live is not None:
                await self._drop_references(dependent, live, {owner.uid})
        await self._drop_finalizer(owner, ORPHAN)

    async def _await_dependents(self, owner: Vertex) -> None:
        blocking = self._graph.blocking_dependents(owner.uid)
        if not blocking:
            await self._drop_finalizer(owner, FOREGROUND)
        for dependent in blocking:
            if not dependent.deleting:
                self.queue.add(dependent.uid)

    async def _judge(self, found: Vertex) -> Result:
        """Delete an object all of whose owners are gone or waiting; free it of such owners when it has others."""
        if version := self._version_of_orphan(found):
            await self._delete(found, version, found.finalizers, foreground=False)
            return DONE
        live = await self._live(found)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return DONE
        references = live["metadata"].get("ownerReferences") or ()
        owners = await self._sort(found, references)
        gone = owners.dangling + owners.waiting
        if owners.solid:
            if gone:
                await self._drop_references(found, live, {owner["uid"] for owner in gone})
        elif owners.unknown:
            return Result(requeue_after=UNKNOWN_KIND_SECONDS)
        elif gone:
            dependents = self._graph.dependents(found.uid)
            if owners.waiting and any(dependent.awaits_dependents for dependent in dependents):
                live = await self._unblock(found, live)
            metadata = live["metadata"]
            await self._delete(
                found, metadata["resourceVersion"], metadata.get("finalizers") or (),
                foreground=bool(owners.waiting and dependents),
            )  # fmt: skip
        return DONE

    def _version_of_orphan(self, found: Vertex) -> str:
        """Return the version at which all owners of an object are known to be gone, "" when that must be asked.

        Nothing about the owners is in doubt then, and the version guards against what was not seen of the object.
        """
        owners = [owner.uid for owner in found.owners]
        if not owners or found.resource not in self._watched or not all(uid in self._absent for uid in owners):
            return ""
        return self._informers.any_informer(found.resource).version_of(found.key)

    async def _unblock(self, found: Vertex, live: dict[str, Any]) -> dict[str, Any]:
        """Let an object hold up none of its owners: it may be that they wait for each other in a circle."""
        references = live["metadata"].get("ownerReferences") or []
        if not any(owner.get("blockOwnerDeletion") for owner in references):
            return live
        free = [{**owner, "blockOwnerDeletion": False} for owner in references]
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "ownerReferences": free}}
        return await self._client.patch(found.resource, found.key.name, patch, found.key.namespace)

    async def _sort(self, found: Vertex, references: Sequence[Mapping[str, Any]]) -> _Owners:
        owners = _Owners()
        for owner in references:
            if self._is_impossible(found, owner):
                await self._report_impossible(found, owner)
                owners.unknown.append(owner)
                continue
            known = self._graph.get(owner["uid"])
            if known is not None:
                (owners.waiting if known.awaits_dependents else owners.solid).append(owner)
                continue
            is_there = await self._is_there(found, owner)
            {True: owners.solid, False: owners.dangling, None: owners.unknown}[is_there].append(owner)
        return owners

    def _is_impossible(self, found: Vertex, owner: Mapping[str, Any]) -> bool:
        """Say whether a reference leads nowhere: an object outside namespaces can't be owned by one inside."""
        resource = self._by_kind.get((owner["apiVersion"], owner["kind"]))
        return resource is not None and resource.namespaced and not found.key.namespace

    async def _is_there(self, found: Vertex, owner: Mapping[str, Any]) -> bool | None:
        """Ask the server for an owner the watches have not shown. None: its kind is not served (now)."""
        uid = owner["uid"]
        if uid in self._absent:
            return False
        resource = self._by_kind.get((owner["apiVersion"], owner["kind"]))
        if resource is None:
            return None
        try:
            live = await self._client.get(resource, owner["name"], found.key.namespace)
        except NotFound:
            live = None
        if live is not None and live["metadata"]["uid"] == uid:
            return True
        self._note_absent(uid)
        return False

    def _note_absent(self, uid: str) -> None:
        self._absent[uid] = None
        if len(self._absent) > MAX_ABSENT:
            self._absent.popitem(last=False)

    async def _report_impossible(self, found: Vertex, owner: Mapping[str, Any]) -> None:
        involved = {
            "apiVersion": found.resource.api_version, "kind": found.resource.kind,
            "name": found.key.name, "namespace": found.key.namespace, "uid": found.uid,
        }  # fmt: skip
        message = (
            f"ownerRef [{owner['apiVersion']}/{owner['kind']}, namespace: {found.key.namespace}, "
            f'name: {owner["name"]}, uid: {owner["uid"]}] does not exist in namespace "{found.key.namespace}"'
        )
        await self._recorder.event(involved, "Warning", "OwnerRefInvalidNamespace", message)

    # ---- reading and writing objects of any resource

    async def _live(self, found: Vertex) -> dict[str, Any] | None:
        """Return the object as the server has it now; None if it is gone or another has its name."""
        try:
            live = await self._client.get(found.resource, found.key.name, found.key.namespace)
        except NotFound:
            live = None
        if live is None or live["metadata"]["uid"] != found.uid:
            return None
        return live

    async def _delete(self, found: Vertex, version: str, finalizers: Sequence[str], *, foreground: bool) -> None:
        policy = "Foreground" if foreground or FOREGROUND in finalizers else "Background"
        policy = "Orphan" if ORPHAN in finalizers and not foreground else policy
        options = {
            # An owner added since we looked must save it.
            "preconditions": {"uid": found.uid, "resourceVersion": version},
            "propagationPolicy": policy,
        }
        try:
            await self._client.send("DELETE", found.resource.path(found.key.namespace, found.key.name), options)
        except NotFound:
            return

    async def _drop_references(self, found: Vertex, live: Mapping[str, Any], uids: set[str]) -> None:
        metadata = live["metadata"]
        references = metadata.get("ownerReferences") or []
        kept = [owner for owner in references if owner["uid"] not in uids]
        if kept != references:
            patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "ownerReferences": kept or None}}
            await self._patch(found, patch)

    async def _drop_finalizer(self, found: Vertex, finalizer: str) -> None:
        live = await self._live(found)
        finalizers = (live or {"metadata": {}})["metadata"].get("finalizers") or ()
        if live is not None and finalizer in finalizers:
            kept = [one for one in finalizers if one != finalizer]
            version = live["metadata"]["resourceVersion"]
            await self._patch(found, {"metadata": {"resourceVersion": version, "finalizers": kept or None}})

    async def _patch(self, found: Vertex, patch: Mapping[str, Any]) -> None:
        """Patch an object. Raises: Conflict when it changed meanwhile, after which it is looked at anew."""
        try:
            await self._client.patch(found.resource, found.key.name, patch, found.key.namespace)
        except NotFound:
            return
