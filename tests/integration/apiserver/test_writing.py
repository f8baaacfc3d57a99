"""Create, update, patch and delete, as the API reference tells them.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import asyncio
from typing import Any

import pytest

from apiserver.app import APIServer
from machinery import errors
from machinery.api.meta import Resource
from machinery.api.resources import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    CRON_JOBS,
    DEPLOYMENTS,
    DEVICE_CLASSES,
    EVENTS,
    LEASES,
    LIMIT_RANGES,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    POD_TEMPLATES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICES,
)
from machinery.client.rest import Client, PatchType
from tests.integration.apiserver.conftest import pod


async def test_a_new_object_is_given_identity_and_defaults(client: Client) -> None:
    made = await client.create(PODS, pod("web"), "default")
    assert made["metadata"]["uid"]
    assert made["metadata"]["resourceVersion"].isdigit()
    assert (made["spec"]["restartPolicy"], made["spec"]["containers"][0]["imagePullPolicy"]) == (
        "Always",
        "IfNotPresent",
    )
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert await client.get(PODS, "web", "default") == made


async def test_generate_name_appends_five_letters(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"generateName": "conf-"}}, "default")
    assert len(made["metadata"]["name"]) == len("conf-") + 5


async def test_a_name_is_taken_once(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    with pytest.raises(errors.AlreadyExists, match='^configmaps "a" already exists$'):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")


async def test_an_update_from_a_stale_read_is_refused_and_changes_nothing(client: Client) -> None:
    first = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}, "default")
    second = await client.update(CONFIG_MAPS, {**first, "data": {"n": "2"}})
    with pytest.raises(errors.Conflict, match='Operation cannot be fulfilled on configmaps "a": the object has been'):
        await client.update(CONFIG_MAPS, {**first, "data": {"n": "3"}})
    assert await client.get(CONFIG_MAPS, "a", "default") == second


async def test_concurrent_patches_are_all_applied(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    await asyncio.gather(*(client.patch(CONFIG_MAPS, "a", {"data": {f"k{n}": "x"}}, "default") for n in range(16)))
    assert len((await client.get(CONFIG_MAPS, "a", "default"))["data"]) == 16


async def test_a_write_that_changes_nothing_makes_no_new_version(client: Client) -> None:
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}, "default")
    assert await client.patch(CONFIG_MAPS, "a", {"data": {"n": "1"}}, "default") == made


@pytest.mark.parametrize(
    ("type_", "patch"),
    [
        (PatchType.JSON, [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "web:2"}]),
        (PatchType.STRATEGIC, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}}),
        (PatchType.MERGE, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "web:2"}]}}}}),
    ],
    ids=["json", "strategic", "merge"],
)
async def test_each_kind_of_patch_changes_the_template_and_the_generation(
    client: Client, type_: PatchType, patch: Any
) -> None:
    await client.create(DEPLOYMENTS, deployment("web"), "default")
    changed = await client.patch(DEPLOYMENTS, "web", patch, "default", type=type_)
    containers = changed["spec"]["template"]["spec"]["containers"]
    assert [one["image"] for one in containers] == ["web:2"]
    assert changed["metadata"]["generation"] == 2
    # Lists of a merge patch are replaced whole, those of the others keep what they do not name.
    assert ("env" in containers[0]) == (type_ is not PatchType.MERGE)


async def test_status_and_spec_are_written_apart(client: Client) -> None:
    made = await client.create(DEPLOYMENTS, deployment("web"), "default")
    told = await client.patch(
        DEPLOYMENTS, "web", {"spec": {"replicas": 9}, "status": {"replicas": 3}}, "default", subresource="status"
    )
    assert (told["spec"]["replicas"], told["status"]["replicas"]) == (1, 3)
    changed = await client.update(DEPLOYMENTS, {**told, "spec": {**made["spec"], "replicas": 2}, "status": {}})
    assert (changed["spec"]["replicas"], changed["status"]["replicas"]) == (2, 3)
    patch = {"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}}
    told = await client.patch(DEPLOYMENTS, "web", patch, "default", subresource="status")
    assert "labels" not in told["metadata"]  # a Deployment's status leaves its labels alone, unlike a Service's
    assert told["metadata"]["annotations"] == {"a": "b"}


async def test_scale_reads_and_writes_the_replicas(client: Client) -> None:
    await client.create(DEPLOYMENTS, deployment("web"), "default")
    await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 4}}, "default", subresource="scale")
    scale = await client.get(DEPLOYMENTS, "web", "default", subresource="scale")
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == ("Scale", 4, "app=web")


async def test_a_pod_is_bound_to_a_node_once(client: Client) -> None:
    await client.create(PODS, pod("web"), "default")
    binding = {"metadata": {"name": "web", "annotations": {"by": "me"}}, "target": {"kind": "Node", "name": "n1"}}
    await client.patch(PODS, "web", {"status": {"nominatedNodeName": "n0"}}, "default", subresource="status")
    await client.create(PODS, binding, "default", subresource="binding", name="web")
    bound = await client.get(PODS, "web", "default")
    assert (bound["spec"]["nodeName"], bound["metadata"]["annotations"]) == ("n1", {"by": "me"})
    assert "nominatedNodeName" not in bound["status"]
    assert [(one["type"], one["status"]) for one in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    with pytest.raises(errors.Conflict, match="already assigned to node"):
        await client.create(PODS, binding, "default", subresource="binding", name="web")
    gated = pod("gated")
    gated["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
    await client.create(PODS, gated, "default")
    binding["metadata"]["name"] = "gated"
    with pytest.raises(errors.Conflict, match="has non-empty .spec.schedulingGates"):
        await client.create(PODS, binding, "default", subresource="binding", name="gated")


async def test_an_object_with_finalizers_goes_when_the_last_is_taken(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a", "finalizers": ["example.org/wait"]}}, "default")
    marked = await client.delete(CONFIG_MAPS, "a", "default")
    assert marked["metadata"]["deletionTimestamp"]
    with pytest.raises(errors.Invalid, match="no new finalizers can be added"):
        await client.patch(
            CONFIG_MAPS, "a", {"metadata": {"finalizers": ["example.org/wait", "example.org/b"]}}, "default"
        )
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, "default")
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, "a", "default")


async def test_a_pod_on_a_node_is_given_its_grace_period(client: Client) -> None:
    await client.create(PODS, pod("web", nodeName="n1", terminationGracePeriodSeconds=20), "default")
    marked = await client.delete(PODS, "web", "default")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    shorter = await client.delete(PODS, "web", "default", options={"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    await client.delete(PODS, "web", "default", options={"gracePeriodSeconds": 0})
    with pytest.raises(errors.NotFound):
        await client.get(PODS, "web", "default")


async def test_a_delete_keeps_to_its_preconditions(client: Client) -> None:
    await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default")
    with pytest.raises(errors.Conflict, match="Precondition failed: UID in precondition: other"):
        await client.delete(CONFIG_MAPS, "a", "default", options={"preconditions": {"uid": "other"}})
    gone = await client.delete(CONFIG_MAPS, "a", "default")
    assert (gone["kind"], gone["status"], gone["details"]["name"]) == ("Status", "Success", "a")


async def test_a_collection_is_deleted_by_selector(client: Client) -> None:
    for name, tier in (("a", "x"), ("b", "y"), ("c", "x")):
        await client.create(CONFIG_MAPS, {"metadata": {"name": name, "labels": {"tier": tier}}}, "default")
    await client.delete_collection(CONFIG_MAPS, "default", label_selector="tier=x")
    assert [one["metadata"]["name"] for one in (await client.list(CONFIG_MAPS, "default"))["items"]] == ["b"]


async def test_a_dry_run_answers_and_writes_nothing(client: Client) -> None:
    params = {"dryRun": "All"}
    made = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "default", params=params)
    assert made["metadata"]["uid"]
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, "a", "default")
    real = await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}, "default")
    tried = await client.patch(CONFIG_MAPS, "a", {"data": {"n": "2"}}, "default", params=params)
    assert tried["data"] == {"n": "2"}
    assert await client.get(CONFIG_MAPS, "a", "default") == real


async def test_nothing_is_made_in_a_namespace_that_is_not_there_or_is_going(client: Client) -> None:
    with pytest.raises(errors.NotFound, match='namespaces "nowhere" not found'):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "nowhere")
    await client.create(NAMESPACES, {"metadata": {"name": "going"}})
    marked = await client.delete(NAMESPACES, "going")
    assert marked["status"]["phase"] == "Terminating"
    with pytest.raises(errors.Forbidden, match="because it is being terminated"):
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "going")


async def test_a_namespace_goes_when_it_is_finalized(client: Client) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": "going"}})
    marked = await client.delete(NAMESPACES, "going")
    await client.update(NAMESPACES, {**marked, "spec": {"finalizers": []}}, subresource="finalize")
    with pytest.raises(errors.NotFound):
        await client.get(NAMESPACES, "going")


async def test_services_are_given_addresses_of_their_own_and_keep_them(client: Client) -> None:
    spec = {"ports": [{"port": 80}], "type": "NodePort"}
    made = [await client.create(SERVICES, {"metadata": {"name": f"s{n}"}, "spec": spec}, "default") for n in range(5)]
    assert len({one["spec"]["clusterIP"] for one in made}) == 5
    assert len({one["spec"]["ports"][0]["nodePort"] for one in made}) == 5
    patched = await client.patch(SERVICES, "s0", {"spec": {"ports": [{"port": 81}]}}, "default")
    assert patched["spec"]["clusterIP"] == made[0]["spec"]["clusterIP"]
    taken = {"ports": [{"port": 80}], "clusterIP": made[1]["spec"]["clusterIP"]}
    with pytest.raises(errors.Invalid, match="provided IP is already allocated"):
        await client.create(SERVICES, {"metadata": {"name": "t"}, "spec": taken}, "default")


async def test_string_data_of_a_secret_is_stored_encoded(client: Client) -> None:
    made = await client.create(SECRETS, {"metadata": {"name": "a"}, "stringData": {"k": "hello"}}, "default")
    assert (made["data"], made["type"]) == ({"k": "aGVsbG8="}, "Opaque")


async def test_quantities_are_kept_in_their_canonical_form(client: Client) -> None:
    resources = {"requests": {"cpu": "0.5", "memory": "1024Mi"}}
    containers = [{"name": "c", "image": "web", "resources": resources}]
    made = await client.create(PODS, {"metadata": {"name": "a"}, "spec": {"containers": containers}}, "default")
    assert made["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}


async def test_nodes_have_no_namespace(client: Client) -> None:
    made = await client.create(NODES, {"metadata": {"name": "n1"}})
    assert "namespace" not in made["metadata"]


async def test_a_node_begins_with_the_status_it_comes_with_and_may_give_all_it_has(client: Client) -> None:
    status = {"capacity": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}
    made = await client.create(NODES, {"metadata": {"name": "n1"}, "status": status})
    assert made["status"]["conditions"][0]["type"] == "Ready"
    assert made["status"]["allocatable"] == {"cpu": "4"}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "web"}]}}
    assert (await client.create(PODS, pod | {"status": {"phase": "Running"}}, "default"))["status"][
        "phase"
    ] == "Pending"


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "c", "image": "web:1", "env": [{"name": "A", "value": "1"}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}


async def test_the_order_of_a_body_s_fields_does_not_matter(client: Client) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    body = {
        "spec": {"template": template, "selector": {"matchLabels": {"a": "b"}}}, "metadata": {"name": "backwards"},
        "apiVersion": "apps/v1", "kind": "Deployment",
    }  # fmt: skip
    made = await client.create(DEPLOYMENTS, body, "default")
    assert list(made)[:3] == ["kind", "apiVersion", "metadata"]
    assert made["metadata"]["resourceVersion"]
    assert made["spec"]["template"]["metadata"] == {"labels": {"a": "b"}}
    made["metadata"]["labels"] = {"x": "y"}
    assert (await client.update(DEPLOYMENTS, made))["metadata"]["labels"] == {"x": "y"}


@pytest.mark.parametrize(
    ("resource", "body"),
    [
        (LEASES, {"spec": {"holderIdentity": "a"}}),
        (POD_DISRUPTION_BUDGETS, {"spec": {"minAvailable": 1}}),
        (RUNTIME_CLASSES, {"handler": "runc"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Resource) else "",
)
async def test_some_kinds_are_replaced_only_from_a_known_version(
    client: Client, resource: Resource, body: dict[str, Any]
) -> None:
    namespace = "default" if resource.namespaced else ""
    made = await client.create(resource, {"metadata": {"name": "a"}, **body}, namespace)
    del made["metadata"]["resourceVersion"]
    why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    with pytest.raises(errors.Invalid, match=why):
        await client.update(resource, made)
    patched = await client.patch(resource, "a", {"metadata": {"labels": {"x": "y"}}}, namespace)
    assert (await client.update(resource, patched))["metadata"]["labels"] == {"x": "y"}


async def test_some_kinds_are_created_by_put(client: Client) -> None:
    limit = {"type": "Container", "max": {"cpu": "1"}}
    body = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"limits": [limit]}}
    assert (await client.update(LIMIT_RANGES, body))["metadata"]["uid"]
    with pytest.raises(errors.NotFound):
        await client.update(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "default"}})


async def test_an_absent_struct_is_an_empty_one(client: Client) -> None:
    made = await client.create(DEVICE_CLASSES, {"metadata": {"name": "a"}})
    assert made["spec"] == {}
    with pytest.raises(errors.Invalid) as caught:
        await client.create(CRON_JOBS, {"metadata": {"name": "a"}, "spec": {"schedule": "* * * * *"}}, "default")
    assert "spec.jobTemplate.spec.template.spec.containers: Required value" in str(caught.value)
    assert "spec.jobTemplate: Required" not in str(caught.value)


async def test_an_empty_text_takes_its_default(client: Client) -> None:
    port = {"port": 80, "protocol": ""}
    made = await client.create(
        SERVICES, {"metadata": {"name": "a"}, "spec": {"type": "", "ports": [port], "selector": {"a": "b"}}}, "default"
    )
    assert (made["spec"]["type"], made["spec"]["ports"][0]["protocol"]) == ("ClusterIP", "TCP")
    reference = {"apiGroup": "", "kind": "Role", "name": "r"}  # as client-go sends it
    bound = await client.create(ROLE_BINDINGS, {"metadata": {"name": "a"}, "roleRef": reference}, "default")
    assert bound["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"


async def test_roles_of_namespaces_give_no_paths(client: Client) -> None:
    rule = {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
    why = "rules\\[0\\].nonResourceURLs: Invalid value: .*: namespaced rules cannot apply to non-resource URLs"
    with pytest.raises(errors.Invalid, match=why):
        await client.create(ROLES, {"metadata": {"name": "a"}, "rules": [rule]}, "default")
    await client.create(CLUSTER_ROLES, {"metadata": {"name": "a"}, "rules": [rule]})


async def test_an_event_ends_with_its_lease_though_it_was_written_again(client: Client, server: APIServer) -> None:
    about = {"kind": "Pod", "namespace": "default", "name": "a"}
    await client.create(EVENTS, {"metadata": {"name": "e"}, "involvedObject": about, "reason": "R"}, "default")
    await client.patch(EVENTS, "e", {"count": 2}, "default")
    (lease,) = server.rest._leases.values()
    await server.cache.store.revoke_lease(lease)
    with pytest.raises(errors.NotFound):
        while True:
            await client.get(EVENTS, "e", "default")


async def test_strategic_patches_take_their_directives(client: Client) -> None:
    spec = {
        "containers": [{"name": name, "image": "i"} for name in "abc"],
        "template": None, "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [],
    }  # fmt: skip
    body = {"metadata": {"name": "p", "finalizers": ["x/a", "x/b"]}, "template": {"spec": spec}}
    await client.create(POD_TEMPLATES, body, "default")
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]},
        "template": {"spec": {
            "$setElementOrder/containers": [{"name": "d"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "b", "$patch": "delete"}, {"name": "d", "image": "n"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}],
        }},
    }  # fmt: skip
    made = await client.patch(POD_TEMPLATES, "p", patch, "default", type=PatchType.STRATEGIC)
    found = made["template"]["spec"]
    assert made["metadata"]["finalizers"] == ["x/b"]
    assert [one["name"] for one in found["containers"]] == ["d", "c", "a"]
    assert found["volumes"] == [{"name": "v", "hostPath": {"path": "/x", "type": ""}}]
    replaced = {"template": {"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "i"}]}}}
    made = await client.patch(POD_TEMPLATES, "p", replaced, "default", type=PatchType.STRATEGIC)
    assert [one["name"] for one in made["template"]["spec"]["containers"]] == ["z"]
