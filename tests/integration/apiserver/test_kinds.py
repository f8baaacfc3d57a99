"""Every built-in kind is served whole: made, read, listed as a table, changed, refused when wrong, deleted."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver.registry.catalog import built_in
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CRON_JOBS,
    DAEMON_SETS,
    HORIZONTAL_POD_AUTOSCALERS,
    JOBS,
    NETWORK_POLICIES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    REPLICATION_CONTROLLERS,
    SERVICES,
    STATEFUL_SETS,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl
from tests.support.waiting import until, until_one

SAMPLES = list(yaml.safe_load_all((Path(__file__).parent / "samples.yaml").read_text()))
BY_KIND = {sample["kind"]: sample for sample in SAMPLES}
# Kinds whose objects other tests make, or that need a signed request.
ELSEWHERE = {
    "Namespace", "Node", "Pod", "ConfigMap", "Secret", "ServiceAccount", "Service", "Endpoints", "Event", "Lease",
    "Deployment", "ReplicaSet", "EndpointSlice", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
    "CertificateSigningRequest", "CustomResourceDefinition", "APIService",
}  # fmt: skip

CSR = next(
    {**one, "metadata": {"name": "csr"}}
    for one in yaml.safe_load_all((Path(__file__).parent / "more_samples.yaml").read_text())
    if one["kind"] == "CertificateSigningRequest"
)


def resource_of(sample: dict[str, Any]) -> Resource:
    found = [
        kind.resource
        for kind in built_in()
        if (kind.resource.api_version, kind.resource.kind) == (sample["apiVersion"], sample["kind"])
    ]
    assert len(found) == 1
    return found[0]


def sample(kind: str, **spec: Any) -> dict[str, Any]:
    """Return a copy of a kind's sample with parts of its spec replaced."""
    made = copy.deepcopy(BY_KIND[kind])
    made["spec"] = {**made["spec"], **spec}
    return made


def test_each_kind_has_a_sample() -> None:
    kinds = {kind.resource.kind for kind in built_in() if kind.is_stored and kind.custom is None}
    assert kinds - ELSEWHERE == set(BY_KIND)


@pytest.mark.parametrize("given", SAMPLES, ids=[one["kind"] for one in SAMPLES])
async def test_a_kind_is_made_listed_labelled_and_deleted(client: Client, given: dict[str, Any]) -> None:
    resource = resource_of(given)
    namespace = "default" if resource.namespaced else ""
    made = await client.create(resource, given, namespace, params={"fieldValidation": "Strict"})
    name = made["metadata"]["name"]
    if given["kind"] == "FlowSchema":  # the server says of each whether its level is there
        made = await until_one(client, resource, name, lambda one: (one.get("status") or {}).get("conditions"))
    assert await client.get(resource, name, namespace) == made
    if resource.kind == "FlowSchema":  # the server itself writes the status of a new one
        flows = await until(
            client, resource, lambda found: all((one.get("status") or {}).get("conditions") for one in found)
        )
        made = next(one for one in flows if one["metadata"]["name"] == name)
    again = await client.update(resource, made)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]  # defaults are stable
    labelled = await client.patch(resource, name, {"metadata": {"labels": {"x": "y"}}}, namespace)
    listed = await client.list(resource, namespace, label_selector="x=y")
    assert listed["items"] == [labelled]
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    path = resource.path(namespace)
    table = await client.request("GET", path, params={"labelSelector": "x=y"}, headers=headers)
    assert table.count(b'"cells"') == 1
    await client.delete(resource, name, namespace)
    with pytest.raises(errors.NotFound):
        await client.get(resource, name, namespace)


BAD = [
    (STATEFUL_SETS, sample("StatefulSet", podManagementPolicy="x"), "spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"),
    (STATEFUL_SETS, sample("StatefulSet", selector={}), "empty selector is invalid for statefulset"),
    (DAEMON_SETS, sample("DaemonSet", updateStrategy={"type": "x"}), 'spec.updateStrategy: Unsupported value: {"type":"x"}: supported values: "RollingUpdate", "OnDelete"'),
    (JOBS, sample("Job", completionMode="Indexed"), None),
    (JOBS, sample("Job", parallelism=-1), "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
    (JOBS, sample("Job", completionMode="Indexed", parallelism=2), "spec.completions: Required value: when completion mode is Indexed"),
    (JOBS, sample("Job", template={"spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}}), 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'),
    (CRON_JOBS, sample("CronJob", schedule="* * *"), "spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3"),
    (CRON_JOBS, sample("CronJob", timeZone="Nowhere/Land"), 'spec.timeZone: Invalid value: "Nowhere/Land": unknown time zone Nowhere/Land'),
    (HORIZONTAL_POD_AUTOSCALERS, sample("HorizontalPodAutoscaler", minReplicas=9), "spec.maxReplicas: Invalid value: 4: must be greater than or equal to `minReplicas`"),
    (NETWORK_POLICIES, sample("NetworkPolicy", ingress=[{"from": [{"ipBlock": {"cidr": "x"}}]}]), "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
    (PERSISTENT_VOLUMES, sample("PersistentVolume", accessModes=[]), "spec.accessModes: Required value"),
    (PERSISTENT_VOLUME_CLAIMS, sample("PersistentVolumeClaim", resources={}), "spec.resources[storage]: Required value"),
    (REPLICATION_CONTROLLERS, sample("ReplicationController", selector={"x": "y"}), "`selector` does not match template `labels`"),
]  # fmt: skip


@pytest.mark.parametrize(("resource", "given", "told"), BAD)
async def test_a_wrong_object_is_refused_in_the_words_users_know(
    client: Client, resource: Resource, given: dict[str, Any], told: str | None
) -> None:
    namespace = "default" if resource.namespaced else ""
    if told is None:  # with the default of one completion it is right
        await client.create(resource, given, namespace)
        return
    with pytest.raises(errors.Invalid) as caught:
        await client.create(resource, given, namespace)
    assert told in str(caught.value)


async def test_what_may_not_change_is_kept(client: Client) -> None:
    made = await client.create(STATEFUL_SETS, BY_KIND["StatefulSet"], "default")
    with pytest.raises(errors.Invalid, match="updates to statefulset spec for fields other than 'replicas'"):
        await client.patch(STATEFUL_SETS, "one", {"spec": {"serviceName": "other"}}, "default")
    assert (await client.patch(STATEFUL_SETS, "one", {"spec": {"replicas": 5}}, "default"))["metadata"][
        "generation"
    ] == 2
    job = await client.create(JOBS, BY_KIND["Job"], "default")
    assert job["spec"]["selector"]["matchLabels"] == {"batch.kubernetes.io/controller-uid": job["metadata"]["uid"]}
    assert job["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "one"
    with pytest.raises(errors.Invalid, match="spec.template: Invalid value.*field is immutable"):
        template = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
        await client.patch(JOBS, "one", template, "default")
    assert made["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] == "Filesystem"


async def test_a_replication_controller_scales(client: Client) -> None:
    await client.create(REPLICATION_CONTROLLERS, BY_KIND["ReplicationController"], "default")
    scale = await client.get(REPLICATION_CONTROLLERS, "one", "default", subresource="scale")
    assert (scale["spec"]["replicas"], scale["status"]["selector"]) == (2, "a=b")
    await client.patch(REPLICATION_CONTROLLERS, "one", {"spec": {"replicas": 7}}, "default", subresource="scale")
    assert (await client.get(REPLICATION_CONTROLLERS, "one", "default"))["spec"]["replicas"] == 7


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_kubectl_prints_the_columns_users_know(kubectl: Kubectl, client: Client) -> None:
    text = (Path(__file__).parent / "samples.yaml").read_text()
    code, out, problem = await kubectl("apply", "-f", "-", stdin=text)
    assert (code, problem) == (0, "")
    assert out.count("created") == len(SAMPLES)
    columns = {
        "jobs": "NAME STATUS COMPLETIONS DURATION AGE",
        "cronjobs": "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE",
        "sts": "NAME READY AGE",
        "ds": "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE",
        "hpa": "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
        "pdb": "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE",
        "ing": "NAME CLASS HOSTS ADDRESS PORTS AGE",
        "pv": "NAME CAPACITY ACCESS MODES RECLAIM POLICY STATUS CLAIM STORAGECLASS VOLUMEATTRIBUTESCLASS REASON AGE",
        "pvc": "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS VOLUMEATTRIBUTESCLASS AGE",
        "sc": "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE",
        "priorityclasses": "NAME VALUE GLOBAL-DEFAULT AGE PREEMPTIONPOLICY",
    }
    for name, wanted in columns.items():
        lines = (await kubectl("get", name))[1].splitlines()
        assert " ".join(lines[0].split()) == wanted
        assert len(lines) >= 2
    assert CERTIFICATE_SIGNING_REQUESTS.plural in (await kubectl("api-resources"))[1]


async def test_a_request_for_a_certificate_is_decided_by_one_and_signed_by_another(client: Client) -> None:
    made = await client.create(CERTIFICATE_SIGNING_REQUESTS, CSR)
    asked = [{"type": "Approved", "status": "True", "reason": "Test"}]
    change = {"status": {"conditions": asked, "certificate": "eA=="}, "metadata": {"annotations": {"a": "b"}}}
    approved = await client.patch(CERTIFICATE_SIGNING_REQUESTS, "csr", change, subresource="approval")
    assert "certificate" not in approved["status"]  # the approver decides, and that is all
    assert approved["metadata"]["annotations"] == {"a": "b"}
    condition = approved["status"]["conditions"][0]
    assert condition["lastUpdateTime"] == condition["lastTransitionTime"] >= made["metadata"]["creationTimestamp"]
    signed = {"status": {"certificate": "eA==", "conditions": [{"type": "Seen", "status": "True"}]}}
    found = await client.patch(CERTIFICATE_SIGNING_REQUESTS, "csr", signed, subresource="status")
    assert found["status"]["certificate"] == "eA=="
    assert [one["type"] for one in found["status"]["conditions"]] == ["Approved", "Seen"]  # the signer can't undo it
    again = await client.patch(CERTIFICATE_SIGNING_REQUESTS, "csr", {"status": None})
    assert again["status"] == found["status"]


FIXED = [
    ("VolumeAttributesClass", {"driverName": "other.example.com"}, "driverName: Invalid value: \"other.example.com\": field is immutable"),
    ("VolumeAttributesClass", {"parameters": {"x": "y"}}, "parameters: Forbidden: updates to parameters are forbidden."),
    ("CSIStorageCapacity", {"storageClassName": "other"}, "storageClassName: Invalid value: \"other\": field is immutable"),
    ("ResourceSlice", {"spec": {"driver": "other.example.com"}}, "spec.driver: Invalid value: \"other.example.com\": field is immutable"),
    ("PersistentVolume", {"metadata": {"finalizers": ["bad"]}}, "name is neither a standard finalizer name nor is it fully qualified"),
    ("ValidatingAdmissionPolicy", {"spec": {"matchConditions": [{"name": "a", "expression": "object.x +"}]}}, "spec.matchConditions[0].expression: Invalid value: \"object.x +\": compilation failed: "),
    ("ValidatingAdmissionPolicy", {"spec": {"validations": [{"expression": "unheard.of == 1"}]}}, "spec.validations[0].expression: Invalid value: \"unheard.of == 1\": compilation failed: "),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "told"), FIXED)
async def test_what_makes_an_object_what_it_is_stays(
    client: Client, kind: str, change: dict[str, Any], told: str
) -> None:
    given = BY_KIND[kind]
    resource = resource_of(given)
    namespace = "default" if resource.namespaced else ""
    made = await client.create(resource, given, namespace)
    with pytest.raises(errors.Invalid) as caught:
        await client.patch(resource, made["metadata"]["name"], change, namespace)
    assert told in str(caught.value)


async def test_a_webhook_whose_condition_can_not_be_compiled_is_refused(client: Client) -> None:
    condition = {"name": "odd", "expression": "... [] bad expression"}
    hook = {
        "name": "hook.example.com", "clientConfig": {"url": "https://127.0.0.1:1/"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "matchConditions": [condition],
    }  # fmt: skip
    for name in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"):
        given = {**BY_KIND[name], "webhooks": [hook]}
        with pytest.raises(
            errors.Invalid, match=r"webhooks\[0\].matchConditions\[0\].expression: .*compilation failed"
        ):
            await client.create(resource_of(given), given)


SERVICES_REFUSED = [
    ({"type": "ExternalName", "externalName": "bad_name!"}, "spec.externalName: Invalid value"),
    ({"ports": [{"port": 80, "protocol": "X"}]}, 'spec.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"'),
    ({"ports": [{"port": 80, "targetPort": "bad_name"}]}, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
    ({"type": "NodePort", "ports": [{"port": 80}], "externalTrafficPolicy": "x"}, 'spec.externalTrafficPolicy: Unsupported value: "x"'),
    ({"ports": [{"port": 80}], "externalIPs": ["x"]}, 'spec.externalIPs[0]: Invalid value: "x": must be a valid IP address'),
    ({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["x"]}, "must be a valid CIDR value"),
]  # fmt: skip


async def test_a_wrong_service_is_told_what_is_wrong(client: Client) -> None:
    for spec, told in SERVICES_REFUSED:
        with pytest.raises(errors.Invalid) as caught:
            await client.create(SERVICES, {"metadata": {"name": "a"}, "spec": spec}, "default")
        assert told in str(caught.value)


async def test_a_status_is_judged_and_filled_in_like_a_spec(client: Client) -> None:
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"a": "b"}}
    await client.create(SERVICES, {"metadata": {"name": "front"}, "spec": spec}, "default")
    given = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    found = await client.patch(SERVICES, "front", given, "default", subresource="status")
    assert found["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]
    wrong = {"status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}}
    with pytest.raises(errors.Invalid, match=r'status.loadBalancer.ingress\[0\].ip: Invalid value: "x"'):
        await client.patch(SERVICES, "front", wrong, "default", subresource="status")
    await client.create(JOBS, sample("Job"), "default")
    ended = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    with pytest.raises(errors.Invalid, match="without the SuccessCriteriaMet=true condition"):
        await client.patch(JOBS, sample("Job")["metadata"]["name"], ended, "default", subresource="status")
