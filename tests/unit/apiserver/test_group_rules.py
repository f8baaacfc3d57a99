"""What autoscalers, jobs, ingresses, endpoints and others may say, told in upstream's words, all of it and in its order.

https://github.com/kubernetes/kubernetes/tree/master/pkg/apis (each group's validation/validation.go)
"""

import copy
from typing import Any

import pytest

from apiserver.registry.catalog import built_in
from apiserver.registry.job_rules import count_indexes
from apiserver.registry.kind import Kind
from apiserver.registry.object_rules import object_causes

KINDS: dict[str, Kind] = {kind.resource.kind: kind for kind in built_in() if kind.custom is None}
CPU = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
TEMPLATE = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
SERVICE = {"service": {"name": "s", "port": {"number": 80}}}
INDEXED = {"completionMode": "Indexed", "completions": 5}
LABEL = "a lowercase RFC 1123 label must consist of"
QUOTA = "spec.scopeSelector.matchExpressions"


def told(name: str, fields: dict[str, Any]) -> list[str]:
    """Return all that is wrong with an object of a kind, once defaults are filled in."""
    kind, obj = KINDS[name], copy.deepcopy({"metadata": {"name": "x", "uid": "u"}, **fields})
    kind.default(obj)
    return [f"{one.field}: {one.message}" for one in object_causes(kind, obj)]


def scaler(*metrics: dict[str, Any], **spec: Any) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    return {"spec": {"scaleTargetRef": target, "maxReplicas": 3, "metrics": list(metrics), **spec}}


def job(**spec: Any) -> dict[str, Any]:
    return {"spec": {"template": TEMPLATE, **spec}}


def failing(**rule: Any) -> dict[str, Any]:
    return job(podFailurePolicy={"rules": [{"action": "FailJob", **rule}]})


def codes(*values: int, operator: str = "In", **more: Any) -> dict[str, Any]:
    return failing(onExitCodes={"operator": operator, "values": list(values), **more})


def path(**one: Any) -> dict[str, Any]:
    return {"spec": {"rules": [{"http": {"paths": [{"pathType": "Prefix", "path": "/", "backend": SERVICE, **one}]}}]}}


def backend(**service: Any) -> dict[str, Any]:
    return path(backend={"service": service})


def subset(**fields: Any) -> dict[str, Any]:
    return {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], **fields}]}


def slice_of(*endpoints: dict[str, Any], kind: str = "IPv4", **fields: Any) -> dict[str, Any]:
    return {"addressType": kind, "endpoints": list(endpoints), **fields}


def quota(*rules: dict[str, Any], **hard: str) -> dict[str, Any]:
    return {"spec": {"hard": hard or {"pods": "1"}, "scopeSelector": {"matchExpressions": list(rules)}}}


def bound(**subject: Any) -> dict[str, Any]:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    return {"roleRef": role, "subjects": [{"name": "s", **subject}]}


AT, RULE = "spec.rules[0].http.paths[0]", "spec.podFailurePolicy.rules[0]"


@pytest.mark.parametrize(
    ("kind", "fields", "wrong"),
    [
        ("HorizontalPodAutoscaler", scaler(maxReplicas=0),
         ["spec.maxReplicas: Invalid value: 0: must be greater than 0",
          "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"]),
        ("HorizontalPodAutoscaler", scaler({"type": "Resource"}),
         ["spec.metrics[0].resource: Required value: must populate information for the given metric source"]),
        ("HorizontalPodAutoscaler", scaler({"type": "Pods", "resource": CPU}),
         ["spec.metrics[0].pods: Required value: must populate information for the given metric source"]),
        ("HorizontalPodAutoscaler", scaler({"type": "Resource", "resource": CPU, "containerResource": {**CPU, "container": "c"}}),
         ["spec.metrics[0].containerResource: Forbidden: must populate the given metric source only"]),
        ("HorizontalPodAutoscaler", scaler({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value"}}}),
         ["spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"]),
        ("HorizontalPodAutoscaler", scaler({"type": "Pods", "pods": {"metric": {"name": "a/b"}, "target": {"type": "AverageValue", "averageValue": "0"}}}),
         ['spec.metrics[0].pods.metric.name: Invalid value: "a/b": may not contain \'/\'',
          'spec.metrics[0].pods.target.averageValue: Invalid value: "0": must be positive',
          "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue"]),
        ("HorizontalPodAutoscaler", scaler({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "x"}}}),
         ['spec.metrics[0].external.target.type: Invalid value: "x": must be either Utilization, Value, or AverageValue',
          "spec.metrics[0].external.target.averageValue: Required value: must set either a target value for metric or a per-pod target"]),
        ("Job", codes(0, operator="In"), [f"{RULE}.onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"]),
        ("Job", codes(3, 1, 3), [f"{RULE}.onExitCodes.values[2]: Duplicate value: 3",
                                 f"{RULE}.onExitCodes.values: Invalid value: [3,1,3]: must be ordered"]),
        ("Job", codes(1, operator="", containerName="x"),
         [f'{RULE}.onExitCodes.operator: Required value: valid values: ["In" "NotIn"]',
          f'{RULE}.onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template']),
        ("Job", failing(), [f"{RULE}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"]),
        ("Job", failing(action="FailIndex", onPodConditions=[{"type": "DisruptionTarget", "status": "x"}]),
         [f'{RULE}.action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set',
          f'{RULE}.onPodConditions[0].status: Unsupported value: "x": supported values: "False", "True", "Unknown"']),
        ("Job", job(managedBy=""), ["spec.managedBy: Required value"]),
        ("Job", job(managedBy="me"), ['spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")']),
        ("Job", job(managedBy=f"a.b/{'c' * 60}"), ["spec.managedBy: Too long: may not be more than 63 bytes"]),
        ("Job", job(**INDEXED, backoffLimitPerIndex=1, maxFailedIndexes=6),
         ["spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions"]),
        ("Job", job(**INDEXED, successPolicy={"rules": [{"succeededIndexes": "0,2-4", "succeededCount": 5}]}),
         ["spec.successPolicy.rules[0].succeededCount: Invalid value: 5: must be less than or equal to 4 (the number of indexes "
          "in the specified succeededIndexes field)"]),
        ("Job", job(**INDEXED, successPolicy={"rules": [{"succeededIndexes": "7"}]}),
         ['spec.successPolicy.rules[0].succeededIndexes: Invalid value: "7": error parsing succeededIndexes: too large index: "7"']),
        ("Ingress", {"spec": {}}, ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]),
        ("Ingress", path(pathType=None), [f"{AT}.pathType: Required value: pathType must be specified"]),
        ("Ingress", path(path="/a//b/.."), [f'{AT}.path: Invalid value: "/a//b/..": must not contain \'//\'',
                                            f'{AT}.path: Invalid value: "/a//b/..": cannot end with \'/..\'']),
        ("Ingress", path(pathType="x"), [f'{AT}.pathType: Unsupported value: "x": supported values: "Exact", "ImplementationSpecific", "Prefix"']),
        ("Ingress", path(backend={}), [f'{AT}.backend: Invalid value: "": resource or service backend is required']),
        ("Ingress", backend(name="s"), [f"{AT}.backend: Required value: port name or number is required"]),
        ("Ingress", backend(name="A", port={"name": "a", "number": 1}),
         [f'{AT}.backend.service.name: Invalid value: "A": {LABEL}', f'{AT}.backend: Invalid value: "": cannot set both port name & port number']),
        ("Ingress", {"spec": {"defaultBackend": SERVICE, "tls": [{"hosts": ["*.a", "*"], "secretName": "A"}]}},
         ['spec.tls[0].hosts[1]: Invalid value: "*": a wildcard DNS-1123 subdomain must start with \'*.\'', 'spec.tls[0].secretName: Invalid value: "A"']),
        ("IngressClass", {"spec": {"controller": "nginx"}},
         ['spec.controller: Invalid value: "nginx": must be a domain-prefixed path (such as "acme.io/foo")']),
        ("IngressClass", {"spec": {"controller": "a.b/c", "parameters": {"kind": "K", "name": "n", "namespace": "d"}}},
         ["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]),
        ("NetworkPolicy", {"spec": {"egress": [{"ports": [{"endPort": 5}, {"port": "a_b"}, {"port": 9, "endPort": 8}], "to": [{}]}]}},
         ["spec.egress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified",
          'spec.egress[0].ports[1].port: Invalid value: "a_b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)',
          "spec.egress[0].ports[2].endPort: Invalid value: 8: must be greater than or equal to `port`",
          "spec.egress[0].to[0]: Required value: must specify a peer"]),
        ("NetworkPolicy", {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]}]}},
         ['spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/9": must be a strict subset of `cidr`']),
        ("ServiceCIDR", {"spec": {"cidrs": ["10.0.0.0/24", "10.1.0.0/24"]}},
         ['spec.cidrs: Invalid value: ["10.0.0.0/24","10.1.0.0/24"]: may specify no more than one IP for each IP family, i.e '
          "192.168.0.0/24 and 2001:db8::/64"]),
        ("IPAddress", {"spec": {"parentRef": {}}}, ["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"]),
        ("Endpoints", {"subsets": [{"ports": [{"port": 1}]}]}, ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]),
        ("Endpoints", subset(ports=[{"port": 1}, {"name": "a", "port": 0, "protocol": "x"}]),
         ["subsets[0].ports[0].name: Required value",
          "subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
          'subsets[0].ports[1].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP"']),
        ("Endpoints", subset(addresses=[{"ip": "127.0.0.1"}]),
         ['subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)']),
        ("EndpointSlice", slice_of({}), ["endpoints[0].addresses: Required value: must contain at least 1 address"]),
        ("EndpointSlice", slice_of({"addresses": ["::1:2"], "nodeName": "A", "hostname": "a.b"}),
         ['endpoints[0].addresses[0]: Invalid value: "::1:2": must be an IPv4 address', 'endpoints[0].nodeName: Invalid value: "A"',
          f'endpoints[0].hostname: Invalid value: "a.b": {LABEL}']),
        ("EndpointSlice", slice_of(ports=[{"name": "A_"}, {"port": 1}, {"port": 2, "protocol": "x", "appProtocol": "a b"}]),
         [f'ports[0].name: Invalid value: "A_": {LABEL}',
          'ports[2].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP"',
          'ports[2].appProtocol: Invalid value: "a b": name part must consist of', 'ports[2].name: Duplicate value: ""']),
        ("Namespace", {"spec": {"finalizers": ["kubernetes", "mine"]}},
         ['spec.finalizers: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified']),
        ("RuntimeClass", {"handler": "h", "overhead": {"podFixed": {"cpu": "-1", "gold": "1"}}, "scheduling": {"tolerations": [{"operator": "x"}]}},
         ['overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0',
          'overhead.limits[gold]: Invalid value: "gold": must be a standard resource type or fully qualified',
          'overhead.limits[gold]: Invalid value: "gold": must be a standard resource for containers',
          'scheduling.tolerations[0].operator: Invalid value: "x": operator must be Exists when `key` is empty',
          'scheduling.tolerations[0].operator: Unsupported value: "x": supported values: "Equal", "Exists"']),
        ("ResourceQuota", quota({"scopeName": "Terminating", "operator": "In", "values": ["x"]}),
         [f"{QUOTA}.operator: Invalid value: \"In\": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating"]),
        ("ResourceQuota", quota({"scopeName": "PriorityClass", "operator": "In"}),
         [f"{QUOTA}.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"]),
        ("ResourceQuota", quota({"scopeName": "PriorityClass", "operator": "Exists"}, services="1"),
         [f'{QUOTA}: Invalid value: {{"matchExpressions":[{{"scopeName":"PriorityClass","operator":"Exists"}}]}}: unsupported scope applied to resource']),
        ("ResourceQuota", quota({"scopeName": "x", "operator": "y"}),
         [f'{QUOTA}.scopeName: Invalid value: "x": unsupported scope', f'{QUOTA}.operator: Invalid value: "y": not a valid selector operator']),
        ("ClusterRoleBinding", bound(kind="ServiceAccount"), ["subjects[0].namespace: Required value"]),
        ("ClusterRoleBinding", bound(kind="User", apiGroup="x"),
         ['subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"']),
        ("ClusterRole", {"aggregationRule": {}},
         ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"]),
        ("PriorityLevelConfiguration", {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 8}}}}},
         ["spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)"]),
        ("PriorityLevelConfiguration", {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "x"}}}},
         ['spec.limited.limitResponse.type: Unsupported value: "x": supported values: "Queue", "Reject"']),
        ("HorizontalPodAutoscaler", {"spec": {}},
         ["spec.maxReplicas: Invalid value: 0: must be greater than 0",
          "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
          "spec.scaleTargetRef.kind: Required value", "spec.scaleTargetRef.name: Required value"]),
        ("Deployment", {"spec": {}},
         ["spec.selector: Required value", "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
          "spec.template.spec.containers: Required value"]),
        ("CSIDriver", {"spec": {"fsGroupPolicy": "x", "volumeLifecycleModes": ["y"], "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}},
         ['spec.fsGroupPolicy: Unsupported value: "x": supported values: "File", "None", "ReadWriteOnceWithFSType"',
          'spec.volumeLifecycleModes: Unsupported value: "y": supported values: "Ephemeral", "Persistent"',
          "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
          'spec.tokenRequests[1].audience: Duplicate value: "a"']),
        ("CSINode", {"spec": {"drivers": [{"name": "a.b", "nodeID": "n", "topologyKeys": ["k", "k"]}, {"name": "a.b", "nodeID": ""}]}},
         ['spec.drivers[0].topologyKeys: Duplicate value: "k"', "spec.drivers[1].nodeID: Required value", 'spec.drivers[1].name: Duplicate value: "a.b"']),
        ("VolumeAttachment", {"spec": {"attacher": "a.b", "nodeName": "n", "source": {}}},
         ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]),
        ("VolumeAttributesClass", {"driverName": "a.b"}, ["parameters: Required value: must contain at least one key/value pair"]),
        ("CSIStorageCapacity", {"storageClassName": "A_", "capacity": "-1"},
         ['storageClassName: Invalid value: "A_"', 'capacity: Invalid value: "-1": must be greater than or equal to 0']),
        ("DeviceClass", {"spec": {"selectors": [{"cel": {"expression": "device.driver =="}}, {"cel": {"expression": "1"}}]}},
         ['spec.selectors[0].cel.expression: Invalid value: "device.driver ==": compilation failed: ',
          'spec.selectors[1].cel.expression: Invalid value: "1": compilation failed: must evaluate to bool']),
        ("ResourceClaim", {"spec": {"devices": {"requests": [{"name": "A_", "exactly": {"deviceClassName": "x", "count": -1}}], "constraints": [{"requests": ["b"], "matchAttribute": "a/b"}]}}},
         [f'spec.devices.requests[0].name: Invalid value: "A_": {LABEL}',
          "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
          'spec.devices.constraints[0].requests[0]: Invalid value: "b": must be the name of a request in the claim']),
        ("ResourceSlice", {"spec": {"driver": "a.b", "pool": {"name": "p"}, "devices": [{"name": "d"}, {"name": "d", "attributes": {"x": {}}}]}},
         ["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
          "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
          "spec.devices[1].attributes[x]: Required value: exactly one value must be specified", 'spec.devices[1].name: Duplicate value: "d"']),
        ("ResourceSlice", {"spec": {"driver": "a.b", "pool": {"name": "p", "resourceSliceCount": 1}, "allNodes": True, "sharedCounters": [{"name": "s", "counters": {}}, {"name": "s", "counters": {"A": {"value": "1"}}}], "devices": []}},
         ["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed", "spec.sharedCounters[0].counters: Required value",
          f'spec.sharedCounters[1].counters: Invalid value: "A": {LABEL}', 'spec.sharedCounters[1]: Duplicate value: "s"']),
        ("ResourceSlice", {"spec": {"driver": "a.b", "pool": {"name": "p", "resourceSliceCount": 1}, "nodeName": "n", "devices": [
            {"name": "d", "nodeName": "n", "consumesCounters": [{"counterSet": "", "counters": {"c": {"value": "1"}}}], "taints": [{"key": "k", "effect": "Now"}], "bindingConditions": ["a", "a"]},
            {"name": "e", "capacity": {"gb": {"value": "8", "requestPolicy": {}}}, "attributes": {"v": {"version": "1.0"}}},
            {"name": "f", "allowMultipleAllocations": True, "capacity": {
                "gb": {"value": "8", "requestPolicy": {"default": "3", "validRange": {"min": "1", "max": "9", "step": "3"}}},
                "mb": {"value": "8", "requestPolicy": {"default": "5", "validValues": ["4", "2"]}},
                "kb": {"value": "8", "requestPolicy": {"validValues": ["4"]}}}}]}},
         ['spec.devices[0].taints[0].effect: Unsupported value: "Now": supported values: "NoExecute", "NoSchedule", "None"',
          "spec.devices[0].consumesCounters[0].counterSet: Required value",
          "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true",
          'spec.devices[0].bindingConditions[1]: Duplicate value: "a"',
          "spec.devices[0].bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions",
          'spec.devices[1].attributes[v].version: Invalid value: "1.0": must be a string compatible with semver.org spec 2.0.0',
          "spec.devices[1].capacity[gb].requestPolicy: Forbidden: allowMultipleAllocations must be true",
          'spec.devices[2].capacity[gb].requestPolicy.validRange.max: Invalid value: "9": max is larger than capacity value: 8',
          'spec.devices[2].capacity[gb].requestPolicy.validRange.step: Invalid value: "3": value is not a multiple of a given step (3) from (1)',
          'spec.devices[2].capacity[gb].requestPolicy.validRange.step: Invalid value: "9": value is not a multiple of a given step (3) from (1)',
          'spec.devices[2].capacity[mb].requestPolicy.validValues[1]: Invalid value: "2": values must be sorted in ascending order',
          'spec.devices[2].capacity[mb].requestPolicy.validValues: Invalid value: "5": default value is not valid according to the requestPolicy',
          "spec.devices[2].capacity[kb].requestPolicy.default: Required value: required when validValues is defined"]),
        ("DeviceClass", {"spec": {"extendedResourceName": "kubernetes.io/gpu", "config": [{"opaque": {"driver": "a.b", "parameters": "x"}}]}},
         ['spec.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object',
          'spec.extendedResourceName: Invalid value: "kubernetes.io/gpu": must be a valid extended resource name']),
        ("ResourceClaim", {"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "x", "capacity": {"requests": {"a b": "1"}}, "tolerations": [{"key": "k", "operator": "Exists", "value": "v", "effect": "x"}]}}],
                                    "constraints": [{"matchAttribute": "a"}, {}], "config": [{"requests": ["a"]}]}}},
         ['spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: "v": must be empty for operator `Exists`',
          'spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: "x": supported values: "NoExecute", "NoSchedule", "None"',
          'spec.devices.requests[0].exactly.capacity.requests[a b]: Invalid value: "a b": a valid C identifier',
          'spec.devices.constraints[0].matchAttribute: Invalid value: "a": a fully qualified name must be a domain and a name separated by a slash',
          'spec.devices.constraints[1]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required',
          "spec.devices.config[0].opaque: Required value"]),
        ("Deployment", {"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "x"}]}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}},
         ['spec.selector.matchExpressions[0].operator: Invalid value: "x": not a valid selector operator']),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_told_in_order(kind: str, fields: dict[str, Any], wrong: list[str]) -> None:
    found = told(kind, fields)
    assert len(found) == len(wrong), found
    assert all(one.startswith(start) for one, start in zip(found, wrong, strict=True)), found


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("HorizontalPodAutoscaler", scaler()),
        ("HorizontalPodAutoscaler", scaler({"type": "ContainerResource", "containerResource": {**CPU, "container": "c"}})),
        ("Job", codes(1, 2, 40)),
        ("Job", job(managedBy="example.com/my-controller")),
        ("Job", job(**INDEXED, successPolicy={"rules": [{"succeededIndexes": "0,2-4", "succeededCount": 2}]})),
        ("Ingress", path()),
        ("Ingress", path(pathType="ImplementationSpecific", path="")),
        ("Ingress", {"spec": {"rules": [{"host": "*.example.com"}]}}),
        ("Ingress", {"spec": {"defaultBackend": {"resource": {"apiGroup": "a.b", "kind": "K", "name": "n"}}}}),
        ("IngressClass", {"spec": {"controller": "k8s.io/ingress-nginx", "parameters": {"kind": "K", "name": "n", "scope": "Namespace", "namespace": "d"}}}),
        ("Endpoints", {}),
        ("Endpoints", {"metadata": {"name": "kubernetes", "namespace": "default"}, **subset(addresses=[{"ip": "127.0.0.1"}])}),
        ("EndpointSlice", slice_of({"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}]}}, ports=[{"port": 1}, {"name": "b"}])),
        ("EndpointSlice", slice_of({"addresses": ["a.example.com"]}, kind="FQDN")),
        ("ServiceCIDR", {"spec": {"cidrs": ["10.0.0.0/24", "2001:db8::/64"]}}),
        ("ResourceQuota", quota({"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["x"]}, persistentvolumeclaims="1")),
        ("RuntimeClass", {"handler": "h", "overhead": {"podFixed": {"cpu": "100m", "memory": "1Mi"}}}),
        ("ClusterRoleBinding", bound(kind="Group")),
        ("PriorityLevelConfiguration", {"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}}}),
    ],
)  # fmt: skip
def test_a_good_object_is_let_be(kind: str, fields: dict[str, Any]) -> None:
    assert told(kind, fields) == []


def test_indexes_are_counted() -> None:
    assert count_indexes("", 5) == 0
    assert count_indexes("1,3-5,7", 9) == 5
    for text in ("5-3", "3,1", "a", "1-2-3", "9", "+1", "1,,2"):
        with pytest.raises(ValueError, match="."):
            count_indexes(text, 9)
