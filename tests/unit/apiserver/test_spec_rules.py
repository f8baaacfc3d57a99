"""What services, volumes, claims and workloads may say, told in upstream's words.

https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
"""

import copy
from typing import Any

import pytest

from apiserver.registry.catalog import built_in
from apiserver.registry.kind import Kind
from apiserver.registry.object_rules import object_causes

KINDS: dict[str, Kind] = {kind.resource.kind: kind for kind in built_in() if kind.custom is None}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
NOT_MATCHED = 'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`'
BALANCERS = "Forbidden: may only be used when `type` is 'LoadBalancer'"
PORT = {"port": 80}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
VOLUME = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}
BASE: dict[str, dict[str, Any]] = {
    "Service": {"ports": [PORT]},
    "PersistentVolumeClaim": CLAIM,
    "PersistentVolume": VOLUME,
}


def told(name: str, spec: dict[str, Any]) -> list[str]:
    kind = KINDS[name]
    obj = copy.deepcopy({"metadata": {"name": "x", "uid": "u"}, "spec": {**BASE.get(name, {}), **spec}})
    kind.default(obj)
    return [f"{one.field}: {one.message}" for one in object_causes(kind, obj)]


@pytest.mark.parametrize(
    ("kind", "spec", "why"),
    [
        ("Service", {"externalIPs": ["127.0.0.1"]},
         'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'),
        ("Service", {"externalIPs": ["169.254.0.1"]},
         'spec.externalIPs[0]: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)'),
        ("Service", {"externalIPs": ["::"]}, 'spec.externalIPs[0]: Invalid value: "::": may not be unspecified (::)'),
        ("Service", {"loadBalancerSourceRanges": ["10.0.0.0/8"]}, f"spec.LoadBalancerSourceRanges: {BALANCERS}"),
        ("Service", {"loadBalancerClass": "a/b"}, f"spec.loadBalancerClass: {BALANCERS}"),
        ("Service", {"ports": [{"port": 80, "nodePort": 30000}]},
         "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"),
        ("Service", {"ports": [{"port": 80, "appProtocol": "a b"}]},
         'spec.ports[0].appProtocol: Invalid value: "a b": name part must consist of alphanumeric characters'),
        ("Service", {"externalTrafficPolicy": "Local"},
         'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services'),
        ("Service", {"type": "LoadBalancer", "healthCheckNodePort": 30000},
         "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and "
         "`externalTrafficPolicy` is 'Local'"),
        ("Service", {"type": "LoadBalancer", "ports": [{"port": 10250}]},
         'spec.ports[0]: Invalid value: {"port":10250}: may not expose port 10250 externally since it is used by kubelet'),
        ("Service", {"type": "NodePort", "clusterIP": "None"},
         "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"),
        ("Service", {"ipFamilyPolicy": "x"},
         'spec.ipFamilyPolicy: Unsupported value: "x": supported values: "PreferDualStack", "RequireDualStack"'),
        ("Service", {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
         "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400"),
        ("PersistentVolumeClaim", {"storageClassName": "A_"}, 'spec.storageClassName: Invalid value: "A_"'),
        ("PersistentVolumeClaim", {"selector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
         'spec.selector.matchExpressions[0].operator: Invalid value: "Gt": not a valid selector operator'),
        ("PersistentVolume", {"capacity": {"cpu": "1"}},
         'spec.capacity: Unsupported value: {"cpu":"1"}: supported values: "storage"'),
        ("PersistentVolume", {"hostPath": {"path": "/a/../b"}},
         "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"),
        ("PersistentVolume", {"hostPath": {"path": "//."}, "persistentVolumeReclaimPolicy": "Recycle"},
         "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"),
        ("CronJob", {"schedule": "x y", "jobTemplate": {"spec": {"template": {}}}},
         'spec.schedule: Invalid value: "x y": expected exactly 5 fields, found 2: [x y]'),
        ("Job", {"manualSelector": True, "template": TEMPLATE}, "spec.selector: Required value"),
        ("Job", {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE},
         'spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` not auto-generated'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_spec_is_told(kind: str, spec: dict[str, Any], why: str) -> None:
    assert any(one.startswith(why) for one in told(kind, spec)), told(kind, spec)


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("Secret", {"type": "kubernetes.io/tls"}, ["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
        ("Secret", {"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}},
         ["data[ssh-privatekey]: Required value"]),
        ("Secret", {"type": "kubernetes.io/basic-auth", "data": {"password": ""}}, []),
        ("Secret", {"type": "kubernetes.io/basic-auth"},
         ["data[username]: Required value", "data[password]: Required value"]),
        ("Secret", {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "YQ=="}},
         ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": Expecting value: line 1 column 1 (char 0)']),
        ("Secret", {"type": "kubernetes.io/service-account-token"},
         ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
        ("Secret", {"type": "example.com/a"}, []),
        ("Node", {"spec": {"taints": [{"key": "a", "effect": "X"}]}},
         ['spec.taints[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"']),
        ("Node", {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}] * 2}},
         ['spec.taints[1]: Duplicate value: {"key":"a","effect":"NoExecute"}: taints must be unique by key and effect pair']),
        ("Node", {"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}},
         ['spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family']),
        ("Node", {"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}}, []),
        ("StorageClass", {"provisioner": "A b", "parameters": {"": "x"}},
         ['provisioner: Invalid value: "A b": name part must consist of', 'parameters: Invalid value: "": field can not be empty.']),
        ("ResourceQuota", {"spec": {"hard": {"pods": "1.5"}}}, ['spec.hard[pods]: Invalid value: "1.5": must be an integer']),
        ("ResourceQuota", {"spec": {"hard": {"foo": "1"}}},
         ['spec.hard[foo]: Invalid value: "foo": must be a standard resource type or fully qualified',
          'spec.hard[foo]: Invalid value: "foo": must be a standard resource for quotas']),
        ("ResourceQuota", {"spec": {"hard": {"services": "1"}, "scopes": ["Terminating"]}},
         ['spec.scopes: Invalid value: ["Terminating"]: unsupported scope applied to resource']),
        ("ResourceQuota", {"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}},
         ['spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes']),
        ("ResourceQuota", {"spec": {"hard": {"count/jobs.batch": "1", "requests.example.com/gpu": "1", "hugepages-2Mi": "1"}}},
         []),
        ("LimitRange", {"spec": {"limits": [{"type": "PersistentVolumeClaim"}]}},
         ["spec.limits[0].limits: Required value: either minimum or maximum storage value is required"]),
        ("LimitRange", {"spec": {"limits": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "0.5"}}]}},
         ['spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "0.5": ratio 0.5 is less than 1']),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_object_is_told(kind: str, fields: dict[str, Any], why: list[str]) -> None:
    obj = {"metadata": {"name": "x"}, **copy.deepcopy(fields)}
    KINDS[kind].default(obj)
    found = [f"{one.field}: {one.message}" for one in object_causes(KINDS[kind], obj)]
    assert len(found) == len(why), found
    assert all(one.startswith(start) for one, start in zip(found, why, strict=True)), found


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"])
def test_a_workload_without_selector_matches_nothing(kind: str) -> None:
    assert told(kind, {"template": TEMPLATE}) == ["spec.selector: Required value", NOT_MATCHED]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Service", {"externalIPs": ["10.1.2.3"], "externalTrafficPolicy": "Local"}),
        ("Service", {"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.0.0.0/8"], "loadBalancerClass": "a/b"}),
        ("Service", {"ports": [{"port": 80, "appProtocol": "example.com/h2c"}], "trafficDistribution": "PreferClose"}),
        ("Service", {"clusterIP": "None"}),
        ("PersistentVolumeClaim", {"storageClassName": "", "selector": {"matchLabels": {"a": "b"}}}),
        ("PersistentVolume", {"hostPath": {"path": "/a"}, "persistentVolumeReclaimPolicy": "Recycle"}),
        ("Deployment", {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}),
    ],
)
def test_nothing_is_wrong_with_these(kind: str, spec: dict[str, Any]) -> None:
    assert told(kind, spec) == []
