"""Classes for what names none: claims get the default storage class, ingresses the default ingress class.

Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#defaultstorageclass
"""

from apiserver.registry.kind import Object
from apiserver.storage.watch_cache import WatchCache
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.quantity import parse_quantity
from machinery.api.resources import INGRESS_CLASSES, STORAGE_CLASSES

_STORAGE_DEFAULT = (
    "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class",
)  # fmt: skip
_INGRESS_DEFAULT = ("ingressclass.kubernetes.io/is-default-class",)
_OLD_INGRESS_CLASS = "kubernetes.io/ingress.class"
_OLD_STORAGE_CLASS = "volume.beta.kubernetes.io/storage-class"


def _default(cache: WatchCache, resource: Resource, keys: tuple[str, ...]) -> str | None:
    """Return the newest class marked as default, by name where several are of one second."""
    found = []
    for entry in cache.collection(resource.group_resource).entries(""):
        metadata = entry.object()["metadata"]
        if any((metadata.get("annotations") or {}).get(key) == "true" for key in keys):
            found.append((metadata["creationTimestamp"], metadata["name"]))
    if not found:
        return None
    newest = max(created for created, _ in found)
    return min(name for created, name in found if created == newest)


def set_class(cache: WatchCache, claim: Object) -> None:
    """Give a claim that names no class the default one; an empty name is a name."""
    if "storageClassName" in claim["spec"] or _OLD_STORAGE_CLASS in (claim["metadata"].get("annotations") or {}):
        return
    if name := _default(cache, STORAGE_CLASSES, _STORAGE_DEFAULT):
        claim["spec"]["storageClassName"] = name


def set_ingress_class(cache: WatchCache, ingress: Object) -> None:
    """Give an ingress that names no class the default one."""
    spec = ingress.setdefault("spec", {})
    if "ingressClassName" in spec or _OLD_INGRESS_CLASS in (ingress["metadata"].get("annotations") or {}):
        return
    if name := _default(cache, INGRESS_CLASSES, _INGRESS_DEFAULT):
        spec["ingressClassName"] = name


def check_resize(cache: WatchCache, new: Object, old: Object) -> None:
    """Refuse to let a claim grow whose class does not allow it. Raises: Forbidden."""
    sizes = [((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0") for claim in (new, old)]
    if parse_quantity(sizes[0]) <= parse_quantity(sizes[1]):
        return
    plural, name = STORAGE_CLASSES.group_resource, old["spec"].get("storageClassName")
    entry = cache.collection(plural).get(f"/registry/{plural}/{name}") if name else None
    if entry is None or not entry.object().get("allowVolumeExpansion"):
        claim = new["metadata"]["name"]
        raise errors.Forbidden(
            f'persistentvolumeclaims "{claim}" is forbidden: only dynamically provisioned pvc can be resized and the '
            "storageclass that provisions the pvc must support resize", kind="persistentvolumeclaims", name=claim,
        )  # fmt: skip
