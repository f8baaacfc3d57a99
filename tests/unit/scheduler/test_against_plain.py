"""Every rule over arrays, compared with its plain version on random clusters: they never differ."""

import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.framework.plugin import NodePlugin, Rejected
from scheduler.pods import Pod
from scheduler.schedule_one import Chooser
from scheduler.table import ALL, NodeTable
from tests.unit.scheduler import plain
from tests.unit.scheduler.builders import HOSTNAME, READER, ZONE, chooser, node, pod_object, table

# The suite takes a hundred; `WHERRY_CASES=5000 pytest …` looks closer.
CASES = settings(
    max_examples=int(os.environ.get("WHERRY_CASES", "100")), deadline=None, suppress_health_check=list(HealthCheck)
)
KEYS = ("app", "tier")
LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from("ab"), max_size=2)
NAMESPACES = {"n": {"team": "one"}, "other": {"team": "two"}}
SELECTORS = st.one_of(
    st.none(),
    st.just({}),
    st.builds(lambda given: {"matchLabels": given}, LABELS),
    st.builds(
        lambda key, operator, values: {"matchExpressions": [{"key": key, "operator": operator, "values": values}]},
        st.sampled_from(KEYS), st.sampled_from(["In", "NotIn"]), st.lists(st.sampled_from("ab"), min_size=1, unique=True),
    ),
    st.builds(
        lambda key, operator: {"matchExpressions": [{"key": key, "operator": operator}]},
        st.sampled_from(KEYS), st.sampled_from(["Exists", "DoesNotExist"]),
    ),
)  # fmt: skip
TOPOLOGY = st.sampled_from([HOSTNAME, ZONE, "rack"])


@st.composite
def terms(draw: Any) -> dict[str, Any]:
    term = {"topologyKey": draw(TOPOLOGY), "labelSelector": draw(SELECTORS)}
    if draw(st.booleans()):
        term["namespaces"] = draw(st.lists(st.sampled_from(["n", "other"]), max_size=2, unique=True))
    if draw(st.booleans()):
        term["namespaceSelector"] = draw(st.sampled_from([{}, {"matchLabels": {"team": "two"}}]))
    return term


def weighted(field: str, what: Any) -> Any:
    return st.lists(st.builds(lambda w, one: {"weight": w, field: one}, st.integers(1, 100), what), max_size=2)


REQUIRED, PREFERRED = (f"{when}DuringSchedulingIgnoredDuringExecution" for when in ("required", "preferred"))
RULES = st.one_of(
    st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        st.sampled_from([ZONE, "size"]), st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(["1", "2", "10"]), min_size=1, unique=True),
    ),
    st.builds(
        lambda operator, value: {"key": "size", "operator": operator, "values": [value]},
        st.sampled_from(["Gt", "Lt"]), st.sampled_from(["1", "2", "x"]),
    ),
    st.builds(lambda operator: {"key": "size", "operator": operator}, st.sampled_from(["Exists", "DoesNotExist"])),
)  # fmt: skip
NODE_TERMS = st.builds(
    lambda rules, fields: {"matchExpressions": rules, "matchFields": fields},
    st.lists(RULES, max_size=2),
    st.lists(
        st.builds(
            lambda operator, name: {"key": "metadata.name", "operator": operator, "values": [name]},
            st.sampled_from(["In", "NotIn"]), st.sampled_from(["n0", "n1"]),
        ),
        max_size=1,
    ),
)  # fmt: skip


@st.composite
def affinities(draw: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("podAffinity", "podAntiAffinity"):
        if draw(st.booleans()):
            required = draw(st.lists(terms(), max_size=2))
            found[kind] = {REQUIRED: required, PREFERRED: draw(weighted("podAffinityTerm", terms()))}
    if draw(st.booleans()):
        found["nodeAffinity"] = {PREFERRED: draw(weighted("preference", NODE_TERMS))}
        if draw(st.booleans()):
            found["nodeAffinity"][REQUIRED] = {"nodeSelectorTerms": draw(st.lists(NODE_TERMS, min_size=1, max_size=2))}
    return found


@st.composite
def constraints(draw: Any) -> dict[str, Any]:
    hard = draw(st.booleans())
    found = {
        "maxSkew": draw(st.integers(1, 2)), "topologyKey": draw(TOPOLOGY), "labelSelector": draw(SELECTORS),
        "whenUnsatisfiable": "DoNotSchedule" if hard else "ScheduleAnyway",
        "nodeAffinityPolicy": draw(st.sampled_from(["Honor", "Ignore"])),
        "nodeTaintsPolicy": draw(st.sampled_from(["Honor", "Ignore"])),
        "matchLabelKeys": draw(st.lists(st.sampled_from(KEYS), max_size=1)),
    }  # fmt: skip
    if hard and draw(st.booleans()):
        found["minDomains"] = draw(st.integers(1, 3))
    return found


EFFECTS = st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"])
TAINTS = st.lists(
    st.builds(lambda key, value, effect: {"key": key, "value": value, "effect": effect},
              st.sampled_from("xy"), st.sampled_from(["1", "2"]), EFFECTS),
    max_size=2,
)  # fmt: skip
TOLERATIONS = st.lists(
    st.one_of(
        st.just({"operator": "Exists"}),
        st.builds(lambda key, effect: {"key": key, "operator": "Exists", "effect": effect}, st.sampled_from("xy"), EFFECTS),
        st.builds(lambda key, value: {"key": key, "value": value}, st.sampled_from("xy"), st.sampled_from(["1", "2"])),
    ),
    max_size=2,
)  # fmt: skip


@st.composite
def pods(draw: Any, name: str) -> dict[str, Any]:
    ports = []
    if draw(st.integers(0, 4)) == 0:
        ports = [{"hostPort": draw(st.integers(80, 81)), "hostIP": draw(st.sampled_from(["", "10.0.0.1", "10.0.0.2"]))}]
    given: dict[str, Any] = {"labels": draw(LABELS), "namespace": draw(st.sampled_from(["n", "other"]))}
    if draw(st.booleans()):
        given["affinity"] = draw(affinities())
    if draw(st.integers(0, 9)) == 0:
        given["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if draw(st.booleans()):
        given["tolerations"] = draw(TOLERATIONS)
    if draw(st.booleans()):
        given["topologySpreadConstraints"] = draw(st.lists(constraints(), max_size=2))
    if draw(st.integers(0, 4)) == 0:
        given["nodeSelector"] = {ZONE: draw(st.sampled_from(["1", "2"]))}
    found = pod_object(name, draw(st.sampled_from(["", "500m", "1", "3"])), ports, **given)
    if draw(st.integers(0, 5)) == 0:
        found["spec"]["containers"].append({"name": "d", "resources": {"requests": {"memory": "3Gi", "gpu": "1"}}})
    return found


@st.composite
def worlds(draw: Any) -> plain.World:
    nodes, on = [], {}
    for number in range(draw(st.integers(1, 5))):
        labels = {}
        for key, values in ((ZONE, ["1", "2"]), ("rack", ["a", "b"]), ("size", ["1", "2", "10", "x"])):
            if (value := draw(st.sampled_from([None, *values]))) is not None:
                labels[key] = value
        spec = {"unschedulable": draw(st.integers(0, 5)) == 0, "taints": draw(TAINTS)}
        room = {"cpu": draw(st.sampled_from(["0", "2", "4"])), "pods": draw(st.sampled_from(["1", "9"]))}
        one = node(f"n{number}", labels=labels, more={"gpu": draw(st.sampled_from(["0", "2"]))}, **room, **spec)
        nodes.append(one)
        on[f"n{number}"] = [draw(pods(f"p{number}-{at}")) for at in range(draw(st.integers(0, 3)))]
    return plain.World(nodes, on, NAMESPACES)


def filled(world: plain.World) -> NodeTable:
    found = table(*world.nodes)
    for name, labels in NAMESPACES.items():
        found.tallies.set_namespace(name, labels)
    for name, there in world.pods.items():
        for one in there:
            found.put_pod(READER.read_object(one), name)
    return found


def codes(places: Chooser, nodes: NodeTable, one: Pod, name: str) -> list[list[str]]:
    """Return for each row the reasons a plugin gives; for a node's rule, asked of all rows and of each alone."""
    plugin = next(p for p in places.profile.filters if p.name == name)
    cycle = places.cycle(one)
    if isinstance(plugin, NodePlugin):
        found = plugin.filter(one.shape.needs, nodes, ALL)
        alone = [not plugin.passes(one.shape.needs, nodes, row) for row in range(nodes.size)]
        assert alone == ([False] * nodes.size if found is None else [bool(code) for code in found])
        explain: Any = lambda code: plugin.explain(one.shape.needs, nodes, code)  # noqa: E731
    else:
        found, explain = plugin.filter(cycle), lambda code: plugin.explain(cycle, code)
    if found is None:
        return [[] for _ in range(nodes.size)]
    return [[reason.text for reason in explain(int(code))] if code else [] for code in found]


@CASES
@given(worlds(), pods("new"))
def test_node_rules_say_what_the_plain_ones_say(world: plain.World, new: dict[str, Any]) -> None:
    nodes, one = filled(world), READER.read_object(new)
    places = chooser(nodes)
    expected = {
        "NodeUnschedulable": lambda n: plain.schedulable(new, n),
        "TaintToleration": lambda n: plain.taints_tolerated(new, n),
        "NodeAffinity": lambda n: plain.selected(new, n),
        "NodePorts": lambda n: plain.ports_free(world, new, n),
    }
    for name, passes in expected.items():
        assert [not found for found in codes(places, nodes, one, name)] == [passes(n) for n in world.nodes], name
    found = [sorted(reasons) for reasons in codes(places, nodes, one, "NodeResourcesFit")]
    assert found == [sorted(plain.fit(world, new, n)) for n in world.nodes]


@CASES
@given(worlds(), pods("new"))
def test_rules_between_pods_say_what_the_plain_ones_say(world: plain.World, new: dict[str, Any]) -> None:
    nodes, one = filled(world), READER.read_object(new)
    places = chooser(nodes)
    texts = {
        True: [],
        False: ["node(s) didn't match pod topology spread constraints"],
        "missing": ["node(s) didn't match pod topology spread constraints (missing required label)"],
    }
    assert codes(places, nodes, one, "PodTopologySpread") == [
        texts[plain.spread(world, new, n)] for n in world.nodes
    ]  # fmt: skip
    rules = {
        "": [],
        "affinity": ["node(s) didn't match pod affinity rules"],
        "anti-affinity": ["node(s) didn't match pod anti-affinity rules"],
        "existing": ["node(s) didn't satisfy existing pods anti-affinity rules"],
    }
    assert codes(places, nodes, one, "InterPodAffinity") == [rules[plain.affinity(world, new, n)] for n in world.nodes]


@CASES
@given(worlds(), pods("new"))
def test_scores_are_what_the_plain_ones_are(world: plain.World, new: dict[str, Any]) -> None:
    nodes, one = filled(world), READER.read_object(new)
    places = chooser(nodes)
    by_node = {
        "NodeResourcesFit": lambda n: plain.least_allocated(world, new, n),
        "NodeResourcesBalancedAllocation": lambda n: plain.balanced(world, new, n),
        "NodeAffinity": lambda n: plain.preferred_nodes(new, n),
        "TaintToleration": lambda n: plain.avoided_taints(new, n),
    }
    for plugin, _ in places.profile.node_scorers:
        if plugin.name not in by_node:
            continue
        found = plugin.score(one.shape.needs, nodes, ALL)
        expected = [by_node[plugin.name](n) for n in world.nodes]
        assert ([0] * nodes.size if found is None else found.tolist()) == expected, plugin.name
        assert [plugin.score_one(one.shape.needs, nodes, row) for row in range(nodes.size)] == expected, plugin.name
    passed = np.arange(nodes.size)
    for scorer, _ in places.profile.cluster_scorers:
        got = scorer.score(places.cycle(one), passed)
        if scorer.name == "PodTopologySpread":
            soft = any(
                c["whenUnsatisfiable"] != "DoNotSchedule" for c in new["spec"].get("topologySpreadConstraints", ())
            )
            assert (got.tolist() if got is not None else None) == (
                plain.spread_scores(world, new, world.nodes) if soft else None
            )
        elif scorer.name == "InterPodAffinity":
            raw = [plain.affinity_score(world, new, n) for n in world.nodes]
            least, most = min(raw), max(raw)
            expected = [int(100.0 * ((x - least) / (most - least))) for x in raw] if most > least else None
            assert (got.tolist() if got is not None else None) == expected


@CASES
@given(worlds(), st.lists(pods("x"), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_what_is_kept_is_what_would_be_worked_out_anew(world: plain.World, new: list[Any], random: Any) -> None:
    nodes = filled(world)
    lasting = chooser(nodes)
    for number in range(12):
        one = READER.read_object({**new[number % len(new)], "metadata": {
            **new[number % len(new)]["metadata"], "name": f"x{number}", "uid": f"x{number}"}})  # fmt: skip
        fresh = chooser(nodes)
        assert answer(lasting, one) == answer(fresh, one)
        row = random.randrange(nodes.size)
        name = nodes.nodes[row].name
        if random.random() < 0.6:
            nodes.put_pod(one, name)
        elif nodes.nodes[row].pods:
            nodes.remove_pod(name, next(iter(nodes.nodes[row].pods)))
        else:
            labels = {ZONE: random.choice("12")}
            nodes.put_node(node(name, cpu=random.choice(["1", "4"]), labels=labels, taints=random.choice(
                [[], [{"key": "x", "value": "1", "effect": "NoSchedule"}]])))  # fmt: skip


def answer(places: Chooser, one: Pod) -> Any:
    """Return who passes with which score, or why nobody does."""
    cycle = places.cycle(one)
    try:
        mask = places.passing(cycle)
    except Rejected as error:
        return str(error)
    mask = places.kept_mask(cycle) if mask is None else mask
    passed = np.flatnonzero(mask)
    diagnosis = places.diagnose(cycle)
    assert set(passed.tolist()) == set(np.flatnonzero(diagnosis.passed).tolist())
    if not len(passed):
        return str(diagnosis)
    scores = places.scores(cycle, passed)
    return passed.tolist(), (scores - scores.max()).tolist()  # what all nodes have in common chooses none
