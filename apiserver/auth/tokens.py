"""Service account tokens: signed by the cluster, bound to the account and maybe to a pod.

Source: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

import base64
import functools
import hashlib
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from apiserver.auth.user import AUTHENTICATED, User
from apiserver.storage.watch_cache import WatchCache

ACCOUNT_PREFIX = "system:serviceaccount:"
ISSUER = "https://kubernetes.default.svc.cluster.local"
LEGACY_ISSUER = "kubernetes/serviceaccount"
_ALGORITHM = "ES256"


class _Key(NamedTuple):
    private: Any
    public: Any
    id: str


class TokenIssuer:
    """Signs and checks tokens with one key."""

    def __init__(self, cache: WatchCache, key_pem: bytes) -> None:
        self._cache = cache
        self._key_pem = key_pem

    @functools.cached_property
    def _key(self) -> _Key:
        from cryptography.hazmat.primitives import serialization

        private: Any = serialization.load_pem_private_key(self._key_pem, None)
        public = private.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return _Key(private, public, _base64url(hashlib.sha256(der).digest()))

    @functools.cached_property
    def _jwt(self) -> Any:
        import jwt

        return jwt

    def load(self) -> None:
        """Load what signing needs; it is left out of the start of the server because it takes a while."""
        _ = self._key, self._jwt

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
            if node := bound.get("node"):  # where the pod runs; told of, but the token does not depend on it
                claims["node"] = node
        payload = {
            "iss": ISSUER, "aud": list(audiences or [ISSUER]), "iat": now, "nbf": now, "exp": now + seconds,
            "jti": str(uuid.uuid4()), "sub": account_user(metadata["namespace"], metadata["name"]),
            "kubernetes.io": claims,
        }  # fmt: skip
        headers = {"kid": self._key.id}
        return self._jwt.encode(payload, self._key.private, algorithm=_ALGORITHM, headers=headers), now + seconds

    def key_set(self) -> dict[str, Any]:
        """Return the JSON Web Key Set by which others check our tokens; RFC 7517."""
        numbers = self._key.public.public_numbers()
        x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        key = {"use": "sig", "kty": "EC", "kid": self._key.id, "crv": "P-256", "alg": _ALGORITHM, "x": x, "y": y}
        return {"keys": [key]}

    def verify(self, token: str, audiences: Sequence[str] = (ISSUER,)) -> User | None:
        """Return whose token this is; None when it is not ours, too old, or what it is bound to is gone."""
        found = self.review(token, audiences)
        return found[0] if found is not None else None

    def review(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]] | None:
        """Return whose token this is and which of the audiences it is for; None when it is not good for any."""
        if (user := self._of_secret(token)) is not None:
            return user, [one for one in audiences if one == ISSUER]
        try:
            payload = self._jwt.decode(
                token, self._key.public, algorithms=[_ALGORITHM], audience=list(audiences), issuer=ISSUER,
                options={"require": ["exp", "sub", "aud"]},
            )  # fmt: skip
        except self._jwt.PyJWTError:
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
        secret, node = claims.get("secret"), claims.get("node")
        if secret is not None and not self._lives("secrets", namespace, secret):
            return None
        if node is not None:
            if pod is None and not self._lives("nodes", "", node):
                return None
            extra["authentication.kubernetes.io/node-name"] = [node["name"]]
            if node.get("uid"):
                extra["authentication.kubernetes.io/node-uid"] = [node["uid"]]
        told = payload["aud"] if isinstance(payload["aud"], list) else [payload["aud"]]
        user = User(payload["sub"], groups, account.get("uid", ""), extra)
        return user, [one for one in audiences if one in told]

    def issue_for_secret(self, account: dict[str, Any], secret: str) -> str:
        """Return a token without an end, good while a secret of that name holds it."""
        metadata = account["metadata"]
        payload = {
            "iss": LEGACY_ISSUER, "sub": account_user(metadata["namespace"], metadata["name"]),
            f"{LEGACY_ISSUER}/namespace": metadata["namespace"], f"{LEGACY_ISSUER}/secret.name": secret,
            f"{LEGACY_ISSUER}/service-account.name": metadata["name"],
            f"{LEGACY_ISSUER}/service-account.uid": metadata["uid"],
        }  # fmt: skip
        return str(self._jwt.encode(payload, self._key.private, algorithm=_ALGORITHM, headers={"kid": self._key.id}))

    def _of_secret(self, token: str) -> User | None:
        """Return whose token of a secret this is; None when it is none, or the secret holds it no more."""
        try:
            claims = self._jwt.decode(token, self._key.public, algorithms=[_ALGORITHM], issuer=LEGACY_ISSUER)
        except self._jwt.PyJWTError:
            return None
        namespace, secret, name, uid = (
            claims.get(f"{LEGACY_ISSUER}/{part}", "")
            for part in ("namespace", "secret.name", "service-account.name", "service-account.uid")
        )
        entry = self._cache.collection("secrets").get(f"/registry/secrets/{namespace}/{secret}")
        held = (entry.object().get("data") or {}).get("token", "") if entry is not None else ""
        if held != base64.b64encode(token.encode()).decode():
            return None
        if not self._lives("serviceaccounts", namespace, {"name": name, "uid": uid}):
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(account_user(namespace, name), groups, uid)

    def _lives(self, plural: str, namespace: str, reference: dict[str, Any]) -> bool:
        path = f"{namespace}/{reference.get('name')}" if namespace else reference.get("name")
        entry = self._cache.collection(plural).get(f"/registry/{plural}/{path}")
        return entry is not None and entry.object()["metadata"]["uid"] == reference.get("uid")


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def account_user(namespace: str, name: str) -> str:
    """Return the user name of a service account."""
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"
