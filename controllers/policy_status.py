"""ValidatingAdmissionPolicies: their status says what in their expressions does not fit the types.

Source: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking
"""

import asyncio
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from controllers.informers import InformerFactory
from controllers.policy_views import Policy
from controllers.reconciler import DONE, Controller, Result
from controllers.views import JSON
from machinery.api.meta import ObjectKey, Resource
from machinery.api.resources import VALIDATING_POLICIES
from machinery.client.discovery import discover
from machinery.client.rest import Client
from machinery.errors import NotFound

if TYPE_CHECKING:
    from machinery.api.schema import Shape

MAX_TYPES = 10
"""Against so many types an expression is checked at most; upstream's figure."""


class PolicyStatusController(Controller[ObjectKey]):
    """Checks policies when they change."""

    name = "validatingadmissionpolicy-status"
    workers = 1

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._policies = informers.informer(VALIDATING_POLICIES, Policy)
        self._policies.add_handler(self._changed)

    def _changed(self, old: Policy | None, new: Policy | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Check one policy."""
        policy = self._policies.get(key)
        if policy is None:
            return DONE
        generation = policy.metadata.generation
        if policy.status.observedGeneration == generation and policy.status.typeChecking is not None:
            return DONE
        served = [one.resource for one in await discover(self._client)]
        warnings = await asyncio.to_thread(_check, policy.spec, served)
        checked = {"expressionWarnings": warnings or None}
        patch = {
            "metadata": {"resourceVersion": policy.metadata.resourceVersion},
            "status": {"observedGeneration": generation, "typeChecking": checked},
        }
        try:
            await self._client.patch(VALIDATING_POLICIES, key.name, patch, subresource="status")
        except NotFound:
            return DONE
        return DONE


def _check(spec: JSON, served: Iterable[Resource]) -> list[dict[str, str]]:
    """Load the schemas and the engine, which a cluster without policies goes without, and check."""
    from controllers.policy_types import shape_of_kind, warnings_of

    shapes: list[tuple[str, Shape]] = []
    for resource in asked_about(spec, served):
        shape = shape_of_kind(resource.group, resource.version, resource.kind)
        if shape is not None:
            shapes.append((f"{resource.api_version}, Kind={resource.kind}", shape))
    return warnings_of(spec, shapes[:MAX_TYPES])


def asked_about(spec: JSON, served: Iterable[Resource]) -> list[Resource]:
    """Return the resources a policy names; rules with wildcards name none."""
    by_name = {(one.group, one.version, one.plural): one for one in served}
    found: list[Resource] = []
    rules: Iterable[dict[str, Any]] = (spec.get("matchConstraints") or {}).get("resourceRules") or ()
    for rule in rules:
        parts = (rule.get("apiGroups") or (), rule.get("apiVersions") or (), rule.get("resources") or ())
        for triple in itertools.product(*parts):
            resource = by_name.get(triple)
            if resource is not None and resource not in found:
                found.append(resource)
    return found
