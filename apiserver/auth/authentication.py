"""Authentication: who sent a request, by certificate, by token, or by the word of a trusted proxy.

What this process can tell by itself is told at once; other issuers and the token webhook are asked apart from that.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

import asyncio
import base64
import contextlib
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apiserver.auth import bootstrap_tokens
from apiserver.auth.oidc import AuthenticationConfig, Issuer, Refused, issuer_named
from apiserver.auth.request_header import RequestHeader
from apiserver.auth.tokens import ISSUER, TokenIssuer
from apiserver.auth.user import ANONYMOUS, AUTHENTICATED, User
from apiserver.auth.webhook_tokens import WebhookTokens
from apiserver.storage.watch_cache import WatchCache
from machinery import errors

log = logging.getLogger(__name__)

# Browsers can't set headers on WebSockets: a token may come among the offered protocols, base64url without padding.
TOKEN_PROTOCOL = "base64url.bearer.authorization.k8s.io."  # noqa: S105 - the name of a protocol


def bearer_token(headers: Any) -> str:
    """Return the token that a request shows; "" when it shows none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if token and scheme.lower() == "bearer":
        return str(token.strip())
    return _websocket_token(headers) if "Sec-WebSocket-Protocol" in headers else ""


def _websocket_token(headers: Any) -> str:
    """Return the token among a WebSocket's offered protocols; "" when there is none."""
    for header in headers.getall("Sec-WebSocket-Protocol", []):
        for one in header.split(","):
            if one.strip().startswith(TOKEN_PROTOCOL):
                encoded = one.strip().removeprefix(TOKEN_PROTOCOL)
                with contextlib.suppress(ValueError):
                    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return ""


@functools.lru_cache(maxsize=1024)
def _user_of_subject(subject: tuple[tuple[tuple[str, str], ...], ...]) -> User:
    """Return the user a certificate's subject names: common name and organizations."""
    pairs = [pair for part in subject for pair in part]
    name = next((value for key, value in pairs if key == "commonName"), "")
    groups = tuple(value for key, value in pairs if key == "organizationName")
    return User(name, (*groups, AUTHENTICATED))


_WEBHOOK_SECONDS, _OTHERS_SECONDS, _REFUSED_SECONDS = 120.0, 5.0, 10.0
_MOST_KNOWN = 4096


class Authenticator:
    """Says who sent a request."""

    def __init__(
        self,
        issuer: TokenIssuer,
        static_tokens: Mapping[str, User],
        cache: WatchCache,
        *,
        proxies: RequestHeader | None = None,
        config: AuthenticationConfig = AuthenticationConfig(),  # noqa: B008 - frozen
        webhook_file: Path | None = None,
    ) -> None:
        self._issuer = issuer
        self._cache = cache
        self._static = {token: User(u.name, (*u.groups, AUTHENTICATED), u.uid) for token, u in static_tokens.items()}
        self._known: dict[str, tuple[User | None, float]] = {}
        self._proxies = proxies
        self.configure(config)
        self._webhook_file = webhook_file
        self._webhook: WebhookTokens | None = None

    def configure(self, config: AuthenticationConfig) -> None:
        """Trust whom a configuration names, and nobody else from now on."""
        self._config = config
        self._issuers = {one.url: one for one in map(Issuer, config.issuers)}
        self._known.clear()

    async def close(self) -> None:
        """End connections to those who are asked about tokens."""
        if self._webhook is not None:
            await self._webhook.close()

    def authenticate(self, peer_certificate: Mapping[str, Any] | None, headers: Any, path: str = "") -> User | None:
        """Return the user of a request; None when others must be asked: see `look_up`.

        Raises: Unauthorized for a token that is not (or no longer) good.
        """
        if peer_certificate:
            if self._proxies is None or not self._proxies.is_proxy(peer_certificate):
                return _user_of_subject(peer_certificate["subject"])
            if (user := self._proxies.user_of(peer_certificate, headers)) is not None:
                return user
        token = bearer_token(headers)
        if token:
            return self.of_token(token)
        if not self._config.anonymous or (
            self._config.anonymous_paths is not None and path not in self._config.anonymous_paths
        ):
            raise errors.Unauthorized("Unauthorized")
        return ANONYMOUS

    def of_token(self, token: str) -> User | None:
        """Return the user a bearer token stands for; None when others must be asked. Raises: Unauthorized."""
        user = self._static.get(token)
        if user is not None:
            return user
        known, now = self._known.get(token), time.monotonic()
        if known is not None and known[1] > now:
            if known[0] is None:
                raise errors.Unauthorized("Unauthorized")
            return known[0]
        found = self._own(token)
        if found is not None:
            # Checked anew after a few seconds: the account or pod a token is bound to may be gone.
            self._remember(token, found, _OTHERS_SECONDS)
            return found
        if self._issuers or self._webhook_file is not None:
            return None
        raise errors.Unauthorized("Unauthorized")

    def _own(self, token: str) -> User | None:
        return self._issuer.verify(token) or bootstrap_tokens.user_of(self._cache, token)

    def _remember(self, token: str, user: User | None, seconds: float) -> None:
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        self._known[token] = (user, time.monotonic() + seconds)

    async def look_up(self, token: str) -> User:
        """Return the user of a token that others know. Raises: Unauthorized."""
        found = await self._of_others(token, ())
        if found is None:
            self._remember(token, None, _REFUSED_SECONDS)
            raise errors.Unauthorized("Unauthorized")
        user, _ = found
        self._remember(token, user, _WEBHOOK_SECONDS if self._webhook is not None else _OTHERS_SECONDS)
        return user

    async def _of_others(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]] | None:
        issuer = self._issuers.get(issuer_named(token))
        if issuer is not None:
            try:
                return await issuer.user_of(token), list(audiences)
            except Refused as error:
                log.info("a token of %s is refused: %s", issuer.url, error)
        if self._webhook_file is None:
            return None
        if self._webhook is None:
            self._webhook = await asyncio.to_thread(WebhookTokens, self._webhook_file)
        found = await self._webhook.review(token, audiences or (ISSUER,))
        return found if found is not None and (found[1] or not audiences) else None

    async def review(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]]:
        """Return whose token this is, and which of the audiences (ours when none are named) it is good for.

        Raises: Unauthorized.
        """
        user = self._static.get(token)
        if user is not None:
            return user, list(audiences)
        found = self._issuer.review(token, audiences or (ISSUER,))
        if found is None and (user := bootstrap_tokens.user_of(self._cache, token)) is not None:
            return user, list(audiences or (ISSUER,))
        if found is None:
            found = await self._of_others(token, audiences)
        if found is None:
            raise errors.Unauthorized("Unauthorized")
        return found
