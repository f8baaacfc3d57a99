"""Create, update, patch and delete: from body to stored object."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from apiserver.endpoints import body, patch_errors
from apiserver.endpoints.reading import Selection, listing, object_response, respond, seen, wanted
from apiserver.registry.field_managers import MAX_MANAGER_BYTES
from apiserver.registry.kind import Kind, Object, shape_for
from apiserver.registry.rest import Rest, WriteOptions, conformed
from apiserver.request import AUDIT, Call, RequestInfo, flag
from apiserver.storage.watch_cache import Entry
from machinery import errors
from machinery.api.digits import is_number
from machinery.api.patch import PatchError, apply_json_patch, apply_merge_patch, apply_strategic_merge_patch
from machinery.api.schema import SchemaMismatch, conform, shape_of

_VALIDATIONS = ("Ignore", "Warn", "Strict")
_POLICIES = ("Background", "Foreground", "Orphan")
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_MAX_OPERATIONS = 10_000  # of one JSON patch; upstream's limit


def write_options(call: Call) -> WriteOptions:
    """Read the parameters every write may have. Raises: BadRequest for values that are not known."""
    query = call.query
    dry_run, validation = query.get("dryRun", ""), query.get("fieldValidation", "") or "Warn"
    if dry_run not in ("", "All"):
        raise errors.BadRequest(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    if validation not in _VALIDATIONS:
        raise errors.BadRequest(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    manager = query.get("fieldManager", "")
    if len(manager.encode()) > MAX_MANAGER_BYTES:
        rule = f"Too long: may not be more than {MAX_MANAGER_BYTES} bytes"
        raise errors.BadRequest(f"fieldManager: Invalid value: {manager!r}: {rule}")
    if not manager:  # the program's name, as it introduces itself
        manager = call.http.headers.get("User-Agent", "").partition("/")[0][:MAX_MANAGER_BYTES] or "unknown"
    noted = call.http[AUDIT].annotations if AUDIT in call.http else None
    return WriteOptions(dry_run == "All", validation, manager, call.user, annotations=noted, verb=call.info.verb)


async def read_object(call: Call, kind: str, api_version: str, *, twice: list[str] | None = None) -> Object:
    """Return the body as an object of that kind; a body that names none is taken for it.

    Args: `twice` is given what to tell of keys that are there twice.
    Raises: BadRequest when it is malformed, no object, or of another kind.
    """
    obj = await _body_object(call, twice)
    check_kind(obj, kind, api_version)
    return obj


async def _body_object(call: Call, twice: list[str] | None) -> Object:
    raw = await body.read(call.http)
    obj = body.decode(raw, call.http.headers.get("Content-Type", ""), duplicates=twice)
    if not isinstance(obj, dict):
        raise errors.BadRequest(f"couldn't get version/kind; json parse error: the body is no object but {_type(obj)}")
    return obj


async def read_applied(call: Call, kind: str, api_version: str, options: WriteOptions) -> Object:
    """Return the body of an apply, which has to say what it is. Raises: BadRequest for another, Invalid."""
    info, twice = call.info, _twice(options)
    if not call.query.get("fieldManager"):
        raise _patch_options_invalid("fieldManager: Required value: is required for apply patch")
    config = await _body_object(call, twice)
    given_version, given_kind = config.get("apiVersion") or "", config.get("kind") or ""
    if (given_version, given_kind) != (api_version, kind):
        group_version = (
            given_version if isinstance(given_version, str) and "/" in given_version else f"/{given_version}"
        )
        raise errors.BadRequest(f"invalid object type: {group_version}, Kind={given_kind}")
    check_kind(config, kind, api_version)
    if twice and options.field_validation == "Strict":
        raise errors.BadRequest(f"error strict decoding YAML: error converting YAML to JSON: {', '.join(twice)}")
    metadata = config["metadata"]
    if metadata.get("managedFields"):
        raise errors.BadRequest("metadata.managedFields must be nil")
    if metadata.setdefault("name", info.name) != info.name:
        raise errors.BadRequest(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({info.name})"
        )
    if "namespace" in metadata and metadata["namespace"] != info.namespace:
        raise errors.BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request "
            f"({metadata['namespace']} != {info.namespace})"
        )
    return config


async def read_typed(call: Call, kind: str, api_version: str, definition: str) -> Object:
    """Return the body as an object of a kind that is not stored: a review, a part of another. Raises: BadRequest."""
    obj = await read_object(call, kind, api_version)
    try:
        conform(obj, shape_of(definition))
    except SchemaMismatch as error:
        version = api_version.rpartition("/")[2]
        raise errors.BadRequest(f'{kind} in version "{version}" cannot be handled as a {kind}: {error}') from error
    obj.setdefault("metadata", {})
    return obj


def _type(value: Any) -> str:
    return {list: "array", str: "string", type(None): "null"}.get(type(value), "number")


def check_kind(obj: Object, kind: str, api_version: str) -> None:
    """Fill in kind and apiVersion. Raises: BadRequest when the object says it is something else."""
    given_kind, given_version = obj.get("kind") or kind, obj.get("apiVersion") or api_version
    if (given_kind, given_version) != (kind, api_version):
        if given_version != api_version:
            raise errors.BadRequest(
                f"the API version in the data ({given_version}) does not match the expected API version ({api_version})"
            )
        version = api_version.rpartition("/")[2]
        raise errors.BadRequest(
            f'{given_kind} in version "{version}" cannot be handled as a {kind}: '
            f"converting ({given_kind}) to ({kind}): unknown conversion"
        )
    if not isinstance(obj.get("metadata", {}), dict | None):
        raise errors.BadRequest(f'{kind} in version "v1" cannot be handled as a {kind}: metadata is no object')
    obj["kind"], obj["apiVersion"] = kind, api_version
    if obj.get("metadata") is None:
        obj["metadata"] = {}


def with_warnings(response: web.Response, options: WriteOptions) -> web.Response:
    """Add the Warning headers."""
    for text in options.warnings:
        add_warning(response, text)
    return response


def add_warning(response: web.Response, text: str) -> None:
    """Add a Warning header, which kubectl shows."""
    response.headers.add("Warning", warning(text))


def warning(text: str) -> str:
    """Return what a Warning header holds."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)  # a header holds no line breaks
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'


async def create(call: Call, rest: Rest) -> web.Response:
    """Answer POST to a collection."""
    kind, options = call.known, write_options(call)
    if kind.resource.namespaced and not call.info.namespace:
        raise errors.BadRequest("an empty namespace may not be set during creation")
    obj = await read_object(call, kind.resource.kind, kind.resource.api_version, twice=_twice(options))
    entry = await rest.create(kind, call.info.namespace, obj, options)
    return with_warnings(object_response(call, entry, status=201), options)


async def update(call: Call, rest: Rest, *, subresource: str = "") -> web.Response:
    """Answer PUT of an object or its status."""
    kind, info, options = call.known, call.info, write_options(call)
    obj = await read_object(call, kind.resource.kind, kind.resource.api_version, twice=_twice(options))
    try:
        given = orjson.dumps(obj)  # each try changes what it is given
        entry = await rest.update(
            kind, info.namespace, info.name, lambda _: orjson.loads(given), options, subresource=subresource
        )
    except errors.NotFound:
        if not kind.creates_on_update or subresource or obj["metadata"].get("resourceVersion"):
            raise
        entry = await rest.create(kind, info.namespace, obj, options)
        return with_warnings(object_response(call, entry, status=201), options)
    return with_warnings(object_response(call, entry), options)


async def patch(call: Call, rest: Rest, *, subresource: str = "") -> web.Response:
    """Answer PATCH of an object or its status."""
    kind, info, options = call.known, call.info, write_options(call)
    if body.media_type(call.http.headers.get("Content-Type", "")) == APPLY_PATCH:
        return await _apply(call, rest, options, subresource)
    if "force" in call.query:
        raise _patch_options_invalid("force: Forbidden: may not be specified for non-apply patch")
    change = await read_patch(call, kind, twice=_twice(options))

    def changed(obj: Object) -> Object:
        try:
            result = change(obj)
            options.unreadable = lambda why: patch_errors.unreadable(change.shown(result), why)
        except PatchError as error:
            raise _patch_failed(kind, info.name, error) from error
        if not isinstance(result, dict):
            raise errors.BadRequest("the patch makes something else than an object of it")
        return result

    entry = await rest.update(kind, info.namespace, info.name, changed, options, subresource=subresource)
    return with_warnings(object_response(call, entry), options)


async def _apply(call: Call, rest: Rest, options: WriteOptions, subresource: str) -> web.Response:
    """Answer a server-side apply."""
    kind, info = call.known, call.info
    config = await read_applied(call, kind.resource.kind, kind.resource.api_version, options)
    _refuse_unknown(kind, info, config)
    force = flag(call.query, "force")
    entry, created = await rest.apply(
        kind, info.namespace, info.name, config, options, subresource=subresource, force=force
    )
    return with_warnings(object_response(call, entry, status=201 if created else 200), options)


def _twice(options: WriteOptions) -> list[str] | None:
    return None if options.field_validation == "Ignore" else options.twice


def _refuse_unknown(kind: Kind, info: RequestInfo, config: Object) -> None:
    """Raise: BadRequest for fields that the kind does not have; who would own them?"""
    told = WriteOptions()
    conformed(kind, config, told)
    paths = [text.removeprefix('unknown field "').removesuffix('"') for text in told.warnings]
    _refuse_paths(paths, info, kind.resource.kind, kind.resource.api_version)


def refuse_undeclared(info: RequestInfo, config: Object, kind: str, api_version: str, definition: str) -> None:
    """Raise: BadRequest for fields that a kind which is not stored does not have, or for wrong types."""
    try:
        findings = conform(config, shape_of(definition))
    except SchemaMismatch as error:
        raise errors.BadRequest(f"failed to create typed patch object: {error}") from error
    _refuse_paths(findings.unknown, info, kind, api_version)


def _refuse_paths(paths: Sequence[str], info: RequestInfo, kind: str, api_version: str) -> None:
    if not paths:
        return
    listed = [f".{path}: field not declared in schema" for path in paths]
    name = f"{info.namespace}/{info.name}; {api_version}, Kind={kind}"
    why = listed[0] if len(listed) == 1 else "errors:\n" + "\n".join(f"  {one}" for one in listed)
    raise errors.BadRequest(f"failed to create typed patch object ({name}): {why}")


def _patch_options_invalid(cause: str) -> errors.Invalid:
    return errors.Invalid(f'PatchOptions.meta.k8s.io "" is invalid: {cause}', group="meta.k8s.io", kind="PatchOptions")


def _patch_failed(kind: Kind, name: str, error: PatchError) -> errors.APIError:
    if error.syntax:
        return errors.BadRequest(str(error))
    return errors.Invalid(
        f"the server rejected our request due to an error in our request: {error}",
        group=kind.resource.group, kind=kind.resource.plural, name=name,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What a patch does to an object (which may raise PatchError), and how it is shown where the result is no good."""

    make: Callable[[Object], Any]
    shown: Callable[[Any], str] = patch_errors.result_text

    def __call__(self, obj: Object) -> Any:
        """Return what the patch makes of an object."""
        return self.make(obj)


async def read_patch(call: Call, kind: Kind | None, shape_name: str = "", *, twice: list[str] | None = None) -> Change:
    """Return the change a patch body describes. Raises: BadRequest, UnsupportedMediaType.

    Args: `twice` is given what to tell of keys that are there twice.
    """
    content_type = call.http.headers.get("Content-Type", "")
    media = body.media_type(content_type)
    raw = await body.read(call.http)
    if kind is not None and kind.user_defined and media == STRATEGIC_PATCH:
        raise errors.UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON_PATCH}, {MERGE_PATCH}, {APPLY_PATCH}"
        )
    if media not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH):
        raise errors.UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON_PATCH}, {MERGE_PATCH}, {STRATEGIC_PATCH}, {APPLY_PATCH}"
        )
    document = body.decode(raw, "application/json", duplicates=twice)
    if media == JSON_PATCH:
        if not isinstance(document, list):
            raise errors.BadRequest("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        if len(document) > _MAX_OPERATIONS:
            raise errors.RequestEntityTooLarge(
                "Request entity is too large: The allowed maximum operations in a JSON patch is "
                f"{_MAX_OPERATIONS}, got {len(document)}"
            )
        return Change(lambda obj: apply_json_patch(obj, document))
    if not isinstance(document, dict):
        raise errors.BadRequest("the patch is no object")
    if media == MERGE_PATCH:
        return Change(lambda obj: apply_merge_patch(obj, document))
    shape = shape_for(kind) if kind is not None and not shape_name else shape_of(shape_name)
    return Change(
        lambda obj: apply_strategic_merge_patch(obj, document, shape), lambda _: patch_errors.go_text(document)
    )


async def delete_options(call: Call) -> dict[str, Any]:
    """Return the DeleteOptions of a request, from its body and its parameters. Raises: BadRequest, Invalid."""
    raw = await body.read(call.http)
    options: dict[str, Any] = {}
    if raw:
        decoded = body.decode(raw, call.http.headers.get("Content-Type", ""))
        if decoded is not None and not isinstance(decoded, dict):
            raise errors.BadRequest("the body is no DeleteOptions")
        options = decoded or {}
    query = call.query
    if "gracePeriodSeconds" in query:
        options["gracePeriodSeconds"] = _integer(query["gracePeriodSeconds"])
    if "propagationPolicy" in query:
        options["propagationPolicy"] = query["propagationPolicy"]
    if "orphanDependents" in query:
        options["orphanDependents"] = flag(query, "orphanDependents")
    if "dryRun" in query:
        options["dryRun"] = [query["dryRun"]]
    _check_delete_options(options)
    return options


def _integer(text: str) -> int:
    if not is_number(text.removeprefix("-")):
        raise errors.BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _check_delete_options(options: Mapping[str, Any]) -> None:
    policy, orphan = options.get("propagationPolicy"), options.get("orphanDependents")
    if policy is not None and policy not in _POLICIES:
        known = ", ".join(f'"{one}"' for one in (*_POLICIES, "nil"))
        raise errors.Invalid(
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{policy}": '
            f"supported values: {known}", group="meta.k8s.io", kind="DeleteOptions",
        )  # fmt: skip
    if policy is not None and orphan is not None:
        raise errors.Invalid(
            'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: orphanDependents and '
            "deletionPropagation cannot be both set", group="meta.k8s.io", kind="DeleteOptions",
        )  # fmt: skip
    grace = options.get("gracePeriodSeconds")
    if grace is not None and not isinstance(grace, int):
        raise errors.BadRequest(
            "json: cannot unmarshal into Go struct field DeleteOptions.gracePeriodSeconds of type int64"
        )


async def delete(call: Call, rest: Rest) -> web.Response:
    """Answer DELETE of an object."""
    kind, info = call.known, call.info
    options = await delete_options(call)
    dry_run = bool(options.get("dryRun"))
    entry, gone = await rest.delete(kind, info.namespace, info.name, options, dry_run=dry_run, user=call.user)
    entry = await seen(kind, entry)
    if not gone or kind.returns_deleted:
        return object_response(call, entry, status=200)
    return respond(orjson.dumps(_deleted_status(kind, entry)), wanted(call))


def _deleted_status(kind: Kind, entry: Entry) -> dict[str, Any]:
    details = {"name": entry.name, "kind": kind.resource.plural, "uid": entry.object()["metadata"]["uid"]}
    if kind.resource.group:
        details["group"] = kind.resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


async def delete_collection(call: Call, rest: Rest) -> web.Response:
    """Answer DELETE of a collection: each object selected is deleted on its own."""
    kind, info = call.known, call.info
    options = await delete_options(call)
    selection = Selection(kind, call.query)
    entries, revision, _, _ = await listing(call, rest.storage, selection)
    limit = asyncio.Semaphore(16)

    async def remove(entry: Entry) -> Entry | None:
        async with limit:
            try:
                namespace = info.namespace or entry.namespace
                found, _ = await rest.delete(
                    kind, namespace, entry.name, options, dry_run=bool(options.get("dryRun")), user=call.user
                )
            except errors.NotFound:
                return None
            return await seen(kind, found)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(remove(entry)) for entry in entries]
    items = b",".join(found.value for task in tasks if (found := task.result()) is not None)
    head = orjson.dumps(
        {"kind": f"{kind.resource.kind}List", "apiVersion": kind.resource.api_version,
         "metadata": {"resourceVersion": str(revision)}}
    )  # fmt: skip
    return respond(head[:-1] + b',"items":[' + items + b"]}", wanted(call))
