"""ClusterRoles that are the sum of others, found by their labels.

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles
"""

from typing import Any

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import JSON, ObjectMeta, View
from machinery.api.meta import ObjectKey
from machinery.api.resources import CLUSTER_ROLES
from machinery.api.selectors import from_label_selector
from machinery.client.rest import Client
from machinery.errors import NotFound


class AggregationRule(View, frozen=True):
    """Which ClusterRoles are added up."""

    clusterRoleSelectors: tuple[JSON, ...] = ()


class ClusterRole(View, frozen=True):
    """A ClusterRole."""

    metadata: ObjectMeta
    rules: tuple[JSON, ...] | None = None
    aggregationRule: AggregationRule | None = None


class ClusterRoleAggregationController(Controller[ObjectKey]):
    """Writes the rules of aggregated ClusterRoles."""

    name = "clusterrole-aggregation"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._roles = informers.informer(CLUSTER_ROLES, ClusterRole)
        self._roles.add_handler(self._role_changed)

    def _role_changed(self, old: ClusterRole | None, new: ClusterRole | None) -> None:
        """Any role may be part of any aggregated one; there are few of these."""
        for role in self._roles.list():
            if role.aggregationRule is not None:
                self.queue.add(role.metadata.key)
        if new is not None and new.aggregationRule is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Bring the role's rules to the sum of those it selects."""
        role = self._roles.get(key)
        if role is None or role.aggregationRule is None:
            return DONE
        rules: list[Any] = []
        selectors = [from_label_selector(one) for one in role.aggregationRule.clusterRoleSelectors]
        for other in sorted(self._roles.list(), key=lambda one: one.metadata.name):
            if other is not role and any(one.matches(other.metadata.labels) for one in selectors):
                rules += [rule for rule in other.rules or () if rule not in rules]
        if rules == list(role.rules or ()):
            return DONE
        patch = {"metadata": {"uid": role.metadata.uid}, "rules": rules}
        try:
            await self._client.patch(CLUSTER_ROLES, key.name, patch)
        except NotFound:
            return DONE
        return DONE
