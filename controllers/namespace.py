"""Namespaces on their way out: everything in them is deleted, then the `kubernetes` finalizer goes, and they with it.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controllers import conditions
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Namespace
from machinery.api.meta import ObjectKey, Resource
from machinery.api.resources import NAMESPACES, PODS
from machinery.client.discovery import Discovered, discover
from machinery.client.rest import Client, ConnectionFailed
from machinery.errors import APIError, Conflict, MethodNotAllowed, NotFound

FINALIZER = "kubernetes"
FIRST_RECHECK_SECONDS = 0.1
LAST_RECHECK_SECONDS = 5.0


@dataclass(slots=True)
class Remains:
    """What is still in a namespace, and what went wrong while emptying it."""

    discovery_error: str = ""
    errors: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)

    @property
    def nothing(self) -> bool:
        """Whether the namespace is known to be empty."""
        return not (self.discovery_error or self.errors or self.counts)


class NamespaceController(Controller):
    """Empties namespaces that are being deleted."""

    name = "namespace"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._namespaces = informers.informer(NAMESPACES, Namespace)
        self._namespaces.add_handler(self._changed)
        self._rechecks: dict[ObjectKey, float] = {}

    def _changed(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and new.metadata.deletionTimestamp is not None:
            self.queue.add(new.metadata.key)
        elif new is None and old is not None:
            self._rechecks.pop(old.metadata.key, None)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete what is there; when nothing is left, take our finalizer off."""
        namespace = self._namespaces.get(key)
        if namespace is None or namespace.metadata.deletionTimestamp is None:
            return DONE
        if FINALIZER not in namespace.spec.finalizers:
            return DONE
        remains = await self._empty(key.name)
        await self._write_conditions(namespace, remains)
        if remains.nothing:
            await self._finalize(key.name)
            return DONE
        # Pods take the time they were given to stop, and foreign finalizers as long as they like.
        wait = self._rechecks.get(key, FIRST_RECHECK_SECONDS)
        self._rechecks[key] = min(wait * 1.5, LAST_RECHECK_SECONDS)
        return Result(requeue_after=wait)

    async def _empty(self, namespace: str) -> Remains:
        remains = Remains()
        try:
            found = await discover(self._client)
        except (APIError, ConnectionFailed) as error:
            remains.discovery_error = str(error)
            return remains
        # Pods go first: what they use (secrets, network policies, volumes) must outlive them.
        await self._delete_all(PODS, frozenset(("deletecollection",)), namespace, remains)
        if not remains.counts:
            for one in emptied(found):
                await self._delete_all(one.resource, one.verbs, namespace, remains)
        return remains

    async def _delete_all(self, resource: Resource, verbs: frozenset[str], namespace: str, remains: Remains) -> None:
        try:
            left = (await self._client.list(resource, namespace))["items"]
            if left and "deletecollection" in verbs:
                options = {"propagationPolicy": "Background"}
                await self._client.delete_collection(resource, namespace, options=options)
                left = (await self._client.list(resource, namespace))["items"]
            elif left:
                left = await self._delete_each(resource, namespace, left)
        except (NotFound, MethodNotAllowed):
            return  # no longer served
        except (APIError, ConnectionFailed) as error:
            remains.errors.append(f"{resource.plural}.{resource.group}: {error}")
            return
        if left:
            remains.counts[f"{resource.plural}.{resource.group}"] += len(left)
            remains.finalizers.update(name for obj in left for name in obj["metadata"].get("finalizers") or ())

    async def _delete_each(self, resource: Resource, namespace: str, objects: Sequence[Any]) -> list[Any]:
        for obj in objects:
            try:
                await self._client.delete(resource, obj["metadata"]["name"], namespace)
            except NotFound:
                continue
        left = await self._client.list(resource, namespace)
        return list(left["items"])

    async def _write_conditions(self, namespace: Namespace, remains: Remains) -> None:
        found: conditions.Conditions = namespace.status.conditions
        for condition in conditions_of(remains):
            old = conditions.find(found, condition["type"])
            if old is not None and (old["status"], old.get("message")) == (condition["status"], condition["message"]):
                continue
            found = conditions.with_condition(conditions.without(found, condition["type"]), condition)
        if remains.nothing and not namespace.status.conditions:
            return  # it is gone with the next request: nobody would read them
        if found != namespace.status.conditions:
            patch = {"status": {"conditions": list(found)}, "metadata": {"uid": namespace.metadata.uid}}
            try:
                await self._client.patch(NAMESPACES, namespace.metadata.name, patch, subresource="status")
            except (NotFound, Conflict):
                return

    async def _finalize(self, name: str) -> None:
        try:
            fresh = await self._client.get(NAMESPACES, name)
            fresh["spec"]["finalizers"] = [one for one in fresh["spec"].get("finalizers", ()) if one != FINALIZER]
            await self._client.update(NAMESPACES, fresh, subresource="finalize")
        except NotFound:
            return


def emptied(found: Sequence[Discovered]) -> list[Discovered]:
    """Return the namespaced resources whose objects are to go, in their preferred versions; events last.

    Deleting things makes events: those of this very deletion are to go too.
    """
    namespaced = [one for one in found if one.preferred and one.resource.namespaced and {"list", "delete"} <= one.verbs]
    return sorted(namespaced, key=lambda one: one.resource.plural == "events")


def conditions_of(remains: Remains) -> list[dict[str, Any]]:
    """Return the conditions that tell users what holds a namespace up, in upstream's words."""

    def told(kind: str, problem: str, bad: str, good: tuple[str, str]) -> dict[str, Any]:
        return conditions.made(kind, "True", bad, problem) if problem else conditions.made(kind, "False", *good)

    listed = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(remains.counts.items()))
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(remains.finalizers.items()))
    failed, unknown = "; ".join(remains.errors), remains.discovery_error
    return [
        told(
            "NamespaceDeletionDiscoveryFailure",
            f"Discovery failed for some groups, 1 failing: {unknown}" if unknown else "",
            "DiscoveryFailed",
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        conditions.made(
            "NamespaceDeletionGroupVersionParsingFailure", "False", "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        told(
            "NamespaceDeletionContentFailure",
            f"Failed to delete all resource types, {len(remains.errors)} remaining: {failed}" if failed else "",
            "ContentDeletionFailed",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        told(
            "NamespaceContentRemaining",
            f"Some resources are remaining: {listed}" if listed else "",
            "SomeResourcesRemain",
            ("ContentRemoved", "All content successfully removed"),
        ),
        told(
            "NamespaceFinalizersRemaining",
            f"Some content in the namespace has finalizers remaining: {held}" if held else "",
            "SomeFinalizersRemain",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]  # fmt: skip
