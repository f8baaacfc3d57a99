"""Claims of devices: which devices a claim gets, on which nodes."""

from typing import Any

import pytest

from scheduler.cluster import Cluster
from scheduler.schedule_one import Unschedulable
from tests.unit.scheduler.builders import choose, node, pod, table

DRIVER = "gpu.example.com"


def device(name: str, **attributes: Any) -> dict[str, Any]:
    typed = {key: {"int" if isinstance(value, int) else "string": value} for key, value in attributes.items()}
    return {"name": name, "attributes": typed, "capacity": {"memory": {"value": "16Gi"}}}


def slice_of(node_name: str, *devices: dict[str, Any], **where: Any) -> dict[str, Any]:
    spec = {"driver": DRIVER, "pool": {"name": node_name or "shared", "generation": 1}, "devices": list(devices)}
    return {"metadata": {"name": node_name or "shared"}, "spec": {**spec, **(where or {"nodeName": node_name})}}


def claim(name: str, *requests: dict[str, Any], allocation: Any = None, **devices: Any) -> dict[str, Any]:
    spec = {"devices": {"requests": list(requests), **devices}}
    status = {"allocation": allocation} if allocation else {}
    return {"metadata": {"namespace": "n", "name": name, "uid": name}, "spec": spec, "status": status}


def request(name: str = "r", **exactly: Any) -> dict[str, Any]:
    return {"name": name, "exactly": {"deviceClassName": "gpu", **exactly}}


def cel(expression: str) -> list[dict[str, Any]]:
    return [{"cel": {"expression": expression}}]


def cluster(claims: list[Any], slices: list[Any]) -> Cluster:
    classes = {"gpu": {"metadata": {"name": "gpu"}, "spec": {"selectors": cel(f'device.driver == "{DRIVER}"')}}}
    by_name = {one["metadata"]["name"]: one for one in claims}
    return Cluster(
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
