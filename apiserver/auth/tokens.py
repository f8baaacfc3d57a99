"""Service account tokens: signed by the cluster, bound to the account and maybe to a pod.

Source: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from apiserver.auth.user import AUTHENTICATED, User
from apiserver.storage.watch_cache import WatchCache

ISSUER = "https://kubernetes.default.svc.cluster.local"
_ALGORITHM = "ES256"


class TokenIssuer:
    """Signs and checks tokens with one key."""

    def __init__(self, cache: WatchCache, key_pem: bytes) -> None:
        self._cache = cache
        self._key = serialization.load_pem_private_key(key_pem, None)
        self._public: Any = self._key.public_key()

    def issue(
        self, account: dict[str, Any], audiences: Sequence[str], seconds: int, bound: dict[str, Any] | None
    ) -> tuple[str, int]:
        """Return a token for a service account and when it ends (Unix seconds); `bound` is a BoundObjectReference."""
        metadata, now = account["metadata"], int(time.time())
        claims: dict[str, Any] = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if bound:
            claims[bound["kind"].lower()] = {"name": bound["name"], "uid": bound.get("uid", "")}
        payload = {
            "iss": ISSUER, "aud": list(audiences or [ISSUER]), "iat": now, "nbf": now, "exp": now + seconds,
            "jti": str(uuid.uuid4()), "sub": account_user(metadata["namespace"], metadata["name"]),
            "kubernetes.io": claims,
        }  # fmt: skip
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM), now + seconds  # type: ignore[arg-type]

    def verify(self, token: str, audiences: Sequence[str] = (ISSUER,)) -> User | None:
        """Return whose token this is; None when it is not ours, too old, or what it is bound to is gone."""
        try:
            payload = jwt.decode(
                token, self._public, algorithms=[_ALGORITHM], audience=list(audiences), issuer=ISSUER,
                options={"require": ["exp", "sub", "aud"]},
            )  # fmt: skip
        except jwt.PyJWTError:
            return None
        claims = payload.get("kubernetes.io") or {}
        namespace, account = claims.get("namespace", ""), claims.get("serviceaccount") or {}
        if not self._lives("serviceaccounts", namespace, account):
            return None
        extra = {"authentication.kubernetes.io/credential-id": [f"JTI={payload.get('jti', '')}"]}
        pod = claims.get("pod")
        if pod is not None:
            if not self._lives("pods", namespace, pod):
                return None
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(payload["sub"], groups, account.get("uid", ""), extra)

    def _lives(self, plural: str, namespace: str, reference: dict[str, Any]) -> bool:
        entry = self._cache.collection(plural).get(f"/registry/{plural}/{namespace}/{reference.get('name')}")
        return entry is not None and entry.object()["metadata"]["uid"] == reference.get("uid")


def account_user(namespace: str, name: str) -> str:
    """Return the user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"
