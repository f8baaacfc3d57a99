"""Tokens of other issuers: JSON Web Tokens checked by the keys their issuer publishes, as a configuration says.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration
"""

import asyncio
import base64
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from apiserver.auth.user import AUTHENTICATED, User

log = logging.getLogger(__name__)

_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"]
_SECONDS = 10.0
# Keys are asked for anew when a token names one we don't know, but not more often than this.
_KEYS_SECONDS = 10.0
_KINDS = tuple(f"apiserver.config.k8s.io/{version}" for version in ("v1", "v1beta1", "v1alpha1"))


class ConfigurationError(ValueError):
    """An authentication configuration makes no sense; the message says where."""


class Refused(Exception):
    """A token is not good for us; the message says why."""


@dataclass(frozen=True, slots=True)
class AuthenticationConfig:
    """Which other issuers are trusted, and what those who show nothing may reach (None: everything that RBAC lets)."""

    issuers: Sequence[Mapping[str, Any]] = ()
    anonymous: bool = True
    anonymous_paths: Sequence[str] | None = field(default=None)


def read_configuration(path: Path) -> AuthenticationConfig:
    """Read an AuthenticationConfiguration file. Raises: ConfigurationError, OSError."""
    import yaml

    document = yaml.safe_load(path.read_text())
    if (
        not isinstance(document, dict)
        or document.get("kind") != "AuthenticationConfiguration"
        or document.get("apiVersion") not in _KINDS
    ):
        raise ConfigurationError(f"{path} holds no AuthenticationConfiguration of {_KINDS[0]}")
    issuers = document.get("jwt") or []
    for index, one in enumerate(issuers):
        _check_issuer(one, f"jwt[{index}]")
    anonymous = document.get("anonymous") or {"enabled": True}
    conditions = anonymous.get("conditions")
    paths = [one["path"] for one in conditions] if conditions else None
    return AuthenticationConfig(issuers, bool(anonymous.get("enabled", False)), paths)


def _check_issuer(one: Mapping[str, Any], path: str) -> None:
    issuer = one.get("issuer") or {}
    if not str(issuer.get("url", "")).startswith("https://"):
        raise ConfigurationError(f"{path}.issuer.url: Invalid value: {issuer.get('url')!r}: URL scheme must be https")
    if not issuer.get("audiences"):
        raise ConfigurationError(
            f"{path}.issuer.audiences: Required value: at least one {path}.issuer.audiences is required"
        )
    if len(issuer["audiences"]) > 1 and issuer.get("audienceMatchPolicy") != "MatchAny":
        raise ConfigurationError(f"{path}.issuer.audienceMatchPolicy: must be MatchAny for multiple audiences")
    username = (one.get("claimMappings") or {}).get("username") or {}
    if bool(username.get("claim")) == bool(username.get("expression")):
        raise ConfigurationError(f"{path}.claimMappings.username: Required value: claim or expression is required")


class Issuer:
    """One issuer: its keys, and what its claims mean here."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._issuer = config["issuer"]
        self._keys: dict[str | None, Any] = {}
        self._asked_at = -_KEYS_SECONDS
        self._asking = asyncio.Lock()

    @property
    def url(self) -> str:
        """The name tokens bear as `iss`."""
        return str(self._issuer["url"])

    async def user_of(self, token: str) -> User:
        """Return whose token this is. Raises: Refused."""
        import jwt

        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token, key, algorithms=_ALGORITHMS, audience=list(self._issuer["audiences"]), issuer=self.url,
                options={"require": ["exp", "aud", "iss"]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise Refused(str(error)) from error
        return self._mapped(claims)

    # ---- keys

    async def _key(self, key_id: str | None) -> Any:
        async with self._asking:
            if key_id not in self._keys and time.monotonic() - self._asked_at >= _KEYS_SECONDS:
                self._asked_at = time.monotonic()
                try:
                    self._keys = await self._fetch()
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
                    log.warning("the keys of %s can't be had: %s", self.url, error)
        found = self._keys.get(key_id) if key_id is not None else next(iter(self._keys.values()), None)
        if found is None:
            raise Refused(f"no key {key_id!r} of {self.url} is known")
        return found

    async def _fetch(self) -> dict[str | None, Any]:
        import jwt

        authority = self._issuer.get("certificateAuthority")
        tls = ssl.create_default_context(cadata=authority) if authority else True
        where = self._issuer.get("discoveryURL") or self.url.rstrip("/") + "/.well-known/openid-configuration"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session:
            async with session.get(where, ssl=tls) as answer:
                answer.raise_for_status()
                document = orjson.loads(await answer.read())
            if document["issuer"] != self.url:
                raise ValueError(f"{where} is about {document['issuer']}")
            async with session.get(document["jwks_uri"], ssl=tls) as answer:
                answer.raise_for_status()
                keys = jwt.PyJWKSet.from_dict(orjson.loads(await answer.read()))
        return {one.key_id: one.key for one in keys.keys}

    # ---- claims

    def _mapped(self, claims: Mapping[str, Any]) -> User:
        for rule in self._config.get("claimValidationRules") or ():
            if "claim" in rule:
                if claims.get(rule["claim"]) != rule.get("requiredValue", ""):
                    raise Refused(f"oidc: required claim {rule['claim']} not present or of another value")
            elif _evaluate(rule["expression"], claims=claims) is not True:
                raise Refused(f"oidc: {rule.get('message') or 'validation expression failed: ' + rule['expression']}")
        mappings = self._config.get("claimMappings") or {}
        name = self._value(mappings["username"], claims)
        if mappings["username"].get("claim") == "email" and claims.get("email_verified", True) is not True:
            raise Refused("oidc: email not verified")
        if not isinstance(name, str) or not name:
            raise Refused("oidc: the username claim is no text")
        groups = self._value(mappings.get("groups") or {}, claims) or []
        groups = [groups] if isinstance(groups, str) else groups
        uid = self._value(mappings.get("uid") or {}, claims) or ""
        extra = {}
        for one in mappings.get("extra") or ():
            found = _evaluate(one["valueExpression"], claims=claims)
            if values := [str(item) for item in (found if isinstance(found, list) else [found]) if item]:
                extra[one["key"]] = values
        user = User(name, (*map(str, groups), AUTHENTICATED), str(uid), extra)
        self._check_user(user)
        return user

    @staticmethod
    def _value(mapping: Mapping[str, Any], claims: Mapping[str, Any]) -> Any:
        if expression := mapping.get("expression"):
            return _evaluate(expression, claims=claims)
        value, prefix = claims.get(mapping.get("claim", "")), mapping.get("prefix") or ""
        if isinstance(value, list):
            return [prefix + str(one) for one in value]
        return prefix + str(value) if value is not None else None

    def _check_user(self, user: User) -> None:
        rules = self._config.get("userValidationRules") or ()
        told = {"username": user.name, "groups": list(user.groups[:-1]), "uid": user.uid, "extra": dict(user.extra)}
        for rule in rules:
            if _evaluate(rule["expression"], user=told) is not True:
                raise Refused(f"oidc: {rule.get('message') or 'validation expression failed: ' + rule['expression']}")


def _evaluate(expression: str, **given: Any) -> Any:
    from machinery.cel.program import CompileError, EvaluationError, compile_expression

    try:
        return compile_expression(expression, dict.fromkeys(given, "dyn")).evaluate(given)
    except (CompileError, EvaluationError) as error:
        raise Refused(f"oidc: {expression}: {error}") from error


def issuer_named(token: str) -> str:
    """Return who a token says has issued it, unchecked; "" when it is no JSON Web Token."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    try:
        payload = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return ""
    return str(payload.get("iss", "")) if isinstance(payload, dict) else ""
