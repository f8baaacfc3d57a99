"""What every kind's objects go through when they are written: defaults, rules, metadata, finalizers, deletion.

Sources: https://kubernetes.io/docs/reference/using-api/api-concepts/,
https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes
from apiserver.admission.chain import Admission
from apiserver.auth.user import User
from apiserver.registry import field_managers, names
from apiserver.registry.deletion import mark_deleted, may_go
from apiserver.registry.kind import Kind, Object
from apiserver.registry.object_rules import finalizer_causes, metadata_causes, object_causes, raise_invalid
from apiserver.request import RequestInfo
from apiserver.storage.object_storage import ObjectStorage, conflict, encode
from apiserver.storage.watch_cache import Entry
from machinery import errors
from machinery.api import meta
from machinery.api.resources import RESOURCE_QUOTAS
from machinery.api.schema import Findings, SchemaMismatch, conform, shape_of
from machinery.api.zeros import fill
from machinery.errors import Cause

_SERVER_FIELDS = ("resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_GENERATE_TRIES = 8
_NOT_WRITTEN = frozenset(["metadata", "status"])
_NO_VERSION = Cause(
    "FieldValueInvalid", "Invalid value: 0x0: must be specified for an update", "metadata.resourceVersion"
)


@dataclass(slots=True)
class WriteOptions:
    """The query parameters of a write."""

    dry_run: bool = False
    field_validation: str = "Warn"
    field_manager: str = ""
    user: User | None = None
    twice: list[str] = field(default_factory=list)  # what to tell of keys that the body holds twice
    applies: bool = False  # the body is a configuration of server-side apply, which has set managedFields
    verb: str = "update"
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] | None = None  # what admission has to say to the audit log
    # A patch makes the error of its own for a result that can't be read; given why.
    unreadable: Callable[[str], errors.APIError] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an object that is written as an object of a kind of its own: its scale."""

    subresource: str
    view: Callable[[Object], Object]
    put: Callable[[Object, Object], Object]  # the part into the object, which is returned


def conformed(kind: Kind, obj: Object, options: WriteOptions) -> Object:
    """Bring a body to the shape of its kind. Raises: BadRequest for wrong types, or unknown fields under Strict."""
    try:
        findings = kind.custom.conform(obj) if kind.custom else conform(obj, shape_of(kind.definition))
    except SchemaMismatch as error:
        raise _not_handled(kind, str(error), options) from error
    _report_unknown(kind, findings, options)
    return obj


def _not_handled(kind: Kind, why: str, options: WriteOptions) -> errors.APIError:
    if options.unreadable is not None:
        return options.unreadable(why)
    version, name = kind.resource.version, kind.resource.kind
    return errors.BadRequest(f'{name} in version "{version}" cannot be handled as a {name}: {why}')


def _report_unknown(kind: Kind, findings: Findings, options: WriteOptions) -> None:
    """Refuse unknown fields and keys that are there twice, warn of them, or say nothing, as the client asked."""
    unknown = [f'unknown field "{path}"' for path in findings.unknown]
    texts = [*unknown, *options.twice] if options.unreadable is None else [*options.twice, *unknown]
    options.twice = []  # told once
    if not texts or options.field_validation == "Ignore":
        return
    if options.field_validation == "Strict":
        raise _not_handled(kind, "strict decoding error: " + ", ".join(texts), options)
    options.warnings += texts


def complete(kind: Kind, obj: Object) -> None:
    """Put in what an object has although nobody wrote it: empty structs, then defaults."""
    if kind.custom is None:
        fill(obj, shape_of(kind.definition), leaving=_NOT_WRITTEN)
    kind.default(obj)


class Rest:
    """Create, update and delete for every kind; reading is done by the endpoints from the cache."""

    def __init__(self, storage: ObjectStorage, admission: Admission, *, event_ttl_seconds: int) -> None:
        self.storage = storage
        self._event_ttl_seconds = event_ttl_seconds
        self._admission = admission
        self._leases: dict[int, int] = {}

    async def create(self, kind: Kind, namespace: str, obj: Object, options: WriteOptions) -> Entry:
        """Store a new object. Raises: Invalid, AlreadyExists, Forbidden, NotFound (its namespace)."""
        if kind.custom is not None:
            kind.custom.refuse_create()
        conformed(kind, obj, options)
        metadata = self._new_metadata(kind, namespace, obj)
        generated = "name" not in metadata and "generateName" in metadata
        for attempt in range(_GENERATE_TRIES):
            if generated:
                metadata["name"] = names.generate(metadata["generateName"])
            if attempt == 0:
                complete(kind, obj)
                if kind.begins_with_status:
                    obj["status"] = obj.get("status") or {}
                elif kind.has_status:
                    obj.pop("status", None)
                    obj |= {} if kind.user_defined else {"status": {}}
                kind.prepare_create(obj)
                if options.field_manager and not options.applies:
                    field_managers.track(kind, None, obj, options.field_manager, "", resettable=False)
                managed = obj["metadata"].get("managedFields")
                request = self._request("CREATE", kind, namespace, options, obj)
                obj = await self._admission.admit_create(
                    request, lambda changed: self._completed(kind, changed, options)
                )
                metadata = obj["metadata"]
                field_managers.restore_if_broken(obj, managed, options.warnings)
                causes = [*metadata_causes(kind, obj), *object_causes(kind, obj), *kind.validate_create(obj)]
                raise_invalid(kind, obj, causes)
                await self._admission.judge_create(request, self._replace_quota)
            try:
                return await self._store_new(kind, namespace, obj, options)
            except errors.AlreadyExists:
                if not generated:
                    raise
        raise errors.AlreadyExists(
            f'{kind.resource.group_resource} "{metadata["name"]}" already exists, the server was not able to generate '
            "a unique name for the object", group=kind.resource.group, kind=kind.resource.plural, name=metadata["name"],
        )  # fmt: skip

    @staticmethod
    def _request(
        operation: str, kind: Kind, namespace: str, options: WriteOptions, obj: Object | None,
        *, old: Object | None = None, subresource: str = "",
    ) -> Attributes:  # fmt: skip
        name = ((obj or old or {}).get("metadata") or {}).get("name", "")
        return Attributes(
            operation, kind, namespace, name, subresource, options.user, options.dry_run, obj, old,
            options.field_manager, options.warnings, options.annotations, options.verb,
        )  # fmt: skip

    @staticmethod
    def _completed(kind: Kind, obj: Object, options: WriteOptions) -> Object:
        """Bring what admission made of an object to its kind's shape again."""
        conformed(kind, obj, WriteOptions(field_validation="Ignore", warnings=options.warnings))
        complete(kind, obj)
        return obj

    async def admit_part(self, kind: Kind, info: RequestInfo, body: Object, options: WriteOptions) -> Object:
        """Return what admission makes of an object posted to a subresource. Raises: what admission refuses with."""
        body["metadata"] = {**(body.get("metadata") or {}), "name": info.name, "namespace": info.namespace}
        request = self._request("CREATE", kind, info.namespace, options, body, subresource=info.subresource)
        await self._admission.admit_part(request)
        return request.present

    async def admit_connect(self, kind: Kind, info: RequestInfo, user: User, options_kind: str) -> None:
        """Ask admission whether a user may connect to an object. Raises: what admission refuses with."""
        body = {"kind": options_kind, "apiVersion": "v1"}
        await self._admission.judge_connect(
            Attributes("CONNECT", kind, info.namespace, info.name, info.subresource, user, False, body, None, "", [])
        )

    async def _replace_quota(self, namespace: str, name: str, change: Callable[[Object], Object]) -> None:
        resource = RESOURCE_QUOTAS

        def write(entry: Entry) -> Object:
            return change(entry.object())

        await self.storage.update(resource, f"/registry/{resource.group_resource}/{namespace}/{name}", write)

    def _new_metadata(self, kind: Kind, namespace: str, obj: Object) -> Object:
        metadata: Object = obj.setdefault("metadata", {})
        if metadata.get("resourceVersion"):
            raise errors.BadRequest("resourceVersion should not be set on objects to be created")
        for name in (*_SERVER_FIELDS, "selfLink"):
            metadata.pop(name, None)
        for name in ("name", "generateName"):
            if metadata.get(name) == "":
                del metadata[name]
        check_namespace(kind, namespace, metadata)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = meta.now()
        metadata.pop("generation", None)
        if kind.has_generation:
            metadata["generation"] = 1
        obj["kind"], obj["apiVersion"] = kind.resource.kind, kind.resource.api_version
        return metadata

    async def _store_new(self, kind: Kind, namespace: str, obj: Object, options: WriteOptions) -> Entry:
        key = kind.key(namespace, obj["metadata"]["name"])
        if options.dry_run:
            if self.storage.cache.collection(kind.resource.group_resource).get(key) is not None:
                raise errors.AlreadyExists(f'{kind.resource.group_resource} "{obj["metadata"]["name"]}" already exists')
            return Entry(key, encode(obj), 0)
        lease = await self._lease(kind)
        if kind.custom is not None:
            stored = await kind.custom.to_stored(obj)
            return (await kind.custom.view([await self.storage.create(kind.resource, key, stored, lease=lease)]))[0]
        return await self.storage.create(kind.resource, key, obj, lease=lease)

    async def _lease(self, kind: Kind) -> int:
        """Return the store lease that an object ends with, 0 for most kinds; those of the same minute share one."""
        if not kind.ends:
            return 0
        minute = int(datetime.now(UTC).timestamp()) // 60
        if minute not in self._leases:
            self._leases = {minute: await self.storage.cache.store.grant_lease(self._event_ttl_seconds + 60)}
        return self._leases[minute]

    async def update(
        self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], options: WriteOptions,
        *, subresource: str = "",
    ) -> Entry:  # fmt: skip
        """Replace an object by what `change` makes of it (given a copy of the newest state).

        Raises: NotFound; Conflict when `change` returns another resourceVersion or uid than the object has; Invalid.
        """
        key = kind.key(namespace, name)

        async def make(entry: Entry) -> Object:
            return await self._updated(
                kind, namespace, key, entry.object(), change(entry.object()), options, subresource
            )

        return await self._write(kind, key, make, options)

    async def apply(
        self, kind: Kind, namespace: str, name: str, config: Object, options: WriteOptions,
        *, subresource: str = "", force: bool = False,
    ) -> tuple[Entry, bool]:  # fmt: skip
        """Apply a configuration for its field manager. Return the object, and whether it was created.

        Raises: Conflict when others manage what would change; NotFound of a subresource's object; Invalid.
        """
        manager = options.field_manager
        options.applies = True

        def change(live: Object) -> Object:
            return field_managers.applied(kind, live, config, manager, subresource=subresource, force=force)

        while True:
            try:
                return await self.update(kind, namespace, name, change, options, subresource=subresource), False
            except errors.NotFound:
                if subresource or (config["metadata"].get("uid")):
                    raise
            self._admission.check_may_create(kind, namespace, name, options.user)
            bare = {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {"name": name}}
            made = field_managers.applied(kind, bare, config, manager)
            try:
                return await self.create(kind, namespace, made, options), True
            except errors.AlreadyExists:
                continue  # another was faster

    async def update_part(
        self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], options: WriteOptions,
        *, part: Part,
    ) -> Entry:  # fmt: skip
        """Change a part of an object; admission sees the part alone. Raises: as update."""
        key = kind.key(namespace, name)

        async def make(entry: Entry) -> Object:
            old, new = entry.object(), change(entry.object())
            request = self._request(
                "UPDATE", kind, namespace, options, part.view(new), old=part.view(old), subresource=part.subresource
            )
            told = orjson.dumps(request.obj)
            admitted = await self._admission.admit_update(request, lambda changed: changed)
            if orjson.dumps(admitted) != told:
                new = part.put(new, admitted)
            return await self._updated(kind, namespace, key, old, new, options, "", admitted=request)

        return await self._write(kind, key, make, options)

    async def apply_part(
        self, kind: Kind, namespace: str, name: str, config: Object, options: WriteOptions,
        *, part: Part, force: bool,
    ) -> Entry:  # fmt: skip
        """Apply what a configuration says of a part of an object. Raises: as apply; NotFound."""
        manager, through = options.field_manager, part.subresource
        options.applies = True

        def change(live: Object) -> Object:
            return field_managers.applied(kind, live, config, manager, subresource=through, force=force)

        return await self.update_part(kind, namespace, name, change, options, part=part)

    async def replace(
        self, kind: Kind, namespace: str, name: str, change: Callable[[Object], Object], options: WriteOptions,
        *, expected_uid: str = "",
    ) -> Entry:  # fmt: skip
        """Write what `change` makes of an object, without the rules for clients; subresources with rules of their own.

        Raises: NotFound; Conflict when the uid is another; what `change` raises.
        """
        key = kind.key(namespace, name)

        async def make(entry: Entry) -> Object:
            obj = entry.object()
            if expected_uid and obj["metadata"]["uid"] != expected_uid:
                raise _uid_conflict(kind, key, expected_uid, obj["metadata"]["uid"])
            return change(obj)

        return await self._write(kind, key, make, options)

    async def _write(
        self, kind: Kind, key: str, make: Callable[[Entry], Awaitable[Object]], options: WriteOptions
    ) -> Entry:
        """Store the object made of the newest state; one whose last finalizer went is removed instead."""
        made: Object = {}
        going = False

        async def write(entry: Entry) -> Object | None:
            nonlocal made, going
            shown = entry if kind.custom is None else (await kind.custom.view([entry]))[0]
            old = shown.object()
            made = await make(shown)
            going = bool(old["metadata"].get("deletionTimestamp")) and may_go(made)
            same = made == old and _is_current(kind, entry) and not self.storage.is_stale(entry.key)
            if going or options.dry_run or same:
                return None
            return made if kind.custom is None else await kind.custom.to_stored(made)

        while True:
            entry = await self.storage.update(kind.resource, key, write, lease=await self._lease(kind))
            if options.dry_run:
                return Entry(key, encode(made), entry.revision)
            if not going:
                return entry if kind.custom is None else (await kind.custom.view([entry]))[0]
            if await self._remove(kind, entry):
                return Entry(key, encode(made), self.storage.cache.revision)

    async def _updated(
        self, kind: Kind, namespace: str, key: str, old: Object, new: Object, options: WriteOptions, subresource: str,
        *, admitted: Attributes | None = None,
    ) -> Object:  # fmt: skip
        conformed(kind, new, options)
        metadata = new.setdefault("metadata", {})
        check_namespace(kind, namespace, metadata)
        self._check_preconditions(kind, key, old, metadata)
        new = _with_parts(kind, old, new, subresource, applies=options.applies)
        self._keep_server_fields(kind, old, new)
        main = subresource not in ("status", "approval")
        if main:
            complete(kind, new)
            kind.prepare_update(new, old)
        request = admitted or self._request("UPDATE", kind, namespace, options, new, old=old, subresource=subresource)
        if options.field_manager and not options.applies:
            field_managers.track(kind, old, new, options.field_manager, request.subresource, resettable=main)
        if admitted is None:
            managed = new["metadata"].get("managedFields")
            new = await self._admission.admit_update(request, lambda changed: self._completed(kind, changed, options))
            field_managers.restore_if_broken(new, managed, options.warnings)
        if not main and kind.custom is not None and kind.user_defined:
            raise_invalid(kind, new, kind.custom.causes(new, old))
        part = kind.subresources.get(subresource)
        judge = part.validate_update if part is not None else None
        if not main and judge is not None:
            raise_invalid(kind, new, judge(new, old))
        if main:
            if kind.has_generation and _without_meta(kind, new) != _without_meta(kind, old):
                new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
            own = judge or kind.validate_update
            causes = [*metadata_causes(kind, new), *object_causes(kind, new, old), *own(new, old)]
            raise_invalid(kind, new, [*causes, *finalizer_causes(new, old)])
        await self._admission.judge_update(request, self._replace_quota)
        return new

    def _check_preconditions(self, kind: Kind, key: str, old: Object, metadata: Object) -> None:
        asked, actual = metadata.get("resourceVersion"), old["metadata"]["resourceVersion"]
        if not asked and not kind.unconditional_update:
            raise_invalid(kind, old, [_NO_VERSION])
        if asked and asked != actual:
            raise conflict(kind.resource, key)
        if metadata.get("uid") and metadata["uid"] != old["metadata"]["uid"]:
            raise _uid_conflict(kind, key, metadata["uid"], old["metadata"]["uid"])
        if metadata.get("name") != old["metadata"]["name"]:
            raise errors.BadRequest(
                f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL "
                f"({old['metadata']['name']})"
            )

    @staticmethod
    def _keep_server_fields(kind: Kind, old: Object, new: Object) -> None:
        metadata, before = new["metadata"], old["metadata"]
        for name in (*_SERVER_FIELDS, "generateName", "generation"):
            if name in before:
                metadata[name] = before[name]
            else:
                metadata.pop(name, None)
        metadata.pop("selfLink", None)
        new["kind"], new["apiVersion"] = kind.resource.kind, kind.resource.api_version

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Mapping[str, Any], *, dry_run: bool,
        user: User | None = None,
    ) -> Any:  # fmt: skip
        """Delete an object, or mark it and let its finalizers and its grace period run.

        Returns: (entry, gone): its last state, and whether it is gone already.
        Raises: NotFound; Conflict when the preconditions do not hold.
        """
        key = kind.key(namespace, name)
        while True:
            plan: list[bool] = []

            async def mark(entry: Entry, plan: list[bool] = plan) -> Object | None:
                obj = entry.object()
                self._check_delete_preconditions(kind, key, obj, options)
                write = WriteOptions(dry_run=dry_run, user=user)
                await self._admission.judge_delete(self._request("DELETE", kind, namespace, write, None, old=obj))
                marked = mark_deleted(kind, obj, options)
                plan[:] = [may_go(marked)]
                return None if plan[0] or dry_run or marked == entry.object() else marked

            entry = await self.storage.update(kind.resource, key, mark, lease=await self._lease(kind))
            if dry_run or not plan[0]:
                return entry, plan[0]
            if await self._remove(kind, entry):
                return entry, True

    async def _remove(self, kind: Kind, entry: Entry) -> bool:
        gone = await self.storage.delete(kind.resource, entry.key, expected_revision=entry.revision)
        if gone:
            self._admission.released(kind, entry)
        return gone

    @staticmethod
    def _check_delete_preconditions(kind: Kind, key: str, obj: Object, options: Mapping[str, Any]) -> None:
        wanted = options.get("preconditions") or {}
        if wanted.get("uid") and wanted["uid"] != obj["metadata"]["uid"]:
            raise _uid_conflict(kind, key, wanted["uid"], obj["metadata"]["uid"])
        revision = obj["metadata"]["resourceVersion"]
        if wanted.get("resourceVersion") and wanted["resourceVersion"] != revision:
            raise conflict(
                kind.resource, key,
                f"Precondition failed: ResourceVersion in precondition: {wanted['resourceVersion']}, "
                f"ResourceVersion in object meta: {revision}",
            )  # fmt: skip


def _uid_conflict(kind: Kind, key: str, wanted: str, actual: str) -> errors.Conflict:
    why = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"
    return conflict(kind.resource, key, why)


def check_namespace(kind: Kind, namespace: str, metadata: Object) -> None:
    """Put the namespace of the path into metadata. Raises: BadRequest when the body names another."""
    given = metadata.get("namespace", "")
    if not kind.resource.namespaced:
        metadata.pop("namespace", None)
        return
    if given and given != namespace:
        raise errors.BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request "
            f"({given} != {namespace})"
        )
    metadata["namespace"] = namespace


def _is_current(kind: Kind, entry: Entry) -> bool:
    return kind.custom is None or kind.custom.is_stored_form(entry)


def _with_parts(kind: Kind, old: Object, new: Object, subresource: str, *, applies: bool) -> Object:
    """Return an object with what the request may write from `new`, and the rest from `old`."""
    if subresource in ("status", "approval"):
        found = _with_status(kind, old, new)
        if (prepare := kind.subresources[subresource].prepare) is not None:
            prepare(found, old)
        if applies and (managed := new["metadata"].get("managedFields")):
            found["metadata"]["managedFields"] = managed
        return found
    part = kind.subresources.get(subresource)
    if part is not None and part.merge is not None:
        return part.merge(old, new)
    if kind.has_status and kind.user_defined:
        new.pop("status", None)
        new |= {"status": old["status"]} if "status" in old else {}
    elif kind.has_status:
        new["status"] = old.get("status") or {}
    return new


def _with_status(kind: Kind, old: Object, new: Object) -> Object:
    """Return the old object with the new one's status, and what of its metadata comes with it."""
    if kind.user_defined:
        rest = {name: value for name, value in old.items() if name != "status"}
        return rest | ({"status": new["status"]} if "status" in new else {}) | {"metadata": {**old["metadata"]}}
    given = new["metadata"]
    metadata = {**old["metadata"], **{name: given[name] for name in kind.status_metadata if name in given}}
    return {**old, "status": new.get("status") or {}, "metadata": metadata}


def _without_meta(kind: Kind, obj: Object) -> Object:
    """Return what of an object counts for its generation."""
    apart = ("metadata", "kind", "apiVersion", *(("status",) if kind.has_status or not kind.user_defined else ()))
    return {name: value for name, value in obj.items() if name not in apart}
