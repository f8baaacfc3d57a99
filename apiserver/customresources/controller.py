"""Writes the conditions of definitions, and empties those that are being deleted.

Every server runs it: each step is worked out from the store alone and written under a guard, so several may act.
Source: https://kubernetes.io/docs/reference/kubernetes-api/extend-resources/custom-resource-definition-v1/
"""

import asyncio
import copy
import logging
from typing import Any

from apiserver.customresources.kinds import has_condition
from apiserver.registry.apiextensions import DEFINITIONS, FINALIZER, KIND, Object
from apiserver.registry.kind import Kind
from apiserver.registry.rest import Rest, WriteOptions
from apiserver.storage.object_storage import not_found
from apiserver.storage.watch_cache import Entry
from machinery import errors
from machinery.api import meta
from machinery.api.meta import Resource

log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
# How long after a change the rest is looked at again: finalizers of instances, names that became free.
_RECHECK_SECONDS = 1.0


class DefinitionController:
    """Names, establishes and cleans up definitions."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._collection = rest.storage.cache.collection(DEFINITIONS.group_resource)
        self._briefs: dict[str, tuple[int, Object]] = {}

    async def run(self) -> None:
        """Work for ever."""
        await self._rest.storage.cache.ready.wait()
        while True:
            with self._collection.watch("", after=None) as watcher:
                while not watcher.overrun:
                    waiting = await self._pass()
                    if await watcher.wait(_RECHECK_SECONDS if waiting else 3600):
                        watcher.take()

    async def _pass(self) -> bool:
        """Look at every definition once; returns whether something is to be looked at again soon."""
        waiting = False
        present = {entry.name for entry in self._collection.entries("")}
        self._briefs = {name: brief for name, brief in self._briefs.items() if name in present}
        for entry in self._collection.entries(""):
            try:
                waiting |= await self._reconcile(entry)
            except errors.NotFound:
                continue
            except Exception as error:  # noqa: BLE001 - one definition in an odd form must not hold up the others
                log.warning("definition %s: %s", entry.name, error)
                waiting = True
                await asyncio.sleep(_RETRY_SECONDS)
        return waiting

    async def _reconcile(self, entry: Entry) -> bool:
        crd = self._brief(entry)
        if crd["metadata"].get("deletionTimestamp"):
            if FINALIZER in (crd["metadata"].get("finalizers") or ()):
                return not await self._clean_up(crd)
            return False
        if with_names(crd, self._others(entry.name)) != crd:
            await self._write(entry.name, lambda now: with_names(now, self._others(entry.name)))
        return False

    def _others(self, name: str) -> list[Object]:
        return [self._brief(entry) for entry in self._collection.entries("") if entry.name != name]

    def _brief(self, entry: Entry) -> Object:
        """Return a definition without its schemas, which are most of it; read once for each state of it."""
        known = self._briefs.get(entry.name)
        if known is None or known[0] != entry.revision:
            crd = entry.object()
            spec = {name: crd["spec"][name] for name in ("group", "names", "scope")}
            known = entry.revision, {"metadata": crd["metadata"], "spec": spec, "status": crd.get("status") or {}}
            self._briefs[entry.name] = known
        return known[1]

    async def _write(self, name: str, change: Any) -> None:
        await self._rest.replace(KIND, "", name, change, WriteOptions())

    async def _clean_up(self, crd: Object) -> bool:
        """Delete the instances; when none is left, let the definition go. Returns whether it may go."""
        spec = crd["spec"]
        name = crd["metadata"]["name"]
        resource = Resource(
            spec["group"], "", spec["names"]["plural"], spec["names"]["kind"], namespaced=spec["scope"] == "Namespaced"
        )
        kind = Kind(resource, "", "")
        await self._rest.storage.refresh()
        instances = self._rest.storage.cache.collection(resource.group_resource)
        if has_condition(crd, "Established"):  # else what is there belongs to another definition of these names
            for one in instances.entries(""):
                await self._delete_instance(kind, one)
            await self._rest.storage.refresh()
            if left := len(instances):
                why = f"{left} instances remaining" if left else ""
                await self._write(name, lambda now: _with_condition(now, "True", "InstanceDeletionInProgress", why))
                return False

        def freed(now: Object) -> Object:
            _with_condition(now, "False", "InstanceDeletionCompleted", "removed all instances")
            now["metadata"]["finalizers"] = [one for one in now["metadata"].get("finalizers", ()) if one != FINALIZER]
            if not now["metadata"]["finalizers"]:
                del now["metadata"]["finalizers"]
                now["metadata"].pop("deletionGracePeriodSeconds", None)
            return now

        await self._write(name, freed)
        return True

    async def _delete_instance(self, kind: Kind, entry: Entry) -> None:
        if entry.object()["metadata"].get("deletionTimestamp"):
            return
        try:
            await self._rest.delete(kind, entry.namespace, entry.name, {}, dry_run=False)
        except errors.NotFound:
            return
        except errors.Conflict as error:
            raise not_found(kind.resource, entry.key) from error


def _with_condition(crd: Object, status: str, reason: str, message: str) -> Object:
    set_condition(crd, "Terminating", status, reason, message)
    return crd


def set_condition(crd: Object, kind: str, status: str, reason: str, message: str) -> None:
    """Set a condition; its time moves when its status does."""
    conditions: list[Object] = crd.setdefault("status", {}).setdefault("conditions", [])
    made = {"type": kind, "status": status, "reason": reason, "message": message}
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            moved = old["status"] != status
            made["lastTransitionTime"] = meta.now() if moved else old.get("lastTransitionTime") or meta.now()
            conditions[index] = made
            return
    conditions.append({**made, "lastTransitionTime": meta.now()})


def with_names(crd: Object, others: list[Object]) -> Object:
    """Return a definition with the names it may have and the conditions that follow; the same when nothing changes."""
    new = copy.deepcopy(crd)
    asked, group = new["spec"]["names"], new["spec"]["group"]
    status = new.setdefault("status", {})
    accepted = dict(status.get("acceptedNames") or {"plural": "", "kind": ""})
    taken, kinds = _taken(group, others)
    problem = ("", "")
    for field_name in ("plural", "singular"):
        name = asked.get(field_name, "")
        if name and name in taken:
            problem = _first(problem, f"{field_name.title()}Conflict", f'"{name}" is already in use')
        elif name:
            accepted[field_name] = name
    clashing = [name for name in asked.get("shortNames") or () if name in taken]
    if clashing:
        told = ", ".join(f'"{name}" is already in use' for name in clashing)
        problem = _first(problem, "ShortNamesConflict", told if len(clashing) == 1 else f"[{told}]")
    elif asked.get("shortNames"):
        accepted["shortNames"] = asked["shortNames"]
    else:
        accepted.pop("shortNames", None)
    for field_name in ("kind", "listKind"):
        name = asked.get(field_name, "")
        if name and name in kinds:
            problem = _first(problem, f"{field_name[0].upper()}{field_name[1:]}Conflict", f'"{name}" is already in use')
        elif name:
            accepted[field_name] = name
    accepted.pop("categories", None)
    if asked.get("categories"):
        accepted["categories"] = asked["categories"]
    status["acceptedNames"] = accepted
    _set_conditions(new, problem)
    return crd if new == crd else new


def _first(problem: tuple[str, str], reason: str, message: str) -> tuple[str, str]:
    return problem if problem[0] else (reason, message)


def _set_conditions(crd: Object, problem: tuple[str, str]) -> None:
    if problem[0]:
        set_condition(crd, "NamesAccepted", "False", *problem)
        if not has_condition(crd, "Established"):
            set_condition(crd, "Established", "False", "NotAccepted", "not all names are accepted")
    else:
        set_condition(crd, "NamesAccepted", "True", "NoConflicts", "no conflicts found")
        set_condition(crd, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted")


def _taken(group: str, others: list[Object]) -> tuple[set[str], set[str]]:
    """Return the resource names and the kinds that other definitions of the group hold."""
    resources: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        held = (other.get("status") or {}).get("acceptedNames") or {}
        if other["spec"]["group"] == group:
            resources.update(filter(None, (held.get("plural"), held.get("singular"), *(held.get("shortNames") or ()))))
            kinds.update(filter(None, (held.get("kind"), held.get("listKind"))))
    return resources, kinds
