"""Get and list: bytes from the watch cache, joined and sent.

Consistency: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from apiserver.endpoints import table
from apiserver.endpoints.body import PROTOBUF
from apiserver.registry.kind import Kind
from apiserver.request import Accepted, Call, accepted
from apiserver.storage.interface import Compacted, FutureRevision, StoreError
from apiserver.storage.object_storage import ObjectStorage, not_found, unavailable
from apiserver.storage.watch_cache import Entry, WatchCache
from machinery import errors
from machinery.api import selectors
from machinery.api.digits import is_number

_WAIT_SECONDS = 3.0
_TEXTS = ("application/json", "application/yaml")
_METADATA_KINDS = ("", "PartialObjectMetadata", "PartialObjectMetadataList")
_AS_KINDS = (*_METADATA_KINDS, "Table")
_META_VERSIONS = ("v1", "v1beta1")
_INCLUDED = ("Metadata", "None", "Object")
# Stands in a continue token for the revision of the moment it is used.
_NOW = -1


def wanted(call: Call, *, tables: bool = True) -> Accepted:
    """Return the representation to answer in: text, or protobuf where the client takes no text.

    Args: `tables` says whether the answer may be a table.
    Raises: NotAcceptable when the client takes none we have.
    """
    in_protobuf: Accepted | None = None
    for one in accepted(call.http.headers.get("Accept", "")):
        if one.as_kind not in (_AS_KINDS if tables else _METADATA_KINDS) or one.as_version not in ("", *_META_VERSIONS):
            continue
        if one.media in _TEXTS:
            return one
        has_message = bool(one.as_kind) or _has_message(call)
        if one.media == PROTOBUF and one.as_kind != "Table" and in_protobuf is None and has_message:
            in_protobuf = one
    if in_protobuf is not None:
        return in_protobuf
    raise errors.NotAcceptable(
        f"only the following media types are accepted: application/json, application/yaml, {PROTOBUF}"
    )


def _has_message(call: Call) -> bool:
    """Whether what is asked for has a protobuf form: not what users defined."""
    return call.kind is None or not call.kind.user_defined


def respond(body: bytes, want: Accepted | None = None, *, status: int = 200) -> web.Response:
    """Return a response of JSON bytes, turned into YAML or protobuf if that was asked for."""
    if want is not None and want.media == PROTOBUF:
        from machinery.api.protobuf_encode import encode

        return web.Response(body=encode(orjson.loads(body)), status=status, content_type=PROTOBUF)
    if want is not None and want.media == "application/yaml":
        import yaml

        text = yaml.safe_dump(orjson.loads(body), sort_keys=False)
        return web.Response(body=text.encode(), status=status, content_type="application/yaml")
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


def object_response(call: Call, entry: Entry, *, status: int = 200) -> web.Response:
    """Return one object in the representation asked for."""
    want = wanted(call)
    if want.as_kind == "Table":
        metadata = b'{"resourceVersion":"%d"}' % entry.revision
        found = table.table_bytes(call.known, [entry], metadata, include_object(call), version=want.as_version)
        return respond(found, want, status=status)
    if want.as_kind == "PartialObjectMetadata":
        return respond(table.partial_bytes(entry, want.as_version), want, status=status)
    return respond(entry.value, want, status=status)


def include_object(call: Call) -> str:
    """Return what of each object a table holds. Raises: BadRequest."""
    given = call.query.get("includeObject", "") or "Metadata"
    if given not in _INCLUDED:
        raise errors.BadRequest(f'unrecognized includeObject value: "{given}"')
    return given


async def get(call: Call, storage: ObjectStorage) -> web.Response:
    """Answer GET of one object."""
    kind, info = call.known, call.info
    key = kind.key(info.namespace, info.name)
    asked = call.query.get("resourceVersion", "")
    if asked:
        await reach(storage.cache, parse_revision(asked))
        entry = storage.cache.collection(kind.resource.group_resource).get(key)
        if entry is None:
            raise not_found(kind.resource, key)
    else:
        entry = await storage.get(kind.resource, key)
    return object_response(call, await seen(kind, entry))


async def seen(kind: Kind, entry: Entry) -> Entry:
    """Return an object as the version asked for shows it."""
    return entry if kind.custom is None else (await kind.custom.view([entry]))[0]


def parse_revision(text: str) -> int:
    """Read a resourceVersion. Raises: BadRequest."""
    if not is_number(text):
        raise errors.BadRequest(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


async def reach(cache: WatchCache, revision: int) -> None:
    """Wait until the cache is that new. Raises: Timeout when the revision lies in the future."""
    try:
        await cache.reach(revision, _WAIT_SECONDS)
    except TimeoutError as error:
        raise too_large(revision, cache.revision) from error


def too_large(revision: int, current: int) -> errors.Timeout:
    """Return the error for a resourceVersion nobody has given out yet."""
    return errors.Timeout(
        f"Too large resource version: {revision}, current: {current}", retry_after_seconds=1,
        causes=[errors.Cause("ResourceVersionTooLarge", "Too large resource version")],
    )  # fmt: skip


class Selection:
    """The label and field selectors of a request."""

    def __init__(self, kind: Kind, query: Mapping[str, str], name: str = "") -> None:
        self._selectable = kind.selectable
        try:
            self._labels = selectors.parse_label_selector(query.get("labelSelector", ""))
            self._fields = selectors.parse_field_selector(query.get("fieldSelector", ""))
        except ValueError as error:
            raise errors.BadRequest(f"unable to parse requirement: {error}") from error
        known = {"metadata.name", "metadata.namespace", *kind.selectable}
        for field in (term.field for term in self._fields.terms):
            if field not in known:
                raise errors.BadRequest(f"field label not supported: {field}")
        self.has_labels = bool(query.get("labelSelector"))
        self.has_fields = bool(query.get("fieldSelector"))
        self._name = name
        self.is_empty = not (self.has_labels or self.has_fields or name)

    def matches(self, entry: Entry) -> bool:
        """Whether an object is selected."""
        if self._name and entry.name != self._name:
            return False
        if self.has_labels and not self._labels.matches(entry.labels()):
            return False
        return not self.has_fields or self._fields.matches(entry.fields(self._selectable))


def scope_prefix(kind: Kind, namespace: str) -> str:
    """Return where the objects of a request lie in the store."""
    return f"{kind.prefix}{namespace}/" if namespace and kind.resource.namespaced else kind.prefix


async def list_(call: Call, storage: ObjectStorage) -> web.Response:
    """Answer GET of a collection."""
    kind = call.known
    want = wanted(call)
    selection = Selection(kind, call.query)
    entries, revision, token, remaining = await listing(call, storage, selection)
    if kind.custom is not None:
        entries = await kind.custom.view(entries)
    return list_response(call, entries, _list_metadata(revision, token, remaining), want)


def list_response(call: Call, entries: Sequence[Entry], metadata: bytes, want: Accepted) -> web.Response:
    """Return a list in the representation asked for. Args: `metadata` is the list's own, as JSON."""
    kind = call.known
    if want.as_kind == "Table":
        found = table.table_bytes(kind, entries, metadata, include_object(call), version=want.as_version)
        return respond(found, want)
    if want.as_kind.startswith("PartialObjectMetadata"):
        items = [table.partial_bytes(entry, want.as_version) for entry in entries]
        version = f"meta.k8s.io/{want.as_version or 'v1'}"
        return respond(_list_bytes("PartialObjectMetadataList", version, metadata, items), want)
    items = [entry.value for entry in entries]
    name = kind.list_kind or f"{kind.resource.kind}List"
    return respond(_list_bytes(name, kind.resource.api_version, metadata, items), want)


def _list_bytes(kind: str, api_version: str, metadata: bytes, items: list[bytes]) -> bytes:
    """Return a list's bytes; `items` is used up. What is large is copied once: head and tail go with an item."""
    head = f'{{"kind":"{kind}","apiVersion":"{api_version}","metadata":'.encode() + metadata + b',"items":['
    if not items:
        return head + b"]}"
    items[0] = head + items[0]
    items[-1] += b"]}"
    return b",".join(items)


def _list_metadata(revision: int, token: str, remaining: int | None) -> bytes:
    found: dict[str, Any] = {"resourceVersion": str(revision)}
    if token:
        found["continue"] = token
    if remaining:
        found["remainingItemCount"] = remaining
    return orjson.dumps(found)


async def listing(
    call: Call, storage: ObjectStorage, selection: Selection
) -> tuple[Sequence[Entry], int, str, int | None]:
    """Return what a list request selects: entries, revision, continue token, how many remain (if that is known)."""
    query = call.query
    limit = _limit(query)
    prefix = scope_prefix(call.known, call.info.namespace)
    asked, match, token = (
        query.get("resourceVersion", ""),
        query.get("resourceVersionMatch", ""),
        query.get("continue", ""),
    )
    _check_match(asked, match, token)
    if token:
        if asked not in ("", "0"):
            raise errors.BadRequest("specifying resource version is not allowed when using continue")
        revision, start = _read_token(token, prefix)
        if revision == _NOW:
            await storage.refresh()
            revision = storage.cache.revision
        return await _from_store(storage, call.known, revision, start, limit, selection, prefix)
    if match == "Exact":
        return await _from_store(storage, call.known, parse_revision(asked), "", limit, selection, prefix)
    if asked:
        await reach(storage.cache, parse_revision(asked))
    else:
        await storage.refresh()
    collection = storage.cache.collection(call.known.resource.group_resource)
    entries: Sequence[Entry] = collection.entries(prefix)
    if call.known.custom is not None and selection.has_fields:  # fields are those of a version
        entries = await call.known.custom.view(entries)
    if not selection.is_empty:
        entries = [entry for entry in entries if selection.matches(entry)]
    revision = storage.cache.revision
    if limit and len(entries) > limit:
        remaining = len(entries) - limit if selection.is_empty else None
        return entries[:limit], revision, _make_token(revision, entries[limit - 1].key, prefix), remaining
    return entries, revision, "", None


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", "0") or "0"
    if not is_number(text.removeprefix("-")):
        raise errors.BadRequest(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return max(int(text), 0)


def _check_match(asked: str, match: str, token: str) -> None:
    if not match:
        return
    if token:
        raise _options_invalid("Forbidden: resourceVersionMatch is forbidden for continue tokens")
    if not asked:
        raise _options_invalid("Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match not in ("Exact", "NotOlderThan"):
        known = '"Exact", "NotOlderThan", ""'
        raise _options_invalid(f'Unsupported value: "{match}": supported values: {known}')
    if match == "Exact" and asked == "0":
        raise _options_invalid('Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"')


def _options_invalid(why: str) -> errors.Invalid:
    told = f'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: {why}'
    return errors.Invalid(told, group="meta.k8s.io", kind="ListOptions")


def _make_token(revision: int, last: str, prefix: str) -> str:
    text = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": last.removeprefix(prefix)})
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _read_token(token: str, prefix: str) -> tuple[int, str]:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(found["rv"]), prefix + str(found["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.BadRequest(f"continue key is not valid: {error}") from error


async def _from_store(
    storage: ObjectStorage, kind: Kind, revision: int, start: str, limit: int, selection: Selection, prefix: str
) -> tuple[Sequence[Entry], int, str, int | None]:
    """Read a page as it was at an old revision; goes on until `limit` objects are selected."""
    found: list[Entry] = []
    while True:
        page = await _page(storage, prefix, revision, start, limit)
        shown = page[0] if kind.custom is None else await kind.custom.view(page[0])
        found += [entry for entry in shown if selection.matches(entry)]
        remaining = page[1]
        if not remaining or not limit or len(found) >= limit:
            break
        start = page[0][-1].key
    if limit and len(found) > limit:
        remaining += len(found) - limit
        found = found[:limit]
    token = _make_token(revision, found[-1].key, prefix) if remaining and found else ""
    return found, revision, token, remaining if selection.is_empty and token else None


async def _page(storage: ObjectStorage, prefix: str, revision: int, start: str, limit: int) -> tuple[list[Entry], int]:
    try:
        listed = await storage.cache.store.list(prefix, limit=limit, start_after=start, revision=revision)
    except Compacted as error:
        if start:
            expired = errors.Expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter, or use the continue token in this response to retrieve the "
                "remainder of the results. Continuing with the provided token results in an inconsistent list. This "
                "may be due to changes to objects between your requests."
            )
            expired.continue_token = _make_token(_NOW, start, prefix)
            raise expired from error
        raise errors.Expired(f"The resourceVersion for the provided list is too old: {revision}") from error
    except FutureRevision as error:
        raise too_large(revision, storage.cache.revision) from error
    except StoreError as error:
        raise unavailable(error) from error
    return [Entry(item.key, item.value, item.mod_revision) for item in listed.items], listed.remaining
