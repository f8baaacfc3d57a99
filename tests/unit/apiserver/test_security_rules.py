"""What pods may say of users, profiles, kernel settings and systems, told in upstream's words.

https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
"""

from typing import Any

import pytest

from apiserver.registry import names
from apiserver.registry.annotation_rules import new_pod_causes
from apiserver.registry.pods import default_pod, validate_pod
from tests.unit.apiserver.test_pod_rules import container

SYSCTL = "securityContext.sysctls"
WINDOWS = {"os": {"name": "windows"}}
USER = "securityContext.windowsOptions.runAsUserName: Invalid value:"
SECCOMP_POD, SECCOMP, APPARMOR = (
    "seccomp.security.alpha.kubernetes.io/pod",
    "container.seccomp.security.alpha.kubernetes.io/c",
    "container.apparmor.security.beta.kubernetes.io/c",
)


def secure(**fields: Any) -> dict[str, Any]:
    return {"securityContext": fields}


def sysctls(*given: str, **spec: Any) -> dict[str, Any]:
    return {**secure(sysctls=[{"name": name, "value": "1"} for name in given]), **spec}


def user(name: str) -> dict[str, Any]:
    return secure(windowsOptions={"runAsUserName": name})


def host_process(*, pod: bool | None, own: bool | None = None, **spec: Any) -> dict[str, Any]:
    options = {} if own is None else secure(windowsOptions={"hostProcess": own})
    return {**({} if pod is None else secure(windowsOptions={"hostProcess": pod})), **container(**options), **spec}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (secure(fsGroup=-1), "securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive"),
        (secure(supplementalGroups=[1, 2**31]),
         "securityContext.supplementalGroups[1]: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive"),
        (secure(fsGroupChangePolicy="Sometimes"),
         'securityContext.fsGroupChangePolicy: Unsupported value: "Sometimes": supported values: "Always", "OnRootMismatch"'),
        (secure(supplementalGroupsPolicy="x"),
         'securityContext.supplementalGroupsPolicy: Unsupported value: "x": supported values: "Merge", "Strict"'),
        (secure(seLinuxChangePolicy="x"),
         'securityContext.seLinuxChangePolicy: Unsupported value: "x": supported values: "MountOption", "Recursive"'),
        (sysctls("kernel.sem", "kernel.sem"), f'{SYSCTL}[1].name: Duplicate value: "kernel.sem"'),
        (sysctls("kernel..sem"), f'{SYSCTL}[0].name: Invalid value: "kernel..sem": must have at most 253 characters and match regex '
         r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"),
        (sysctls("net/ipv4/ip_forward", hostNetwork=True),
         f"{SYSCTL}[0].name: Invalid value: \"net/ipv4/ip_forward\": may not be specified when 'hostNetwork' is true"),
        (sysctls("kernel.shmmax", hostIPC=True),
         f"{SYSCTL}[0].name: Invalid value: \"kernel.shmmax\": may not be specified when 'hostIPC' is true"),
        (container(**secure(procMount="Half")),
         'containers[0].securityContext.procMount: Unsupported value: "Half": supported values: "Default", "Unmasked"'),
        (container(**secure(procMount="Unmasked")),
         'containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`'),
        (container(**secure(allowPrivilegeEscalation=False, capabilities={"add": ["CAP_SYS_ADMIN"]})),
         'containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"capabilities":{"add":'
         '["CAP_SYS_ADMIN"]}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN'),
        ({"hostUsers": False, "hostNetwork": True}, "hostNetwork: Forbidden: when `hostUsers` is false"),
        ({"hostUsers": False, "hostPID": True}, "HostPID: Forbidden: when `hostUsers` is false"),
        ({"os": {"name": ""}}, "os.name: Required value: cannot be empty"),
        ({"os": {"name": "linux"}, **user("a")},
         "securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"),
        ({**WINDOWS, "hostPID": True}, "hostPID: Forbidden: cannot be set for a windows pod"),
        ({**WINDOWS, **secure(runAsUser=1)}, "securityContext.runAsUser: Forbidden: cannot be set for a windows pod"),
        ({**WINDOWS, **container(**secure(privileged=False))},
         "containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod"),
        (user(""), f'{USER} "": runAsUserName cannot be an empty string'),
        (user("a\\b\\c"), f'{USER} "a\\\\b\\\\c": runAsUserName cannot contain more than one backslash'),
        (user(".x\\a"), f"{USER} \".x\\\\a\": runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
        (user("d\\"), f"{USER} \"d\\\\\": runAsUserName's User cannot be empty"),
        (user(". ."), f"{USER} \". .\": runAsUserName's User cannot contain only periods or spaces"),
        (user("a*"), f"{USER} \"a*\": runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
        (host_process(pod=True, own=False), "containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: "
         "pod hostProcess value must be identical if both are specified, was true"),
        (host_process(pod=True), "hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any "
         "hostProcess containers"),
        (host_process(pod=None, own=True, hostNetwork=True, initContainers=[{"name": "i", "image": "i"}]),
         ': Invalid value: "": If pod contains any hostProcess containers then all containers must be HostProcess containers'),
    ],
)  # fmt: skip
def test_a_pod_that_is_not_secure_is_told_why(spec: dict[str, Any], told: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    found = [f"{cause.field}: {cause.message}" for cause in validate_pod(pod)]
    assert f"spec.{told}".replace("spec.:", "spec:") in found, found


@pytest.mark.parametrize(
    "spec",
    [
        secure(fsGroup=0, supplementalGroups=[0, 2**31 - 1], fsGroupChangePolicy="Always", supplementalGroupsPolicy="Strict"),
        sysctls("net.ipv4.ip_forward", "kernel/shmmax"),
        {"hostUsers": False, **container(**secure(procMount="Unmasked"))},
        {**WINDOWS, **user("corp.example.com\\jane")},
        host_process(pod=True, hostNetwork=True),
    ],
)  # fmt: skip
def test_a_pod_that_is_secure_is_let_be(spec: dict[str, Any]) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    assert validate_pod(pod) == []


@pytest.mark.parametrize(
    ("annotations", "spec", "told"),
    [
        ({"kubernetes.io/config.mirror": "x"}, {},
         'metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set'),
        ({"controller.kubernetes.io/pod-deletion-cost": "+1"}, {},
         'metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer'),
        ({SECCOMP_POD: "strange"}, {},
         f'metadata.annotations.{SECCOMP_POD}: Invalid value: "strange": must be a valid seccomp profile'),
        ({SECCOMP_POD: "localhost/../x"}, {}, f"metadata.annotations.{SECCOMP_POD}: Invalid value: \"../x\": must not contain '..'"),
        ({f"{APPARMOR}x": "unconfined"}, {}, f'metadata.annotations[{APPARMOR}x]: Invalid value: "cx": container not found'),
        ({APPARMOR: "bad"}, {}, f'metadata.annotations[{APPARMOR}]: Invalid value: "bad": invalid AppArmor profile name: "bad"'),
        ({SECCOMP_POD: "unconfined"}, secure(seccompProfile={"type": "RuntimeDefault"}),
         "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"),
        ({SECCOMP: "localhost/a"}, container(**secure(seccompProfile={"type": "Localhost", "localhostProfile": "b"})),
         "spec.containers[0].securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and "
         "field must match"),
        ({APPARMOR: "unconfined"}, secure(appArmorProfile={"type": "RuntimeDefault"}),
         "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"),
        ({}, {"schedulingGates": [{"name": "a"}], "nodeName": "n"},
         "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"),
        ({}, {"ephemeralContainers": [{"name": "e", "image": "i"}]}, "spec.ephemeralContainers: Forbidden: cannot be set on create"),
    ],
)  # fmt: skip
def test_what_a_new_pod_may_not_have(annotations: dict[str, str], spec: dict[str, Any], told: str) -> None:
    pod = {"metadata": {"name": "p", "annotations": annotations}, "spec": {**container(), **spec}}
    default_pod(pod)
    assert told in [f"{cause.field}: {cause.message}" for cause in [*validate_pod(pod), *new_pod_causes(pod)]]


def test_names_of_a_pod_are_told_of() -> None:
    spec = {
        **container(),
        "serviceAccountName": "A",
        "priorityClassName": "A",
        "runtimeClassName": "A",
        "subdomain": "a.b",
    }
    pod = {"metadata": {"name": "p"}, "spec": {**spec, "hostnameOverride": "a" * 65, "hostNetwork": True}}
    default_pod(pod)
    told = {cause.field: cause.message for cause in validate_pod(pod)}
    assert set(told) == {
        "spec.serviceAccountName", "spec.priorityClassName", "spec.runtimeClassName", "spec.subdomain",
        "spec.hostnameOverride",
    }  # fmt: skip
    assert told["spec.runtimeClassName"] == f'Invalid value: "A": {names._SUBDOMAIN_RULE}'
