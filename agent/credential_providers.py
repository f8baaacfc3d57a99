"""Programs of the node that know credentials for images: asked on their standard input, they answer on standard output.

Sources: https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/,
https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/
"""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.credentials import Credential, matches, of_registries, split

log = logging.getLogger(__name__)

API = "credentialprovider.kubelet.k8s.io/v1"
_KINDS = ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1")
_SECONDS = 60.0
_MAX_KEPT = 1024
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Gives a token of a pod's service account for an audience, and the account: (pod, audience).
AccountToken = Callable[[Mapping[str, Any], str], Awaitable[tuple[str, Mapping[str, Any]]]]


class ProviderError(Exception):
    """A configuration that can't hold, or a program that gave no answer."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One program; see CredentialProvider of the kubelet's configuration. Durations are in seconds."""

    name: str
    match_images: tuple[str, ...]
    cache_seconds: float
    api: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    token: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Provider":
        """Return one as it is configured. Raises: ProviderError."""
        name = str(given.get("name", ""))
        if not name or name in (".", "..") or "/" in name or " " in name:
            raise ProviderError(f"credential provider name {name!r} must be the name of a program")
        if given.get("apiVersion") != API:
            raise ProviderError(f"{name}: unsupported apiVersion {given.get('apiVersion')!r}, {API} is")
        if not given.get("matchImages"):
            raise ProviderError(f"{name}: at least one matchImages is needed")
        variables = tuple((one["name"], one["value"]) for one in given.get("env") or ())
        return cls(
            name, tuple(given["matchImages"]), _duration(given.get("defaultCacheDuration", "")), API,
            tuple(given.get("args") or ()), variables, given.get("tokenAttributes"),
        )  # fmt: skip


def _duration(text: str) -> float:
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    if text and "".join(number + unit for number, unit in parts) != text and text != "0":
        raise ProviderError(f"{text!r} is no duration")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def read_config(path: Path) -> list[Provider]:
    """Return the providers of a CredentialProviderConfig. Blocks. Raises: ProviderError, OSError."""
    import yaml

    found = yaml.safe_load(path.read_text()) or {}
    if found.get("kind") != "CredentialProviderConfig" or found.get("apiVersion") not in _KINDS:
        raise ProviderError(f"{path} holds no CredentialProviderConfig of {_KINDS[0]}")
    return [Provider.read(one) for one in found.get("providers") or ()]


class CredentialProviders:
    """Asks the providers that know an image, and keeps their answers as long as they may be kept."""

    def __init__(self, providers: list[Provider], folder: Path, account_token: AccountToken) -> None:
        """Args: `folder` holds the programs."""
        self._providers = providers
        self._folder = folder
        self._account_token = account_token
        self._kept: dict[tuple[str, ...], tuple[float, Mapping[str, Any]]] = {}

    async def credentials(self, pod: Mapping[str, Any], image: str) -> list[Credential]:
        """Return what the providers have for an image. One that fails is passed over, and the log shows why."""
        found: list[Credential] = []
        for provider in self._providers:
            if not any(matches(pattern, image) for pattern in provider.match_images):
                continue
            try:
                found += await self._ask(provider, pod, image)
            except (ProviderError, OSError) as error:
                log.warning("credential provider %s: %s", provider.name, error)
        return found

    async def _ask(self, provider: Provider, pod: Mapping[str, Any], image: str) -> list[Credential]:
        request: dict[str, Any] = {"kind": "CredentialProviderRequest", "apiVersion": provider.api, "image": image}
        source: tuple[str, str, str] | tuple[()] = ()
        if provider.token is not None:
            account = await self._with_token(provider, pod, request)
            if account is None:
                return []
            metadata = account["metadata"]
            source = (metadata["namespace"], metadata["name"], metadata["uid"])
        answer = self._known(provider, image, source)
        if answer is None:
            answer = await self._run(provider, request)
            self._keep(provider, image, source, answer)
        return list(of_registries(answer.get("auth") or {}, image, source))

    async def _with_token(
        self, provider: Provider, pod: Mapping[str, Any], request: dict[str, Any]
    ) -> Mapping[str, Any] | None:
        """Add the token of the pod's account to a request; returns the account, None for one it is not for."""
        wanted = provider.token or {}
        token, account = await self._account_token(pod, wanted.get("serviceAccountTokenAudience", ""))
        annotations = account["metadata"].get("annotations") or {}
        needed = wanted.get("requiredServiceAccountAnnotationKeys") or ()
        if any(key not in annotations for key in needed):
            return None
        names = (*needed, *(wanted.get("optionalServiceAccountAnnotationKeys") or ()))
        request["serviceAccountToken"] = token
        request["serviceAccountAnnotations"] = {key: annotations[key] for key in names if key in annotations}
        return account

    def _known(self, provider: Provider, image: str, source: tuple[str, ...]) -> Mapping[str, Any] | None:
        registry, repository = split(image)
        for key in (f"{registry}/{repository}", registry, ""):
            kept = self._kept.get((provider.name, key, *source))
            if kept is not None and time.monotonic() < kept[0]:
                return kept[1]
        return None

    def _keep(self, provider: Provider, image: str, source: tuple[str, ...], answer: Mapping[str, Any]) -> None:
        registry, repository = split(image)
        keys = {"Image": f"{registry}/{repository}", "Registry": registry, "Global": ""}
        kind, given = answer.get("cacheKeyType"), answer.get("cacheDuration")
        seconds = provider.cache_seconds if given is None else _duration(given)
        if kind not in keys:
            raise ProviderError(f"it answered with the cacheKeyType {kind!r}")
        if seconds > 0:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[provider.name, keys[kind], *source] = (time.monotonic() + seconds, answer)

    async def _run(self, provider: Provider, request: Mapping[str, Any]) -> Mapping[str, Any]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(self._folder / provider.name), *provider.arguments, stdin=pipe, stdout=pipe, stderr=pipe,
            env={**os.environ, **dict(provider.environment)},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_SECONDS):
                out, err = await process.communicate(json.dumps(request).encode())
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise ProviderError(f"it gave no answer within {_SECONDS:.0f} s") from error
        if process.returncode:
            raise ProviderError(f"it failed with {process.returncode}: {err.decode(errors='replace').strip()}")
        try:
            answer: Mapping[str, Any] = json.loads(out)
        except ValueError as error:
            raise ProviderError("its answer is no JSON") from error
        if answer.get("kind") != "CredentialProviderResponse" or answer.get("apiVersion") != provider.api:
            raise ProviderError(f"its answer is no CredentialProviderResponse of {provider.api}")
        return answer
