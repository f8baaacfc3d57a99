"""A request in another version of what it is about: webhooks that name one version are asked about all (Equivalent).

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchpolicy
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from apiserver.admission.attributes import Attributes
from apiserver.admission.rules import any_rule_takes
from apiserver.registry.kind import Kind, Object
from apiserver.storage.watch_cache import Entry

FindVersions = Callable[[Kind], Sequence[Kind]]
"""Returns the kinds that are other versions of a kind."""


def version_taken(config: Mapping[str, Any], request: Attributes, versions: FindVersions) -> Kind | None:
    """Return the kind in which a webhook's rules take a request: its own, or an equivalent one; None for neither."""
    rules = config.get("rules") or ()
    if any_rule_takes(rules, request):
        return request.kind
    if config.get("matchPolicy", "Equivalent") == "Equivalent":
        for kind in versions(request.kind):
            if request.subresource and request.subresource not in kind.subresources:
                continue
            if any_rule_takes(rules, replace(request, kind=kind)):
                return kind
    return None


async def as_version(request: Attributes, kind: Kind) -> Attributes:
    """Return a request with its objects in another version. Raises: InternalError when conversion fails."""
    if kind is request.kind:
        return request
    if _is_part(request):
        return replace(request, kind=kind)
    obj, old = [one and await converted(one, request.kind, kind) for one in (request.obj, request.old)]
    return replace(request, kind=kind, obj=obj, old=old)


async def as_asked(obj: Object, shown: Kind, request: Attributes) -> Object:
    """Return an object of the kind in which it was shown in that of the request. Raises: InternalError."""
    return obj if shown is request.kind or _is_part(request) else await converted(obj, shown, request.kind)


def _is_part(request: Attributes) -> bool:
    """Whether the body is of a kind of its own, the same in every version."""
    part = request.kind.subresources.get(request.subresource)
    return part is not None and bool(part.kind)


async def converted(obj: Object, of: Kind, to: Kind) -> Object:
    """Return an object of one version in another. Raises: InternalError when conversion fails."""
    stored = await of.custom.to_stored(obj) if of.custom is not None else obj
    if to.custom is None:
        return stored
    metadata = obj["metadata"]
    key = to.key(metadata.get("namespace", ""), metadata.get("name", ""))
    (shown,) = await to.custom.view([Entry(key, orjson.dumps(stored), 0)])
    return shown.object()
