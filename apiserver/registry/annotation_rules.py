"""What a pod may say in annotations that mean something to the server, and what a new pod may not have.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/
"""

from collections.abc import Iterator

from apiserver.registry.kind import Object, forbidden, invalid
from machinery.errors import Cause

_MIRROR = "kubernetes.io/config.mirror"
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_LOCAL = "localhost/"
_SECCOMP_PLAIN = ("runtime/default", "docker/default", "unconfined")
_GROUPS = ("initContainers", "containers", "ephemeralContainers")
_AT = "metadata.annotations"
# What a profile's type is in an annotation; a file of the node follows "localhost/".
_WORDS = {"Unconfined": ("unconfined",), "RuntimeDefault": ("runtime/default", "docker/default")}


def annotation_causes(pod: Object) -> Iterator[Cause]:
    """Yield what is wrong with a pod's annotations."""
    annotations: Object = pod["metadata"].get("annotations") or {}
    if not annotations:
        return
    spec = pod.get("spec") or {}
    if _MIRROR in annotations and not spec.get("nodeName"):
        why = "must set spec.nodeName if mirror pod annotation is set"
        yield invalid(f"{_AT}[{_MIRROR}]", annotations[_MIRROR], why)
    if _DELETION_COST in annotations and not _is_cost(annotations[_DELETION_COST]):
        yield invalid(f"{_AT}[{_DELETION_COST}]", annotations[_DELETION_COST], "must be a 32bit integer")
    for key, profile in annotations.items():
        if key == _SECCOMP_POD or key.startswith(_SECCOMP):
            yield from _seccomp_causes(profile, f"{_AT}.{key}")
        elif key.startswith(_APPARMOR):
            yield from _apparmor_causes(profile, key, spec)


def _is_cost(text: str) -> bool:
    """Whether a text is a number as costs are written: without a plus sign, and without zeros in front."""
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdigit() and (digits == "0" or not digits.startswith("0"))
    return plain and text != "-0" and -(2**31) <= int(text) < 2**31


def _seccomp_causes(profile: str, path: str) -> Iterator[Cause]:
    if not profile.startswith(_LOCAL):
        if profile not in _SECCOMP_PLAIN:
            yield invalid(path, profile, "must be a valid seccomp profile")
        return
    place = profile.removeprefix(_LOCAL)
    if place.startswith("/"):
        yield invalid(path, place, "must be a relative path")
    if ".." in place.split("/"):
        yield invalid(path, place, "must not contain '..'")


def _apparmor_causes(profile: str, key: str, spec: Object) -> Iterator[Cause]:
    name = key.removeprefix(_APPARMOR)
    if not any(container.get("name") == name for container, _ in _containers(spec)):
        yield invalid(f"{_AT}[{key}]", name, "container not found")
    if profile not in ("", "runtime/default", "unconfined") and not profile.startswith(_LOCAL):
        yield invalid(f"{_AT}[{key}]", profile, f'invalid AppArmor profile name: "{profile}"')


def _containers(spec: Object) -> Iterator[tuple[Object, str]]:
    for group in _GROUPS:
        for index, container in enumerate(spec.get(group) or ()):
            yield container, f"spec.{group}[{index}]"


def new_pod_causes(pod: Object) -> list[Cause]:
    """Return what is wrong with a pod that is to be made, beside what may be wrong with any."""
    spec, found = pod["spec"], []
    if spec.get("ephemeralContainers"):
        found.append(forbidden("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("nodeName") and spec.get("schedulingGates"):
        found.append(forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
    if annotations := pod["metadata"].get("annotations"):
        found += _mismatch_causes(annotations, spec)
    return found


def _mismatch_causes(annotations: Object, spec: Object) -> Iterator[Cause]:
    """Yield profiles that annotations and fields both name, but not alike."""
    own = spec.get("securityContext") or {}
    if _SECCOMP_POD in annotations and (profile := own.get("seccompProfile")):
        yield from _differs(annotations[_SECCOMP_POD], profile, "spec.securityContext.seccompProfile", "seccomp")
    for container, path in _containers(spec):
        context, name = container.get("securityContext") or {}, container.get("name", "")
        at = f"{path}.securityContext"
        if f"{_SECCOMP}{name}" in annotations and (profile := context.get("seccompProfile")):
            yield from _differs(annotations[f"{_SECCOMP}{name}"], profile, f"{at}.seccompProfile", "seccomp")
        profile = context.get("appArmorProfile") or own.get("appArmorProfile")
        if f"{_APPARMOR}{name}" in annotations and profile and (spec.get("os") or {}).get("name") != "windows":
            yield from _differs(annotations[f"{_APPARMOR}{name}"], profile, f"{at}.appArmorProfile", "apparmor")


def _differs(annotation: str, profile: Object, path: str, kind: str) -> Iterator[Cause]:
    type_ = profile.get("type")
    if type_ != "Localhost":
        if type_ in _WORDS and annotation not in _WORDS[type_]:
            yield forbidden(f"{path}.type", f"{kind} type in annotation and field must match")
    elif not annotation.startswith(_LOCAL):
        yield forbidden(f"{path}.type", f"{kind} type in annotation and field must match")
    elif annotation.removeprefix(_LOCAL) != profile.get("localhostProfile"):
        yield forbidden(f"{path}.localhostProfile", f"{kind} profile in annotation and field must match")
