"""KubeSchedulerConfiguration: profiles, weights, arguments; and other people's plugins."""

from pathlib import Path
from typing import Any

import pytest

from scheduler.config import ConfigError, from_object, read_config
from scheduler.framework.plugin import Codes, NodePlugin, PerNodePlugin
from scheduler.pods import Needs
from scheduler.registry import BUILT_IN
from scheduler.schedule_one import Chooser, Unschedulable
from scheduler.table import Node, NodeTable, Rows
from tests.unit.scheduler.builders import HOSTNAME, ZONE, node, pod, table


def choose(config: dict[str, Any], nodes: NodeTable, one: Any) -> str:
    return nodes.nodes[Chooser(nodes, from_object(config).profiles[0]).choose(one)].name


def test_a_file_names_its_profiles(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("""
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
podInitialBackoffSeconds: 2
leaderElection: {leaderElect: false, leaseDuration: 1m30s}
profiles:
- schedulerName: default-scheduler
- schedulerName: no-scoring
  plugins: {score: {disabled: [{name: "*"}]}, filter: {disabled: [{name: NodePorts}]}}
""")
    found = read_config(path)
    assert [one.name for one in found.profiles] == ["default-scheduler", "no-scoring"]
    assert (found.first_backoff_seconds, found.leader_elect) == (2.0, False)
    assert found.lease == {"lease_duration_seconds": 90.0}
    assert not found.profiles[1].node_scorers
    assert "NodePorts" in [one.name for one in found.profiles[0].filters]
    assert "NodePorts" not in [one.name for one in found.profiles[1].filters]


def test_kube_schedulers_own_flag_takes_the_file(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from cluster.components import scheduler

    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofile: []\n")
    found = CliRunner().invoke(scheduler, ["--config", str(path)])
    assert 'strict decoding error: unknown field "profile"' in found.output


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"profiles": [{}, {}]}, 'profiles[1].schedulerName: Duplicate value: "default-scheduler"'),
        ({"profiles": [{"plugins": {"filter": {"enabled": [{"name": "Nope"}]}}}]}, 'no plugin named "Nope"'),
        ({"profiles": [{"plugins": {"filters": {}}}]}, 'unknown field "filters"'),
        ({"podInitialBackoffSeconds": 0}, "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
        ({"podInitialBackoffSeconds": 20}, "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal"),
        (
            {"extenders": [{"urlPrefix": "http://a", "bindVerb": "b"}, {"urlPrefix": "http://b", "bindVerb": "b"}]},
            "only one extender can implement bind",
        ),
        (
            {"extenders": [{"urlPrefix": "http://a", "prioritizeVerb": "p", "weight": 0}]},
            "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
        ),
    ],
    ids=["twice", "unknown plugin", "unknown point", "no back-off", "order", "two that bind", "no weight"],
)
def test_what_makes_no_sense_is_refused_with_the_place(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_object(given)
    assert text in str(caught.value)


def with_args(name: str, **args: Any) -> dict[str, Any]:
    return {"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]}


def two_nodes() -> NodeTable:
    nodes = table(node("busy", labels={ZONE: "1"}), node("idle", labels={ZONE: "2"}))
    nodes.put_pod(pod("there", "2", labels={"app": "x"}), "busy")
    return nodes


def test_most_allocated_packs_nodes() -> None:
    packing = with_args("NodeResourcesFit", scoringStrategy={"type": "MostAllocated"})
    packing["profiles"][0]["plugins"] = {"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}}
    assert choose(packing, two_nodes(), pod(cpu="1")) == "busy"
    assert choose({}, two_nodes(), pod(cpu="1")) == "idle"


def test_requested_to_capacity_ratio_follows_its_curve() -> None:
    shape = [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]
    strategy = {
        "type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 1}],
        "requestedToCapacityRatio": {"shape": shape},
    }  # fmt: skip
    packing = with_args("NodeResourcesFit", scoringStrategy=strategy)
    packing["profiles"][0]["plugins"] = {"score": {"disabled": [{"name": "NodeResourcesBalancedAllocation"}]}}
    assert choose(packing, two_nodes(), pod(cpu="1")) == "busy"
    for at, point in enumerate(shape):
        point["score"] = 10 - 10 * at
    assert choose(packing, two_nodes(), pod(cpu="1")) == "idle"


def test_added_affinity_holds_for_every_pod_of_the_profile() -> None:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["1"]}]}]}
    added = with_args("NodeAffinity", addedAffinity={"requiredDuringSchedulingIgnoredDuringExecution": terms})
    assert choose(added, two_nodes(), pod(cpu="1")) == "busy"


def test_ignored_extended_resources_are_not_looked_at() -> None:
    ignoring = with_args("NodeResourcesFit", ignoredResourceGroups=["example.com"])
    asked = pod("new", "1")
    asked.shape.needs.requests["example.com/gpu"] = 1  # type: ignore[index]
    assert choose(ignoring, two_nodes(), asked) == "idle"


def test_default_constraints_of_a_list_take_the_place_of_the_systems() -> None:
    defaults = [{"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "DoNotSchedule"}]
    config = with_args("PodTopologySpread", defaultConstraints=defaults, defaultingType="List")
    from scheduler.cluster import Cluster

    cluster = Cluster(services=lambda namespace: [{"app": "x"}])
    nodes = two_nodes()
    places = Chooser(nodes, from_object(config).profiles[0], cluster)
    assert nodes.nodes[places.choose(pod("new", labels={"app": "x"}))].name == "idle"


class OnlyVowels(NodePlugin):
    """A plugin of somebody else's."""

    name = "OnlyVowels"

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        import numpy as np

        return np.array([one.name[0] not in "aeiou" for one in table.nodes], dtype=bool)[rows]


class ByName(PerNodePlugin):
    """One of somebody who thinks of one node at a time."""

    name = "ByName"

    def allows(self, needs: Needs, node: Node) -> str:
        return "node(s) were called busy" if node.name == "busy" else ""

    def rates(self, needs: Needs, node: Node) -> int:
        return 100 if node.name == "third" else 0


def test_a_plugin_may_look_at_one_node_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "ByName", lambda args: ByName())  # type: ignore[attr-defined]
    config = {"profiles": [{"plugins": {"multiPoint": {"enabled": [{"name": "ByName", "weight": 5}]}}}]}
    nodes = two_nodes()
    nodes.put_node(node("third"))
    nodes.put_pod(pod("there-too", "1"), "third")
    assert choose(config, nodes, pod(cpu="1")) == "third"
    with pytest.raises(Unschedulable, match="1 node.s. were called busy"):
        choose(config, table(node("busy")), pod())


def test_plugins_come_from_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("OnlyVowels", f"{__name__}:OnlyVowels", "wherry.scheduler_plugins")
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda *, group, name: [entry] if (group, name) == (entry.group, entry.name) else [],
    )
    monkeypatch.setattr(OnlyVowels, "__init__", lambda self, args: None)
    config = {"profiles": [{"plugins": {"multiPoint": {"enabled": [{"name": "OnlyVowels"}]}}}]}
    assert choose(config, two_nodes(), pod(cpu="1")) == "idle"
