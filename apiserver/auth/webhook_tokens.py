"""Tokens that another service knows: it is asked by a TokenReview.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication
"""

import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from apiserver.auth.user import AUTHENTICATED, User
from machinery.client.kubeconfig import load_config
from machinery.client.tls import ssl_context

log = logging.getLogger(__name__)

_SECONDS = 10.0
_API = "authentication.k8s.io/v1"


class WebhookTokens:
    """Asks the service that a kubeconfig names."""

    def __init__(self, kubeconfig: Path) -> None:
        self._config = load_config(str(kubeconfig))
        self._tls: ssl.SSLContext | bool = (
            ssl_context(self._config) if self._config.server.startswith("https:") else False
        )
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def review(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]] | None:
        """Return whose token it is and which of the audiences it is for; None when the service knows none."""
        spec: dict[str, Any] = {"token": token, "audiences": list(audiences)}
        body = {"kind": "TokenReview", "apiVersion": _API, "spec": spec}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._config.token:
            headers["Authorization"] = f"Bearer {self._config.token}"
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        try:
            asking = self._session.post(self._config.server, data=orjson.dumps(body), headers=headers, ssl=self._tls)
            async with asking as answer:
                status = orjson.loads(await answer.read()).get("status") or {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError) as error:
            log.warning("the token webhook could not be asked: %s", error)
            return None
        if status.get("authenticated") is not True:
            return None
        told = status.get("audiences")
        user = status.get("user") or {}
        groups = [str(one) for one in user.get("groups") or ()]
        found = User(
            str(user.get("username", "")), (*groups, AUTHENTICATED), str(user.get("uid", "")), user.get("extra") or {}
        )
        # One that says nothing of audiences takes the token to be ours.
        return found, [one for one in audiences if told is None or one in told]
