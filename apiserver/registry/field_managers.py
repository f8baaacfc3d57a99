"""Who manages which fields of an object: kept with every write, asked when a configuration is applied.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apiserver.registry.kind import Kind, Object, shape_for
from machinery import errors
from machinery.api import meta
from machinery.api.field_merge import Unmergeable, compare, fields_of, merged, without
from machinery.api.field_sets import Tree, difference, intersection, members, union

APPLY, UPDATE = "Apply", "Update"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL = "kubectl"
# Written too often, and by one writer each: who manages their fields tells nobody anything.
_UNTRACKED = frozenset({"events", "leases"})
_SERVERS_OWN = frozenset(
    {"creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields", "name",
     "namespace", "resourceVersion", "selfLink", "uid"}
)  # fmt: skip
_MAX_UPDATERS = 10
_ANCIENT = "ancient-changes"
MAX_MANAGER_BYTES = 128
# Pods of one owner are alike: which fields they have is found out once.
_REMEMBERED_PODS = 128
_REMEMBERED_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """One manager and the fields it manages."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: Tree

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.manager, self.operation, self.api_version, self.subresource

    def encoded(self) -> Object:
        found: Object = {
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields,
        }  # fmt: skip
        return {**found, "subresource": self.subresource} if self.subresource else found

    def told(self) -> str:
        """Return the manager as conflicts name it."""
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation != UPDATE:
            return text
        return f"{text} using {self.api_version}" + (f" at {self.time}" if self.time else "")


def _decoded(given: Any) -> list[_Entry]:
    """Return managedFields as entries; what can't be understood is left out."""
    found = []
    for one in given if isinstance(given, list) else ():
        fields = one.get("fieldsV1") if isinstance(one, dict) else None
        if isinstance(fields, dict) and one.get("manager") is not None:
            found.append(
                _Entry(
                    one["manager"], one.get("operation", UPDATE), one.get("apiVersion", ""), one.get("subresource", ""),
                    one.get("time", ""), fields,
                )
            )  # fmt: skip
    return found


def _managed_part(kind: Kind, obj: Object, subresource: str) -> Object:
    """Return what of an object has managers: not what only the server writes, nor what this request can't."""
    found = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind")}
    metadata = obj.get("metadata") or {}
    kept = {name: value for name, value in metadata.items() if name not in _SERVERS_OWN}
    if kept:
        found["metadata"] = kept
    else:
        found.pop("metadata", None)
    if kind.has_status and not subresource:
        found.pop("status", None)
    return found


def track(
    kind: Kind, old: Object | None, new: Object, manager: str, subresource: str, *, resettable: bool = True
) -> None:
    """Note in `new` which fields a write that is no apply has made its manager's; `old` is None for a creation.

    With `resettable`, managedFields of the request itself are taken where they make sense: so they can be edited.
    """
    if kind.resource.plural in _UNTRACKED:
        new["metadata"].pop("managedFields", None)
        return
    asked = new["metadata"].get("managedFields") if resettable else None
    known = old["metadata"].get("managedFields") if old is not None else None
    if asked == [{}]:
        base: list[_Entry] = []
    elif asked and asked != known:
        base = _decoded(asked) or _decoded(known)
    else:
        base = _decoded(known)
    shape = shape_for(kind)
    fresh = _managed_part(kind, new, subresource)
    if old is None:
        changed, removed = _new_fields(kind, fresh), Tree()
    else:
        changes = compare(_managed_part(kind, old, subresource), fresh, shape)
        changed, removed = changes.changed, changes.removed
    if changed or removed:
        base = _updated(base, changed, removed, manager, kind.resource.api_version, subresource)
    _write(new, base)


def _new_fields(kind: Kind, fresh: Object) -> Tree:
    """Return the fields of a new object. Those of pods are remembered: no tree is changed in place."""
    shape = shape_for(kind)
    if kind.built_in_kind != "Pod":
        return fields_of(fresh, shape, dots=True)
    spec = orjson.dumps(fresh["spec"])
    known = _pods.get(spec)
    if known is None:
        known = fields_of({"spec": fresh["spec"]}, shape, dots=True)
        if len(spec) <= _REMEMBERED_BYTES:
            if len(_pods) >= _REMEMBERED_PODS:
                _pods.pop(next(iter(_pods)))
            _pods[spec] = known
    return fields_of({**fresh, "spec": None}, shape, dots=True) | known


_pods: dict[bytes, Tree] = {}


def restore_if_broken(obj: Object, before: Any, warnings: list[str]) -> None:
    """Put an object's managedFields back as they were where admission made something of them that can't be read."""
    after = obj["metadata"].get("managedFields")
    if after is before or not (wrong := _unreadable(after)):
        return
    if before is None:
        obj["metadata"].pop("managedFields")
    else:
        obj["metadata"]["managedFields"] = before
    warnings.append(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating "
        f"admission controller; please fix your requests: {wrong}"
    )


def _unreadable(given: Any) -> str:
    """Return what is wrong with managedFields, "" if nothing is."""
    if given is None:
        return ""
    for one in given if isinstance(given, list) else [given]:
        if not isinstance(one, dict):
            return "metadata.managedFields: Invalid value: must be a list of objects"
        if (operation := one.get("operation")) not in (APPLY, UPDATE):
            return f'metadata.managedFields.operation: Invalid value: "{operation or ""}": must be `Apply` or `Update`'
        if (form := one.get("fieldsType") or "FieldsV1") != "FieldsV1":
            return f'metadata.managedFields.fieldsType: Invalid value: "{form}": must be `FieldsV1`'
        if not isinstance(one.get("fieldsV1") or {}, dict):
            return "error decoding managed fields: fieldsV1 is no object"
    return ""


def _updated(
    entries: Iterable[_Entry], changed: Tree, removed: Tree, manager: str, api_version: str, subresource: str
) -> list[_Entry]:
    mine = (manager, UPDATE, api_version, subresource)
    touched = union(changed, removed)
    found, own = [], Tree()
    time = ""
    for entry in entries:
        if entry.identity == mine:
            own, time = entry.fields, entry.time
            continue
        left = difference(entry.fields, touched)
        if left:
            found.append(entry if left == entry.fields else replace(entry, fields=left))
    fields = difference(union(own, changed), removed) if removed else union(own, changed)
    if fields:
        found.append(_Entry(*mine, time if fields == own else meta.now(), fields))
    return _capped(found)


def _capped(entries: list[_Entry]) -> list[_Entry]:
    """Merge the oldest updaters into one where there are too many."""
    updaters = sorted((one for one in entries if one.operation == UPDATE), key=lambda one: one.time)
    surplus = updaters[: max(len(updaters) - _MAX_UPDATERS, 0)]
    if not surplus:
        return entries
    ancient: dict[str, _Entry] = {}
    for entry in surplus:
        before = ancient.get(entry.api_version)
        fields = union(before.fields, entry.fields) if before else entry.fields
        ancient[entry.api_version] = _Entry(_ANCIENT, UPDATE, entry.api_version, "", entry.time, fields)
    return [one for one in entries if one not in surplus] + list(ancient.values())


def _write(obj: Object, entries: Iterable[_Entry]) -> None:
    ordered = sorted(entries, key=lambda one: (one.operation, one.time, one.manager, one.api_version, one.subresource))
    if ordered:
        obj["metadata"]["managedFields"] = [one.encoded() for one in ordered]
    else:
        obj["metadata"].pop("managedFields", None)


def applied(
    kind: Kind, live: Object, config: Object, manager: str, *, subresource: str = "", force: bool = False
) -> Object:  # fmt: skip
    """Return an object as it is after a manager applied its configuration.

    Args: `live` is the object as it is; one that is to be created has just its name and namespace.
    Raises: Conflict when others manage fields that would change, and `force` is not set; BadRequest.
    """
    shape = shape_for(kind)
    wished = _applicable(kind, config, subresource)
    mine = (manager, APPLY, kind.resource.api_version, subresource)
    entries = _decoded(live["metadata"].get("managedFields"))
    last = next((one for one in entries if one.identity == mine), None)
    others = [one for one in entries if one.identity != mine]
    owned: Tree = {}
    for entry in others:
        owned = union(owned, entry.fields)
    before = {**live, "metadata": {k: v for k, v in live["metadata"].items() if k != "managedFields"}}
    try:
        wanted = fields_of(wished, shape)
        after = merged(before, wished, shape)
    except Unmergeable as error:
        raise errors.BadRequest(f"failed to create typed patch object: {error}") from error
    if last is not None:
        after = without(after, difference(last.fields, wanted), union(owned, wanted), shape)
    _sync_last_applied(manager, live, after, config)
    changes = compare(_managed_part(kind, before, subresource), _managed_part(kind, after, subresource), shape)
    allowed = changes.changed if force else _last_applied(kind, live, manager)
    left = _without_conflicts(others, changes.changed, changes.removed, allowed)
    if wanted:
        same = last is not None and last.fields == wanted and not changes.changed and not changes.removed
        left.append(_Entry(*mine, last.time if same and last is not None else meta.now(), wanted))
    _write(after, left)
    return after


def _applicable(kind: Kind, config: Object, subresource: str) -> Object:
    """Return what of a configuration a request of this kind may set."""
    found = _managed_part(kind, config, subresource)
    if subresource == "status":
        return {name: value for name, value in found.items() if name == "status"}
    return found


def _last_applied(kind: Kind, live: Object, manager: str) -> Tree:
    """Return the fields that kubectl had applied from its own side: those it may take over."""
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if manager != _KUBECTL or not text:
        return {}
    try:
        config = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return fields_of(_managed_part(kind, config, ""), shape_for(kind)) if isinstance(config, dict) else {}


def _without_conflicts(others: Iterable[_Entry], changed: Tree, removed: Tree, allowed: Tree) -> list[_Entry]:
    """Return the others without what is no longer theirs. Raises: Conflict over what is not `allowed`."""
    found: list[_Entry] = []
    conflicts: list[tuple[_Entry, str]] = []
    for entry in others:
        disputed = intersection(entry.fields, changed)
        conflicts += [(entry, path) for path in members(difference(disputed, allowed))]
        left = difference(difference(entry.fields, disputed), removed)
        if left:
            found.append(entry if left == entry.fields else replace(entry, fields=left))
    if conflicts:
        raise _conflict(conflicts)
    return found


def _conflict(conflicts: list[tuple[_Entry, str]]) -> errors.Conflict:
    causes = [errors.Cause("FieldManagerConflict", f"conflict with {entry.told()}", path) for entry, path in conflicts]
    if len(conflicts) == 1:
        entry, path = conflicts[0]
        return errors.Conflict(f"Apply failed with 1 conflict: conflict with {entry.told()}: {path}", causes=causes)
    by_manager: dict[str, list[str]] = {}
    for entry, path in conflicts:
        by_manager.setdefault(entry.told(), []).append(f"- {path}")
    listed = "\n".join(f"conflicts with {told}:\n" + "\n".join(paths) for told, paths in sorted(by_manager.items()))
    return errors.Conflict(f"Apply failed with {len(conflicts)} conflicts: {listed}", causes=causes)


def _sync_last_applied(manager: str, live: Object, after: Object, config: Mapping[str, Any]) -> None:
    """Keep the annotation of client-side apply true, so that kubectl may go back to that."""
    if manager != _KUBECTL or LAST_APPLIED not in (live["metadata"].get("annotations") or {}):
        return
    text = orjson.dumps(config, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    after["metadata"]["annotations"] = {**after["metadata"].get("annotations", {}), LAST_APPLIED: text}
