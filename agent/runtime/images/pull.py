"""Fetches images from registries with skopeo, which heeds /etc/containers: mirrors, credentials, signature policy."""

import asyncio
import base64
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.errors import NotFound, PermissionDenied, RuntimeFailure, Unavailable
from agent.runtime.images import reference
from agent.runtime.images.reference import Reference
from agent.runtime.images.store import Image, ImageStore
from machinery.files import write_atomically

_POLICY = Path("/etc/containers/policy.json")
_DOCKER_HUB_AUTH = "https://index.docker.io/v1/"

# What skopeo's complaints mean, by words in them (the registry API's error codes among them); the first match counts.
_COMPLAINTS: tuple[tuple[str, type[RuntimeFailure], str], ...] = (
    ("manifest unknown", NotFound, "not found"),
    ("name unknown", NotFound, "not found"),
    ("NAME_UNKNOWN", NotFound, "not found"),
    ("StatusCode: 404", NotFound, "not found"),
    ("unauthorized", PermissionDenied, "pull access denied: authorization failed"),
    ("authentication required", PermissionDenied, "pull access denied: authorization failed"),
    ("denied", PermissionDenied, "pull access denied: authorization failed"),
    ("no such host", Unavailable, ""),
    ("connection refused", Unavailable, ""),
    ("i/o timeout", Unavailable, ""),
    ("no route to host", Unavailable, ""),
)


@dataclass(frozen=True)
class Credentials:
    """What AuthConfig of CRI holds; empty for an anonymous pull."""

    username: str = ""
    password: str = ""
    auth: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def auth_file(self, ref: Reference) -> bytes | None:
        """These credentials in the form of containers-auth.json(5), None without any."""
        encoded = self.auth or base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if not (self.username or self.auth or self.identity_token):
            return None
        entry = {"auth": encoded}
        if self.identity_token:
            entry["identitytoken"] = self.identity_token
        host = _DOCKER_HUB_AUTH if ref.domain == "docker.io" else ref.domain
        return json.dumps({"auths": {host: entry}}).encode()


def is_loopback(domain: str) -> bool:
    """Whether a registry is on this machine: there plain HTTP will do, as in Docker."""
    host = domain.rsplit(":", 1)[0] if not domain.endswith("]") else domain
    return host in ("localhost", "[::1]") or host.startswith("127.")


class Puller:
    """Pulls into one store; the same image asked for twice at a time is fetched once."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._running: dict[tuple[str, Credentials], asyncio.Task[Image]] = {}
        self._waiting: Counter[asyncio.Task[Image]] = Counter()

    async def pull(self, name: str, credentials: Credentials) -> Image:
        """Fetch an image, or find that what is here is what the registry has; given up when nobody waits for it.

        Raises: NotFound, PermissionDenied, Unavailable, InvalidArgument, RuntimeFailure.
        """
        ref = reference.parse(name)
        key = (str(ref), credentials)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._pull(ref, credentials))
            task.add_done_callback(lambda done: self._forget(key, done))
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)  # one caller going away doesn't stop the others
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                self._forget(key, task)  # who asks from now on begins anew
                task.cancel()

    def _forget(self, key: tuple[str, Credentials], task: "asyncio.Task[Image]") -> None:
        if self._running.get(key) is task:
            del self._running[key]

    async def _pull(self, ref: Reference, credentials: Credentials) -> Image:
        with self._store.installing() as scratch:
            options = await self._options(ref, credentials, scratch)
            raw = await self._skopeo(ref, "inspect", *options, "--raw", f"docker://{_without_tag(ref)}")
            digest = ref.digest or f"sha256:{hashlib.sha256(raw).hexdigest()}"
            known = self._store.find(f"{ref.repository}@{digest}")
            if known is not None:
                return self._store.name(known, ref, digest)
            await self._skopeo(
                ref,
                "copy",
                *("--quiet", *(option.replace("--", "--src-", 1) if "tls" in option else option for option in options)),
                *("--dest-shared-blob-dir", str(self._store.blobs)),
                f"docker://{ref.repository}@{digest}",
                f"oci:{scratch / 'layout'}:image",
            )
            index = json.loads((scratch / "layout" / "index.json").read_bytes())
            return await self._store.install(index["manifests"][0]["digest"], ref, source_digest=digest)

    async def _options(self, ref: Reference, credentials: Credentials, scratch: Path) -> list[str]:
        options = []
        auth_file = credentials.auth_file(ref)
        if auth_file is not None:
            write_atomically(scratch / "auth.json", auth_file)
            options += ["--authfile", str(scratch / "auth.json")]
        if credentials.registry_token:
            options += ["--registry-token", credentials.registry_token]
        if is_loopback(ref.domain):
            options.append("--tls-verify=false")
        return options

    async def _skopeo(self, ref: Reference, command: str, *args: str) -> bytes:
        policy = [] if await asyncio.to_thread(_POLICY.exists) else ["--insecure-policy"]
        async with _started("skopeo", *policy, command, *args) as process:
            output, complaint = await process.communicate()
        if process.returncode == 0:
            return output
        text = complaint.decode(errors="replace").strip()
        raise _failure(ref, text)


def _failure(ref: Reference, text: str) -> RuntimeFailure:
    """The error in the words that users of containerd know."""
    kind, meaning = next(
        ((kind, meaning) for words, kind, meaning in _COMPLAINTS if words in text), (RuntimeFailure, "")
    )
    what = f"{ref}: {meaning}" if meaning else _last_words(text)
    return kind(f'failed to pull and unpack image "{ref}": failed to resolve reference "{ref}": {what}')


def _last_words(text: str) -> str:
    """The message of skopeo's last log line: time="…" level=fatal msg="…"."""
    line = text.splitlines()[-1] if text else "skopeo failed"
    return line.partition('msg="')[2].removesuffix('"').replace('\\"', '"') or line


def _without_tag(ref: Reference) -> Reference:
    """Skopeo refuses a name with both tag and digest."""
    return Reference(ref.domain, ref.path, "" if ref.digest else ref.tag, ref.digest)


@asynccontextmanager
async def _started(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process that doesn't outlive its use."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
