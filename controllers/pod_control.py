"""Making and deleting the pods of an owner, and telling so in the events users know."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from controllers.ownership import owner_reference, reference
from controllers.views import ObjectMeta, Pod
from machinery.api.meta import Resource, now
from machinery.api.resources import PODS
from machinery.client.events import EventRecorder
from machinery.client.reflector import decode_partial
from machinery.client.rest import Client, PatchType
from machinery.errors import APIError, Forbidden, NotFound

_COPIED = ("labels", "annotations", "finalizers")


class PodControl:
    """Writes pods for owners of one kind."""

    def __init__(self, client: Client, recorder: EventRecorder, owners: Resource) -> None:
        self._client = client
        self._recorder = recorder
        self._owners = owners

    async def create(self, owner: ObjectMeta, body: dict[str, Any]) -> None:
        """Create a pod. Raises: APIError, after an event that says why."""
        involved = reference(self._owners, owner)
        try:
            made = await self._client.send("POST", PODS.path(owner.namespace), body)
        except APIError as error:
            if not namespace_is_terminating(error):
                self._recorder.later(involved, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._recorder.later(
            involved, "Normal", "SuccessfulCreate", f"Created pod: {decode_partial(made).metadata.name}"
        )

    async def delete(self, owner: ObjectMeta, pod: Pod) -> None:
        """Delete a pod. Raises: NotFound when it is gone; APIError, after an event that says why."""
        options = {"preconditions": {"uid": pod.metadata.uid}}
        involved, name = reference(self._owners, owner), pod.metadata.name
        try:
            await self._client.send("DELETE", PODS.path(pod.metadata.namespace, name), options)
        except NotFound:
            raise
        except APIError as error:
            self._recorder.later(involved, "Warning", "FailedDelete", f"Error deleting: {error}")
            raise
        self._recorder.later(involved, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")


def pod_of_template(owners: Resource, owner: ObjectMeta, template: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return the pod to create: a template's metadata and spec, the owner as its controller.

    Args: `metadata` replaces parts of it; without a name one is generated from the owner's.
    """
    given = template.get("metadata") or {}
    made = {field: value for field in _COPIED if (value := given.get(field))}
    made |= {
        **({} if "name" in metadata else {"generateName": f"{owner.name}-"}),
        "namespace": owner.namespace,
        "ownerReferences": [owner_reference(owners, owner)],
        **metadata,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": template.get("spec", {})}


async def slow_start(count: int, act: Callable[[], Awaitable[object]]) -> tuple[int, list[BaseException]]:
    """Act `count` times, in batches of 1, 2, 4 and so on; stop after a batch with a failure.

    Where every call is going to fail (a quota, say), only a few are made.

    Returns: how many succeeded, and the errors of the last batch.
    """
    done, batch = 0, 1
    while done < count:
        size = min(batch, count - done)
        results = await asyncio.gather(*(act() for _ in range(size)), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        done += size - len(errors)
        if errors:
            return done, errors
        batch *= 2
    return done, []


def namespace_is_terminating(error: BaseException) -> bool:
    """Say whether a creation failed only because the whole namespace is going: nothing to report or repeat."""
    return isinstance(error, Forbidden) and any(cause.reason == "NamespaceTerminating" for cause in error.causes)


def disruption(reason: str, message: str) -> dict[str, Any]:
    """Return the condition of a pod that somebody is about to end."""
    return {
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": now(),
    }  # fmt: skip


async def disrupt(client: Client, pod: Pod, reason: str, message: str) -> None:
    """Say of a pod why it is ended, then delete it; one that is gone, or another by now, is left alone."""
    metadata = pod.metadata
    patch = {"metadata": {"uid": metadata.uid}, "status": {"conditions": [disruption(reason, message)]}}
    options = {"preconditions": {"uid": metadata.uid}}
    try:
        await client.patch(
            PODS, metadata.name, patch, metadata.namespace, type=PatchType.STRATEGIC, subresource="status"
        )
        await client.delete(PODS, metadata.name, metadata.namespace, options=options)
    except NotFound:
        return
