"""Each namespace has a ServiceAccount `default`; pods that name no other run as it.

Source: https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts
"""

import contextlib

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Namespace, ServiceAccount
from machinery.api.meta import ObjectKey
from machinery.api.resources import NAMESPACES, SERVICE_ACCOUNTS
from machinery.client.rest import Client
from machinery.errors import AlreadyExists

DEFAULT = "default"


class ServiceAccountController(Controller[ObjectKey]):
    """Makes the default ServiceAccount where it is missing. Keys are those of namespaces."""

    name = "serviceaccount"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._namespaces = informers.informer(NAMESPACES, Namespace)
        self._accounts = informers.informer(SERVICE_ACCOUNTS, ServiceAccount)
        self._namespaces.add_handler(self._namespace_changed)
        self._accounts.add_handler(self._account_changed)

    def _namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _account_changed(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if new is None and old is not None and old.metadata.name == DEFAULT:
            self.queue.add(ObjectKey("", old.metadata.namespace))

    async def reconcile(self, key: ObjectKey) -> Result:
        """Create the account if the namespace lives and has none."""
        namespace = self._namespaces.get(key)
        if namespace is None or namespace.metadata.deletionTimestamp is not None:
            return DONE
        if self._accounts.get(ObjectKey(key.name, DEFAULT)) is None:
            body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": key.name}}
            with contextlib.suppress(AlreadyExists):
                await self._client.create(SERVICE_ACCOUNTS, body, key.name)
        return DONE
