"""kopf's part: what makes the operator take a step.

There is no finalizer, so that a project can be deleted while no operator runs: what it owns goes with it. That is why
drift is noticed by watching what we made, and not by one of kopf's timers, which would add one.
"""

from typing import Any

import kopf

from machinery.api.meta import ObjectKey
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError
from operators.compose.project import COMPOSES, KINDS, OWNER
from operators.compose.reconcile import reconcile
from operators.serving import RETRY_SECONDS, insist, new_registry, step

RESOURCE = COMPOSES
REGISTRY = new_registry()
_OURS = (COMPOSES.group, COMPOSES.version, COMPOSES.plural)


@kopf.on.resume(*_OURS, registry=REGISTRY)
@kopf.on.create(*_OURS, registry=REGISTRY)
@kopf.on.update(*_OURS, field="spec", registry=REGISTRY)
async def asked(namespace: str | None, name: str | None, memo: kopf.Memo, **_: Any) -> None:
    """Take a step for a project that is new, changed, or there when we start. kopf tries again where it fails."""
    try:
        await step(memo, ObjectKey(namespace or "", name or ""), reconcile)
    except (APIError, ConnectionFailed) as error:
        raise kopf.TemporaryError(str(error), delay=RETRY_SECONDS) from error


async def drifted(namespace: str | None, labels: kopf.Labels, memo: kopf.Memo, **_: Any) -> None:
    """Take a step when something a project owns is changed or gone."""
    await insist(memo, ObjectKey(namespace or "", labels[OWNER]), reconcile)


for _resource in KINDS.values():
    kopf.on.event(
        _resource.group, _resource.version, _resource.plural, labels={OWNER: kopf.PRESENT}, registry=REGISTRY
    )(drifted)


@kopf.index(*_OURS, registry=REGISTRY)
def by_config_map(namespace: str | None, name: str | None, spec: kopf.Spec, **_: Any) -> dict[Any, Any]:
    """Remember which projects' files are in a ConfigMap."""
    source = (spec.get("configMap") or {}).get("name")
    return {(namespace, source): name} if source else {}


@kopf.on.event("", "v1", "configmaps", registry=REGISTRY)
async def file_changed(namespace: str | None, name: str, memo: kopf.Memo, **indexes: Any) -> None:
    """Take a step for the projects whose file a ConfigMap holds."""
    for project in indexes["by_config_map"].get((namespace, name), ()):
        await insist(memo, ObjectKey(namespace or "", str(project)), reconcile)
