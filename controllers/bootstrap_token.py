"""Tokens by which new machines join: expired ones go, and `cluster-info` is signed with each that is for signing.

Source: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson

from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from controllers.views import ConfigMap, Secret
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import CONFIG_MAPS, SECRETS
from machinery.client.rest import Client
from machinery.errors import NotFound

TYPE = "bootstrap.kubernetes.io/token"
NAMESPACE = "kube-system"
CLUSTER_INFO = ObjectKey("kube-public", "cluster-info")
KUBECONFIG, SIGNATURE = "kubeconfig", "jws-kubeconfig-"
_NAME_PREFIX = "bootstrap-token-"


def field(secret: Secret, name: str) -> str:
    """Return a field of a token's Secret, empty when it is absent or no text."""
    try:
        return base64.b64decode(secret.data.get(name, "")).decode()
    except ValueError:
        return ""


def seconds_left(secret: Secret, *, at: datetime) -> float | None:
    """Return how long a token is good still: None for ever, 0 or less when it is over or its end can't be read."""
    text = field(secret, "expiration")
    if not text:
        return None
    try:
        return (parse_time(text) - at).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def detached_signature(content: bytes, token_id: str, token_secret: str) -> str:
    """Return the JWS of `content` with the content left out, as joining machines check it (RFC 7515, appendix F)."""

    def encoded(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    header = encoded(orjson.dumps({"alg": "HS256", "kid": token_id}))
    signed = f"{header}.{encoded(content)}".encode()
    signature = hmac.digest(token_secret.encode(), signed, hashlib.sha256)
    return f"{header}..{encoded(signature)}"


def signatures(kubeconfig: str, tokens: Iterable[Secret], *, at: datetime) -> dict[str, str]:
    """Return the signature of each token that signs."""
    found = {}
    for secret in tokens:
        token_id, token_secret = field(secret, "token-id"), field(secret, "token-secret")
        left = seconds_left(secret, at=at)
        named = secret.metadata.name == f"{_NAME_PREFIX}{token_id}"
        if not token_secret or not named or field(secret, "usage-bootstrap-signing") != "true":
            continue
        if left is None or left > 0:
            found[SIGNATURE + token_id] = detached_signature(kubeconfig.encode(), token_id, token_secret)
    return found


class BootstrapTokenController(Controller[ObjectKey]):
    """Keys are those of token Secrets, and that of the ConfigMap `cluster-info`."""

    name = "bootstrap-token"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._tokens = informers.informer(SECRETS, Secret, field_selector=f"type={TYPE}")
        self._maps = informers.informer(CONFIG_MAPS, ConfigMap, field_selector=f"metadata.name={CLUSTER_INFO.name}")
        self._tokens.add_handler(self._token_changed)
        self._maps.add_handler(self._map_changed)

    def _token_changed(self, old: Secret | None, new: Secret | None) -> None:
        changed = new or old
        if changed is not None and changed.metadata.namespace == NAMESPACE:
            self.queue.add(CLUSTER_INFO)
            self.queue.add(changed.metadata.key)

    def _map_changed(self, old: ConfigMap | None, new: ConfigMap | None) -> None:
        if new is not None and new.metadata.key == CLUSTER_INFO:
            self.queue.add(CLUSTER_INFO)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Sign `cluster-info`, or delete a token whose time is over."""
        if key == CLUSTER_INFO:
            await self._sign()
            return DONE
        secret = self._tokens.get(key)
        left = seconds_left(secret, at=datetime.now(UTC)) if secret is not None else None
        if secret is None or left is None:
            return DONE
        if left > 0:
            return Result(requeue_after=left)
        try:
            await self._client.delete(
                SECRETS, key.name, key.namespace, options={"preconditions": {"uid": secret.metadata.uid}}
            )
        except NotFound:
            return DONE
        return DONE

    async def _sign(self) -> None:
        found = self._maps.get(CLUSTER_INFO)
        if found is None or not (kubeconfig := found.data.get(KUBECONFIG)):
            return
        wanted: dict[str, Any] = signatures(kubeconfig, self._tokens.list(NAMESPACE), at=datetime.now(UTC))
        present = {name: text for name, text in found.data.items() if name.startswith(SIGNATURE)}
        if wanted == present:
            return
        data = {**dict.fromkeys(present), **wanted}
        patch = {"metadata": {"resourceVersion": found.metadata.resourceVersion}, "data": data}
        await self._client.patch(CONFIG_MAPS, CLUSTER_INFO.name, patch, CLUSTER_INFO.namespace)
