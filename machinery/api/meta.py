"""Names of objects and resources, and the metadata every object carries."""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple


class ObjectKey(NamedTuple):
    """Namespace and name of an object; the namespace is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as the API paths name it: group, version, plural; and the kind its objects say they are."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects: "v1", "apps/v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """The name error messages use: "pods", "deployments.apps"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of the collection, the object or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        parts = [root + scope, self.plural, *filter(None, (name, subresource))]
        return "/".join(parts)


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """Return the key of an object given as the dict of its JSON."""
    metadata = obj["metadata"]
    return ObjectKey(metadata.get("namespace", ""), metadata["name"])


def now() -> str:
    """Return the present time as metav1.Time prints it: RFC 3339, UTC, whole seconds."""
    return _at_second(int(time.time()))


@functools.lru_cache(maxsize=8)
def _at_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    """Return the present time as metav1.MicroTime prints it (Leases, events.k8s.io)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Read a metav1.Time or MicroTime. Raises: ValueError when it is neither."""
    return datetime.fromisoformat(text)


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the one owner reference that says `controller: true`, if any."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)
