"""Who has to go for a more important pod: no more than needed, none as important, no budget broken without need."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cluster import Cluster
from scheduler.framework.plugin import Rescue
from scheduler.plugins.default_preemption import DefaultPreemption
from scheduler.pods import Pod
from scheduler.schedule_one import Unschedulable
from scheduler.table import NodeTable
from tests.unit.scheduler.builders import ZONE, chooser, node, pod, table


def rescue(
    nodes: NodeTable, one: Pod, cluster: Cluster | None = None, plugin: DefaultPreemption | None = None
) -> Rescue:
    places = chooser(nodes, cluster)
    cycle = places.cycle(one)
    with pytest.raises(Unschedulable) as caught:
        places.choose_in(cycle)
    return (plugin or DefaultPreemption()).post_filter(cycle, caught.value.diagnosis.resolvable)


def names(found: Rescue) -> list[str]:
    return sorted(one.name for one in found.victims)


def test_the_least_important_pods_go_and_no_more_than_needed() -> None:
    nodes = table(node("a", cpu="4"))
    for name, cpu, priority in (("low", "1", 1), ("lower", "2", 0), ("same", "1", 10)):
        nodes.put_pod(pod(name, cpu, priority=priority), "a")
    assert names(rescue(nodes, pod("new", "2", priority=10))) == ["lower"]
    assert names(rescue(nodes, pod("new", "3", priority=10))) == ["low", "lower"]
    found = rescue(nodes, pod("new", "4", priority=10))
    assert (found.node, found.victims) == ("", ())
    assert found.text == "preemption: 0/1 nodes are available: 1 Insufficient cpu."


def test_the_node_whose_victims_matter_least_is_chosen() -> None:
    nodes = table(node("a", cpu="2"), node("b", cpu="2"), node("c", cpu="2"))
    nodes.put_pod(pod("important", "2", priority=5), "a")
    for number in range(2):
        nodes.put_pod(pod(f"two-{number}", "1", priority=1), "b")
    nodes.put_pod(pod("one", "2", priority=1), "c")
    assert rescue(nodes, pod("new", "2", priority=10)).node == "c"


def test_of_equal_victims_those_that_started_last_go() -> None:
    nodes = table(node("a", cpu="2"), node("b", cpu="2"))
    for name, started in (("a", "2026-01-01T00:00:00Z"), ("b", "2026-01-02T00:00:00Z")):
        nodes.put_pod(pod(f"on-{name}", "2", status={"startTime": started}), name)
    assert rescue(nodes, pod("new", "2", priority=1)).node == "b"


def test_a_budget_is_broken_only_where_there_is_no_other_way() -> None:
    budget = {"metadata": {"name": "b", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"app": "x"}}},
              "status": {"disruptionsAllowed": 0}}  # fmt: skip
    cluster = Cluster(budgets=lambda: [budget])
    nodes = table(node("a", cpu="2"), node("b", cpu="2"))
    nodes.put_pod(pod("guarded", "2", labels={"app": "x"}), "a")
    nodes.put_pod(pod("free", "2", priority=5), "b")
    new = pod("new", "2", priority=10)
    assert rescue(nodes, new, cluster).node == "b"
    nodes.remove_pod("b", "free")
    nodes.put_pod(pod("as-important", "2", priority=10), "b")
    assert names(rescue(nodes, new, cluster)) == ["guarded"]


def test_a_pod_that_may_not_preempt_says_so() -> None:
    nodes = table(node("a", cpu="1"))
    nodes.put_pod(pod("low", "1"), "a")
    found = rescue(nodes, pod("new", "1", priority=10, preemptionPolicy="Never"))
    assert found == Rescue("preemption: not eligible due to preemptionPolicy=Never.")


def test_who_waits_for_victims_to_go_does_not_ask_for_more() -> None:
    nodes = table(node("a", cpu="1"))
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    going = pod("low", "1", deletionTimestamp="2026-01-01T00:00:00Z", status={"conditions": conditions})
    nodes.put_pod(going, "a")
    new = pod("new", "1", priority=10)
    nodes.nominate(new, "a")
    assert rescue(nodes, new).text == "preemption: not eligible due to a terminating pod on the nominated node."


def test_room_kept_for_a_nominated_pod_is_not_given_away_twice() -> None:
    nodes = table(node("a", cpu="1"), node("b", cpu="1"))
    plugin = DefaultPreemption()
    for name in "ab":
        nodes.put_pod(pod(f"low-{name}", "1"), name)
    first = rescue(nodes, pod("first", "1", priority=10), plugin=plugin)
    assert first.node
    nodes.nominate(pod("first", "1", priority=10), first.node)
    second = rescue(nodes, pod("second", "1", priority=10), plugin=plugin)
    assert {first.node, second.node} == {"a", "b"}


def test_a_nominated_pod_takes_the_place_kept_for_it_and_others_do_not() -> None:
    nodes = table(node("a", cpu="1"))
    waiting = pod("waiting", "1", priority=10)
    nodes.nominate(waiting, "a")
    with pytest.raises(Unschedulable, match="Insufficient cpu"):
        chooser(nodes).choose(pod("other", "1", priority=10))
    assert chooser(nodes).choose(pod("better", "1", priority=11)) == 0
    assert chooser(nodes).choose(waiting) == 0


def test_pods_in_the_way_of_anti_affinity_are_victims_too_and_the_table_is_left_as_it_was() -> None:
    nodes = table(node("a", labels={ZONE: "1"}))
    nodes.put_pod(pod("web", "1", labels={"app": "x"}), "a")
    nodes.put_pod(pod("other", "1"), "a")
    term = {"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "x"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    new = pod("new", "1", priority=10, affinity=apart)
    assert names(rescue(nodes, new)) == ["web"]
    assert set(nodes.by_name["a"].pods) == {"web", "other"}
    assert nodes.requested("cpu")[0] == 2000


def test_pods_nominated_for_a_node_are_kept_away_from_as_if_they_were_there() -> None:
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))
    term = {"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": "x"}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    nodes.nominate(pod("waiting", priority=10, labels={"app": "x"}), "a")
    one = pod("one", priority=10, affinity=apart)
    assert chooser(nodes).choose(one) == 1
    nodes.nominate(pod("other", priority=10, labels={"app": "x"}), "b")
    with pytest.raises(Unschedulable, match="2 node.s. didn't match pod anti-affinity rules"):
        chooser(nodes).choose(one)
    assert nodes.nodes[chooser(nodes).choose(pod("better", priority=11, affinity=apart))].name in ("a", "b")
    # It works both ways: a pod that waits may be the one with the term.
    nodes = table(node("a", labels={ZONE: "1"}), node("b", labels={ZONE: "2"}))
    nodes.nominate(pod("waiting", priority=10, affinity=apart), "a")
    assert chooser(nodes).choose(pod("x", labels={"app": "x"})) == 1
    assert not nodes.tallies.matching_all(()).any()


PODS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(PODS, st.integers(1, 4), st.integers(1, 4))
def test_arithmetic_and_trial_agree_and_keep_the_rules(there: list[Any], cpu: int, priority: int) -> None:
    def made() -> NodeTable:
        nodes = table(*(node(f"n{at}", cpu="4") for at in range(3)))
        for number, (at, size, rank) in enumerate(there):
            if nodes.requested("cpu")[at] + size * 1000 <= 4000:
                nodes.put_pod(pod(f"p{number}", str(size), priority=rank), f"n{at}")
        return nodes

    new = pod("new", str(cpu), priority=priority)
    nodes = made()
    try:
        chooser(nodes).choose(new)
        return
    except Unschedulable:
        pass
    nowhere = {"metadata": {"name": "x", "namespace": "elsewhere"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}}
    found = rescue(nodes, new)
    tried = rescue(made(), new, Cluster(budgets=lambda: [nowhere]))
    harm = [(one.priority, one.shape.needs.requests["cpu"]) for one in found.victims]
    assert (found.node, [rank for rank, _ in harm]) == (tried.node, [one.priority for one in tried.victims])
    if not found.node:
        return
    assert all(one.priority < priority for one in found.victims)
    free = 4000 - int(nodes.requested("cpu")[nodes.by_name[found.node].row])
    assert free + sum(size for _, size in harm) >= cpu * 1000
    for _, size in harm:  # each of them is needed
        assert free + sum(size for _, size in harm) - size < cpu * 1000
