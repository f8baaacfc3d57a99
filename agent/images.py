"""Sees to it that a container's image is on this machine, as its pull policy says.

Source: https://kubernetes.io/docs/concepts/containers/images/
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from agent import credentials
from agent.credentials import Credential, PulledImages
from agent.cri.client import Runtime, RuntimeFailure
from agent.environment import Fetch
from agent.metrics import Metrics
from machinery.errors import NotFound

if TYPE_CHECKING:
    from agent.credential_providers import CredentialProviders

Tell = Callable[[str, str, str], Awaitable[None]]
_GIB, _MIB = 1024**3, 1024**2
_SIZES = (
    ("GT100GB", 100 * _GIB), ("60GB-100GB", 60 * _GIB), ("40GB-60GB", 40 * _GIB), ("20GB-40GB", 20 * _GIB),
    ("10GB-20GB", 10 * _GIB), ("5GB-10GB", 5 * _GIB), ("1GB-5GB", _GIB), ("500MB-1GB", 500 * _MIB),
    ("100MB-500MB", 100 * _MIB), ("50MB-100MB", 50 * _MIB), ("10MB-50MB", 10 * _MIB), ("0-10MB", 1),
)  # fmt: skip
_FIRST_SECONDS, _MAX_SECONDS = 10.0, 300.0


class PullError(Exception):
    """An image is not there; `reason` is what the container waits with."""

    def __init__(self, reason: str, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_seconds = retry_seconds


class ImagePuller:
    """Pulls images, each at most once at a time, and waits longer after each failure."""

    def __init__(
        self,
        runtime: Runtime,
        observe: Callable[[float, int], None] = lambda *_: None,
        *,
        state: Path | None = None,
        providers: "CredentialProviders | None" = None,
        at_once: Callable[[], int] = lambda: 0,
    ) -> None:
        """Make one.

        Args:
            runtime: what pulls.
            observe: told how many seconds a pull took, and the image's size in bytes.
            state: the file that tells who pulled what.
            providers: programs of the node that know credentials.
            at_once: how many images may be pulled at the same time; 0 for any number.
        """
        self._pulled = PulledImages(state)
        self._providers = providers
        self._runtime = runtime
        self._observe = observe
        self._failures: dict[tuple[str, str], tuple[int, float, str]] = {}  # (uid, image): count, not before, why
        self._locks: dict[str, asyncio.Lock] = {}
        self._at_once, self._pulling = at_once, 0
        self._turn = asyncio.Condition()

    async def ensure(
        self, pod: Mapping[str, Any], container: Mapping[str, Any], sandbox_config: Any, fetch: Fetch, tell: Tell
    ) -> tuple[str, str]:
        """Return the image's reference and what to tell about it. Raises: PullError."""
        name, policy = container["image"], container.get("imagePullPolicy", "IfNotPresent")
        key = (pod["metadata"]["uid"], name)
        try:
            present = await self._runtime.image(name)
        except RuntimeFailure as error:
            if error.code != grpc.StatusCode.INVALID_ARGUMENT and "invalid reference format" not in str(error):
                raise
            text = f'Failed to apply default image tag "{name}": couldn\'t parse image name: {error}'
            await tell("Warning", "InspectFailed", text)
            raise PullError("InvalidImageName", text, _FIRST_SECONDS) from error
        if policy == "Always":
            present = None
        may_use = present is not None and await self._may_use(pod, name, present.id, fetch)
        if present is not None and may_use:
            return present.id, f'Container image "{name}" already present on machine and can be accessed by the pod'
        if policy == "Never":
            text = f'Container image "{name}" is not present with pull policy of Never'
            if present is not None:
                what = "does not have the proper credentials to access the image"
                text = f'Container image "{name}" is present with pull policy of Never but {what}'
            await tell("Warning", "ErrImageNeverPull", text)
            raise PullError("ErrImageNeverPull", text, _FIRST_SECONDS)
        await self._check_backoff(key, name, tell)
        return await self._pull(key, pod, name, sandbox_config, fetch, tell)

    async def _check_backoff(self, key: tuple[str, str], name: str, tell: Tell) -> None:
        failed = self._failures.get(key)
        if failed is not None and (left := failed[1] - time.monotonic()) > 0:
            text = f'Back-off pulling image "{name}"'
            await tell("Normal", "BackOff", text)
            raise PullError("ImagePullBackOff", f"{text}: ErrImagePull: {failed[2]}", left)

    async def _pull(
        self, key: tuple[str, str], pod: Mapping[str, Any], name: str, sandbox_config: Any, fetch: Fetch, tell: Tell
    ) -> tuple[str, str]:
        await tell("Normal", "Pulling", f'Pulling image "{name}"')
        asked = time.monotonic()
        try:
            async with self._locks.setdefault(name, asyncio.Lock()), self._in_turn():
                started = time.monotonic()
                reference = await self._fetch(name, await self._credentials(pod, name, fetch), sandbox_config)
        except RuntimeFailure as error:
            if error.is_away and not str(error).startswith("failed to pull"):  # else the registry is away
                raise
            if "invalid reference format" in str(error):  # some runtimes see it only now
                raise PullError("InvalidImageName", str(error), _FIRST_SECONDS) from error
            count = self._failures.get(key, (0, 0.0, ""))[0] + 1
            pause = min(_FIRST_SECONDS * 2 ** (count - 1), _MAX_SECONDS)
            self._failures[key] = (count, time.monotonic() + pause, str(error))
            await tell("Warning", "Failed", f'Failed to pull image "{name}": {error}')
            await tell("Warning", "Failed", "Error: ErrImagePull")
            raise PullError("ErrImagePull", str(error), 1.0) from error
        self._failures.pop(key, None)
        now = time.monotonic()
        image = await self._runtime.image(name)
        self._observe(now - started, image.size if image is not None else 0)
        text = (
            f'Successfully pulled image "{name}" in {_shown(now - started)} ({_shown(now - asked)} including waiting).'
        )
        return image.id if image is not None else reference, f"{text} Image size: {image.size if image else 0} bytes."

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Wait until so few images are being pulled that one more may be."""
        async with self._turn:
            await self._turn.wait_for(lambda: not 0 < self._at_once() <= self._pulling)
            self._pulling += 1
        try:
            yield
        finally:
            self._pulling -= 1
            async with self._turn:
                self._turn.notify_all()

    async def _fetch(self, name: str, by: Sequence[Credential], sandbox_config: Any) -> str:
        """Pull by one credential after the other, or by none where there is none. Raises: RuntimeFailure."""
        before = await self._runtime.image(name)
        await asyncio.to_thread(self._pulled.begins, name, before.id if before is not None else "")
        failure: RuntimeFailure | None = None
        for credential in by or (None,):
            try:
                reference = await self._runtime.pull(name, credential.auth if credential else None, sandbox_config)
                found = await self._runtime.image(name)
            except RuntimeFailure as error:
                failure = error
            else:
                image_id = found.id if found is not None else reference
                await asyncio.to_thread(self._pulled.pulled, name, image_id, credential)
                return reference
        await asyncio.to_thread(self._pulled.failed, name)
        raise failure or RuntimeFailure(grpc.StatusCode.UNKNOWN, "there was nothing to pull by")

    async def _may_use(self, pod: Mapping[str, Any], name: str, image_id: str, fetch: Fetch) -> bool:
        """Whether a pod may use an image that is there: it may have been pulled by another's credentials."""
        if self._pulled.may_use(name, image_id, ()):
            return True
        return self._pulled.may_use(name, image_id, await self._credentials(pod, name, fetch))

    async def _credentials(self, pod: Mapping[str, Any], image: str, fetch: Fetch) -> list[Credential]:
        """Return the credentials for an image: of the pod's imagePullSecrets, and of the node's providers."""
        found: list[Credential] = []
        for reference in pod["spec"].get("imagePullSecrets") or ():
            with contextlib.suppress(NotFound):
                found += credentials.of_secret(await fetch("secrets", reference.get("name", "")), image)
        return found + (await self._providers.credentials(pod, image) if self._providers is not None else [])

    def keep(self, image_ids: set[str]) -> None:
        """Forget who pulled images that are gone. Blocks."""
        self._pulled.keep(image_ids)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod."""
        for key in [key for key in self._failures if key[0] == uid]:
            del self._failures[key]


def pulled(metrics: Metrics, seconds: float, size: int) -> None:
    """Time a pull; `size` is the image's, in bytes."""
    shown = next((name for name, least in _SIZES if size >= least), "N/A")
    metrics.observe("kubelet_image_pull_duration_seconds", seconds, shown)


def _shown(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms" if seconds < 1 else f"{seconds:.3f}s"
