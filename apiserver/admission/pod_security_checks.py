"""The Pod Security Standards: what each level forbids, in the words users know.

Each check is a pure function of a pod spec and its annotations; it returns None, or a reason and a detail.
Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

JSON = Mapping[str, Any]
Violation = tuple[str, str]
"""Reason and detail."""
Version = tuple[int, int]
LATEST: Version = (99, 99)
Judge = Callable[[JSON, JSON, Version], Violation | None]
"""Spec, annotations, the version of the standard."""

_CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
     "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)  # fmt: skip
_SYSCTLS: Mapping[str, Version] = {
    "kernel.shm_rmid_forced": (1, 0), "net.ipv4.ip_local_port_range": (1, 0), "net.ipv4.tcp_syncookies": (1, 0),
    "net.ipv4.ping_group_range": (1, 0), "net.ipv4.ip_unprivileged_port_start": (1, 0),
    "net.ipv4.ip_local_reserved_ports": (1, 27), "net.ipv4.tcp_keepalive_time": (1, 29),
    "net.ipv4.tcp_fin_timeout": (1, 29), "net.ipv4.tcp_keepalive_intvl": (1, 29),
    "net.ipv4.tcp_keepalive_probes": (1, 29), "net.ipv4.tcp_rmem": (1, 32), "net.ipv4.tcp_wmem": (1, 32),
}  # fmt: skip
_SELINUX_TYPES: Mapping[str, Version] = {
    "": (1, 0), "container_t": (1, 0), "container_init_t": (1, 0), "container_kvm_t": (1, 0),
    "container_engine_t": (1, 31),
}  # fmt: skip
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_PROFILES = ("RuntimeDefault", "Localhost")
_APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"


def _containers(spec: JSON) -> Iterator[JSON]:
    for group in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(group) or ()


def _security(one: JSON) -> JSON:
    return one.get("securityContext") or {}


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f'"{value}"' for value in values)


def _named(values: Sequence[str], one: str = "container") -> str:
    """Return `container "a"` or `containers "a", "b"`."""
    return f"{one if len(values) == 1 else one + 's'} {_quoted(values)}"


def _setters(pod: bool, containers: Sequence[str]) -> str:
    found = ["pod"] if pod else []
    return " and ".join([*found, _named(containers)] if containers else found)


def _relaxed(spec: JSON, version: Version) -> bool:
    """Whether users within the pod are others outside: what root may there is little then."""
    return version >= (1, 35) and spec.get("hostUsers") is False


def _is_windows(spec: JSON, version: Version) -> bool:
    return version >= (1, 25) and (spec.get("os") or {}).get("name") == "windows"


# ---- baseline


def _app_armor(spec: JSON, annotations: JSON, _: Version) -> Violation | None:
    def bad(one: JSON) -> str:
        kind = (_security(one).get("appArmorProfile") or {}).get("type")
        return str(kind) if kind is not None and kind not in _PROFILES else ""

    values = {value for one in (spec, *_containers(spec)) if (value := bad(one))}
    details = []
    if values:
        names = [one["name"] for one in _containers(spec) if bad(one)]
        told = f"must not set AppArmor profile type to {_quoted(sorted(values))}"
        details.append(f"{_setters(bool(bad(spec)), names)} {told}")
    noted = sorted(
        f'{key}="{value}"'
        for key, value in annotations.items()
        if key.startswith(_APP_ARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/")
    )
    if noted:
        details.append(f"{'annotation' if len(noted) == 1 else 'annotations'} {', '.join(noted)}")
    if not details:
        return None
    count = len(values) + len(noted)
    return "forbidden AppArmor profile" + ("" if count == 1 else "s"), "; ".join(details)


def _capabilities_baseline(spec: JSON, _: JSON, __: Version) -> Violation | None:
    names, wrong = [], set()
    for one in _containers(spec):
        bad = set((_security(one).get("capabilities") or {}).get("add") or ()) - _CAPABILITIES
        if bad:
            names.append(one["name"])
            wrong |= bad
    if not names:
        return None
    told = f"must not include {_quoted(sorted(wrong))} in securityContext.capabilities.add"
    return "non-default capabilities", f"{_named(names)} {told}"


def _host_namespaces(spec: JSON, _: JSON, __: Version) -> Violation | None:
    found = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return ("host namespaces", ", ".join(found)) if found else None


def _host_path_volumes(spec: JSON, _: JSON, __: Version) -> Violation | None:
    found = [one["name"] for one in spec.get("volumes") or () if "hostPath" in one]
    return ("hostPath volumes", _named(found, "volume")) if found else None


def _host_ports(spec: JSON, _: JSON, __: Version) -> Violation | None:
    names, numbers = [], set()
    for one in _containers(spec):
        bad = {port["hostPort"] for port in one.get("ports") or () if port.get("hostPort")}
        if bad:
            names.append(one["name"])
            numbers |= {str(port) for port in bad}
    if not names:
        return None
    verb, noun = ("uses" if len(names) == 1 else "use"), ("hostPort" if len(numbers) == 1 else "hostPorts")
    return "hostPort", f"{_named(names)} {verb} {noun} {', '.join(sorted(numbers))}"


def _host_probes(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if version < (1, 34):
        return None
    names, hosts = set(), set()
    for one in _containers(spec):
        lifecycle = one.get("lifecycle") or {}
        handlers = [one.get(probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [lifecycle.get("postStart"), lifecycle.get("preStop")]
        for handler in filter(None, handlers):
            bad = {host for way in ("httpGet", "tcpSocket") if (host := (handler.get(way) or {}).get("host"))}
            if bad:
                names.add(one["name"])
                hosts |= bad
    if not names:
        return None
    verb = "uses" if len(names) == 1 else "use"
    noun = "probe or lifecycle host" + ("" if len(hosts) == 1 else "s")
    return "probe or lifecycle host", f"{_named(sorted(names))} {verb} {noun} {_quoted(sorted(hosts))}"


def _privileged(spec: JSON, _: JSON, __: Version) -> Violation | None:
    names = [one["name"] for one in _containers(spec) if _security(one).get("privileged")]
    return ("privileged", f"{_named(names)} must not set securityContext.privileged=true") if names else None


def _proc_mount(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if _relaxed(spec, version):
        return None
    found = [(one["name"], _security(one).get("procMount") or "Default") for one in _containers(spec)]
    bad = [(name, value) for name, value in found if value != "Default"]
    if not bad:
        return None
    values = _quoted(sorted({value for _, value in bad}))
    return "procMount", f"{_named([name for name, _ in bad])} must not set securityContext.procMount to {values}"


def _selinux(spec: JSON, _: JSON, version: Version) -> Violation | None:
    types: set[str] = set()
    fields: set[str] = set()

    def is_bad(one: JSON) -> bool:
        options = _security(one).get("seLinuxOptions") or {}
        kind = options.get("type", "")
        bad_type = version < _SELINUX_TYPES.get(kind, (LATEST[0] + 1, 0))
        set_fields = {field for field in ("user", "role") if options.get(field)}
        types.update({kind} if bad_type else ())
        fields.update(set_fields)
        return bad_type or bool(set_fields)

    pod = is_bad(spec)
    names = [one["name"] for one in _containers(spec) if is_bad(one)]
    if not pod and not names:
        return None
    told = [f"{'type' if len(types) == 1 else 'types'} {_quoted(sorted(types))}"] if types else []
    told += [f"{field} may not be set" for field in ("user", "role") if field in fields]
    return "seLinuxOptions", (f"{_setters(pod, names)} set forbidden securityContext.seLinuxOptions: {'; '.join(told)}")


def _bad_seccomp(spec: JSON) -> Violation | None:
    def bad(one: JSON) -> str:
        kind = (_security(one).get("seccompProfile") or {}).get("type")
        return str(kind) if kind is not None and kind not in _PROFILES else ""

    names = [one["name"] for one in _containers(spec) if bad(one)]
    values = sorted({value for one in (spec, *_containers(spec)) if (value := bad(one))})
    if not values:
        return None
    told = f"must not set securityContext.seccompProfile.type to {_quoted(values)}"
    return "seccompProfile", f"{_setters(bool(bad(spec)), names)} {told}"


def _seccomp_baseline(spec: JSON, _: JSON, version: Version) -> Violation | None:
    return _bad_seccomp(spec) if version >= (1, 19) else None


def _sysctls(spec: JSON, _: JSON, version: Version) -> Violation | None:
    asked = [one["name"] for one in _security(spec).get("sysctls") or ()]
    bad = [name for name in asked if version < _SYSCTLS.get(name, (LATEST[0] + 1, 0))]
    return ("forbidden sysctl" + ("" if len(bad) == 1 else "s"), ", ".join(bad)) if bad else None


def _windows_host_process(spec: JSON, _: JSON, __: Version) -> Violation | None:
    def is_bad(one: JSON) -> bool:
        return bool((_security(one).get("windowsOptions") or {}).get("hostProcess"))

    names = [one["name"] for one in _containers(spec) if is_bad(one)]
    if not names and not is_bad(spec):
        return None
    told = "must not set securityContext.windowsOptions.hostProcess=true"
    return "hostProcess", f"{_setters(is_bad(spec), names)} {told}"


# ---- restricted


def _privilege_escalation(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if version < (1, 8) or _is_windows(spec, version):
        return None
    names = [one["name"] for one in _containers(spec) if _security(one).get("allowPrivilegeEscalation") is not False]
    if not names:
        return None
    return (
        "allowPrivilegeEscalation != false",
        f"{_named(names)} must set securityContext.allowPrivilegeEscalation=false",
    )


def _capabilities_restricted(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if version < (1, 22) or _is_windows(spec, version):
        return None
    keeping, adding, wrong = [], [], set()
    for one in _containers(spec):
        capabilities = _security(one).get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()):
            keeping.append(one["name"])
        if bad := set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            adding.append(one["name"])
            wrong |= bad
    told = []
    if keeping:
        told.append(f'{_named(keeping)} must set securityContext.capabilities.drop=["ALL"]')
    if adding:
        told.append(f"{_named(adding)} must not include {_quoted(sorted(wrong))} in securityContext.capabilities.add")
    return ("unrestricted capabilities", "; ".join(told)) if told else None


def _restricted_volumes(spec: JSON, _: JSON, __: Version) -> Violation | None:
    bad = [
        (one["name"], next((key for key in one if key != "name"), "unknown"))
        for one in spec.get("volumes") or ()
        if not _VOLUMES & one.keys()
    ]
    if not bad:
        return None
    names, types = [name for name, _ in bad], sorted({kind for _, kind in bad})
    verb = "uses" if len(names) == 1 else "use"
    noun = "restricted volume type" + ("" if len(types) == 1 else "s")
    return "restricted volume types", f"{_named(names, 'volume')} {verb} {noun} {_quoted(types)}"


def _run_as_non_root(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if _relaxed(spec, version):
        return None
    pod = _security(spec).get("runAsNonRoot")
    said = [(one["name"], _security(one).get("runAsNonRoot")) for one in _containers(spec)]
    wrong = [name for name, value in said if value is False]
    reason = "runAsNonRoot != true"
    if wrong or pod is False:
        return reason, f"{_setters(pod is False, wrong)} must not set securityContext.runAsNonRoot=false"
    silent = [name for name, value in said if value is None and pod is not True]
    return (reason, f"pod or {_named(silent)} must set securityContext.runAsNonRoot=true") if silent else None


def _run_as_user(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if version < (1, 23) or _relaxed(spec, version):
        return None
    names = [one["name"] for one in _containers(spec) if _security(one).get("runAsUser") == 0]
    pod = _security(spec).get("runAsUser") == 0
    return ("runAsUser=0", f"{_setters(pod, names)} must not set runAsUser=0") if pod or names else None


def _seccomp_restricted(spec: JSON, _: JSON, version: Version) -> Violation | None:
    if version < (1, 19) or _is_windows(spec, version):
        return None
    if (found := _bad_seccomp(spec)) is not None:
        return found
    if _security(spec).get("seccompProfile"):
        return None
    silent = [one["name"] for one in _containers(spec) if not _security(one).get("seccompProfile")]
    told = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return ("seccompProfile", f"pod or {_named(silent)} {told}") if silent else None


class Check(NamedTuple):
    """One check; `overridden_from` is the version from which a stricter one stands in its place at restricted."""

    judge: Judge
    overridden_from: Version | None = None


# In the order in which they are told.
BASELINE = (
    Check(_app_armor), Check(_capabilities_baseline, (1, 22)), Check(_host_namespaces),
    Check(_host_path_volumes, (1, 0)), Check(_host_ports), Check(_host_probes), Check(_privileged),
    Check(_proc_mount), Check(_selinux), Check(_seccomp_baseline, (1, 19)), Check(_sysctls),
    Check(_windows_host_process),
)  # fmt: skip
RESTRICTED = (
    Check(_privilege_escalation), Check(_capabilities_restricted), Check(_restricted_volumes),
    Check(_run_as_non_root), Check(_run_as_user), Check(_seccomp_restricted),
)  # fmt: skip


def violations(level: str, version: Version, spec: JSON, annotations: JSON) -> list[Violation]:
    """Return what of a pod a level forbids, in the order it is told."""
    if level == "privileged":
        return []
    checks = list(BASELINE)
    if level == "restricted":
        checks = [one for one in BASELINE if one.overridden_from is None or version < one.overridden_from]
        checks += RESTRICTED
    return [found for one in checks if (found := one.judge(spec, annotations, version)) is not None]
