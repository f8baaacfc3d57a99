"""Credentials for images: which of those a pod or the node has are for an image, and who may use what was pulled.

An image that was pulled with a pod's credentials is no image for pods that have none: what they were is kept as a hash
beside the image's name, and a pod that can't show the same, or any that the registry takes, does not get it. Images
that were on the machine before are for all.

Sources: https://kubernetes.io/docs/concepts/containers/images/#using-a-private-registry,
https://kubernetes.io/docs/concepts/containers/images/#ensureimagepullcredentialverification
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson

from machinery.files import write_atomically

_HUB, _HUB_NAMES = "docker.io", ("docker.io", "index.docker.io")
_SCHEMES = ("https://", "http://")


@dataclass(frozen=True, slots=True)
class Credential:
    """One way to show who pulls.

    Attributes:
        source: the secret it is from (namespace, name, uid), or the service account it was given to; empty for a
            node's own, which every pod of it may use.
    """

    auth: Mapping[str, str]
    source: tuple[str, str, str] | tuple[()] = ()

    @property
    def digest(self) -> str:
        """A hash by which the same credential is known again from another secret."""
        text = orjson.dumps(dict(sorted(self.auth.items())))
        return hashlib.sha256(text).hexdigest()


def split(image: str) -> tuple[str, str]:
    """Return registry and repository of an image's name, as they are meant: without tag and digest."""
    name = image.partition("@")[0]
    head, _, last = name.rpartition("/")
    name = f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
    registry, _, rest = name.partition("/")
    if not rest or not ("." in registry or ":" in registry or registry == "localhost"):
        return _HUB, name if rest else f"library/{name}"
    return (_HUB if registry in _HUB_NAMES else registry), rest


def matches(key: str, image: str) -> bool:
    """Whether credentials kept under `key` (registry, maybe with `*` in its name, and path) are for an image."""
    for scheme in _SCHEMES:
        key = key.removeprefix(scheme)
    host, _, path = key.partition("/")
    if path.startswith(("v1/", "v2/")) or path in ("v1", "v2"):
        path = path[3:]
    registry, repository = split(image)
    host = _HUB if host in _HUB_NAMES else host
    name, _, port = host.partition(":")
    its_name, _, its_port = registry.partition(":")
    parts, its_parts = name.split("."), its_name.split(".")
    if len(parts) != len(its_parts) or port != its_port or not repository.startswith(path.rstrip("/")):
        return False
    return all(fnmatchcase(mine, theirs) for mine, theirs in zip(its_parts, parts, strict=True))


def of_registries(
    registries: Mapping[str, Mapping[str, str]], image: str, source: tuple[str, str, str] | tuple[()] = ()
) -> Iterator[Credential]:
    """Yield those of a configuration of Docker's (`auths`) that are for an image, the most exact first."""
    for key in sorted(registries, key=len, reverse=True):
        if matches(key, image):
            yield Credential(_auth(registries[key]), source)


def of_secret(secret: Mapping[str, Any], image: str) -> Iterator[Credential]:
    """Yield the credentials for an image in a secret of either of the two kinds; what can't be read holds none."""
    data, metadata = secret.get("data") or {}, secret["metadata"]
    source = (metadata["namespace"], metadata["name"], metadata["uid"])
    try:
        if ".dockerconfigjson" in data:
            found = orjson.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        elif ".dockercfg" in data:
            found = orjson.loads(base64.b64decode(data[".dockercfg"]))
        else:
            return
        yield from of_registries(found, image, source)
    except (ValueError, AttributeError, TypeError):
        return


def _auth(entry: Mapping[str, str]) -> dict[str, str]:
    if "auth" in entry and "username" not in entry:
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return {"username": user, "password": password}
    return {"username": entry.get("username", ""), "password": entry.get("password", "")}


@dataclass(slots=True)
class _Known:
    """Who may use one repository's image: all, or those who show one of these."""

    everyone: bool = False
    sources: list[list[str]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)


class PulledImages:
    """What was pulled for whom; kept in a file, so that a restart forgets nothing."""

    def __init__(self, path: Path | None) -> None:
        """Args: `path` is None where nothing is kept, as for simulated nodes."""
        self._path = path
        self._pulled: dict[str, dict[str, _Known]] = {}  # id of an image -> registry and repository -> who
        # Names whose pull was begun, and the image all may use that was there before; "" for none.
        self._intents: dict[str, str] = {}
        if path is not None and path.exists():
            state = json.loads(path.read_text())
            begun = state["pulling"]
            self._intents = begun if isinstance(begun, dict) else dict.fromkeys(begun, "")
            self._pulled = {
                image: {name: _Known(**one) for name, one in names.items()} for image, names in state["pulled"].items()
            }

    def begins(self, name: str, present: str = "") -> None:
        """A pull begins: should it be cut off, what it brought is no one's until it has been pulled again. Blocks.

        Args: `present` is the id of the image of that name that is here now.
        """
        self._intents[name] = present if present and self.may_use(name, present, ()) else ""
        self._write()

    def failed(self, name: str) -> None:
        """A pull came to nothing. Blocks."""
        self._intents.pop(name, None)
        self._write()

    def pulled(self, name: str, image_id: str, credential: Credential | None) -> None:
        """An image was pulled by this credential, or by none of a pod's. Blocks."""
        known = self._pulled.setdefault(image_id, {}).setdefault("/".join(split(name)), _Known())
        if credential is None or not credential.source:
            known.everyone = True
        else:
            if list(credential.source) not in known.sources:
                known.sources.append(list(credential.source))
            if credential.digest not in known.digests:
                known.digests.append(credential.digest)
        self._intents.pop(name, None)
        self._write()

    def may_use(self, name: str, image_id: str, credentials: Sequence[Credential]) -> bool:
        """Whether a pod with these credentials may use an image that is on this machine."""
        names = self._pulled.get(image_id)
        if names is None:
            return self._intents.get(name, image_id) == image_id  # it was there before us
        known = names.get("/".join(split(name)))
        if known is None:
            return False
        return known.everyone or any(
            list(one.source) in known.sources or one.digest in known.digests for one in credentials
        )

    def keep(self, image_ids: set[str]) -> None:
        """Forget images that are gone. Blocks."""
        if gone := self._pulled.keys() - image_ids:
            for image in gone:
                del self._pulled[image]
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        shown = {
            image: {
                name: {"everyone": one.everyone, "sources": one.sources, "digests": one.digests}
                for name, one in names.items()
            }
            for image, names in self._pulled.items()
        }
        write_atomically(self._path, json.dumps({"pulling": self._intents, "pulled": shown}).encode())
