"""kopf's part: what makes the operator take a step. There is no finalizer: a Build's pods go with it by ownership."""

import asyncio
from typing import Any

import kopf

from machinery.api.meta import ObjectKey
from operators.build.pods import BUILDS, LABEL
from operators.build.reconcile import reconcile
from operators.serving import insist, new_registry

RESOURCE = BUILDS
REGISTRY = new_registry()
_OURS = (BUILDS.group, BUILDS.version, BUILDS.plural)


@kopf.on.event(*_OURS, registry=REGISTRY)
async def asked(namespace: str | None, name: str | None, memo: kopf.Memo, **_: Any) -> None:
    """Take a step for a Build that is new, changed, or there when we start."""
    await _insist(memo, ObjectKey(namespace or "", name or ""))


@kopf.on.event("", "v1", "pods", annotations={LABEL: kopf.PRESENT}, registry=REGISTRY)
async def went_on(namespace: str | None, annotations: kopf.Annotations, memo: kopf.Memo, **_: Any) -> None:
    """Take a step when a run's pod has changed."""
    await _insist(memo, ObjectKey(namespace or "", annotations[LABEL]))


@kopf.index(*_OURS, registry=REGISTRY)
def by_config_map(namespace: str | None, name: str | None, spec: kopf.Spec, **_: Any) -> dict[Any, Any]:
    """Remember which Builds' contexts are in a ConfigMap."""
    source = ((spec.get("context") or {}).get("configMap") or {}).get("name")
    return {(namespace, source): name} if source else {}


@kopf.on.event("", "v1", "configmaps", registry=REGISTRY)
async def context_changed(namespace: str | None, name: str, memo: kopf.Memo, **indexes: Any) -> None:
    """Take a step for the Builds whose context a ConfigMap holds."""
    for build in list(indexes["by_config_map"].get((namespace, name), ())):
        await _insist(memo, ObjectKey(namespace or "", str(build)))


async def _insist(memo: kopf.Memo, key: ObjectKey) -> None:
    """Take a step for a Build, and another one when it is due."""
    _look_again(memo, key, await insist(memo, key, reconcile))


def _look_again(memo: kopf.Memo, key: ObjectKey, seconds: float | None) -> None:
    """Take another step after a while, for Builds that are made anew by time; the latest word counts."""
    timers = memo.setdefault("timers", {})
    if (before := timers.pop(key, None)) is not None:
        before.cancel()
    if seconds is not None:
        loop = asyncio.get_running_loop()
        tasks = memo.setdefault("tasks", set())

        def due() -> None:
            task = loop.create_task(_insist(memo, key))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        timers[key] = loop.call_later(seconds, due)
