"""What the server knows about one kind of object; everything else is derived from it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from apiserver.registry import names
from apiserver.storage.watch_cache import Entry, Watcher
from machinery.api.meta import Resource
from machinery.api.schema import Findings, Shape, shape_of
from machinery.errors import Cause

Object = dict[str, Any]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Since:
    """A table cell that tells how long ago something was: `before` + "5m" + `after`."""

    timestamp: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a kind's table; `priority` 1 is shown by `-o wide` only."""

    name: str
    value: Callable[[Object], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object with its own path; `kind` is given where its body is of another kind.

    One that writes a part of the spec says how that part is put into the old object (old, new), and what is wrong with
    a change (new, old).
    """

    verbs: Sequence[str]
    kind: str = ""
    group: str = ""
    version: str = ""
    merge: Callable[[Object, Object], Object] | None = None
    prepare: Callable[[Object, Object], None] | None = (
        None  # puts what may not change back into a new status (new, old)
    )
    validate_update: Callable[[Object, Object], list[Cause]] | None = None


STATUS = Subresource(("get", "patch", "update"))
SCALE = Subresource(("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1")


def status_judged(rules: Callable[[Object, Object], list[Cause]]) -> Subresource:
    """Return the subresource of a status that these rules judge (new object, old one)."""
    return replace(STATUS, validate_update=rules)


def _nothing(_: Object) -> None:
    return None


def _no_causes(_: Object) -> list[Cause]:
    return []


def _no_update_causes(_: Object, __: Object) -> list[Cause]:
    return []


def _unchanged(_: Object, __: Object) -> None:
    return None


class CustomKind(Protocol):
    """What a kind does in its own way.

    Users defined it (apiserver/customresources), or it is shown in another version than it is stored in
    (apiserver/registry/versions.py).
    """

    built_in: bool

    @property
    def stored_version(self) -> str:
        """Group and version of what is stored."""

    def conform(self, obj: Object) -> Findings:
        """Prune and default an object in place. Raises: SchemaMismatch for its metadata."""

    def causes(self, new: Object, old: Object | None) -> list[Cause]:
        """Return what is wrong with an object; what it left as it was may break rules that came later."""

    def shape(self) -> Shape:
        """Return its type for merging and for field ownership."""

    def schemas(self) -> Mapping[str, Any]:
        """Return its OpenAPI v3 schemas by the names of their definitions."""

    def is_stored_form(self, entry: Entry) -> bool:
        """Whether stored bytes are of the version that is stored today."""

    async def view(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return stored objects as this version shows them. Raises: InternalError when conversion fails."""

    async def to_stored(self, obj: Object) -> Object:
        """Return an object of this version as it is stored. Raises: InternalError when conversion fails."""

    def follow(self, watcher: Watcher) -> AbstractContextManager[None]:
        """End a watcher when the definition changes."""

    def refuse_create(self) -> None:
        """Raise: MethodNotAllowed while the definition is going."""

    def scale_of(self, obj: Object) -> tuple[int, int, str]:
        """Return wanted replicas, present replicas and selector."""

    def set_replicas(self, obj: Object, replicas: int) -> None:
        """Set the wanted replicas."""

    @property
    def warning(self) -> str:
        """What users of a deprecated version are told; empty for others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One declaration a kind: routes, discovery, OpenAPI, RBAC names and columns come out of it."""

    resource: Resource
    definition: str
    singular: str
    short_names: Sequence[str] = ()
    categories: Sequence[str] = ()
    verbs: Sequence[str] = ALL_VERBS
    subresources: Mapping[str, Subresource] = field(default_factory=dict)
    columns: Sequence[Column] = ()
    selectable: Mapping[str, Callable[[Object], str]] = field(default_factory=dict)
    validate_name: Callable[[str], str | None] = names.dns_subdomain
    default: Callable[[Object], None] = _nothing
    validate: Callable[[Object], list[Cause]] = _no_causes
    validate_create: Callable[[Object], list[Cause]] = _no_causes  # beside `validate`
    validate_update: Callable[[Object, Object], list[Cause]] = _no_update_causes
    prepare_create: Callable[[Object], None] = _nothing
    prepare_update: Callable[[Object, Object], None] = _unchanged
    has_generation: bool = False
    creates_on_update: bool = False
    unconditional_update: bool = True
    returns_deleted: bool = False
    begins_with_status: bool = False  # a new object keeps the status it comes with
    optional_required: frozenset[str] = frozenset()
    ends: bool = False  # of itself, some time after it was last written
    prepare_delete: Callable[[Object], None] = _nothing
    custom: CustomKind | None = None
    status_metadata: Sequence[str] = ("labels", "annotations", "finalizers")  # what may be changed through its status
    list_kind: str = ""  # where it is not the kind with "List" behind
    deprecated: str = ""  # what those who use it are told

    @property
    def warning(self) -> str:
        """What those who use it are told in a header; empty for most."""
        return self.deprecated or (self.custom.warning if self.custom is not None else "")

    @property
    def built_in_kind(self) -> str:
        """The kind, empty for those that users define: they may name theirs Service or Pod."""
        return self.resource.kind if self.custom is None else ""

    @property
    def user_defined(self) -> bool:
        """Whether a CustomResourceDefinition says what it is."""
        return self.custom is not None and not self.custom.built_in

    @property
    def is_stored(self) -> bool:
        """Whether there are objects of it: others are answered, and that is all of them."""
        return "watch" in self.verbs

    @property
    def has_status(self) -> bool:
        """Whether status is written through its own subresource."""
        return "status" in self.subresources

    @property
    def prefix(self) -> str:
        """Where its objects lie in the store, with a closing slash."""
        return f"/registry/{self.resource.group_resource}/"

    def key(self, namespace: str, name: str) -> str:
        """Return the store key of one object."""
        return f"{self.prefix}{namespace}/{name}" if self.resource.namespaced else f"{self.prefix}{name}"


def shape_for(kind: Kind) -> Shape:
    """Return the type of a kind's objects, built-in or defined by users."""
    return kind.custom.shape() if kind.custom is not None else shape_of(kind.definition)


def default_text(obj: Object, name: str, value: str) -> str:
    """Set a field that is absent or empty, which is the same for texts that are no pointers in Go. Return the field."""
    found: str = obj.get(name) or value
    obj[name] = found
    return found


def required(path: str, detail: str = "") -> Cause:
    """A field that must be there and is not."""
    return Cause("FieldValueRequired", "Required value" + (f": {detail}" if detail else ""), path)


def invalid(path: str, value: Any, detail: str) -> Cause:
    """A field whose value breaks a rule."""
    return Cause("FieldValueInvalid", f"Invalid value: {_shown(value)}: {detail}", path)


def unsupported(path: str, value: Any, supported: Sequence[str]) -> Cause:
    """A field whose value is not among those known."""
    known, shown = ", ".join(f'"{one}"' for one in supported), _shown("" if value is None else value)
    return Cause("FieldValueNotSupported", f"Unsupported value: {shown}: supported values: {known}", path)


def too_many(path: str, count: int, most: int) -> Cause:
    """A list that is too long."""
    return Cause("FieldValueTooMany", f"Too many: {count}: must have at most {most} items", path)


def duplicate(path: str, value: Any) -> Cause:
    """A value that may be there once only."""
    return Cause("FieldValueDuplicate", f"Duplicate value: {_shown(value)}", path)


def not_found(path: str, value: Any, detail: str = "") -> Cause:
    """A reference within the object that leads nowhere."""
    return Cause("FieldValueNotFound", f"Not found: {_shown(value)}" + (f": {detail}" if detail else ""), path)


def too_long(path: str, most: int) -> Cause:
    """A text that is too long."""
    return Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", path)


def forbidden(path: str, detail: str) -> Cause:
    """A field that may not be set or changed."""
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", path)


def immutable(path: str, new: Any, old: Any) -> list[Cause]:
    """Return a cause when a field changed that may not."""
    return [] if new == old else [invalid(path, new, "field is immutable")]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        if value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
        import json  # whose way with quotes and line breaks is Go's

        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        import orjson

        return orjson.dumps(value).decode()
    return str(value)
