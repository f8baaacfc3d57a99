"""OpenAPI v2 and v3, made from the public definitions for the kinds this server serves.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition
"""

import asyncio
import hashlib
import time
from email.utils import formatdate
from typing import Any

import orjson
from aiohttp import web

from apiserver.aggregation.aggregator import Aggregator
from apiserver.aggregation.backend import Backend
from apiserver.endpoints.openapi_paths import DELETE_OPTIONS, PATCH, STATUS, part_definition, paths, references
from apiserver.endpoints.openapi_roots import ROOTS, root_definitions, root_paths, roots_of
from apiserver.registry.catalog import Catalog
from apiserver.registry.kind import Kind
from apiserver.request import Call, accepted
from machinery import errors
from machinery.api.schema import definitions

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_V3_REFERENCE = "#/components/schemas/"
_V2_PROTOBUF = "v2 in protobuf"
_PROTOBUF = (
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
)
_YEAR = 365 * 86400.0
_INFO = {"title": "Kubernetes", "version": "v1.36.0"}


class OpenAPI:
    """Answers /openapi/v2 and /openapi/v3; documents are made when first asked for."""

    def __init__(self, catalog: Catalog, aggregator: Aggregator) -> None:
        self._catalog = catalog
        self._aggregator = aggregator
        self._aggregated = aggregator.changes
        self._documents: dict[str, bytes] = {}
        self._kinds: dict[str, list[Kind]] = {}
        self._changes = catalog.changes

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer the request. Raises: NotFound."""
        self._forget_changed()
        path = call.info.path.strip("/").removeprefix("openapi/")
        if path == "v2" and _takes_protobuf(call):
            path = _V2_PROTOBUF
        if path not in ("v2", "v3", _V2_PROTOBUF) and path not in self._group_paths() and path not in self._roots():
            theirs = self._aggregator.openapi_v3(path.removeprefix("v3/"))
            if theirs is None:
                raise errors.NotFound("the server could not find the requested resource")
            return _document(call, theirs)
        body = self._documents.get(path)
        if body is None:
            changes = self._changes
            body = await asyncio.to_thread(self._make, path)
            if changes == self._changes:
                self._documents[path] = body
        return _document(call, body, _PROTOBUF[0] if path == _V2_PROTOBUF else "application/json")

    def _forget_changed(self) -> None:
        """Drop the documents of groups whose kinds came or went, and those that tell of all."""
        if self._aggregated != self._aggregator.changes:
            self._aggregated = self._aggregator.changes
            for path in ("v2", "v3", _V2_PROTOBUF):
                self._documents.pop(path, None)
        if self._changes == self._catalog.changes:
            return
        self._changes = self._catalog.changes
        groups, roots = self._group_paths(), self._roots()
        for path in tuple(self._documents):
            if path in roots:
                continue
            if path not in groups or self._kinds.get(path) != self._catalog.kinds(*groups[path]):
                del self._documents[path]

    def _group_paths(self) -> dict[str, tuple[str, str]]:
        return {
            f"v3/apis/{group}/{version}" if group else f"v3/api/{version}": (group, version)
            for group in self._catalog.groups()
            for version in self._catalog.versions(group)
        }

    def _roots(self) -> dict[str, str]:
        """Return the documents about what is no object: of the server itself, and of what a group has."""
        own = {kind.resource.group for kind in self._catalog if not kind.user_defined and kind.resource.group}
        return {f"v3/{name}": name for name in (*ROOTS, *(f"apis/{group}" for group in sorted(own)))}

    def _make(self, path: str) -> bytes:
        if path == "v3":
            links = {name.removeprefix("v3/"): self._link(name) for name in (*self._roots(), *self._group_paths())}
            for backend in self._backends():
                if backend.openapi_v3:
                    name = backend.path.removeprefix("/")
                    links[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={backend.openapi_hash}"}
            return orjson.dumps({"paths": links})
        if path == _V2_PROTOBUF:
            from apiserver.endpoints.openapi_protobuf import encode  # what few clients ask for

            return encode(orjson.loads(self._documents.get("v2") or self._make("v2")))
        if path == "v2":
            return self._second()
        if path in self._roots():
            root = self._roots()[path]
            schemas = {name: _plain(raw, _V3_REFERENCE) for name, raw in root_definitions(root).items()}
            return _third(root_paths(root, _V3_REFERENCE, v3=True), schemas)
        group, version = self._group_paths()[path]
        kinds = self._catalog.kinds(group, version)
        self._kinds[path] = kinds
        used, found = _used(kinds), paths(kinds, _V3_REFERENCE, v3=True)
        for root in roots_of(kinds):
            found = root_paths(root, _V3_REFERENCE, v3=True) | found
            used = used | root_definitions(root)
        schemas = {name: _plain(raw, _V3_REFERENCE) for name, raw in used.items()}
        schemas |= {name: _referring(raw, _V3_REFERENCE) for name, raw in _custom(kinds).items()}
        return _third(found, schemas)

    def _second(self) -> bytes:
        """Return the document of OpenAPI v2, which tells of everything."""
        kinds = list(self._catalog)
        body: dict[str, Any] = {"swagger": "2.0", "info": _INFO, "paths": paths(kinds, "#/definitions/", v3=False)}
        known = {**_used(kinds)}
        for root in [*self._roots().values(), *roots_of(kinds)]:
            body["paths"] |= root_paths(root, "#/definitions/", v3=False)
            known |= root_definitions(root)
        body["definitions"] = {name: _plain(raw, "#/definitions/") for name, raw in known.items()}
        for name, raw in _custom(kinds).items():
            body["definitions"][name] = _for_v2(_open(raw))
        for backend in self._backends():
            _merge_v2(body, backend)
        return orjson.dumps(body)

    def _backends(self) -> list[Backend]:
        return [one for _, backends in self._aggregator.groups() for one in backends]

    def _link(self, name: str) -> dict[str, str]:
        if name not in self._documents:
            self._documents[name] = self._make(name)
        return {"serverRelativeURL": f"/openapi/{name}?hash={_hash(self._documents[name])}"}


def _third(found: dict[str, Any], schemas: dict[str, Any]) -> bytes:
    """Return a document of OpenAPI v3."""
    return orjson.dumps({"openapi": "3.0.0", "info": _INFO, "paths": found, "components": {"schemas": schemas}})


def _document(call: Call, body: bytes, content_type: str = "application/json") -> web.Response:
    found = _hash(body)
    headers = {"ETag": f'"{found}"', "Vary": "Accept"}
    asked = call.query.get("hash", "")
    if asked and asked != found:  # of a document that is no more
        return web.Response(status=301, headers={"Location": f"{call.info.path}?hash={found}"})
    if asked:  # what a hash names never changes
        headers |= {"Cache-Control": "public, immutable", "Expires": formatdate(time.time() + _YEAR, usegmt=True)}
    if call.http.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={"Content-Type": content_type, **headers})


def _takes_protobuf(call: Call) -> bool:
    """Whether a client asks for OpenAPI v2 in protobuf before it would take text."""
    for one in accepted(call.http.headers.get("Accept", "")):
        if one.media in _PROTOBUF:
            return True
        if one.media == "application/json":
            return False
    return False


def _merge_v2(body: dict[str, Any], backend: Backend) -> None:
    """Add what an extension API server's document says of its own group version; names we have stay ours."""
    for path, operations in (backend.openapi_v2.get("paths") or {}).items():
        if path.startswith(backend.path):
            body["paths"].setdefault(path, operations)
    for name, definition in (backend.openapi_v2.get("definitions") or {}).items():
        body["definitions"].setdefault(name, definition)


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest().upper()


def _used(kinds: list[Kind]) -> dict[str, Any]:
    """Return the definitions of these kinds and all they refer to."""
    known = definitions()
    found: dict[str, Any] = {}
    todo = [kind.definition for kind in kinds if not kind.user_defined]
    todo += [_META + name for name in ("ObjectMeta", "ListMeta") if len(todo) < len(kinds)]
    todo += [f"{kind.definition}List" for kind in kinds if f"{kind.definition}List" in known]
    todo += [DELETE_OPTIONS, PATCH, STATUS]
    todo += {name for kind in kinds for part in kind.subresources.values() if (name := part_definition(kind, part))}
    while todo:
        name = todo.pop()
        if name in found or name not in known:  # the schemas of what users define are their own
            continue
        found[name] = known[name]
        todo += references(known[name])
    return found


def _custom(kinds: list[Kind]) -> dict[str, Any]:
    """Return the schemas of the kinds that users defined."""
    return {
        name: raw
        for kind in kinds
        if kind.custom is not None and kind.user_defined
        for name, raw in kind.custom.schemas().items()
    }


def _referring(value: Any, reference: str) -> Any:
    """Return a schema with its references in their new place, else as it is."""
    if isinstance(value, list):
        return [_referring(item, reference) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: reference + item.removeprefix("#/$defs/") if key == "$ref" and isinstance(item, str)
        else _referring(item, reference)
        for key, item in value.items()
    }  # fmt: skip


def _open(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that keeps what it does not know as one that says nothing.

    Readers of v2 would refuse what is not among its properties.
    """
    if not raw.get("x-kubernetes-preserve-unknown-fields"):
        return raw
    return {name: raw[name] for name in ("type", "x-kubernetes-group-version-kind") if name in raw}


# What OpenAPI v2 does not know, or what its readers take in another way.
_NOT_IN_V2 = ("oneOf", "anyOf", "not", "nullable", "default", "x-kubernetes-validations")


def _for_v2(value: Any) -> Any:
    """Return a schema as OpenAPI v2 can say it: looser where it can't."""
    if isinstance(value, list):
        return [_for_v2(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("nullable") or value.get("x-kubernetes-int-or-string"):
        return {key: item for key, item in value.items() if key in ("description", "x-kubernetes-int-or-string")}
    if value.get("x-kubernetes-preserve-unknown-fields"):
        value = {key: item for key, item in value.items() if key not in ("properties", "items")}
    made: dict[str, Any] = {}
    for key, item in value.items():
        if key == "properties":
            made[key] = {name: _for_v2(one) for name, one in item.items()}
        elif key == "$ref" and isinstance(item, str):
            made[key] = "#/definitions/" + item.removeprefix("#/$defs/")
        elif key not in _NOT_IN_V2:
            made[key] = _for_v2(item)
    return made


def _plain(value: Any, reference: str) -> Any:
    """Return a definition in OpenAPI's dialect: one type each, no enum of kinds, references in their new place."""
    if isinstance(value, list):
        return [_plain(item, reference) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        if key == "$ref" and isinstance(item, str):
            result[key] = reference + item.removeprefix("#/$defs/")
        elif key == "type" and isinstance(item, list):
            result[key] = next(one for one in item if one != "null")
        elif key == "oneOf" and reference == "#/definitions/":
            result["type"] = "string"
        elif key == "enum":
            continue
        else:
            result[key] = _plain(item, reference)
    return result
