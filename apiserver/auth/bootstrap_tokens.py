"""Bootstrap tokens: what a machine that joins shows before it has a certificate.

Each is a secret of kube-system. Source: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

import base64
import hmac
import re
from datetime import UTC, datetime

from apiserver.auth.user import AUTHENTICATED, User
from apiserver.storage.watch_cache import WatchCache
from machinery.api.meta import parse_time
from machinery.api.resources import SECRETS

_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")
_TYPE = "bootstrap.kubernetes.io/token"


def user_of(cache: WatchCache, token: str) -> User | None:
    """Return whose bootstrap token this is; None when it is none, or none that is good."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    entry = cache.collection(SECRETS.group_resource).get(f"/registry/secrets/kube-system/bootstrap-token-{match[1]}")
    if entry is None:
        return None
    secret = entry.object()
    try:
        data = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
        ends = parse_time(data["expiration"]) if data.get("expiration") else None
    except (ValueError, TypeError):
        return None
    good = (
        secret.get("type") == _TYPE
        and not secret["metadata"].get("deletionTimestamp")
        and hmac.compare_digest(data.get("token-secret", "").encode(), match[2].encode())
        and data.get("token-id") == match[1]
        and data.get("usage-bootstrap-authentication") == "true"
        and (ends is None or ends > datetime.now(UTC))
    )
    groups = [one for one in data.get("auth-extra-groups", "").split(",") if one]
    if not good or not all(_GROUP.fullmatch(one) for one in groups):
        return None
    return User(f"system:bootstrap:{match[1]}", ("system:bootstrappers", *sorted(set(groups)), AUTHENTICATED))
