"""kopf's part: what makes the operator take a step.

Here is a finalizer: nodes are emptied before they go, also when their pool is deleted, and that takes the operator.
"""

from typing import Any

import kopf

from machinery.api.meta import ObjectKey
from machinery.client.rest import ConnectionFailed
from machinery.errors import APIError
from operators.nodepool.plan import LABEL, NODE_POOLS
from operators.nodepool.reconcile import reconcile
from operators.serving import RETRY_SECONDS, insist, new_registry, step

RESOURCE = NODE_POOLS
REGISTRY = new_registry()
_OURS = (NODE_POOLS.group, NODE_POOLS.version, NODE_POOLS.plural)
_DRAIN_SECONDS = 0.5


@kopf.on.resume(*_OURS, registry=REGISTRY)
@kopf.on.create(*_OURS, registry=REGISTRY)
@kopf.on.update(*_OURS, field="spec", registry=REGISTRY)
@kopf.on.delete(*_OURS, registry=REGISTRY)
async def asked(name: str | None, memo: kopf.Memo, **_: Any) -> None:
    """Take steps for a pool that is new, changed, on its way out, or there when we start, until its nodes are so."""
    try:
        done = await step(memo, ObjectKey("", name or ""), reconcile)
    except (APIError, ConnectionFailed) as error:
        raise kopf.TemporaryError(str(error), delay=RETRY_SECONDS) from error
    if not done:
        raise kopf.TemporaryError("nodes are being drained", delay=_DRAIN_SECONDS)


@kopf.on.event("", "v1", "nodes", labels={LABEL: kopf.PRESENT}, registry=REGISTRY)
async def drifted(labels: kopf.Labels, memo: kopf.Memo, **_: Any) -> None:
    """Take a step when a pool's node has changed or is gone."""
    await insist(memo, ObjectKey("", labels[LABEL]), reconcile)
