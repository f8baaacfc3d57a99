"""What the built-in admission steps add, and what they refuse."""

from typing import Any

import pytest

from machinery import errors
from machinery.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    INGRESS_CLASSES,
    INGRESSES,
    LIMIT_RANGES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_QUOTAS,
    RUNTIME_CLASSES,
    STORAGE_CLASSES,
)
from machinery.client.rest import Client
from tests.integration.apiserver.conftest import Kubectl, pod

RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}


def asking(name: str, resources: dict[str, Any]) -> dict[str, Any]:
    made = pod(name)
    made["spec"]["containers"][0]["resources"] = resources
    return made


async def make_quota(client: Client, **hard: str) -> None:
    limits = {name.replace("_", "."): value for name, value in hard.items()}
    await client.create(RESOURCE_QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": limits}}, "default")
    status = {"hard": limits, "used": dict.fromkeys(limits, "0")}
    await client.patch(RESOURCE_QUOTAS, "q", {"status": status}, "default", subresource="status")


async def test_a_limit_range_fills_in_and_bounds(client: Client) -> None:
    limit = {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "250m"}, "max": {"cpu": "1"}}
    await client.create(LIMIT_RANGES, {"metadata": {"name": "l"}, "spec": {"limits": [limit]}}, "default")
    made = await client.create(PODS, pod("plain"), "default")
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "250m"}}
    with pytest.raises(errors.Forbidden) as caught:
        await client.create(PODS, asking("big", {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}), "default")
    told = 'pods "big" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, '
    assert str(caught.value) == told + "maximum cpu usage per Container is 1, but request is 2]"


async def test_a_quota_is_charged_and_refuses_what_is_too_much(client: Client) -> None:
    await make_quota(client, pods="2", requests_cpu="150m")
    await client.create(PODS, asking("a", RESOURCES), "default")
    found = await client.get(RESOURCE_QUOTAS, "q", "default")
    assert found["status"]["used"] == {"pods": "1", "requests.cpu": "100m"}
    with pytest.raises(errors.Forbidden) as caught:
        await client.create(PODS, asking("b", RESOURCES), "default")
    told = 'pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=100m, used: requests.cpu=100m, limited: requests.cpu=150m'
    assert str(caught.value) == told
    with pytest.raises(errors.Forbidden, match="failed quota: q: must specify requests.cpu for: c"):
        await client.create(PODS, pod("c"), "default")
    assert (await client.get(RESOURCE_QUOTAS, "q", "default"))["status"] == found["status"]


async def test_a_dry_run_is_judged_and_not_charged(client: Client) -> None:
    await make_quota(client, configmaps="1")
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default", params={"dryRun": "All"})
    assert (await client.get(RESOURCE_QUOTAS, "q", "default"))["status"]["used"] == {"configmaps": "0"}
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    with pytest.raises(errors.Forbidden, match="exceeded quota: q, requested: configmaps=1, used: configmaps=1"):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "b"}}, "default", params={"dryRun": "All"})


async def test_a_pod_takes_the_priority_of_its_class(client: Client) -> None:
    high = {"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}
    await client.create(PRIORITY_CLASSES, high)
    await client.create(PRIORITY_CLASSES, {"metadata": {"name": "usual"}, "value": 7, "globalDefault": True})
    named = await client.create(PODS, pod("a", priorityClassName="high"), "default")
    assert (named["spec"]["priority"], named["spec"]["preemptionPolicy"]) == (1000, "Never")
    plain = await client.create(PODS, pod("b"), "default")
    assert (plain["spec"]["priority"], plain["spec"]["priorityClassName"]) == (7, "usual")
    with pytest.raises(errors.Forbidden, match='^pods "c" is forbidden: no PriorityClass with name none was found$'):
        await client.create(PODS, pod("c", priorityClassName="none"), "default")
    with pytest.raises(errors.Forbidden, match=r"the integer value of priority \(5\) must not be provided in pod spec"):
        await client.create(PODS, pod("d", priority=5), "default")
    assert {one["metadata"]["name"] for one in (await client.list(PRIORITY_CLASSES))["items"]} >= {
        "system-cluster-critical", "system-node-critical",
    }  # fmt: skip


async def test_a_runtime_class_brings_overhead_and_place(client: Client) -> None:
    runtime = {
        "metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"kvm": "yes"}},
    }  # fmt: skip
    await client.create(RUNTIME_CLASSES, runtime)
    made = await client.create(PODS, pod("a", runtimeClassName="vm"), "default")
    assert (made["spec"]["overhead"], made["spec"]["nodeSelector"]) == ({"cpu": "250m"}, {"kvm": "yes"})
    with pytest.raises(errors.Forbidden, match='pod rejected: RuntimeClass "none" not found'):
        await client.create(PODS, pod("b", runtimeClassName="none"), "default")


async def test_a_claim_without_class_gets_the_default_one(client: Client) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    await client.create(STORAGE_CLASSES, {"metadata": {"name": "std", "annotations": default}, "provisioner": "p"})
    made = await client.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "a"}, "spec": spec}, "default")
    assert made["spec"]["storageClassName"] == "std"
    none = {"metadata": {"name": "b"}, "spec": {**spec, "storageClassName": ""}}
    assert (await client.create(PERSISTENT_VOLUME_CLAIMS, none, "default"))["spec"]["storageClassName"] == ""


async def budget(client: Client, allowed: int) -> None:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    made = await client.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": "keep"}, "spec": spec}, "default")
    status = {
        "observedGeneration": made["metadata"]["generation"], "disruptionsAllowed": allowed, "desiredHealthy": 1,
        "currentHealthy": 1 + allowed, "expectedPods": 2,
    }  # fmt: skip
    await client.patch(POD_DISRUPTION_BUDGETS, "keep", {"status": status}, "default", subresource="status")


async def running(client: Client, name: str) -> None:
    await client.create(PODS, pod(name, metadata={"labels": {"app": "web"}}), "default")
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(PODS, name, {"status": ready}, "default", subresource="status")


async def evict(client: Client, name: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    await client.create(PODS, body, "default", name=name, subresource="eviction")


async def test_an_eviction_asks_the_budget(client: Client) -> None:
    await budget(client, 1)
    for name in ("a", "b"):
        await running(client, name)
    await evict(client, "a")
    with pytest.raises(errors.NotFound):
        await client.get(PODS, "a", "default")
    found = await client.get(POD_DISRUPTION_BUDGETS, "keep", "default")
    assert (found["status"]["disruptionsAllowed"], list(found["status"]["disruptedPods"])) == (0, ["a"])
    with pytest.raises(errors.TooManyRequests) as caught:
        await evict(client, "b")
    assert str(caught.value) == "Cannot evict pod as it would violate the pod's disruption budget."
    assert caught.value.causes[0].message == "The disruption budget keep needs 1 healthy pods and has 2 currently"
    assert (await client.get(PODS, "b", "default"))["metadata"]["name"] == "b"


@pytest.mark.slow
async def test_kubectl_approves_a_request_for_a_certificate(client: Client, kubectl: Kubectl) -> None:
    from base64 import b64encode

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "me")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {"request": pem, "signerName": "example.com/mine", "usages": ["client auth"], "username": "forged"}
    made = await client.create(CERTIFICATE_SIGNING_REQUESTS, {"metadata": {"name": "me"}, "spec": spec})
    assert made["spec"]["username"] == "admin"
    code, out, problem = await kubectl("certificate", "approve", "me")
    assert (code, out, problem) == (0, "certificatesigningrequest.certificates.k8s.io/me approved\n", "")
    assert "Approved" in (await kubectl("get", "csr"))[1]


async def test_an_ingress_without_class_gets_the_default_one(client: Client) -> None:
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    spec = {"controller": "example.com/proxy"}
    await client.create(INGRESS_CLASSES, {"metadata": {"name": "std", "annotations": default}, "spec": spec})
    backend = {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}
    made = await client.create(INGRESSES, {"metadata": {"name": "a"}, "spec": backend}, "default")
    assert made["spec"]["ingressClassName"] == "std"
    old = {"name": "b", "annotations": {"kubernetes.io/ingress.class": "other"}}
    assert (
        "ingressClassName"
        not in (await client.create(INGRESSES, {"metadata": old, "spec": backend}, "default"))["spec"]
    )


async def test_a_pod_stays_five_minutes_on_a_node_that_is_lost_unless_it_says_otherwise(client: Client) -> None:
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 7}
    made = await client.create(PODS, pod("a", tolerations=[own]), "default")
    found = {one["key"]: one["tolerationSeconds"] for one in made["spec"]["tolerations"]}
    assert found == {"node.kubernetes.io/not-ready": 7, "node.kubernetes.io/unreachable": 300}
