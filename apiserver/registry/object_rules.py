"""Rules every kind's objects keep, and how breaking them is told.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/
"""

from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Kind, Object, forbidden, invalid, required
from machinery import errors
from machinery.api.schema import missing_required, shape_of
from machinery.errors import Cause

# Groups whose objects may have finalizers of any name.
_OPEN_GROUPS = ("apiextensions.k8s.io", "apiregistration.k8s.io")


def metadata_causes(kind: Kind, obj: Object) -> Iterator[Cause]:
    """Yield what is wrong with an object's metadata."""
    metadata = obj["metadata"]
    name = metadata.get("name", "")
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif wrong := kind.validate_name(name):
        yield invalid("metadata.name", name, wrong)
    if (namespace := metadata.get("namespace")) and (wrong := names.dns_label(namespace)):
        yield invalid("metadata.namespace", namespace, wrong)
    yield from names.label_causes(metadata.get("labels") or {}, "metadata.labels")
    yield from names.annotation_causes(metadata.get("annotations") or {}, "metadata.annotations")
    judge = names.qualified_name if kind.user_defined or kind.resource.group in _OPEN_GROUPS else names.finalizer
    for finalizer in metadata.get("finalizers") or ():
        if wrong := judge(finalizer):
            yield invalid("metadata.finalizers", finalizer, wrong)
    controllers = 0
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for field_name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field_name):
                yield invalid(f"metadata.ownerReferences[{index}].{field_name}", "", "must not be empty")
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        yield invalid(
            "metadata.ownerReferences",
            metadata["ownerReferences"],
            "Only one reference can have Controller set to true",
        )


def object_causes(kind: Kind, obj: Object, old: Object | None = None) -> Iterator[Cause]:
    """Yield what is wrong with the rest of an object: fields its type requires, rules of its kind."""
    if kind.custom is not None:
        yield from kind.custom.causes(obj, old)
        return
    shape = shape_of(kind.definition)
    missing = [
        path for path in missing_required({k: v for k, v in obj.items() if k not in ("status", "metadata")}, shape)
        if path not in kind.optional_required and path != "metadata"  # checked on its own
    ]  # fmt: skip
    if any("." not in path.partition("spec.")[2] and path.startswith("spec") for path in missing):
        yield from (required(path) for path in missing)
        return
    own = kind.validate(obj)
    told = {cause.field for cause in own}  # in words of their own, which say more
    yield from own
    yield from (required(path) for path in missing if path not in told)


def kind_and_name_causes(reference: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the kind and the name by which another object is referred to."""
    for field in ("kind", "name"):
        if not reference.get(field):
            yield required(f"{path}.{field}")
        elif wrong := names.path_segment(reference[field]):
            yield invalid(f"{path}.{field}", reference[field], wrong)


def finalizer_causes(new: Object, old: Object) -> Iterator[Cause]:
    """Yield finalizers that came to an object on its way out."""
    if old["metadata"].get("deletionTimestamp"):
        added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            yield forbidden(
                "metadata.finalizers",
                f"no new finalizers can be added if the object is being deleted, found new finalizers {sorted(added)}",
            )


def raise_invalid(kind: Kind, obj: Object, causes: list[Cause]) -> None:
    """Raise Invalid with all causes, if there are any."""
    if not causes:
        return
    unique = list(dict.fromkeys(causes))
    texts = [f"{cause.field}: {cause.message}" for cause in unique]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    resource = kind.resource
    qualified = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    name = obj["metadata"].get("name", "")
    raise errors.Invalid(
        f'{qualified} "{name}" is invalid: {listed}', group=resource.group, kind=resource.kind, name=name, causes=unique
    )
