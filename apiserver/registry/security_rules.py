"""Rules of the profiles that a securityContext names: seccomp and AppArmor.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#security-context
"""

from collections.abc import Iterator

from apiserver.registry.kind import Object, invalid, required, unsupported
from machinery.errors import Cause

_TYPES = ("Localhost", "RuntimeDefault", "Unconfined")
_MAX_PROFILE = 4095


def profile_causes(context: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the profiles of a pod's or a container's securityContext."""
    for field, kind in (("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")):
        profile = context.get(field)
        if profile is not None:
            yield from _causes(profile, f"{path}.{field}", kind, field)


def _causes(profile: Object, path: str, kind: str, field: str) -> Iterator[Cause]:
    type_, local = profile.get("type") or "", profile.get("localhostProfile")
    if not type_:
        yield required(f"{path}.type", f"type is required when {field} is set")
    elif type_ not in _TYPES:
        yield unsupported(f"{path}.type", type_, _TYPES)
    place = f"{path}.localhostProfile"
    if type_ == "Localhost":
        yield from _local_causes(local, place, kind)
    elif local is not None:
        yield invalid(place, local, f"can only be set when {kind} type is Localhost")


def _local_causes(local: str | None, place: str, kind: str) -> Iterator[Cause]:
    if local is None or (not local and kind == "AppArmor"):
        yield required(place, f"must be set when {kind} type is Localhost")
    elif kind == "seccomp":
        if local.startswith("/"):
            yield invalid(place, local, "must be a relative path")
        if ".." in local.split("/"):
            yield invalid(place, local, "must not contain '..'")
    elif local != local.strip():
        yield invalid(place, local, "must not be padded with whitespace")
    elif len(local) > _MAX_PROFILE:
        yield invalid(place, local, f"may not be more than {_MAX_PROFILE} bytes")
