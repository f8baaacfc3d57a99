"""Control loops with real containers: what each makes, keeps, refuses and clears away, seen by who uses the cluster.

The loops of Deployments, StatefulSets, DaemonSets, Jobs, budgets and autoscalers: test_cluster.py and test_workloads.py;
those of nodes that are lost: nodes/; of drivers and devices: pods/test_csi.py and pods/test_claims_of_devices.py.
"""

import asyncio
import base64
import datetime
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    CRON_JOBS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    IP_ADDRESSES,
    JOBS,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    RESOURCE_QUOTAS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    SERVICES,
    STATEFUL_SETS,
    VALIDATING_POLICIES,
    VALIDATING_POLICY_BINDINGS,
)
from machinery.client.kubeconfig import ClientConfig, load_config
from machinery.client.rest import Client
from tests.e2e.conftest import IMAGE, Cluster
from tests.e2e.test_cluster import fetch, reachable
from tests.support.waiting import until, until_gone, until_one

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(90)]

SECONDS = 25.0
SLEEP = "sleep 3600 & wait"
_numbers = itertools.count()

Body = dict[str, Any]


@pytest.fixture
def config(cluster: Cluster) -> ClientConfig:
    return load_config(str(cluster.layout.kubeconfig))


@pytest.fixture
async def client(config: ClientConfig) -> AsyncIterator[Client]:
    async with Client(config) as client:
        yield client


@pytest.fixture
async def space(client: Client) -> AsyncIterator[str]:
    """A namespace of the test's own; what it holds goes with it."""
    name = f"loops-{next(_numbers)}"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    await until_one(client, SERVICE_ACCOUNTS, "default", lambda _: True, namespace=name)
    yield name
    await client.delete(NAMESPACES, name)
    await until_gone(client, NAMESPACES, name, deadline_seconds=SECONDS)

    def left(volumes: list[Body]) -> list[Body]:
        return [one for one in volumes if (one["spec"].get("claimRef") or {}).get("namespace") == name]

    # Folders go after their claims; tests that count them come next.
    await until(client, PERSISTENT_VOLUMES, lambda volumes: not left(volumes), deadline_seconds=SECONDS)


def template(command: str = SLEEP, *, labels: dict[str, str] | None = None, **spec: Any) -> Body:
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                 "command": ["sh", "-c", f"trap 'exit 0' TERM; {command}"]}  # fmt: skip
    if "mounts" in spec:
        container["volumeMounts"] = spec.pop("mounts")
    return {
        "metadata": {"labels": labels or {"app": "web"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def pod(name: str, command: str = SLEEP, **spec: Any) -> Body:
    made = template(command, **spec)
    return {**made, "metadata": {**made["metadata"], "name": name}}


def deployment(name: str, replicas: int) -> Body:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    return {"metadata": {"name": name}, "spec": spec}


def running(obj: Body) -> bool:
    return obj["status"].get("phase") == "Running" and not obj["metadata"].get("deletionTimestamp")


def condition(obj: Body, kind: str) -> Body:
    return next((c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == kind), {})


def claim(name: str, size: str = "1Mi") -> Body:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"metadata": {"name": name}, "spec": spec}


DATA: dict[str, Any] = {"mounts": [{"name": "data", "mountPath": "/data"}]}


def claimed(name: str) -> Body:
    return {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}], **DATA}


async def wait_for(client: Client, resource: Resource, name: str, met: Any, space: str = "") -> Body:
    return await until_one(client, resource, name, met, namespace=space, deadline_seconds=SECONDS)


async def pods_are(client: Client, space: str, count: int) -> list[Body]:
    def met(pods: list[Body]) -> bool:
        return len(pods) == count and all(map(running, pods))

    return await until(client, PODS, met, namespace=space, deadline_seconds=SECONDS)


async def reasons(client: Client, space: str) -> set[str]:
    return {event["reason"] for event in (await client.list(EVENTS, space))["items"]}


# -- workloads


async def test_a_cron_job_runs_in_its_minute_and_clears_its_history(client: Client, space: str) -> None:
    work = template("echo the time has come", restartPolicy="Never")
    spec = {"schedule": "* * * * *", "suspend": True, "jobTemplate": {"spec": {"template": work}}}
    await client.create(CRON_JOBS, {"metadata": {"name": "clock"}, "spec": spec}, space)
    # A run that was missed is made up for at once, so that no minute need be waited for.
    before = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await client.patch(CRON_JOBS, "clock", {"status": {"lastScheduleTime": before}}, space, subresource="status")
    await client.patch(CRON_JOBS, "clock", {"spec": {"suspend": False}}, space)
    [job] = await until(
        client, JOBS, lambda jobs: jobs and condition(jobs[0], "Complete"), namespace=space, deadline_seconds=SECONDS
    )
    [ended] = (await client.list(PODS, space))["items"]
    assert ended["status"]["phase"] == "Succeeded"
    found = await wait_for(client, CRON_JOBS, "clock", lambda obj: obj["status"].get("lastSuccessfulTime"), space)
    assert found["status"]["lastScheduleTime"] > before
    assert not found["status"].get("active")
    patch = {"spec": {"suspend": True, "successfulJobsHistoryLimit": 0}}
    await client.patch(CRON_JOBS, "clock", patch, space)
    await until_gone(client, JOBS, job["metadata"]["name"], namespace=space, deadline_seconds=SECONDS)
    await until(client, PODS, lambda pods: not pods, namespace=space, deadline_seconds=SECONDS)
    assert {"SuccessfulCreate", "SawCompletedJob", "SuccessfulDelete"} <= await reasons(client, space)


async def test_a_job_that_has_ended_goes_after_its_time(client: Client, space: str) -> None:
    spec = {"ttlSecondsAfterFinished": 1, "template": template("true", restartPolicy="Never")}
    await client.create(JOBS, {"metadata": {"name": "brief"}, "spec": spec}, space)
    await wait_for(client, JOBS, "brief", lambda job: condition(job, "Complete"), space)
    await until_gone(client, JOBS, "brief", namespace=space, deadline_seconds=SECONDS)
    await until(client, PODS, lambda pods: not pods, namespace=space, deadline_seconds=SECONDS)


async def test_a_replication_controller_replaces_scales_and_leaves_its_pods_behind(client: Client, space: str) -> None:
    spec = {"replicas": 2, "selector": {"app": "web"}, "template": template()}
    await client.create(REPLICATION_CONTROLLERS, {"metadata": {"name": "web"}, "spec": spec}, space)
    lost, _ = await pods_are(client, space, 2)
    await client.delete(PODS, lost["metadata"]["name"], space)
    uid = lost["metadata"]["uid"]
    await until(
        client, PODS,
        lambda pods: len(pods) == 2 and all(running(pod) and pod["metadata"]["uid"] != uid for pod in pods),
        namespace=space, deadline_seconds=SECONDS,
    )  # fmt: skip
    scale = {"spec": {"replicas": 1}}
    await client.patch(REPLICATION_CONTROLLERS, "web", scale, space, subresource="scale")
    await pods_are(client, space, 1)
    await wait_for(client, REPLICATION_CONTROLLERS, "web", lambda obj: obj["status"]["availableReplicas"] == 1, space)
    await client.delete(REPLICATION_CONTROLLERS, "web", space, options={"propagationPolicy": "Orphan"})
    await until_gone(client, REPLICATION_CONTROLLERS, "web", namespace=space)
    [left] = await pods_are(client, space, 1)
    assert not left["metadata"].get("ownerReferences")


async def test_claims_of_a_stateful_set_go_with_its_pods_where_it_says_so(client: Client, space: str) -> None:
    spec = {
        "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "web"}},
        "template": template(**DATA), "volumeClaimTemplates": [claim("data")], "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
    }  # fmt: skip
    await client.create(STATEFUL_SETS, {"metadata": {"name": "db"}, "spec": spec}, space)
    await pods_are(client, space, 2)
    await client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 1}}, space, subresource="scale")
    await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "data-db-1", namespace=space, deadline_seconds=SECONDS)
    await pods_are(client, space, 1)
    await client.delete(STATEFUL_SETS, "db", space)
    await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "data-db-0", namespace=space, deadline_seconds=SECONDS)


# -- garbage


async def test_an_owner_goes_after_its_pods_in_the_foreground_and_before_them_in_the_background(
    client: Client, space: str
) -> None:
    for policy in ("Foreground", "Background"):
        await client.create(DEPLOYMENTS, deployment("web", 2), space)
        await pods_are(client, space, 2)
        last: list[str] = []

        async def follow(resource: Resource, version: str, count: int, seen: list[str] = last) -> None:
            async for event in client.watch(resource, space, resource_version=version):
                if event.type == "DELETED":
                    seen.append(resource.kind)
                    if seen.count(resource.kind) == count:
                        return

        version = (await client.list(PODS, space))["metadata"]["resourceVersion"]
        tasks = [asyncio.create_task(follow(one, version, many)) for one, many in ((DEPLOYMENTS, 1), (PODS, 2))]
        await client.delete(DEPLOYMENTS, "web", space, options={"propagationPolicy": policy})
        await until(client, PODS, lambda pods: not pods, namespace=space, deadline_seconds=SECONDS)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*tasks)
        assert last == (["Pod", "Pod", "Deployment"] if policy == "Foreground" else ["Deployment", "Pod", "Pod"])


async def test_pods_of_an_orphaned_set_run_on_and_are_taken_over_by_a_like_deployment(
    client: Client, space: str
) -> None:
    await client.create(DEPLOYMENTS, deployment("web", 2), space)
    before = {one["metadata"]["uid"] for one in await pods_are(client, space, 2)}
    await client.delete(DEPLOYMENTS, "web", space, options={"propagationPolicy": "Orphan"})
    await until_gone(client, DEPLOYMENTS, "web", namespace=space)
    [left] = (await client.list(REPLICA_SETS, space))["items"]
    assert not left["metadata"].get("ownerReferences")
    made = await client.create(DEPLOYMENTS, deployment("web", 2), space)
    await wait_for(client, DEPLOYMENTS, "web", lambda obj: condition(obj, "Available").get("status") == "True", space)
    [again] = (await client.list(REPLICA_SETS, space))["items"]
    assert again["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert {one["metadata"]["uid"] for one in await pods_are(client, space, 2)} == before


async def test_a_pod_of_a_machine_declared_off_is_given_up(client: Client, space: str) -> None:
    node = f"ghost-{space}"
    ready = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": None}
    await client.create(NODES, {"metadata": {"name": node}, "status": {"conditions": [ready]}})
    try:
        spec = template(nodeName=node, tolerations=[{"operator": "Exists"}])
        await client.create(PODS, {**spec, "metadata": {"name": "stuck"}}, space)
        await client.delete(PODS, "stuck", space)
        assert (await client.get(PODS, "stuck", space))["metadata"]["deletionTimestamp"]
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        await client.patch(NODES, node, {"spec": {"taints": [taint]}})
        await until_gone(client, PODS, "stuck", namespace=space, deadline_seconds=SECONDS)
    finally:
        await client.delete(NODES, node)


# -- limits


async def test_a_quota_holds_pods_back_until_there_is_room(client: Client, space: str) -> None:
    await client.create(RESOURCE_QUOTAS, {"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}}, space)
    await wait_for(client, RESOURCE_QUOTAS, "two", lambda obj: (obj.get("status") or {}).get("used"), space)
    await client.create(DEPLOYMENTS, deployment("web", 3), space)
    await pods_are(client, space, 2)
    found = await wait_for(client, DEPLOYMENTS, "web", lambda obj: condition(obj, "ReplicaFailure"), space)
    assert (
        "exceeded quota: two, requested: pods=1, used: pods=2, limited: pods=2"
        in (condition(found, "ReplicaFailure")["message"])
    )
    await client.patch(RESOURCE_QUOTAS, "two", {"spec": {"hard": {"pods": "3"}}}, space)
    await pods_are(client, space, 3)
    await wait_for(client, RESOURCE_QUOTAS, "two", lambda obj: obj["status"]["used"] == {"pods": "3"}, space)
    await wait_for(client, DEPLOYMENTS, "web", lambda obj: not condition(obj, "ReplicaFailure"), space)


async def test_a_policy_is_judged_when_it_is_written_and_judges_pods(client: Client, space: str) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    of_us = {"matchLabels": {"kubernetes.io/metadata.name": space}}
    constraints = {"resourceRules": [rule], "namespaceSelector": of_us}
    checks = [
        {"expression": "!has(object.spec.hostNetwork) || !object.spec.hostNetwork", "message": "no host network here"},
        {"expression": "object.spec.terminationGracePeriodSeconds < '9'"},
    ]
    spec = {"matchConstraints": constraints, "validations": checks, "failurePolicy": "Ignore"}
    await client.create(VALIDATING_POLICIES, {"metadata": {"name": space}, "spec": spec})
    binding = {"policyName": space, "validationActions": ["Deny"]}
    await client.create(VALIDATING_POLICY_BINDINGS, {"metadata": {"name": space}, "spec": binding})
    try:
        found = await wait_for(
            client, VALIDATING_POLICIES, space, lambda obj: (obj.get("status") or {}).get("typeChecking") is not None
        )
        [warning] = found["status"]["typeChecking"]["expressionWarnings"]
        assert warning["fieldRef"] == "spec.validations[1].expression"
        assert "v1, Kind=Pod" in warning["warning"]
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        with pytest.raises(errors.Invalid, match="no host network here"):
            async with asyncio.timeout(SECONDS):  # a policy is not in force in the same moment
                while True:
                    await client.create(PODS, pod("open", hostNetwork=True), space)
                    await client.delete(PODS, "open", space, options={"gracePeriodSeconds": 0})
        await client.create(PODS, pod("closed"), space)
        await pods_are(client, space, 1)
    finally:
        await client.delete(VALIDATING_POLICY_BINDINGS, space)
        await client.delete(VALIDATING_POLICIES, space)


# -- services


async def test_endpoints_written_by_hand_are_mirrored_and_lead_to_the_pod(
    cluster: Cluster, client: Client, space: str
) -> None:
    await client.create(
        PODS, pod("server", "mkdir /w; echo by hand > /w/index.html; httpd -f -p 8080 -h /w & wait"), space
    )
    [server] = await pods_are(client, space, 1)
    made = await client.create(
        SERVICES, {"metadata": {"name": "odd"}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]}}, space
    )
    subset = {"addresses": [{"ip": server["status"]["podIP"]}], "ports": [{"port": 8080}]}
    await client.create(ENDPOINTS, {"metadata": {"name": "odd"}, "subsets": [subset]}, space)
    [mirror] = await until(client, ENDPOINT_SLICES, lambda slices: len(slices) == 1, namespace=space)
    labels = mirror["metadata"]["labels"]
    assert labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"
    assert mirror["endpoints"][0]["addresses"] == [server["status"]["podIP"]]
    address = made["spec"]["clusterIP"]
    await asyncio.to_thread(cluster.until, lambda: reachable(address), "the service to answer", SECONDS)
    assert await asyncio.to_thread(fetch, f"http://{address}/") == "by hand\n"
    await client.delete(ENDPOINTS, "odd", space)
    await until(client, ENDPOINT_SLICES, lambda slices: not slices, namespace=space, deadline_seconds=SECONDS)


async def test_services_take_addresses_of_an_added_range_and_hold_it(
    cluster: Cluster, client: Client, space: str
) -> None:
    await client.create(
        PODS, pod("server", "mkdir /w; echo from afar > /w/index.html; httpd -f -p 8080 -h /w & wait"), space
    )
    await client.create(SERVICE_CIDRS, {"metadata": {"name": space}, "spec": {"cidrs": ["10.61.0.0/24"]}})
    await wait_for(client, SERVICE_CIDRS, space, lambda obj: condition(obj, "Ready").get("status") == "True")
    ports, selector = [{"port": 80, "targetPort": 8080}], {"app": "web"}
    spec = {"ports": ports, "selector": selector, "clusterIP": "10.61.0.9"}
    await client.create(SERVICES, {"metadata": {"name": "far"}, "spec": spec}, space)
    found = await wait_for(client, IP_ADDRESSES, "10.61.0.9", lambda _: True)
    assert found["spec"]["parentRef"] == {"group": "", "resource": "services", "namespace": space, "name": "far"}
    await pods_are(client, space, 1)
    await asyncio.to_thread(cluster.until, lambda: reachable("10.61.0.9"), "the service to answer", SECONDS)
    await client.delete(SERVICE_CIDRS, space)
    held = await wait_for(client, SERVICE_CIDRS, space, lambda obj: condition(obj, "Ready").get("status") == "False")
    assert condition(held, "Ready")["reason"] == "Terminating"
    await client.delete(SERVICES, "far", space)
    await until_gone(client, IP_ADDRESSES, "10.61.0.9", deadline_seconds=SECONDS)


# -- volumes


async def test_a_claim_grows_is_kept_while_it_is_used_and_takes_its_volume_along(
    cluster: Cluster, client: Client, space: str
) -> None:
    await client.create(PERSISTENT_VOLUME_CLAIMS, claim("disk"), space)
    await client.create(PODS, pod("user", f"echo kept > /data/file; {SLEEP}", **claimed("disk")), space)
    await pods_are(client, space, 1)
    grown = {"spec": {"resources": {"requests": {"storage": "2Mi"}}}}
    await client.patch(PERSISTENT_VOLUME_CLAIMS, "disk", grown, space)
    found = await wait_for(
        client, PERSISTENT_VOLUME_CLAIMS, "disk", lambda obj: obj["status"]["capacity"]["storage"] == "2Mi", space
    )
    volume = found["spec"]["volumeName"]
    assert (await client.get(PERSISTENT_VOLUMES, volume))["spec"]["capacity"]["storage"] == "2Mi"
    assert "kubernetes.io/pv-protection" in (await client.get(PERSISTENT_VOLUMES, volume))["metadata"]["finalizers"]
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "disk", space)
    await client.delete(PERSISTENT_VOLUMES, volume)
    held = await client.get(PERSISTENT_VOLUME_CLAIMS, "disk", space)
    assert held["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    assert (await client.get(PERSISTENT_VOLUMES, volume))["status"]["phase"] == "Bound"
    await client.delete(PODS, "user", space)
    await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "disk", namespace=space, deadline_seconds=SECONDS)
    await until_gone(client, PERSISTENT_VOLUMES, volume, deadline_seconds=SECONDS)
    folders = await asyncio.to_thread(os.listdir, cluster.layout.root / "volumes")
    assert not [name for name in folders if name.startswith(volume)]  # though a user deleted the volume first


async def test_a_volume_of_a_pods_own_comes_and_goes_with_it(client: Client, space: str) -> None:
    own = {"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": claim("x")["spec"]}}}
    made = await client.create(PODS, pod("scratch", f"echo x > /data/file; {SLEEP}", volumes=[own], **DATA), space)
    await pods_are(client, space, 1)
    found = await client.get(PERSISTENT_VOLUME_CLAIMS, "scratch-data", space)
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    await client.delete(PODS, "scratch", space)
    await until_gone(client, PERSISTENT_VOLUME_CLAIMS, "scratch-data", namespace=space, deadline_seconds=SECONDS)
    await until_gone(client, PERSISTENT_VOLUMES, found["spec"]["volumeName"], deadline_seconds=SECONDS)


async def test_a_volume_to_be_recycled_is_emptied_and_offered_again(client: Client, space: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".secret").write_text("of the last one")
    spec = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": space,
            "hostPath": {"path": str(tmp_path)}, "persistentVolumeReclaimPolicy": "Recycle"}  # fmt: skip
    await client.create(PERSISTENT_VOLUMES, {"metadata": {"name": space}, "spec": spec})
    body = claim("once")
    body["spec"]["storageClassName"] = space
    await client.create(PERSISTENT_VOLUME_CLAIMS, body, space)
    await wait_for(client, PERSISTENT_VOLUMES, space, lambda obj: obj["status"]["phase"] == "Bound")
    await client.delete(PERSISTENT_VOLUME_CLAIMS, "once", space)
    await wait_for(client, PERSISTENT_VOLUMES, space, lambda obj: obj["status"]["phase"] == "Available")
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
    await client.delete(PERSISTENT_VOLUMES, space)


# -- nodes


async def test_a_taint_drives_out_who_does_not_bear_it_each_in_its_time(client: Client, space: str) -> None:
    key = f"example.com/{space}"
    mine = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    await client.create(PODS, pod("stays", tolerations=[mine]), space)
    await client.create(PODS, pod("a-while", tolerations=[{**mine, "tolerationSeconds": 1}]), space)
    await client.create(PODS, pod("goes"), space)
    pods = await pods_are(client, space, 3)
    node = pods[0]["spec"]["nodeName"]
    await client.patch(NODES, node, {"spec": {"taints": [{"key": key, "effect": "NoExecute"}]}})
    try:
        await until_gone(client, PODS, "goes", namespace=space, deadline_seconds=SECONDS)
        await until_gone(client, PODS, "a-while", namespace=space, deadline_seconds=SECONDS)
        assert running(await client.get(PODS, "stays", space))
        assert "TaintManagerEviction" in await reasons(client, space)
    finally:
        await client.patch(NODES, node, {"spec": {"taints": None}})


# -- who may


async def test_a_role_that_is_a_sum_lets_its_account_do_what_is_added_later(
    client: Client, config: ClientConfig, space: str
) -> None:
    label = f"sum-{space}"
    total = {"metadata": {"name": label}, "rules": [],
             "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "yes"}}]}}  # fmt: skip
    part = {"metadata": {"name": f"{label}-part", "labels": {label: "yes"}},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}  # fmt: skip
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": space}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": label}
    await client.create(CLUSTER_ROLES, total)
    await client.create(CLUSTER_ROLE_BINDINGS, {"metadata": {"name": label}, "roleRef": role, "subjects": [subject]})
    secret = {"metadata": {"name": "key", "annotations": {"kubernetes.io/service-account.name": "default"}},
              "type": "kubernetes.io/service-account-token"}  # fmt: skip
    await client.create(SECRETS, secret, space)
    filled = await wait_for(client, SECRETS, "key", lambda obj: (obj.get("data") or {}).get("token"), space)
    try:
        token = base64.b64decode(filled["data"]["token"]).decode()
        other = ClientConfig(server=config.server, ca_data=config.ca_data, ca_file=config.ca_file, token=token)
        async with Client(other) as account:
            with pytest.raises(errors.Forbidden):
                await account.list(CONFIG_MAPS, space)
            await client.create(CLUSTER_ROLES, part)
            await wait_for(client, CLUSTER_ROLES, label, lambda obj: obj["rules"])
            async with asyncio.timeout(SECONDS):
                while True:
                    try:
                        found = await account.list(CONFIG_MAPS, space)
                    except errors.Forbidden:
                        await asyncio.sleep(0.05)
                    else:
                        break
        assert [one["metadata"]["name"] for one in found["items"]] == ["kube-root-ca.crt"]
    finally:
        for name in (label, f"{label}-part"):
            await client.delete(CLUSTER_ROLES, name)
        await client.delete(CLUSTER_ROLE_BINDINGS, label)


async def test_an_approved_certificate_opens_the_door_as_whom_it_names(
    client: Client, config: ClientConfig, space: str
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, space)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(names).sign(key, hashes.SHA256())
    spec = {"request": base64.b64encode(asked.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}  # fmt: skip
    await client.create(CERTIFICATE_SIGNING_REQUESTS, {"metadata": {"name": space}, "spec": spec})
    approved = {"type": "Approved", "status": "True", "reason": "Trusted", "message": "known in person"}
    patch = {"status": {"conditions": [approved]}}
    await client.patch(CERTIFICATE_SIGNING_REQUESTS, space, patch, subresource="approval")
    found = await wait_for(client, CERTIFICATE_SIGNING_REQUESTS, space, lambda obj: obj["status"].get("certificate"))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    identity = ClientConfig(
        server=config.server, ca_data=config.ca_data, ca_file=config.ca_file,
        cert_data=base64.b64decode(found["status"]["certificate"]), key_data=pem,
    )  # fmt: skip
    async with Client(identity) as other:
        with pytest.raises(errors.Forbidden, match=f'User "{space}" cannot list resource "pods"'):
            await other.list(PODS, space)


async def test_a_new_machine_can_trust_the_cluster_by_its_token_alone(cluster: Cluster, client: Client) -> None:
    token = cluster.wherry("token", "create", "--ttl", "1h", "--data-dir", str(cluster.layout.root)).split()
    found = next(word for word in token if word.count(".") == 1 and len(word) == 23)
    name = found.partition(".")[0]

    def signed(obj: Body) -> bool:
        return f"jws-kubeconfig-{name}" in obj["data"]

    told = await wait_for(client, CONFIG_MAPS, "cluster-info", signed, "kube-public")
    assert "certificate-authority-data" in told["data"]["kubeconfig"]
    await client.delete(SECRETS, f"bootstrap-token-{name}", "kube-system")
    await wait_for(client, CONFIG_MAPS, "cluster-info", lambda obj: not signed(obj), "kube-public")
