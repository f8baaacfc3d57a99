"""Claims of devices: which devices a claim gets, on which nodes."""

from typing import Any

import pytest

from scheduler.cluster import Cluster
from scheduler.devices.extended import Ask, classes_by_resource, wanted_of
from scheduler.explain import explain
from scheduler.plugins.dynamic_resources import DynamicResources
from scheduler.pods import Pod
from scheduler.schedule_one import Unschedulable
from scheduler.table import NodeTable
from tests.unit.scheduler.builders import READER, choose, chooser, node, pod, pod_object, table

DRIVER = "gpu.example.com"


def device(name: str, **attributes: Any) -> dict[str, Any]:
    typed = {key: {"int" if isinstance(value, int) else "string": value} for key, value in attributes.items()}
    return {"name": name, "attributes": typed, "capacity": {"memory": {"value": "16Gi"}}}


def slice_of(node_name: str, *devices: dict[str, Any], **where: Any) -> dict[str, Any]:
    spec = {
        "driver": DRIVER,
        "pool": {"name": node_name or "shared", "generation": 1, "resourceSliceCount": 1},
        "devices": list(devices),
    }
    return {"metadata": {"name": node_name or "shared"}, "spec": {**spec, **(where or {"nodeName": node_name})}}


def claim(name: str, *requests: dict[str, Any], allocation: Any = None, **devices: Any) -> dict[str, Any]:
    spec = {"devices": {"requests": list(requests), **devices}}
    status = {"allocation": allocation} if allocation else {}
    return {"metadata": {"namespace": "n", "name": name, "uid": name}, "spec": spec, "status": status}


def request(name: str = "r", **exactly: Any) -> dict[str, Any]:
    return {"name": name, "exactly": {"deviceClassName": "gpu", **exactly}}


def cel(expression: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": expression}}]


def cluster(claims: list[Any], slices: list[Any], **of_class: Any) -> Cluster:
    spec = {"selectors": cel(f'device.driver == "{DRIVER}"'), **of_class}
    classes = {"gpu": {"metadata": {"name": "gpu"}, "spec": spec}}
    by_name = {one["metadata"]["name"]: one for one in claims}
    return Cluster(
        device_classes=classes.values,
        device_claim=lambda namespace, name: by_name.get(name),
        device_claims=lambda: claims,
        device_slices=lambda: slices,
        device_class=classes.get,
    )


def using(*names: str) -> Any:
    return pod("p", resourceClaims=[{"name": f"c{at}", "resourceClaimName": one} for at, one in enumerate(names)])


NODES = (node("a"), node("b"), node("c"))


def refusal(claims: list[Any], slices: list[Any], *names: str) -> str:
    with pytest.raises(Unschedulable) as caught:
        choose(table(*NODES), using(*names), cluster(claims, slices))
    return str(caught.value)


def test_a_pod_goes_where_its_devices_are() -> None:
    slices = [slice_of("a", device("0")), slice_of("b", device("0"), device("1"))]
    assert choose(table(*NODES), using("x"), cluster([claim("x", request(count=2))], slices)) == "b"
    text = refusal([claim("x", request(count=3))], slices, "x")
    assert text.startswith("0/3 nodes are available: 3 cannot allocate all claims.")


def test_selectors_choose_by_attributes_and_capacity() -> None:
    slices = [slice_of("a", device("0", model="old")), slice_of("b", device("0", model="new", index=3))]
    wanted = cel(
        f'device.attributes["{DRIVER}"].model == "new" && device.attributes["{DRIVER}"].index > 2 '
        f'&& device.capacity["{DRIVER}"].memory.compareTo(quantity("8Gi")) > 0'
    )
    assert choose(table(*NODES), using("x"), cluster([claim("x", request(selectors=wanted))], slices)) == "b"


def test_what_others_have_is_not_given_again_and_administrators_share() -> None:
    results = [{"request": "r", "driver": DRIVER, "pool": "a", "device": "0"}]
    taken = claim("old", request(), allocation={"devices": {"results": results}})
    slices = [slice_of("a", device("0"))]
    assert "cannot allocate all claims" in refusal([taken, claim("x", request())], slices, "x")
    watching = claim("x", request(adminAccess=True))
    assert choose(table(*NODES), using("x"), cluster([taken, watching], slices)) == "a"


def test_an_allocated_claim_ties_its_pods_to_its_nodes() -> None:
    rule = {"key": "metadata.name", "operator": "In", "values": ["c"]}
    allocation = {"devices": {"results": []}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [rule]}]}}
    assert choose(table(*NODES), using("x"), cluster([claim("x", request(), allocation=allocation)], [])) == "c"


def test_constraints_hold_over_the_requests_they_name() -> None:
    same = [{"requests": ["one", "two"], "matchAttribute": f"{DRIVER}/numa"}]
    two = claim("x", request("one"), request("two"), constraints=same)
    apart = [slice_of("a", device("0", numa=0), device("1", numa=1))]
    assert "cannot allocate all claims" in refusal([two], apart, "x")
    # The first choice leads nowhere: the search goes back.
    together = [slice_of("a", device("0", numa=0), device("1", numa=1), device("2", numa=1))]
    assert choose(table(*NODES), using("x"), cluster([two], together)) == "a"


def test_the_first_alternative_that_is_to_be_had_is_taken() -> None:
    either = {"name": "r", "firstAvailable": [
        {"name": "big", "deviceClassName": "gpu", "selectors": cel(f'device.attributes["{DRIVER}"].model == "big"')},
        {"name": "small", "deviceClassName": "gpu"},
    ]}  # fmt: skip
    slices = [slice_of("b", device("0", model="small"))]
    assert choose(table(*NODES), using("x"), cluster([claim("x", either)], slices)) == "b"


def test_all_devices_means_all_and_old_generations_do_not_count() -> None:
    old = slice_of("a", device("0"), device("gone"))
    old["spec"]["pool"]["generation"] = 0
    slices = [old, slice_of("a", device("0"))]
    every = claim("x", request(allocationMode="All"))
    results = [{"request": "r", "driver": DRIVER, "pool": "a", "device": "gone"}]
    other = claim("old", request(), allocation={"devices": {"results": results}})
    assert choose(table(*NODES), using("x"), cluster([every, other], slices)) == "a"


def test_devices_of_the_network_are_reached_from_all_nodes_and_claims_share_them_out() -> None:
    slices = [slice_of("", device("0"), device("1"), allNodes=True)]
    claims = [claim("x", request()), claim("y", request())]
    choose(table(*NODES), using("x", "y"), cluster(claims, slices))
    claims.append(claim("z", request()))
    assert "3 cannot allocate all claims" in refusal(claims, slices, "x", "y", "z")


def test_a_claim_that_is_not_made_yet_is_waited_for() -> None:
    text = refusal([], [], "x")
    assert 'waiting for resourceclaim of pod claim "c0" to be created' in text


def given(nodes: NodeTable, one: Pod, found: Cluster) -> dict[str, Any]:
    """Choose a node, reserve there, and return what each claim is promised, by uid."""
    using_these = chooser(nodes, found)
    cycle = using_these.cycle(one)
    row = using_these.choose_in(cycle)
    (plugin,) = (plugin for plugin in using_these.profile.plugins if isinstance(plugin, DynamicResources))
    plugin.reserve(cycle, nodes.nodes[row])
    return found.promised


def partitioned(*devices: tuple[str, int]) -> list[dict[str, Any]]:
    """Return the slices of a pool whose devices share eight units of memory."""
    counters = {"name": "card", "counters": {"memory": {"value": "8Gi"}}}
    parts = [
        {**device(name), "consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": f"{size}Gi"}}}]}
        for name, size in devices
    ]
    both = [slice_of("a", *parts), slice_of("a")]
    both[1]["metadata"]["name"], both[1]["spec"]["sharedCounters"] = "a-counters", [counters]
    for one in both:
        one["spec"]["pool"]["resourceSliceCount"] = 2
    return both


def test_parts_of_one_card_that_exclude_each_other_are_not_given_together() -> None:
    slices = partitioned(("half-0", 4), ("half-1", 4), ("whole", 8))
    results = [{"request": "r", "driver": DRIVER, "pool": "a", "device": "half-0"}]
    taken = claim("old", request(), allocation={"devices": {"results": results}})
    assert given(table(*NODES), using("x"), cluster([taken, claim("x", request())], slices))
    whole = cel('device.capacity["gpu.example.com"].memory.compareTo(quantity("1Gi")) > 0')
    assert "cannot allocate all claims" in refusal([taken, claim("x", request(count=2, selectors=whole))], slices, "x")
    # Both halves together leave nothing of the whole, nor the whole anything of them.
    assert given(table(*NODES), using("x"), cluster([claim("x", request(count=2))], slices))
    assert "cannot allocate all claims" in refusal([claim("x", request(count=3))], slices, "x")


def test_nothing_is_taken_from_a_pool_whose_slices_are_not_all_there_or_that_contradicts_itself() -> None:
    slices = partitioned(("half-0", 4))
    assert "cannot allocate all claims" in refusal([claim("x", request())], slices[:1], "x")
    text = refusal([claim("x", request(allocationMode="All"))], slices[:1], "x")
    pool = f"{DRIVER}/a"
    assert f"asks for all devices, but resource pool {pool} is currently being updated" in text
    slices[1]["spec"]["sharedCounters"][0]["name"] = "another"
    assert "1 invalid resource pools were encountered" in refusal([claim("x", request())], slices, "x")


def test_claims_share_a_device_until_its_capacity_is_used_up() -> None:
    policy = {"default": "1Gi", "validRange": {"min": "1Gi", "step": "2Gi"}}
    shared = {"name": "nic", "allowMultipleAllocations": True}
    shared["capacity"] = {"bandwidth": {"value": "10Gi", "requestPolicy": policy}}
    slices = [slice_of("a", shared)]
    asked = request(capacity={"requests": {"bandwidth": "4Gi"}})
    (allocation,) = given(table(*NODES), using("x"), cluster([claim("x", asked)], slices)).values()
    (result,) = allocation["devices"]["results"]
    assert result["consumedCapacity"] == {"bandwidth": "5Gi"}  # rounded up to a step
    assert len(result["shareID"]) == 36
    first = claim("x", asked, allocation=allocation)
    (second,) = given(table(*NODES), using("y"), cluster([first, claim("y", asked)], slices)).values()
    assert second["devices"]["results"][0]["shareID"] != result["shareID"]
    claims = [first, claim("y", asked, allocation=second), claim("z", request())]
    assert "cannot allocate all claims" in refusal(claims, slices, "z")
    assert "cannot allocate all claims" in refusal(
        [claim("x", request(capacity={"requests": {"bandwidth": "11Gi"}}))], slices, "x"
    )
    assert "cannot allocate all claims" in refusal(
        [claim("x", request(capacity={"requests": {"ports": "1"}}))], slices, "x"
    )


def test_an_allocation_tells_configuration_tolerations_conditions_and_where_it_holds() -> None:
    tainted = {**device("0"), "taints": [{"key": "k", "effect": "NoExecute"}]}
    tainted |= {"bindingConditions": ["ready"], "bindingFailureConditions": ["failed"]}
    opaque = {"opaque": {"driver": DRIVER, "parameters": {"a": 1}}}
    rule = {"key": "zone", "operator": "In", "values": ["z"]}
    where = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    slices = [slice_of("", tainted, nodeSelector=where)]
    tolerations = [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]
    wishes = {"config": [{"requests": ["other"], **opaque}, {"requests": ["r"], **opaque}, opaque]}
    asked = claim("x", request(tolerations=tolerations), **wishes)
    nodes = table(node("a", labels={"zone": "z"}), node("b"))
    assert given(nodes, using("x"), cluster([asked], slices, config=[opaque])) == {
        "x": {
            "devices": {
                "results": [{
                    "request": "r", "driver": DRIVER, "pool": "shared", "device": "0", "tolerations": tolerations,
                    "bindingConditions": ["ready"], "bindingFailureConditions": ["failed"],
                }],
                "config": [
                    {"source": "FromClass", **opaque}, {"source": "FromClaim", **opaque},
                    {"source": "FromClaim", **opaque},
                ],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]},
        }
    }  # fmt: skip
    assert "cannot allocate all claims" in refusal([claim("x", request())], slices, "x")


def test_a_node_with_the_device_that_is_liked_best_is_chosen() -> None:
    either = {"name": "r", "firstAvailable": [
        {"name": "big", "deviceClassName": "gpu", "selectors": cel(f'device.attributes["{DRIVER}"].model == "big"')},
        {"name": "small", "deviceClassName": "gpu"},
    ]}  # fmt: skip
    slices = [slice_of(name, device("0", model="big" if name == "c" else "small")) for name in "abc"]
    for _ in range(5):
        assert choose(table(*NODES), using("x"), cluster([claim("x", either)], slices)) == "c"


def test_an_expression_that_fails_is_the_claims_fault_and_an_unknown_domain_is_not() -> None:
    slices = [slice_of("a", device("0"))]
    text = refusal([claim("x", request(selectors=cel(f'device.attributes["{DRIVER}"].nope == 1')))], slices, "x")
    assert f"claim n/x: selector #0 on device {DRIVER}/a/0: CEL runtime error: " in text
    wanted = cel('!("any" in device.attributes["nobody.example.com"]) && !device.allowMultipleAllocations')
    assert choose(table(*NODES), using("x"), cluster([claim("x", request(selectors=wanted))], slices)) == "a"


def test_why_tells_how_many_devices_are_free() -> None:
    results = [{"request": "r", "driver": DRIVER, "pool": "a", "device": "0"}]
    taken = claim("old", request(), allocation={"devices": {"results": results}})
    nodes, slices = table(*NODES), [slice_of("a", device("0"), device("1"))]
    found = cluster([taken, claim("x", request(count=2))], slices)
    answer = explain(chooser(nodes, found), nodes, using("x"))
    assert answer["changes"] == ["asks for 2 of class gpu (1 of 2 in the cluster are free)"]


def test_a_class_that_is_not_there_is_named() -> None:
    text = refusal([claim("x", request(deviceClassName="nope"))], [], "x")
    assert text.startswith("0/3 nodes are available: request r: device class nope does not exist.")


def test_devices_stand_for_an_extended_resource_where_the_node_has_none_itself() -> None:
    own = node("b", more={"example.com/gpu": "1"})
    nodes = table(node("a"), own, node("c"))
    slices = [slice_of("a", device("0"), device("1"))]
    found = cluster([], slices, extendedResourceName="example.com/gpu")
    nodes.set_device_resources(classes_by_resource(found.device_classes()))
    two = _asking(2)
    (allocation,) = given(nodes, two, found).values()
    assert [one["device"] for one in allocation["devices"]["results"]] == ["0", "1"]
    assert {one["request"] for one in allocation["devices"]["results"]} == {"container-0-request-0"}
    found.promised.clear()
    with pytest.raises(Unschedulable) as caught:
        choose(nodes, _asking(3), found)
    expected = "0/3 nodes are available: 1 Insufficient example.com/gpu, 2 cannot allocate all claims."
    assert str(caught.value.diagnosis) == expected
    slices[0]["spec"]["devices"] = []
    assert choose(nodes, _asking(1), cluster([], slices, extendedResourceName="example.com/gpu")) == "b"
    # Every class has a resource of its own name, too.
    slices = [slice_of("c", device("0"))]
    assert choose(nodes, _asking(1, "deviceclass.resource.kubernetes.io/gpu"), cluster([], slices)) == "c"


def _asking(number: int, resource: str = "example.com/gpu") -> Pod:
    obj = pod_object("p")
    obj["spec"]["containers"][0]["resources"] = {"requests": {resource: str(number)}}
    return READER.read_object(obj)


def test_init_containers_use_the_devices_of_those_that_come_after_them() -> None:
    classes = {"e/x": {"metadata": {"name": "c"}}}
    asks = [
        Ask(0, "first", False, (("e/x", 1, 0),)), Ask(1, "second", False, (("e/x", 5, 0),)),
        Ask(2, "sidecar", True, (("e/x", 1, 0),)), Ask(3, "main", True, (("e/x", 2, 1),)),
    ]  # fmt: skip
    wanted = wanted_of(asks, ["e/x"], classes)
    assert {one["name"]: one["exactly"]["count"] for one in wanted.requests} == {
        "container-1-request-0": 2, "container-2-request-0": 1, "container-3-request-1": 2,
    }  # fmt: skip
    by_container: dict[str, list[str]] = {}
    for one in wanted.mappings:
        by_container.setdefault(one["containerName"], []).append(one["requestName"])
    assert by_container == {
        "sidecar": ["container-2-request-0"], "main": ["container-3-request-1"], "first": ["container-2-request-0"],
        "second": ["container-2-request-0", "container-3-request-1", "container-1-request-0"],
    }  # fmt: skip


def test_a_claim_that_keeps_its_pod_from_every_node_is_given_back_if_nobody_else_uses_it() -> None:
    rule = {"key": "metadata.name", "operator": "In", "values": ["gone"]}
    allocation = {"devices": {"results": []}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [rule]}]}}
    stuck = claim("x", request(), allocation=allocation)
    found, nodes = cluster([stuck], []), table(*NODES)
    using_these = chooser(nodes, found)
    cycle = using_these.cycle(using("x"))
    with pytest.raises(Unschedulable) as caught:
        using_these.choose_in(cycle)
    (plugin,) = (plugin for plugin in using_these.profile.plugins if isinstance(plugin, DynamicResources))
    rescue = plugin.post_filter(cycle, caught.value.diagnosis.resolvable)
    assert rescue.text == "deallocation of ResourceClaim completed"
    stuck["status"]["reservedFor"] = [{"resource": "pods", "name": "other", "uid": "other"}]
    assert plugin.post_filter(cycle, caught.value.diagnosis.resolvable).text == "still not schedulable"
    no_claims = using_these.cycle(pod("plain"))
    assert plugin.post_filter(no_claims, caught.value.diagnosis.resolvable).text == "no new claims to deallocate"


def test_a_search_that_leads_nowhere_ends_nonetheless() -> None:
    """Twenty devices and ten requests that can't all be served: to try everything would take days."""
    slices = [slice_of(name, *(device(str(at), numa=at) for at in range(20))) for name in "abc"]
    requests = [request(f"r{at}") for at in range(10)]
    same = [{"requests": ["r8", "r9"], "matchAttribute": f"{DRIVER}/numa"}]
    text = refusal([claim("x", *requests, constraints=same)], slices, "x")
    assert text.startswith("0/3 nodes are available: 3 timed out trying to allocate devices.")
