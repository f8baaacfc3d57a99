"""What pods may say of resources, restarts, spreading, devices and volumes of other systems, told in upstream's words.

https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
"""

from typing import Any

import pytest

from apiserver.registry import names
from apiserver.registry.pods import default_pod, prepare_pod, qos_class, validate_pod
from tests.unit.apiserver.test_pod_rules import CLAIM, container, env, mount, volume

SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
AT_SPREAD, AT_CLAIM = "topologySpreadConstraints[0]", "containers[0].resources.claims"
RULE = {"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}
TEMPLATE = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
DEVICES = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "a"}]}
TERM = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}
SIZES = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"


def spread(*others: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"topologySpreadConstraints": [{**SPREAD, **fields}, *others]}


def claims(*given: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**DEVICES, **container(resources={"claims": list(given)}), **spec}


def near(**term: Any) -> dict[str, Any]:
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{**TERM, **term}]}}}


def projected(kind: str, **part: Any) -> dict[str, Any]:
    return volume(projected={"sources": [{kind: part}]})


NEAR = "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"
BUNDLE, CERTIFICATE = (f"volumes[0].projected.sources[0].{kind}" for kind in ("clusterTrustBundle", "podCertificate"))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (spread(maxSkew=0), f"{AT_SPREAD}.maxSkew: Invalid value: 0: must be greater than zero"),
        (spread(whenUnsatisfiable="Wait"),
         f'{AT_SPREAD}.whenUnsatisfiable: Unsupported value: "Wait": supported values: "DoNotSchedule", "ScheduleAnyway"'),
        (spread(topologyKey=""), f"{AT_SPREAD}.topologyKey: Required value: can not be empty"),
        (spread(SPREAD), f'{AT_SPREAD}.{{topologyKey, whenUnsatisfiable}}: Duplicate value: "{{zone, DoNotSchedule}}"'),
        (spread(minDomains=0), f"{AT_SPREAD}.minDomains: Invalid value: 0: must be greater than zero"),
        (spread(minDomains=1, whenUnsatisfiable="ScheduleAnyway"), f"{AT_SPREAD}.minDomains: Invalid value: 1: can only use "
         "minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"),
        (spread(nodeAffinityPolicy="x"),
         f'{AT_SPREAD}.nodeAffinityPolicy: Unsupported value: "x": supported values: "Honor", "Ignore"'),
        (spread(nodeTaintsPolicy="x"), f'{AT_SPREAD}.nodeTaintsPolicy: Unsupported value: "x": supported values: "Honor", "Ignore"'),
        (spread(matchLabelKeys=["a"]), f"{AT_SPREAD}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"),
        (spread(labelSelector={"matchLabels": {"a": "-"}}), f'{AT_SPREAD}.labelSelector.matchLabels: Invalid value: "-": {names._VALUE_RULE}'),
        (near(topologyKey=""), f"{NEAR}.topologyKey: Required value: can not be empty"),
        (near(namespaces=["A"]), f'{NEAR}.namespace: Invalid value: "A": {names._LABEL_RULE}'),
        (near(labelSelector=None, matchLabelKeys=["a"]),
         f"{NEAR}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"),
        (near(matchLabelKeys=["x"], mismatchLabelKeys=["x"]),
         f'{NEAR}.matchLabelKeys[0]: Invalid value: "x": exists in both matchLabelKeys and mismatchLabelKeys'),
        ({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}},
         "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at "
         "least one node selector term"),
        (claims({"name": "x"}), f'{AT_CLAIM}[0]: Not found: "x": must be one of the names in pod.spec.resourceClaims: gpu'),
        (claims({"name": "x"}, resourceClaims=[]),
         f'{AT_CLAIM}[0]: Not found: "x": must be one of the names in pod.spec.resourceClaims which is empty'),
        (claims({"name": "gpu"}, {"name": "gpu"}), f'{AT_CLAIM}[1]: Duplicate value: "gpu"'),
        (claims({"name": "gpu", "request": "a"}, {"name": "gpu", "request": "a"}), f'{AT_CLAIM}[1]: Duplicate value: "gpu/a"'),
        (claims({"name": "gpu", "request": "a"}, {"name": "gpu"}), f'{AT_CLAIM}[1]: Duplicate value: "gpu"'),
        (claims({"name": "gpu", "request": "A"}), f'{AT_CLAIM}[0].request: Invalid value: "A": {names._LABEL_RULE}'),
        ({"resourceClaims": [{"name": "a"}]},
         'resourceClaims[0]: Invalid value: {"name":"a"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`'),
        ({"resourceClaims": [{"name": "a", "resourceClaimName": "A"}]},
         f'resourceClaims[0].resourceClaimName: Invalid value: "A": {names._SUBDOMAIN_RULE}'),
        ({"resourceClaims": [DEVICES["resourceClaims"][0]] * 2}, 'resourceClaims[1].name: Duplicate value: "gpu"'),
        ({"resources": {"limits": {"cpu": "1"}}, **container(resources={"limits": {"cpu": "2"}})},
         'resources.containers[0][cpu].limits: Invalid value: "2": must be less than or equal to pod limits of 1'),
        ({"resources": {"requests": {"cpu": "1"}}, **container(resources={"requests": {"cpu": "2"}})},
         'resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2'),
        ({"resources": {"limits": {"ephemeral-storage": "1"}}},
         'resources.limits[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"'),
        ({"resources": {"limits": {"cpu": "1"}, "claims": [{"name": "x"}]}},
         "resources.claims: Forbidden: claims cannot be set for Resources at pod-level"),
        (container(resources={"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}}),
         'containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi'),
        (container(resources={"limits": {"storage": "1"}}),
         'containers[0].resources.limits[storage]: Invalid value: "storage": must be a standard resource for containers'),
        (container(resources={"limits": {"requests.example.com/x": "1"}}),
         'containers[0].resources.limits[requests.example.com/x]: Invalid value: "requests.example.com/x": doesn\'t follow '
         "extended resource name standard"),
        (container(resizePolicy=[{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
         'containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"'),
        ({"restartPolicy": "Never", **container(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])},
         "containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'"),
        (container(restartPolicyRules=[RULE]),
         "containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"),
        (container(restartPolicy="Maybe"),
         'containers[0].restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"'),
        (container(restartPolicy="Never", restartPolicyRules=[RULE] * 21),
         "containers[0].restartPolicyRules: Too many: 21: must have at most 20 items"),
        (container(restartPolicy="Never", restartPolicyRules=[{"action": "Restart"}]),
         "containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified"),
        (container(restartPolicy="Never", restartPolicyRules=[{**RULE, "exitCodes": {"operator": "Is"}}]),
         'containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn"'),
        (container(lifecycle={"preStop": {"sleep": {"seconds": 31}}}),
         "containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than "
         "terminationGracePeriodSeconds (30)"),
        (container(livenessProbe={"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}),
         'containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric '
         "characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"),
        ({"preemptionPolicy": "Always"},
         'preemptionPolicy: Unsupported value: "Always": supported values: "PreemptLowerPriority", "Never"'),
        ({"tolerations": [{"key": "a", "operator": "Equal", "value": "-"}]},
         f'tolerations[0].operator: Invalid value: "-": {names._VALUE_RULE}'),
        ({"dnsPolicy": "None"}, "dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
        ({"dnsConfig": {"searches": ["a..b"]}}, f'dnsConfig.searches[0]: Invalid value: "a..b": {names._UNDERSCORED_RULE}'),
        ({"dnsConfig": {"options": [{"value": "1"}]}}, "dnsConfig.options[0]: Required value: must not be empty"),
        (env(resourceFieldRef={"resource": "limits.cpu", "divisor": "2"}),
         'containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s values 1m and 1 are '
         "supported with the cpu resource"),
        (env(resourceFieldRef={"resource": "limits.memory", "divisor": "2"}),
         "containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.memory\": only divisor's values "
         f"{SIZES} are supported with the memory resource"),
        (env(fieldRef={"fieldPath": "spec.nodeName['a']"}),
         "containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nodeName['a']\": error converting fieldPath: field "
         "label does not support subscript: spec.nodeName['a']"),
        (env(secretKeyRef={"key": "k"}), f'containers[0].env[0].valueFrom.secretKeyRef.name: Invalid value: "": {names._SUBDOMAIN_RULE}'),
        (env(configMapKeyRef={"name": "n", "key": "..k"}),
         "containers[0].env[0].valueFrom.configMapKeyRef.key: Invalid value: \"..k\": must not start with '..'"),
        (container(envFrom=[{"configMapRef": {"name": "A"}}]),
         f'containers[0].envFrom[0].configMapRef.name: Invalid value: "A": {names._SUBDOMAIN_RULE}'),
        (mount(mountPath="/d") | {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/d"}],
                                                  "volumeDevices": [{"name": "v", "devicePath": "/d"}]}]},
         'containers[0].volumeMounts[0].name: Invalid value: "v": must not already exist in volumeDevices'),
        ({"volumes": [{"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": TEMPLATE}}},
                      {"name": "v", "persistentVolumeClaim": {"claimName": "p-e"}}]},
         'volumes[1].persistentVolumeClaim.claimName: Invalid value: "p-e": must not reference a PVC that gets created for an '
         "ephemeral volume"),
        (volume(ephemeral={"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": TEMPLATE}}),
         "volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set"),
        (volume(ephemeral={"volumeClaimTemplate": {"spec": {**TEMPLATE, "accessModes": []}}}),
         "volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required"),
        (volume(ephemeral={}), "volumes[0].ephemeral.volumeClaimTemplate: Required value"),
        (volume(image={"pullPolicy": "x"}),
         'volumes[0].image.pullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"'),
        (volume(image={}), "volumes[0].image.reference: Required value"),
        (volume(csi={"driver": "a_b"}), f'volumes[0].csi.driver: Invalid value: "a_b": {names._SUBDOMAIN_RULE}'),
        (volume(iscsi={"targetPortal": "1.2.3.4", "iqn": "x", "lun": 256}),
         'volumes[0].iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa'),
        (volume(iscsi={"targetPortal": "1.2.3.4", "iqn": "iqn.2015-02.example.com:test", "lun": 256}),
         "volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"),
        (volume(fc={"wwids": ["a"], "targetWWNs": ["b"], "lun": 1}),
         'volumes[0].fc.targetWWNs: Invalid value: ["b"]: targetWWNs and wwids can not be specified simultaneously'),
        (volume(flexVolume={"driver": "d", "options": {"k8s.io/x": "y"}}),
         'volumes[0].flexVolume.options[k8s.io/x]: Invalid value: "k8s.io/x": kubernetes.io and k8s.io namespaces are reserved'),
        (volume(azureDisk={"diskName": "d", "diskURI": "x", "kind": "Managed"}),
         'volumes[0].azureDisk.diskURI: Unsupported value: "x": supported values: "/subscriptions/{sub-id}/resourcegroups/'
         '{group-name}/providers/microsoft.compute/disks/{disk-id}"'),
        (volume(gcePersistentDisk={"pdName": "d", "partition": 256}),
         "volumes[0].persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive"),
        (volume(downwardAPI={"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}),
         "volumes[0].downwardAPI.resourceFieldRef.containerName: Required value"),
        (projected("clusterTrustBundle", path="a"), f"{BUNDLE}: Required value: either name or signerName must be specified"),
        (projected("clusterTrustBundle", path="a", name="x", labelSelector={}),
         f"{BUNDLE}.labelSelector: Invalid value: {{}}: labelSelector must be unset if name is specified"),
        (projected("podCertificate", signerName="a.b/c", keyType="DSA", keyPath="k"),
         f'{CERTIFICATE}.keyType: Unsupported value: "DSA": supported values: "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", '
         '"RSA3072", "RSA4096"'),
        (projected("podCertificate", signerName="a.b/c", keyType="ED25519", keyPath="k", maxExpirationSeconds=60),
         f"{CERTIFICATE}.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]"),
        ({"initContainers": [{"name": "c", "image": "i"}]}, 'initContainers[0].name: Duplicate value: "c"'),
        (container(ports=[{"containerPort": 70000}]),
         "containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
    ],
)  # fmt: skip
def test_a_wrong_part_of_a_pod_is_told_of(spec: dict[str, Any], told: str) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    found = [f"{cause.field}: {cause.message}" for cause in validate_pod(pod)]
    assert f"spec.{told}" in found, found


@pytest.mark.parametrize(
    "spec",
    [
        spread({**SPREAD, "whenUnsatisfiable": "ScheduleAnyway"}, minDomains=2, nodeTaintsPolicy="Honor"),
        claims({"name": "gpu", "request": "a"}, {"name": "gpu", "request": "b"}),
        {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, **container(resources={"requests": {"cpu": "1"}})},
        container(resources={"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi"}}),
        container(restartPolicy="Never", restartPolicyRules=[RULE, {**RULE, "action": "RestartAllContainers"}]),
        {"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always", "livenessProbe": {"tcpSocket": {"port": 1}}}]},
        volume(ephemeral={"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": TEMPLATE}}),
        volume(iscsi={"targetPortal": "1.2.3.4", "iqn": "iqn.2015-02.example.com:test", "lun": 1}),
        volume(image={"reference": "a:1"}),
        projected("clusterTrustBundle", path="a", signerName="a.b/c"),
        env(resourceFieldRef={"resource": "requests.hugepages-2Mi", "divisor": "1Mi"}),
        {"dnsConfig": {"searches": [".", "_tcp.example.com."]}},
        {"terminationGracePeriodSeconds": -1},
        {"volumes": [CLAIM]},
    ],
)  # fmt: skip
def test_a_good_part_of_a_pod_is_let_be(spec: dict[str, Any]) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {**container(), **spec}}
    default_pod(pod)
    assert validate_pod(pod) == []


def test_keys_whose_labels_a_pod_shares_go_into_its_selectors() -> None:
    labels = {"app": "web", "hash": "7"}
    spec = {**container(), **near(matchLabelKeys=["hash"], mismatchLabelKeys=["app", "none"])}
    spec |= spread(labelSelector={"matchLabels": {"app": "web"}}, matchLabelKeys=["hash"])
    pod: dict[str, Any] = {"metadata": {"name": "p", "labels": labels}, "spec": spec}
    default_pod(pod)
    prepare_pod(pod)
    term = pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    same, other = (
        {"key": "hash", "operator": "In", "values": ["7"]},
        {"key": "app", "operator": "NotIn", "values": ["web"]},
    )
    assert term["labelSelector"]["matchExpressions"] == [same, other]
    assert pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"] == [same]
    assert validate_pod(pod) == []
    pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["hash"] = "7"
    assert [cause.field for cause in validate_pod(pod)] == ["spec.topologySpreadConstraints[0].matchLabelKeys[0]"]


def test_what_a_pod_may_have_as_a_whole_decides_what_it_asks_for_and_its_class() -> None:
    spec: dict[str, Any] = {
        **container(resources={"requests": {"cpu": "1"}}),
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
    }
    pod = {"metadata": {"name": "p"}, "spec": spec}
    default_pod(pod)
    assert spec["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert qos_class(spec) == "Burstable"
    spec["resources"]["requests"] = {"cpu": "2", "memory": "1Gi"}
    assert qos_class(spec) == "Guaranteed"


def test_ports_in_the_network_of_the_node_are_filled_in_for_pods() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"hostNetwork": True, **container(ports=[{"containerPort": 80}])}}
    default_pod(pod)
    assert pod["spec"]["containers"][0]["ports"][0]["hostPort"] == 80  # type: ignore[index]
    assert validate_pod(pod) == []
