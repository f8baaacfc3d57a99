"""The kinds that a CustomResourceDefinition defines, one a served version, each made ready when first used."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson

from apiserver.customresources import openapi, structural, validation
from apiserver.customresources.conversion import Converter
from apiserver.customresources.jsonpath import column_value, field_text, set_at, value_at
from apiserver.registry.columns import AGE, NAME
from apiserver.registry.kind import ALL_VERBS, SCALE, STATUS, Column, Kind, Object
from apiserver.storage.watch_cache import Entry, Watcher
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.schema import Findings, Shape
from machinery.errors import Cause

_ANYTHING: Mapping[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class Definition:
    """One state of a CustomResourceDefinition, as far as it is served."""

    def __init__(self, crd: Object, converter: Converter) -> None:
        self.spec: Object = crd["spec"]
        self.names: Object = (crd.get("status") or {}).get("acceptedNames") or self.spec["names"]
        self.terminating = has_condition(crd, "Terminating")
        self.converter = converter
        self.watchers: set[Watcher] = set()
        self.ended = False
        self.storage_version = next(v["name"] for v in self.spec["versions"] if v["storage"])

    def kinds(self) -> list[Kind]:
        """Return a kind for each served version."""
        return [self._kind(version) for version in self.spec["versions"] if version["served"]]

    def end(self) -> None:
        """End the watches of this state: the definition changed or went."""
        self.ended = True
        for watcher in tuple(self.watchers):
            watcher.end()

    def _kind(self, version: Object) -> Kind:
        spec, names = self.spec, self.names
        resource = Resource(
            spec["group"], version["name"], names["plural"], names["kind"], namespaced=spec["scope"] == "Namespaced"
        )
        given = version.get("subresources") or {}
        subresources = {
            name: sub for name, sub in (("status", STATUS), ("scale", SCALE)) if given.get(name) is not None
        }
        custom = CustomVersion(self, version, resource)
        return Kind(
            resource, openapi.definition_name(resource), names.get("singular", ""),
            tuple(names.get("shortNames") or ()), tuple(names.get("categories") or ()),
            verbs=ALL_VERBS, subresources=subresources, columns=_columns(version),
            selectable=_selectable(version), has_generation=True, creates_on_update=False,
            unconditional_update=False,
            prepare_create=_without_status if "status" in subresources else lambda _: None, custom=custom,
            list_kind=names.get("listKind", ""),
        )  # fmt: skip


def has_condition(crd: Object, kind: str) -> bool:
    """Whether a condition of the definition is true."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


def _without_status(obj: Object) -> None:
    obj.pop("status", None)


def _columns(version: Object) -> tuple[Column, ...]:
    given = version.get("additionalPrinterColumns")
    if not given:
        return NAME, AGE
    return (NAME, *(_column(one) for one in given))


def _column(given: Object) -> Column:
    return Column(
        given["name"], column_value(given["jsonPath"], given["type"]), type=given["type"],
        format=given.get("format", ""), description=given.get("description", "")
        or f"Custom resource definition column (in JSONPath format): {given['jsonPath']}",
        priority=given.get("priority", 0),
    )  # fmt: skip


def _selectable(version: Object) -> dict[str, Callable[[Object], str]]:
    fields = version.get("selectableFields") or ()
    return {one["jsonPath"].removeprefix("."): field_text(one["jsonPath"]) for one in fields}


class CustomVersion:
    """One served version of a definition; implements `CustomKind`."""

    built_in = False

    def __init__(self, definition: Definition, version: Object, resource: Resource) -> None:
        self._definition = definition
        self._version = version
        self._resource = resource

    @property
    def stored_version(self) -> str:
        """Group and version of what is stored."""
        return f"{self._resource.group}/{self._definition.storage_version}"

    @cached_property
    def schema(self) -> structural.Structural:
        """The compiled schema."""
        given = self._version.get("schema") or {}
        return structural.compile_schema(given.get("openAPIV3Schema") or _ANYTHING)

    @cached_property
    def _rules(self) -> validation.Rules:
        return validation.Rules(self.schema)

    @property
    def warning(self) -> str:
        """What users of a deprecated version are told; empty for others."""
        if not self._version.get("deprecated"):
            return ""
        resource = self._resource
        return self._version.get("deprecationWarning") or f"{resource.api_version} {resource.kind} is deprecated"

    def conform(self, obj: Object) -> Findings:
        """Prune and default an object in place. Raises: SchemaMismatch for its metadata."""
        gone = structural.prune(obj, self.schema)
        structural.coerce_metadata(obj, self.schema, gone)
        structural.fill_defaults(obj, self.schema)
        return Findings(gone)

    def causes(self, new: Object, old: Object | None) -> list[Cause]:
        """Return what is wrong with an object; what it left as it was may break rules that came later."""
        return self._rules.causes(new, old)

    @cached_property
    def _shape(self) -> Shape:
        return structural.merge_shape(self.schema, self._resource.kind)

    def shape(self) -> Shape:
        """Return its type for merging and for field ownership."""
        return self._shape

    def schemas(self) -> Mapping[str, Any]:
        """Return its OpenAPI v3 schemas by the names of their definitions."""
        return openapi.schemas(self._resource, self.schema, self._definition.names)

    def is_stored_form(self, entry: Entry) -> bool:
        """Whether stored bytes are of the version that is stored today."""
        return entry.value.startswith(self._head(self._definition.storage_version))

    def _head(self, version: str) -> bytes:
        return (
            orjson.dumps({"kind": self._resource.kind, "apiVersion": f"{self._resource.group}/{version}"})[:-1] + b","
        )

    async def view(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return stored objects as this version shows them. Raises: InternalError when conversion fails."""
        head = self._head(self._resource.version)
        foreign = [
            entry for entry in entries
            if not self._has_seen(entry) and not entry.value.startswith(head)
        ]  # fmt: skip
        if foreign:
            objects = [entry.object() for entry in foreign]
            made = await self._definition.converter.convert(objects, self._resource.api_version)
            for entry, obj in zip(foreign, made, strict=True):
                self._keep(entry, obj, changed=True)
        return [self._view(entry) for entry in entries]

    def _has_seen(self, entry: Entry) -> bool:
        return entry.view is self or (isinstance(entry.view, dict) and self in entry.view)

    def _view(self, entry: Entry) -> Entry:
        if entry.view is self:
            return entry  # it was shown by this version already
        if not self._has_seen(entry):
            self._keep(entry, entry.object(), changed=False)
        return entry.view[self]

    def _keep(self, entry: Entry, obj: Object, *, changed: bool) -> None:
        """Remember how an entry looks; what earlier states of the definition made of it is forgotten."""
        before = None if changed else orjson.dumps(obj)
        structural.prune(obj, self.schema)
        structural.fill_defaults(obj, self.schema)
        after = orjson.dumps(obj)
        shown = entry.shown_as(entry.value if after == before else after)
        shown.view = self
        others: dict[CustomVersion, Entry] = entry.view if isinstance(entry.view, dict) else {}
        entry.view = {one: view for one, view in others.items() if not one._definition.ended} | {self: shown}

    async def to_stored(self, obj: Object) -> Object:
        """Return an object of this version as it is stored. Raises: InternalError when conversion fails."""
        if self._resource.version == self._definition.storage_version:
            return obj
        wanted = f"{self._resource.group}/{self._definition.storage_version}"
        return (await self._definition.converter.convert([obj], wanted))[0]

    @contextlib.contextmanager
    def follow(self, watcher: Watcher) -> Iterator[None]:
        """End a watcher when the definition changes."""
        self._definition.watchers.add(watcher)
        if self._definition.ended:
            watcher.end()
        try:
            yield
        finally:
            self._definition.watchers.discard(watcher)

    def refuse_create(self) -> None:
        """Raise: MethodNotAllowed while the definition is going."""
        if self._definition.terminating:
            raise errors.MethodNotAllowed(
                "create not allowed while custom resource definition is terminating",
                group=self._resource.group, kind=self._resource.plural,
            )  # fmt: skip

    @property
    def _scale(self) -> Object:
        found: Object = self._version["subresources"]["scale"]
        return found

    def scale_of(self, obj: Object) -> tuple[int, int, str]:
        """Return wanted replicas, present replicas and selector."""
        paths = self._scale
        wanted = value_at(obj, paths["specReplicasPath"])
        if wanted is None:
            raise errors.InternalError(f"the spec replicas field {paths['specReplicasPath']!r} does not exist")
        present = value_at(obj, paths["statusReplicasPath"])
        path = paths.get("labelSelectorPath")
        return int(wanted), int(present or 0), str(value_at(obj, path) or "") if path else ""

    def set_replicas(self, obj: Object, replicas: int) -> None:
        """Set the wanted replicas."""
        set_at(obj, self._scale["specReplicasPath"], replicas)
