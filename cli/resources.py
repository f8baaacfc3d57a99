"""Finds out what `pods`, `deploy/web`, `all` or `deployments.v1.apps` mean, by asking the server's discovery."""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from cli.connection import Connection
from machinery.api.meta import Resource

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_KEPT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Known:
    """One resource of the server, with the names it goes by."""

    resource: Resource
    names: frozenset[str]
    categories: frozenset[str]
    verbs: frozenset[str]
    short_names: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()


class Discovery:
    """The server's resources; kept on disk for ten minutes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: list[Known] | None = None
        self._is_kept = False

    def all(self) -> list[Known]:
        """Return all resources, those of the core group first."""
        if self._known is None:
            self._known = [_known(entry) for entry in self._read()]
        return self._known

    def preferred(self) -> list[Known]:
        """Return each resource once, in the version its group names first."""
        found: dict[tuple[str, str], Known] = {}
        for one in self.all():
            found.setdefault((one.resource.group, one.resource.plural), one)
        return list(found.values())

    def _fresh(self) -> bool:
        """Ask the server anew when what is known came from the disk; returns whether it did."""
        if not self._is_kept:
            return False
        self._known = [_known(entry) for entry in self._read(anew=True)]
        return True

    def _read(self, *, anew: bool = False) -> list[dict[str, Any]]:
        self._is_kept = False
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wherry" / "discovery"
        path = base / hashlib.sha256(self._connection.config.server.encode()).hexdigest()[:24]
        try:
            if not anew and time.time() - path.stat().st_mtime < _KEPT_SECONDS:
                kept: list[dict[str, Any]] = orjson.loads(path.read_bytes())
                self._is_kept = True
                return kept
        except (OSError, ValueError):
            pass
        found = [entry for root in ("/api", "/apis") for entry in self._ask(root)]
        try:
            base.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_bytes(orjson.dumps(found))
            temporary.replace(path)
        except OSError:
            pass  # a home that can't be written to costs one request more
        return found

    def _ask(self, root: str) -> Iterator[dict[str, Any]]:
        answer = self._connection.json("GET", root, accept=_AGGREGATED)
        for group in answer["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                for one in version["resources"]:
                    yield {"group": name, "version": version["version"], **one}

    def find(self, text: str) -> Known:
        """Return the resource a word stands for. Raises: ClickException in kubectl's words."""
        word, _, rest = text.lower().partition(".")
        word = "all" if word == "*" else word
        for one in self.all():
            resource = one.resource
            qualified = {"", resource.group, f"{resource.version}.{resource.group}", resource.version}
            if word in one.names and rest in qualified:
                return one
        if self._fresh():
            return self.find(text)
        raise click.ClickException(f'the server doesn\'t have a resource type "{text}"{self._near(word)}')

    def _near(self, word: str) -> str:
        import difflib

        names = {name for one in self.all() for name in one.names}
        near = difflib.get_close_matches(word, sorted(names), 1, 0.75)
        return f"; did you mean {near[0]}?" if near else ""

    def of_kind(self, api_version: str, kind: str, *, source: str = "", name: str = "", namespace: str = "") -> Known:
        """Return the resource of a manifest's kind; file and object are for the error. Raises: ClickException."""
        for one in self.all():
            if (one.resource.api_version, one.resource.kind) == (api_version, kind):
                return one
        if self._fresh():
            return self.of_kind(api_version, kind, source=source, name=name, namespace=namespace)
        where = f' for name: "{name}" namespace: "{namespace}" from "{source}"' if source else ""
        raise click.ClickException(
            f'resource mapping not found{where}: no matches for kind "{kind}" in version "{api_version}"\n'
            "ensure CRDs are installed first"
        )

    def expand(self, text: str) -> list[Known]:
        """Return the resources of a comma separated list of words and categories."""
        found: list[Known] = []
        for word in text.split(","):
            members = [one for one in self.preferred() if word in one.categories and "list" in one.verbs]
            found += members or [self.find(word)]
        return list(dict.fromkeys(found))


def _known(entry: dict[str, Any]) -> Known:
    kind = entry["responseKind"]["kind"]
    resource = Resource(
        entry["group"], entry["version"], entry["resource"], kind, namespaced=entry["scope"] == "Namespaced"
    )
    short = tuple(entry.get("shortNames") or ())
    names = {entry["resource"], entry.get("singularResource", ""), kind.lower(), *short} - {""}
    return Known(
        resource, frozenset(names), frozenset(entry.get("categories") or ()), frozenset(entry["verbs"]), short,
        frozenset(one["subresource"] for one in entry.get("subresources") or ()),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What a command line names: a resource, and one object of it or all (""); a namespace where a file says it."""

    known: Known
    name: str = ""
    namespace: str = ""


def targets(discovery: Discovery, words: Sequence[str]) -> list[Target]:
    """Read arguments such as `pod x y`, `pod/x svc/y`, `deploy,svc`. Raises: ClickException."""
    if not words:
        raise click.ClickException(
            'You must specify the type of resource to get. Use "wherry api-resources" for a complete list of supported resources.'
        )
    if any("/" in word for word in words):
        return [_slashed(discovery, word) for word in words]
    kinds = discovery.expand(words[0])
    names = [name for word in words[1:] for name in word.split(",")]
    return [Target(kind, name) for kind in kinds for name in names] or [Target(kind) for kind in kinds]


def _slashed(discovery: Discovery, word: str) -> Target:
    kind, slash, name = word.partition("/")
    if not slash or not name or "/" in name:
        raise click.ClickException(
            "there is no need to specify a resource type as a separate argument when passing arguments in "
            "resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource "
            "resource/<resource_name>'"
        )
    return Target(discovery.find(kind), name)


def display_name(resource: Resource, name: str) -> str:
    """Return an object as messages name it: "pod/web", "deployment.apps/web"."""
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}/{name}" if resource.group else f"{kind}/{name}"


def names_of(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of objects."""
    return [one["metadata"]["name"] for one in objects]
