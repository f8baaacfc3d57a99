"""What a pod may say, told in upstream's words.

https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
"""

from typing import Any

import pytest

from apiserver.registry import names
from apiserver.registry.pod_update_rules import pod_update_causes
from apiserver.registry.pods import default_pod, validate_pod

CLAIM = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
FIELD = {"fieldPath": "metadata.name"}
NODE = "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", **source}]}


def container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "i", **fields}]}


def mount(**fields: Any) -> dict[str, Any]:
    return {"volumes": [CLAIM], **container(volumeMounts=[{"name": "v", "mountPath": "/v", **fields}])}


def item(path: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"key": "k", "path": path, **fields}]


def projected(*sources: dict[str, Any]) -> dict[str, Any]:
    return volume(projected={"sources": list(sources)})


def term(**requirement: Any) -> dict[str, Any]:
    part, wanted = NODE
    return {"affinity": {part: {wanted: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", **requirement}]}]}}}}


def env(**source: Any) -> dict[str, Any]:
    return container(env=[{"name": "A", "valueFrom": source}])


NAME_PART = names._QUALIFIED_RULE
TERMS = f"affinity.nodeAffinity.{NODE[1]}.nodeSelectorTerms[0].matchExpressions[0]"
ENV = "containers[0].env[0].valueFrom"


def local(field: str, **profile: str) -> dict[str, Any]:
    return {"securityContext": {field: {"type": "Localhost", **profile}}}


SECCOMP, APPARMOR = "seccompProfile", "appArmorProfile"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            local(SECCOMP),
            f"securityContext.{SECCOMP}.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            container(**local(SECCOMP, localhostProfile="/p")),
            f'containers[0].securityContext.{SECCOMP}.localhostProfile: Invalid value: "/p": must be a relative path',
        ),
        (
            local(SECCOMP, localhostProfile="a/../../p"),
            f"securityContext.{SECCOMP}.localhostProfile: Invalid value: \"a/../../p\": must not contain '..'",
        ),
        (
            local(SECCOMP, type="Unconfined", localhostProfile="p"),
            f'securityContext.{SECCOMP}.localhostProfile: Invalid value: "p": '
            "can only be set when seccomp type is Localhost",
        ),
        (
            local(SECCOMP, type="None"),
            f'securityContext.{SECCOMP}.type: Unsupported value: "None": supported values: "Localhost", '
            '"RuntimeDefault", "Unconfined"',
        ),
        (
            local(APPARMOR, type=""),
            f"securityContext.{APPARMOR}.type: Required value: type is required when appArmorProfile is set",
        ),
        (
            local(APPARMOR, localhostProfile=""),
            f"securityContext.{APPARMOR}.localhostProfile: Required value: must be set when AppArmor type is Localhost",
        ),
        (
            local(APPARMOR, localhostProfile=" p"),
            f'securityContext.{APPARMOR}.localhostProfile: Invalid value: " p": must not be padded with whitespace',
        ),
        (volume(emptyDir={}, hostPath={"path": "/"}), "volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
        (volume(hostPath={"path": "/a/../b"}), "volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"),
        (
            volume(hostPath={"path": "/a", "type": "Door"}),
            'volumes[0].hostPath.type: Unsupported value: "Door": supported values: "", "BlockDevice", "CharDevice", '
            '"Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"',
        ),
        (volume(nfs={"server": "s", "path": "a"}), 'volumes[0].nfs.path: Invalid value: "a": must be an absolute path'),
        (volume(secret={}), "volumes[0].secret.secretName: Required value"),
        (volume(configMap={"items": item("a")}), "volumes[0].configMap.name: Required value"),
        (
            volume(secret={"secretName": "s", "items": item("../a")}),
            "volumes[0].secret.items[0].path: Invalid value: \"../a\": must not contain '..'",
        ),
        (
            volume(secret={"secretName": "s", "items": item("..a")}),
            "volumes[0].secret.items[0].path: Invalid value: \"..a\": must not start with '..'",
        ),
        (
            volume(configMap={"name": "s", "items": item("/a")}),
            'volumes[0].configMap.items[0].path: Invalid value: "/a": must be a relative path',
        ),
        (
            volume(configMap={"name": "s", "defaultMode": 0o1000}),
            "volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            volume(downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.nodeName"}}]}),
            'volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: '
            '"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"',
        ),
        (
            volume(downwardAPI={"items": [{"path": "a"}]}),
            "volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            projected({"secret": {"name": "a", "items": item("x")}}, {"configMap": {"name": "b", "items": item("x")}}),
            'volumes[0].projected: Invalid value: "x": conflicting duplicate paths',
        ),
        (
            projected({"secret": {"name": "a"}, "configMap": {"name": "b"}}),
            "volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
        ),
        (
            projected({"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}),
            "volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: "
            "may not specify a duration less than 10 minutes",
        ),
        (mount(subPath="/a"), 'containers[0].volumeMounts.subPath: Invalid value: "/a": must be a relative path'),
        (mount(subPath="a/.."), "containers[0].volumeMounts.subPath: Invalid value: \"a/..\": must not contain '..'"),
        (
            mount(subPath="a", subPathExpr="b"),
            'containers[0].volumeMounts[0].subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive',
        ),
        (
            mount(mountPropagation="Bidirectional"),
            "containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only "
            "to privileged containers",
        ),
        (
            mount(recursiveReadOnly="Enabled"),
            "containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            volume(emptyDir={}) | container(volumeDevices=[{"name": "v", "devicePath": "/d"}]),
            'containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of '
            "PersistentVolumeClaim or Ephemeral for block mode",
        ),
        (
            container(resources={"limits": {"gold": "1"}}),
            'containers[0].resources.limits[gold]: Invalid value: "gold": must be a standard resource type or fully qualified',
        ),
        (
            container(resources={"limits": {"example.com/x": "500m"}}),
            'containers[0].resources.limits[example.com/x]: Invalid value: "500m": must be an integer',
        ),
        (
            container(resources={"limits": {"example.com/x": "2"}, "requests": {"example.com/x": "1"}}),
            'containers[0].resources.requests: Invalid value: "1": must be equal to example.com/x limit of 2',
        ),
        (
            container(resources={"requests": {"example.com/x": "1"}}),
            "containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            container(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            'containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
        ),
        (container(livenessProbe={"exec": {}}), "containers[0].livenessProbe.exec.command: Required value"),
        (
            container(readinessProbe={"tcpSocket": {"port": 0}}),
            "containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            container(lifecycle={"preStop": {}}),
            "containers[0].lifecycle.preStop: Required value: must specify a handler type",
        ),
        (
            container(lifecycle={"preStop": {"exec": {"command": ["a"]}, "sleep": {"seconds": 1}}}),
            "containers[0].lifecycle.preStop.sleep: Forbidden: may not specify more than 1 handler type",
        ),
        (
            env(),
            f'{ENV}: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, '
            "`secretKeyRef` or `fileKeyRef`",
        ),
        (
            env(fieldRef=FIELD, secretKeyRef={"name": "s", "key": "k"}),
            f'{ENV}: Invalid value: "": may not have more than one field specified at a time',
        ),
        (
            env(fieldRef={"fieldPath": "status.phase"}),
            f'{ENV}.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", '
            '"metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", '
            '"status.hostIPs", "status.podIP", "status.podIPs"',
        ),
        (
            container(envFrom=[{}]),
            'containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`',
        ),
        (term(operator="In"), f"{TERMS}.values: Required value: must be specified when `operator` is 'In' or 'NotIn'"),
        (term(operator="Near"), f'{TERMS}.operator: Invalid value: "Near": not a valid selector operator'),
        (
            {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0}]}}},
            "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: "
            "must be in the range 1-100",
        ),
        ({"os": {"name": "plan9"}}, 'os: Unsupported value: "plan9": supported values: "linux", "windows"'),
        ({"readinessGates": [{"conditionType": "a b"}]}, 'readinessGates[0].conditionType: Invalid value: "a b": ' + NAME_PART),
        ({"schedulingGates": [{"name": "x"}, {"name": "x"}]}, 'schedulingGates[1]: Duplicate value: "x"'),
        (
            {"shareProcessNamespace": True, "hostPID": True},
            "securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            {"hostNetwork": True, **container(ports=[{"containerPort": 80, "hostPort": 81}])},
            "containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            container(ports=[{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]),
            'containers[0].ports[1].hostPort: Duplicate value: "TCP//9"',
        ),
        (
            container(terminationMessagePolicy="x"),
            'containers[0].terminationMessagePolicy: Unsupported value: "x": supported values: "File", "FallbackToLogsOnError"',
        ),
        (
            {"dnsConfig": {"nameservers": ["here"]}},
            'dnsConfig.nameservers[0]: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_pod_is_told_what_is_wrong(spec: dict[str, Any], told: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    assert f"spec.{told}" in [f"{cause.field}: {cause.message}" for cause in validate_pod(pod)]


@pytest.mark.parametrize(
    "spec",
    [
        local(SECCOMP, localhostProfile="profiles/a.json"),
        container(**local(APPARMOR, localhostProfile="mine")),
        {"volumes": [{"name": "v"}]},  # an emptyDir, without a word
        volume(hostPath={"path": "/a..b", "type": ""}),
        projected({"serviceAccountToken": {"path": "token"}}, {"downwardAPI": {"items": [{"path": "l", "fieldRef": FIELD}]}}),
        mount(subPath="a/b..c"),
        {"volumes": [CLAIM], **container(volumeDevices=[{"name": "v", "devicePath": "/dev/x"}])},
        container(resources={"limits": {"example.com/x": "2", "hugepages-2Mi": "4Mi", "cpu": "1"}}),
        container(lifecycle={"preStop": {"sleep": {"seconds": 0}}}),
        env(fieldRef={"fieldPath": "metadata.labels['a']"}),
        env(resourceFieldRef={"resource": "limits.cpu"}),
        term(operator="Gt", values=["1"]),
    ],
)  # fmt: skip
def test_a_good_pod_is_let_be(spec: dict[str, Any]) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    assert validate_pod(pod) == []


TOLERATION = {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
GATED = {"schedulingGates": [{"name": "g"}]}
FIXED = "spec: Forbidden: pod updates may not change fields other than"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, container(image="other"), ""),
        ({}, container(name="d"), FIXED),
        ({}, {"containers": []}, "spec.containers: Forbidden: pod updates may not add or remove containers"),
        ({}, {"activeDeadlineSeconds": 5}, ""),
        ({"activeDeadlineSeconds": 5}, {"activeDeadlineSeconds": 4}, ""),
        ({"activeDeadlineSeconds": 5}, {"activeDeadlineSeconds": 6},
         "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"),
        ({"activeDeadlineSeconds": 5}, {}, "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer"),
        ({}, {"tolerations": [TOLERATION]}, ""),
        ({"tolerations": [TOLERATION]}, {"tolerations": [{**TOLERATION, "tolerationSeconds": 9}]}, ""),
        ({"tolerations": [TOLERATION]}, {}, "spec.tolerations: Forbidden: existing toleration can not be modified"),
        (GATED, {}, ""),
        ({}, GATED, "spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"),
        (GATED, {**GATED, "nodeSelector": {"a": "b"}}, ""),
        ({}, {"nodeSelector": {"a": "b"}}, FIXED),
        ({**GATED, "nodeSelector": {"a": "b"}}, {**GATED, "nodeSelector": {}}, FIXED),
        (GATED, {**GATED, **term(operator="Exists")}, ""),
        ({**GATED, **term(operator="Exists")}, {**GATED, **term(operator="DoesNotExist")}, FIXED),
        ({"terminationGracePeriodSeconds": 30}, {"terminationGracePeriodSeconds": 1}, FIXED),
        ({"terminationGracePeriodSeconds": -1}, {"terminationGracePeriodSeconds": 1}, ""),
    ],
)  # fmt: skip
def test_what_of_a_pod_may_change(before: dict[str, Any], after: dict[str, Any], told: str) -> None:
    new, old = ({"spec": {**container(), **spec}} for spec in (after, before))
    found = [f"{cause.field}: {cause.message}" for cause in pod_update_causes(new, old)]
    assert len(found) == bool(told), found
    assert not told or found[0].startswith(told)
