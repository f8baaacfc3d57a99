"""One request as admission sees it."""

from dataclasses import dataclass
from typing import Any

from apiserver.auth.user import User
from apiserver.registry.kind import Kind, Object


@dataclass(slots=True)
class Attributes:
    """What is done to which object, by whom; `obj` is None for DELETE, `old` for CREATE and CONNECT."""

    operation: str
    kind: Kind
    namespace: str
    name: str
    subresource: str
    user: User | None
    dry_run: bool
    obj: Object | None
    old: Object | None
    field_manager: str
    warnings: list[str]
    annotations: dict[str, str] | None = None  # for the audit log, where there is one
    verb: str = "update"  # of a change: update or patch

    @property
    def present(self) -> Object:
        """The object, or for a deletion the one that goes."""
        found = self.obj if self.obj is not None else self.old
        return found if found is not None else {}

    @property
    def named(self) -> dict[str, str]:
        """Group, version and plural of the resource."""
        resource = self.kind.resource
        return {"group": resource.group, "version": resource.version, "resource": resource.plural}

    @property
    def body_kind(self) -> dict[str, str]:
        """Group, version and kind of what the request's body is: of the object, or of a part with a kind of its own."""
        resource = self.kind.resource
        if self.operation == "CONNECT" and self.obj is not None:
            return {"group": "", "version": "v1", "kind": self.obj["kind"]}
        part = self.kind.subresources.get(self.subresource)
        if part is not None and part.kind:
            return {"group": part.group, "version": part.version or "v1", "kind": part.kind}
        return {"group": resource.group, "version": resource.version, "kind": resource.kind}

    def options(self) -> dict[str, Any]:
        """Return the request's options as webhooks are told them."""
        names = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}
        if self.operation not in names:
            return {}
        found: dict[str, Any] = {"kind": names[self.operation], "apiVersion": "meta.k8s.io/v1"}
        if self.dry_run:
            found["dryRun"] = ["All"]
        if self.field_manager and self.operation != "DELETE":
            found["fieldManager"] = self.field_manager
        return found
