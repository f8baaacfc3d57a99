"""The paths of OpenAPI: what may be done to a kind's objects, to their parts, and with which parameters.

Code generators and kubectl read them; both versions of OpenAPI are made of the same description.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.registry.kind import Kind, Subresource
from machinery.api.schema import definitions

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
DELETE_OPTIONS, PATCH, STATUS = _META + "DeleteOptions", _META + "Patch", _META + "Status"
# HTTP method -> what is done by it: to a collection, and to an object; and the verb it needs.
_COLLECTION = {"get": ("list", "list"), "post": ("post", "create"), "delete": ("deletecollection", "deletecollection")}
_OBJECT = {
    "get": ("get", "get"), "put": ("put", "update"), "patch": ("patch", "patch"), "delete": ("delete", "delete"),
}  # fmt: skip
_PART = {**_OBJECT, "post": ("post", "create")}
_WRITING = ("dryRun", "fieldManager", "fieldValidation")
_TEXT, _NUMBER, _TRUTH = "string", "integer", "boolean"
_LISTING = {
    "allowWatchBookmarks": _TRUTH, "continue": _TEXT, "fieldSelector": _TEXT, "labelSelector": _TEXT, "limit": _NUMBER,
    "resourceVersion": _TEXT, "resourceVersionMatch": _TEXT, "sendInitialEvents": _TRUTH, "timeoutSeconds": _NUMBER,
    "watch": _TRUTH,
}  # fmt: skip
_DELETING = {
    "dryRun": _TEXT, "gracePeriodSeconds": _NUMBER, "ignoreStoreReadErrorWithClusterBreakingPotential": _TRUTH,
    "orphanDependents": _TRUTH, "propagationPolicy": _TEXT,
}  # fmt: skip
_SELECTING = {name: _LISTING[name] for name in _LISTING if name not in ("allowWatchBookmarks", "watch")}
_LOG = {
    "container": _TEXT, "follow": _TRUTH, "insecureSkipTLSVerifyBackend": _TRUTH, "limitBytes": _NUMBER,
    "previous": _TRUTH, "sinceSeconds": _NUMBER, "stream": _TEXT, "tailLines": _NUMBER, "timestamps": _TRUTH,
}  # fmt: skip
_STREAM = {"command": _TEXT, "container": _TEXT, "stderr": _TRUTH, "stdin": _TRUTH, "stdout": _TRUTH, "tty": _TRUTH}
# What subresources take that hand a connection on.
_CONNECTING = {
    "attach": {name: kind for name, kind in _STREAM.items() if name != "command"}, "exec": _STREAM, "log": _LOG,
    "portforward": {"ports": _NUMBER}, "proxy": {"path": _TEXT},
}  # fmt: skip
# kubectl looks here for how it may patch; what users define knows no strategies of merging.
_PLAIN_PATCHES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
_PATCHES = (*_PLAIN_PATCHES, "application/strategic-merge-patch+json")
_GROUPS = {"": "core", "autoscaling": "autoscaling", "policy": "policy", "authentication.k8s.io": "authentication"}


@dataclass(frozen=True, slots=True)
class _Place:
    """One path, and what may be done there: HTTP method -> action."""

    path: str
    actions: Mapping[str, str]
    names: Sequence[str]  # parameters in the path
    suffix: str = ""  # of the operations' names
    part: str = ""  # a subresource
    patches: Sequence[str] = _PATCHES


def part_definition(kind: Kind, part: Subresource) -> str:
    """Return the definition of a subresource's body: of its own kind, or of the object; empty for streams."""
    if not part.kind:
        return kind.definition
    group = part.group if part.group or part.version else kind.resource.group
    name = f"io.k8s.api.{_GROUPS.get(group, group)}.{part.version or kind.resource.version}.{part.kind}"
    return name if name in definitions() else ""


def paths(kinds: Iterable[Kind], reference: str, *, v3: bool) -> dict[str, Any]:
    """Return the paths of these kinds. Args: `reference` is where schemas are."""
    found: dict[str, Any] = {}
    for kind in kinds:
        for place in _places(kind):
            found[place.path] = _operations(kind, place, reference, v3=v3)
            if place.names:
                found[place.path]["parameters"] = [_parameter(name, _TEXT, "path", v3=v3) for name in place.names]
    return found


def _places(kind: Kind) -> Iterable[_Place]:
    resource = kind.resource
    scope, within = ("{namespace}", ["namespace"]) if resource.namespaced else ("", [])
    patches = _PLAIN_PATCHES if kind.user_defined else _PATCHES
    allowed = [
        _Place(resource.path(scope), _done(_COLLECTION, kind.verbs), within),
        _Place(resource.path(scope, "{name}"), _done(_OBJECT, kind.verbs), [*within, "name"], patches=patches),
    ]
    if resource.namespaced:
        everywhere = {"get": _COLLECTION["get"]}
        allowed.append(_Place(resource.path(), _done(everywhere, kind.verbs), [], suffix="ForAllNamespaces"))
    for name, part in sorted(kind.subresources.items()):
        place = resource.path(scope, "{name}") + "/" + name
        actions = _done(_PART, part.verbs)
        allowed.append(_Place(place, actions, [*within, "name"], suffix=name.title(), part=name, patches=patches))
    return [place for place in allowed if place.actions]


def _done(methods: Mapping[str, tuple[str, str]], verbs: Sequence[str]) -> dict[str, str]:
    return {method: action for method, (action, verb) in methods.items() if verb in verbs}


def _operations(kind: Kind, place: _Place, reference: str, *, v3: bool) -> dict[str, Any]:
    resource = kind.resource
    part = kind.subresources.get(place.part)
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    definition = kind.definition
    if part is not None and part.kind:
        gvk = {"group": part.group, "version": part.version or resource.version, "kind": part.kind}
        definition = part_definition(kind, part)
    group = (resource.group or "core").title().replace(".", "")
    scope = "Namespaced" if resource.namespaced and place.suffix != "ForAllNamespaces" else ""
    found: dict[str, Any] = {}
    connects = place.part in _CONNECTING and place.part != "log"
    for method, done in place.actions.items():
        action, way = ("connect", method.title()) if connects else (done, "")
        found[method] = {
            "operationId": f"{action}{group}{resource.version.title()}{way}{scope}{resource.kind}{place.suffix}",
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk,
            "responses": {"200": _response(_answer(kind, place, action, definition), reference, v3=v3)},
        }  # fmt: skip
        _add_input(found[method], method, action, place, definition, reference, v3=v3)
    return found


def _answer(kind: Kind, place: _Place, action: str, definition: str) -> str:
    """Return the definition of what is answered; empty for text."""
    if action == "list":
        listed = f"{kind.definition}List"
        known = kind.custom.schemas() if kind.user_defined and kind.custom is not None else definitions()
        return listed if listed in known else definition
    if action in ("delete", "deletecollection"):
        return STATUS if action == "deletecollection" or not kind.returns_deleted else definition
    return "" if place.part in _CONNECTING else definition


def _response(definition: str, reference: str, *, v3: bool) -> dict[str, Any]:
    schema = {"$ref": reference + definition} if definition else {"type": "string"}
    if not v3:
        return {"description": "OK", "schema": schema}
    return {"description": "OK", "content": {"application/json" if definition else "*/*": {"schema": schema}}}


def _add_input(
    operation: dict[str, Any], method: str, action: str, place: _Place, definition: str, reference: str, *, v3: bool
) -> None:
    """Add an operation's parameters and its body."""
    query: Mapping[str, str] = {}
    if place.part in _CONNECTING:
        query = _CONNECTING[place.part]
    elif action == "list":
        query = _LISTING
    elif method in ("post", "put", "patch"):
        query = {**dict.fromkeys(_WRITING, _TEXT), **({"force": _TRUTH} if method == "patch" else {})}
    elif action in ("delete", "deletecollection"):
        query = {**_DELETING, **(_SELECTING if action == "deletecollection" else {})}
    operation["parameters"] = [_parameter(name, kind, "query", v3=v3) for name, kind in query.items()]
    body = {"post": definition, "put": definition, "patch": PATCH, "delete": DELETE_OPTIONS}.get(method, "")
    if not body or place.part in _CONNECTING:
        return
    schema = {"$ref": reference + body}
    if not v3:
        needed = {} if method == "delete" else {"required": True}
        operation["parameters"].append({"name": "body", "in": "body", "schema": schema, **needed})
        if method == "patch":
            operation["consumes"] = list(place.patches)
        return
    media = place.patches if method == "patch" else ("*/*",)
    operation["requestBody"] = {"content": {one: {"schema": schema} for one in media}}
    if method != "delete":
        operation["requestBody"]["required"] = True


def _parameter(name: str, kind: str, where: str, *, v3: bool) -> dict[str, Any]:
    about = {"type": kind, "uniqueItems": True}
    needed = {"required": True} if where == "path" else {}
    return {"name": name, "in": where, **needed, **({"schema": about} if v3 else about)}


def references(value: Any) -> list[str]:
    """Return the names of the definitions that a definition refers to."""
    if isinstance(value, dict):
        here = [str(value["$ref"]).removeprefix("#/$defs/")] if isinstance(value.get("$ref"), str) else []
        return here + [one for item in value.values() for one in references(item)]
    if isinstance(value, list):
        return [one for item in value for one in references(item)]
    return []
