"""Secrets that hold a service account's token: filled when they are made, gone with the account.

Source: https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets
"""

import asyncio
import base64
import logging
from collections.abc import Iterable

from apiserver.auth.tokens import TokenIssuer
from apiserver.registry.kind import Kind, Object
from apiserver.registry.rest import Rest, WriteOptions
from apiserver.storage.watch_cache import Collection, Entry
from machinery import errors
from machinery.api.resources import SECRETS, SERVICE_ACCOUNTS

log = logging.getLogger(__name__)

TYPE = "kubernetes.io/service-account-token"
_NAME, _UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
_MARK = f'"type":"{TYPE}"'.encode()
_WAIT_SECONDS = 3600.0


class SecretTokens:
    """Follows secrets and service accounts."""

    def __init__(self, rest: Rest, kind: Kind, issuer: TokenIssuer, authority: bytes) -> None:
        """Args: `kind` is that of secrets; `authority` the CA that signs this server's certificate, PEM."""
        self._rest = rest
        self._kind = kind
        self._issuer = issuer
        self._authority = base64.b64encode(authority).decode()
        self._secrets = rest.storage.cache.collection(SECRETS.group_resource)
        self._accounts = rest.storage.cache.collection(SERVICE_ACCOUNTS.group_resource)

    async def run(self) -> None:
        """Keep them filled until cancelled."""
        await self._rest.storage.cache.ready.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(self._secrets))
            group.create_task(self._follow(self._accounts))

    async def _follow(self, collection: Collection) -> None:
        while True:
            with collection.watch("", after=None) as watcher:
                await self._look_at(self._secrets.entries(""))
                while not watcher.overrun:
                    await watcher.wait(_WAIT_SECONDS)
                    events = watcher.take()
                    if collection is self._secrets:
                        await self._look_at([event.entry for event in events if event.type != "DELETED"])
                    elif events:
                        await self._look_at(self._secrets.entries(""))

    async def _look_at(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if _MARK in entry.value:
                try:
                    await self._fill(entry)
                except errors.APIError as error:
                    log.warning("the token of secret %s/%s: %s", entry.namespace, entry.name, error)

    async def _fill(self, entry: Entry) -> None:
        secret = entry.object()
        annotations = secret["metadata"].get("annotations") or {}
        found = self._accounts.get(f"/registry/serviceaccounts/{entry.namespace}/{annotations.get(_NAME, '')}")
        account = found.object() if found is not None else None
        uid = account["metadata"]["uid"] if account is not None else ""
        if account is None or annotations.get(_UID, uid) != uid:
            if annotations.get(_UID):  # it was filled for an account that is gone
                options = {"preconditions": {"uid": secret["metadata"]["uid"]}}
                await self._rest.delete(self._kind, entry.namespace, entry.name, options, dry_run=False)
            return
        if {"token", "ca.crt", "namespace"} <= (secret.get("data") or {}).keys():
            return
        await asyncio.to_thread(self._issuer.load)
        token = self._issuer.issue_for_secret(account, entry.name)
        made = {
            "token": base64.b64encode(token.encode()).decode(), "ca.crt": self._authority,
            "namespace": base64.b64encode(entry.namespace.encode()).decode(),
        }  # fmt: skip

        def filled(obj: Object) -> Object:
            obj["data"] = {**made, **(obj.get("data") or {})}
            obj["metadata"]["annotations"] = {**(obj["metadata"].get("annotations") or {}), _UID: uid}
            return obj

        await self._rest.update(self._kind, entry.namespace, entry.name, filled, WriteOptions())
