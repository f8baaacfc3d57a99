"""Authentication: client certificates, static tokens, service account tokens.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

import base64
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from apiserver.auth.tokens import ISSUER, TokenIssuer
from apiserver.auth.user import ANONYMOUS, AUTHENTICATED, User
from machinery import errors

# Browsers can't set headers on WebSockets: a token may come among the offered protocols, base64url without padding.
TOKEN_PROTOCOL = "base64url.bearer.authorization.k8s.io."  # noqa: S105 - the name of a protocol


def websocket_token(headers: Any) -> str:
    """Return an Authorization header for the token among a WebSocket's offered protocols; "" when there is none."""
    for header in headers.getall("Sec-WebSocket-Protocol", []):
        for one in header.split(","):
            if one.strip().startswith(TOKEN_PROTOCOL):
                encoded = one.strip().removeprefix(TOKEN_PROTOCOL)
                with contextlib.suppress(ValueError):
                    return "Bearer " + base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return ""


@functools.lru_cache(maxsize=1024)
def _user_of_subject(subject: tuple[tuple[tuple[str, str], ...], ...]) -> User:
    """Return the user a certificate's subject names: common name and organizations."""
    pairs = [pair for part in subject for pair in part]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(name, (*groups, AUTHENTICATED))


class Authenticator:
    """Says who sent a request."""

    def __init__(self, issuer: TokenIssuer, static_tokens: Mapping[str, User]) -> None:
        self._issuer = issuer
        self._static = {token: User(u.name, (*u.groups, AUTHENTICATED), u.uid) for token, u in static_tokens.items()}
        self._known: dict[str, tuple[User, float]] = {}

    def authenticate(self, peer_certificate: Mapping[str, Any] | None, authorization: str) -> User:
        """Return the user of a request. Raises: Unauthorized for a token that is not (or no longer) good."""
        scheme, _, token = authorization.partition(" ")
        if peer_certificate:
            return _user_of_subject(peer_certificate["subject"])
        if scheme.lower() == "bearer" and token:
            return self.of_token(token.strip())
        return ANONYMOUS

    def review(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]]:
        """Return whose token this is, and which of the audiences (ours when none are named) it is good for.

        Raises: Unauthorized.
        """
        user = self._static.get(token)
        if user is not None:
            return user, list(audiences)
        found = self._issuer.review(token, audiences or (ISSUER,))
        if found is None:
            raise errors.Unauthorized("Unauthorized")
        return found

    def of_token(self, token: str) -> User:
        """Return the user a bearer token stands for. Raises: Unauthorized."""
        user = self._static.get(token)
        if user is not None:
            return user
        known = self._known.get(token)
        now = time.monotonic()
        if known is not None and known[1] > now:
            return known[0]
        found = self._issuer.verify(token)
        if found is None:
            raise errors.Unauthorized("Unauthorized")
        if len(self._known) > 4096:
            self._known.clear()
        # Checked anew after a few seconds: the account or pod a token is bound to may be gone.
        self._known[token] = (found, now + 5)
        return found
