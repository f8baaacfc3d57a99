"""What pods may say of Windows, and what pods for one system may not say of the other.

Nodes of ours run Linux; pods for Windows are stored and never placed, as in a cluster without such nodes.
Source: https://kubernetes.io/docs/concepts/workloads/pods/#pod-os
"""

import re
from collections.abc import Iterator

from apiserver.registry import names
from apiserver.registry.kind import Object, forbidden, invalid, required, unsupported
from machinery.errors import Cause

_SYSTEMS = ("linux", "windows")
_GROUPS = ("initContainers", "containers", "ephemeralContainers")
_ONLY_LINUX_POD = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls", "runAsUser",
    "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy",
)  # fmt: skip
_ONLY_LINUX_CONTAINER = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged",
    "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
)  # fmt: skip
_FOR_WINDOWS = "cannot be set for a windows pod"
_FOR_LINUX = "windows options cannot be set for a linux pod"
_MAX_SPEC_KIB = 64
_MAX_DOMAIN, _MAX_USER = 256, 104
_NETBIOS = r'[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}'
_DNS_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_BAD_IN_USER = '"/\\:;|=,+*?<>@[]'


def system_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with the system that a pod is made for, and with what it says of another."""
    yield from _host_process_causes(spec, path)
    if spec.get("os") is None:
        return
    system = spec["os"].get("name") or ""
    if not system:
        yield required(f"{path}.os.name", "cannot be empty")
    elif system not in _SYSTEMS:
        yield unsupported(f"{path}.os", system, _SYSTEMS)
    else:
        yield from (_linux_causes if system == "linux" else _windows_causes)(spec, path)


def _contexts(spec: Object, path: str) -> Iterator[tuple[Object, str]]:
    """Yield the securityContext of each container, and where it is."""
    for group in _GROUPS:
        for index, container in enumerate(spec.get(group) or ()):
            yield container.get("securityContext") or {}, f"{path}.{group}[{index}].securityContext"


def _linux_causes(spec: Object, path: str) -> Iterator[Cause]:
    own = spec.get("securityContext") or {}
    for context, at in [(own, f"{path}.securityContext"), *_contexts(spec, path)]:
        if context.get("windowsOptions") is not None:
            yield forbidden(f"{at}.windowsOptions", _FOR_LINUX)


def _windows_causes(spec: Object, path: str) -> Iterator[Cause]:
    own = spec.get("securityContext") or {}
    for field in _ONLY_LINUX_POD:
        if own.get(field) is not None:
            yield forbidden(f"{path}.securityContext.{field}", _FOR_WINDOWS)
    for field in ("hostUsers", "shareProcessNamespace"):
        if spec.get(field) is not None:
            yield forbidden(f"{path}.{field}", _FOR_WINDOWS)
    for field in ("hostPID", "hostIPC"):
        if spec.get(field):
            yield forbidden(f"{path}.{field}", _FOR_WINDOWS)
    for context, at in _contexts(spec, path):
        for field in _ONLY_LINUX_CONTAINER:
            if context.get(field) is not None:
                yield forbidden(f"{at}.{field}", _FOR_WINDOWS)


def _host_process_causes(spec: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with containers that are processes of the node: all of a pod's are, or none."""
    of_pod = ((spec.get("securityContext") or {}).get("windowsOptions") or {}).get("hostProcess")
    count = of_host = 0
    for context, at in _contexts(spec, path):
        own = (context.get("windowsOptions") or {}).get("hostProcess")
        if of_pod is not None and own is not None and own != of_pod:
            why = f"pod hostProcess value must be identical if both are specified, was {str(of_pod).lower()}"
            yield invalid(f"{at}.windowsOptions.hostProcess", own, why)
        count += 1
        of_host += bool(of_pod if own is None else own)
    if not of_host:
        return
    if of_host != count:
        why = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
        yield invalid(path, "", why)
    if not spec.get("hostNetwork"):
        why = "hostNetwork must be true if pod contains any hostProcess containers"
        yield invalid(f"{path}.hostNetwork", False, why)


def option_causes(options: Object, path: str) -> Iterator[Cause]:
    """Yield what is wrong with windowsOptions."""
    name = options.get("gmsaCredentialSpecName")
    if name is not None and (wrong := names.dns_subdomain(name)):
        yield invalid(f"{path}.gmsaCredentialSpecName", name, wrong)
    if (credentials := options.get("gmsaCredentialSpec")) is not None:
        at = f"{path}.gmsaCredentialSpec"
        if not credentials:
            yield invalid(at, credentials, "gmsaCredentialSpec cannot be an empty string")
        elif len(credentials.encode()) > _MAX_SPEC_KIB * 1024:
            yield invalid(at, credentials, f"gmsaCredentialSpec size must be under {_MAX_SPEC_KIB} KiB")
    if (whole := options.get("runAsUserName")) is not None:
        for wrong in _user_problems(whole):
            yield invalid(f"{path}.runAsUserName", whole, wrong)


def _user_problems(whole: str) -> Iterator[str]:
    domain, slash, user = whole.partition("\\")
    if not slash:
        domain, user = "", whole
    if not whole:
        yield "runAsUserName cannot be an empty string"
    elif any(ord(letter) < 32 or ord(letter) == 127 for letter in whole):
        yield "runAsUserName cannot contain control characters"
    elif "\\" in user:
        yield "runAsUserName cannot contain more than one backslash"
    else:
        if len(domain) >= _MAX_DOMAIN:
            yield f"runAsUserName's Domain length must be under {_MAX_DOMAIN} characters"
        if slash and not re.fullmatch(rf"{_NETBIOS}|{_DNS_LABEL}(?:\.{_DNS_LABEL})*", domain):
            yield "runAsUserName's Domain doesn't match the NetBios nor the DNS format"
        yield from _name_problems(user)


def _name_problems(user: str) -> Iterator[str]:
    if not user:
        yield "runAsUserName's User cannot be empty"
    elif len(user) > _MAX_USER:
        yield f"runAsUserName's User length must not be longer than {_MAX_USER} characters"
    if user and not user.strip(". "):
        yield "runAsUserName's User cannot contain only periods or spaces"
    if any(letter in _BAD_IN_USER for letter in user):
        yield f"runAsUserName's User cannot contain the following characters: {_BAD_IN_USER}"
