"""Rules of securityContexts: users and groups, profiles, kernel settings, what may go together.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#security-context
"""

from collections.abc import Iterator, Sequence

from apiserver.registry.kind import Object, duplicate, invalid, required, too_long, unsupported
from apiserver.registry.windows_rules import option_causes
from machinery.errors import Cause

_TYPES = ("Localhost", "RuntimeDefault", "Unconfined")
_MAX_PROFILE = 4095
_MAX_ID = 2**31 - 1
_ID_RULE = f"must be between 0 and {_MAX_ID}, inclusive"
_PROC_MOUNTS = ("Default", "Unmasked")
# Fields of a pod's securityContext that are one of a few words.
_CHOICES = {
    "fsGroupChangePolicy": ("Always", "OnRootMismatch"),
    "supplementalGroupsPolicy": ("Merge", "Strict"),
    "seLinuxChangePolicy": ("MountOption", "Recursive"),
}
_SYSCTL_PART = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL_RULE = f"^({_SYSCTL_PART}[\\./])*{_SYSCTL_PART}$"
_MAX_SYSCTL = 253
# What begins so belongs to the namespace behind it; source: pkg/util/sysctl of upstream's component-helpers.
_NETWORK, _IPC = ("net",), ("kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue.")


def pod_security_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with a pod's securityContext. Args: `path` is the spec's."""
    context, at = spec.get("securityContext") or {}, f"{path}.securityContext"
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        why = "ShareProcessNamespace and HostPID cannot both be enabled"
        yield invalid(f"{at}.shareProcessNamespace", True, why)
    if not context:
        return
    yield from _identity_causes(context, at, ("fsGroup", "runAsUser", "runAsGroup"))
    for index, number in enumerate(context.get("supplementalGroups") or ()):
        if not 0 <= number <= _MAX_ID:
            yield invalid(f"{at}.supplementalGroups[{index}]", number, _ID_RULE)
    yield from _sysctl_causes(context.get("sysctls") or (), spec, f"{at}.sysctls")
    yield from _profile_causes(context, at)
    yield from option_causes(context.get("windowsOptions") or {}, f"{at}.windowsOptions")
    for field, known in _CHOICES.items():
        if (chosen := context.get(field)) is not None and chosen not in known:
            yield unsupported(f"{at}.{field}", chosen, known)


def container_security_causes(context: Object, path: str, *, host_users: bool) -> Iterator[Cause]:
    """Yield what is wrong with a container's securityContext. Args: `host_users` says that its users are the node's."""
    yield from _identity_causes(context, path, ("runAsUser", "runAsGroup"))
    mount = context.get("procMount")
    if mount is not None and mount not in _PROC_MOUNTS:
        yield unsupported(f"{path}.procMount", mount, _PROC_MOUNTS)
    if mount == "Unmasked" and host_users:
        yield invalid(f"{path}.procMount", mount, "`hostUsers` must be false to use `Unmasked`")
    if context.get("allowPrivilegeEscalation") is False:
        cannot = "cannot set `allowPrivilegeEscalation` to false and"
        if context.get("privileged"):
            yield invalid(path, context, f"{cannot} `privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            yield invalid(path, context, f"{cannot} `capabilities.Add` CAP_SYS_ADMIN")
    yield from _profile_causes(context, path)
    yield from option_causes(context.get("windowsOptions") or {}, f"{path}.windowsOptions")


def _identity_causes(context: Object, path: str, fields: tuple[str, ...]) -> Iterator[Cause]:
    for field in fields:
        number = context.get(field)
        if number is not None and not 0 <= number <= _MAX_ID:
            yield invalid(f"{path}.{field}", number, _ID_RULE)


def _sysctl_causes(sysctls: Sequence[Object], spec: Object, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        name, at = sysctl.get("name", ""), f"{path}[{index}].name"
        if not name:
            continue  # the schema asks for it
        if len(name) > _MAX_SYSCTL or not _is_sysctl(name):
            yield invalid(at, name, f"must have at most {_MAX_SYSCTL} characters and match regex {_SYSCTL_RULE}")
        elif name in seen:
            yield duplicate(at, name)
        seen.add(name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith(_NETWORK):
            yield invalid(at, name, "may not be specified when 'hostNetwork' is true")
        elif spec.get("hostIPC") and dotted.startswith(_IPC):
            yield invalid(at, name, "may not be specified when 'hostIPC' is true")


def _is_sysctl(name: str) -> bool:
    import re  # few pods have any, and the pattern is kept by re

    return re.fullmatch(_SYSCTL_RULE, name) is not None


def _profile_causes(context: Object, path: str) -> Iterator[Cause]:
    for field, kind in (("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")):
        profile = context.get(field)
        if profile is not None:
            yield from _one_profile_causes(profile, f"{path}.{field}", kind, field)


def _one_profile_causes(profile: Object, path: str, kind: str, field: str) -> Iterator[Cause]:
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
        yield too_long(place, _MAX_PROFILE)
