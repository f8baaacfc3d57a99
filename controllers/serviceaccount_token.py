"""Secrets that hold a token of a ServiceAccount, as users still ask for them.

The token is one of the TokenRequest API, bound to its Secret: it ends with the Secret, or with the account.
Source: https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets
"""

import asyncio
import base64
from pathlib import Path

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import Secret, ServiceAccount
from machinery.api.meta import ObjectKey
from machinery.api.resources import SECRETS, SERVICE_ACCOUNTS
from machinery.client.kubeconfig import ClientConfig
from machinery.client.rest import Client
from machinery.errors import NotFound

TYPE = "kubernetes.io/service-account-token"
ACCOUNT, ACCOUNT_UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
_LIFETIME_SECONDS = 2**32
"""As long as a TokenRequest may ask for: 136 years."""


class ServiceAccountTokenController(Controller[ObjectKey]):
    """Fills token Secrets, and deletes those of accounts that are gone. Keys are those of Secrets."""

    name = "serviceaccount-token"

    def __init__(self, client: Client, config: ClientConfig, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._config = config
        self._secrets = informers.informer(SECRETS, Secret, field_selector=f"type={TYPE}")
        self._accounts = informers.informer(SERVICE_ACCOUNTS, ServiceAccount)
        self._secrets.add_handler(self._secret_changed)
        self._accounts.add_handler(self._account_changed)

    def _secret_changed(self, old: Secret | None, new: Secret | None) -> None:
        if new is not None:
            self.queue.add(new.metadata.key)

    def _account_changed(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        account = new or old
        if account is None or (old is not None and new is not None):
            return
        for secret in self._secrets.list(account.metadata.namespace):
            if secret.metadata.annotations.get(ACCOUNT) == account.metadata.name:
                self.queue.add(secret.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Fill one Secret, or delete it."""
        secret = self._secrets.get(key)
        if secret is None or secret.metadata.deletionTimestamp is not None:
            return DONE
        name = secret.metadata.annotations.get(ACCOUNT, "")
        account = await self._account(key.namespace, name)
        known_uid = secret.metadata.annotations.get(ACCOUNT_UID, "")
        if account is None or (known_uid and known_uid != account):
            await self._delete(secret)
            return DONE
        data = {
            "ca.crt": await self._bundle(), "namespace": base64.b64encode(key.namespace.encode()).decode(),
        }  # fmt: skip
        if data.items() <= secret.data.items() and secret.data.get("token") and known_uid:
            return DONE
        if not secret.data.get("token"):
            data["token"] = await self._token(secret, name)
        metadata = {"resourceVersion": secret.metadata.resourceVersion, "annotations": {ACCOUNT_UID: account}}
        try:
            await self._client.patch(SECRETS, key.name, {"metadata": metadata, "data": data}, key.namespace)
        except NotFound:
            return DONE
        return DONE

    async def _account(self, namespace: str, name: str) -> str | None:
        """Return the uid of an account; asks the server for one the cache has not seen."""
        known = self._accounts.get(ObjectKey(namespace, name))
        if known is not None:
            return known.metadata.uid
        if not name:
            return None
        try:
            found = await self._client.get(SERVICE_ACCOUNTS, name, namespace)
        except NotFound:
            return None
        return str(found["metadata"]["uid"])

    async def _token(self, secret: Secret, account: str) -> str:
        metadata = secret.metadata
        bound = {"kind": "Secret", "apiVersion": "v1", "name": metadata.name, "uid": metadata.uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"audiences": [], "expirationSeconds": _LIFETIME_SECONDS, "boundObjectRef": bound},
        }  # fmt: skip
        answer = await self._client.create(
            SERVICE_ACCOUNTS, body, metadata.namespace, name=account, subresource="token"
        )
        return base64.b64encode(str(answer["status"]["token"]).encode()).decode()

    async def _delete(self, secret: Secret) -> None:
        metadata = secret.metadata
        options = {"preconditions": {"uid": metadata.uid, "resourceVersion": metadata.resourceVersion}}
        try:
            await self._client.delete(SECRETS, metadata.name, metadata.namespace, options=options)
        except NotFound:
            return

    async def _bundle(self) -> str:
        data = self._config.ca_data
        if not data and self._config.ca_file:
            data = await asyncio.to_thread(Path(self._config.ca_file).read_bytes)
        return base64.b64encode(data or b"").decode()
