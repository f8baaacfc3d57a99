"""The scale of an object: how many replicas it wants, read and written as a Scale, whatever the object is.

Admission is asked about the Scale and not about the object. Who applies a scale manages the object's replicas.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris
"""

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from apiserver.endpoints import body, reading, writing
from apiserver.endpoints.reading import respond, wanted
from apiserver.registry.columns import selector_text
from apiserver.registry.kind import Kind, Object
from apiserver.registry.rest import Part, Rest, WriteOptions
from apiserver.request import Call, flag
from machinery import errors
from machinery.api.patch import PatchError
from machinery.errors import Cause

_SCALE, _TYPE = "autoscaling/v1", "io.k8s.api.autoscaling.v1.Scale"
_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
_NEGATIVE = "must be greater than or equal to 0"


async def answer(call: Call, rest: Rest) -> web.Response:
    """Answer a request for the scale of an object."""
    kind, info = call.known, call.info
    part = Part("scale", lambda obj: scale_of(obj, kind), lambda obj, scale: _put(obj, kind, scale))
    if info.verb == "get":
        entry = await rest.storage.get(kind.resource, kind.key(info.namespace, info.name))
        entry = await reading.seen(kind, entry)
        return respond(orjson.dumps(part.view(entry.object())), wanted(call))
    options = writing.write_options(call)
    if info.verb != "update" and body.media_type(call.http.headers.get("Content-Type", "")) == writing.APPLY_PATCH:
        config = await _configuration(call, options)
        entry = await rest.apply_part(
            kind, info.namespace, info.name, config, options, part=part, force=flag(call.query, "force")
        )
    else:
        change = await _change(call, kind, part)
        entry = await rest.update_part(kind, info.namespace, info.name, change, options, part=part)
    return writing.with_warnings(respond(orjson.dumps(part.view(entry.object())), wanted(call)), options)


async def _change(call: Call, kind: Kind, part: Part) -> Callable[[Object], Object]:
    """Return what a Scale, or a patch of it, makes of the object."""
    if call.info.verb == "update":
        scale = await writing.read_typed(call, "Scale", _SCALE, _TYPE)
        make: Callable[[Object], Any] = lambda _: scale  # noqa: E731 - one of two ways to a Scale
    else:
        make = await writing.read_patch(call, None, _TYPE)

    def scaled(obj: Object) -> Object:
        try:
            wished = make(part.view(obj))
        except PatchError as error:
            raise errors.BadRequest(str(error)) from error
        if asked := (wished.get("metadata") or {}).get("resourceVersion"):
            obj["metadata"]["resourceVersion"] = asked
        return _put(obj, kind, wished)

    return scaled


async def _configuration(call: Call, options: WriteOptions) -> Object:
    """Return what of the object an applied Scale is about. Raises: BadRequest, Invalid."""
    kind = call.known
    config = await writing.read_applied(call, "Scale", _SCALE, options)
    writing.refuse_undeclared(call.info, config, "Scale", _SCALE, _TYPE)
    made: Object = {
        "kind": kind.resource.kind, "apiVersion": kind.resource.api_version, "metadata": {"name": call.info.name},
    }  # fmt: skip
    return _put(made, kind, config) if "replicas" in (config.get("spec") or {}) else made


def _put(obj: Object, kind: Kind, scale: Object) -> Object:
    """Set an object's wanted replicas to those of a Scale. Raises: BadRequest, Invalid."""
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise errors.BadRequest(
            'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal '
            "string into Go struct field ScaleSpec.spec.replicas of type int32"
        )
    if replicas < 0:
        name, wrong = obj["metadata"]["name"], f"Invalid value: {replicas}: {_NEGATIVE}"
        raise errors.Invalid(
            f'Scale.autoscaling "{name}" is invalid: spec.replicas: {wrong}', group="autoscaling", kind="Scale",
            name=name, causes=[Cause("FieldValueInvalid", wrong, "spec.replicas")],
        )  # fmt: skip
    if kind.custom is not None:
        kind.custom.set_replicas(obj, replicas)
    else:
        obj.setdefault("spec", {})["replicas"] = replicas
    return obj


def scale_of(obj: Object, kind: Kind) -> Object:
    """Return the Scale of an object."""
    metadata = {name: obj["metadata"][name] for name in _KEPT if name in obj["metadata"]}
    made: Object = {"kind": "Scale", "apiVersion": _SCALE, "metadata": metadata}
    if kind.custom is not None:
        replicas, present, text = kind.custom.scale_of(obj)
        status: Object = {"replicas": present} | ({"selector": text} if text else {})
        return {**made, "spec": {"replicas": replicas}, "status": status}
    status = {"replicas": (obj.get("status") or {}).get("replicas", 0)}
    if selector := obj["spec"].get("selector"):
        labelled = "matchLabels" in selector or "matchExpressions" in selector
        status["selector"] = selector_text(selector if labelled else {"matchLabels": selector})
    return {**made, "spec": {"replicas": obj["spec"].get("replicas", 0)}, "status": status}
