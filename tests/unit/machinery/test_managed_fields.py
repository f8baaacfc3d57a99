"""Sets of fields and merging by them: the pure part of server-side apply."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinery.api.field_merge import compare, fields_of, merged, without
from machinery.api.field_sets import Tree, difference, intersection, members, union
from machinery.api.schema import shape_of

DEPLOYMENT = shape_of("io.k8s.api.apps.v1.Deployment")
CONFIG_MAP = shape_of("io.k8s.api.core.v1.ConfigMap")

NAMES = st.sampled_from(["a", "b", "c"])
CONFIG_MAPS = st.fixed_dictionaries(
    {}, optional={"data": st.dictionaries(NAMES, st.sampled_from("xy"), min_size=1), "immutable": st.booleans()}
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "image": st.sampled_from("12"),
            "env": st.lists(st.fixed_dictionaries({"name": NAMES, "value": st.sampled_from("xy")}), unique_by=lambda e: e["name"], min_size=1),
            "command": st.lists(st.sampled_from("xy"), min_size=1),
        },
    ),
    unique_by=lambda one: one["name"], min_size=1,
)  # fmt: skip
DEPLOYMENTS = st.builds(
    lambda containers, replicas: {"spec": {"replicas": replicas, "template": {"spec": {"containers": containers}}}},
    CONTAINERS, st.integers(0, 3),
)  # fmt: skip
TREES: st.SearchStrategy[Tree] = DEPLOYMENTS.map(lambda one: fields_of(one, DEPLOYMENT))


def paths(tree: Tree) -> set[str]:
    return set(members(tree))


@given(TREES, TREES)
def test_sets_obey_the_laws_of_sets(ours: Tree, theirs: Tree) -> None:
    assert paths(union(ours, theirs)) == paths(ours) | paths(theirs)
    assert paths(difference(ours, theirs)) == paths(ours) - paths(theirs)
    assert paths(intersection(ours, theirs)) == paths(ours) & paths(theirs)


def test_paths_are_told_as_messages_name_them() -> None:
    ports = [{"containerPort": 80, "name": "http"}]
    obj = {
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "web", "image": "i", "ports": ports}]}}}
    }
    assert list(members(fields_of(obj, DEPLOYMENT))) == [
        ".spec.replicas",
        '.spec.template.spec.containers[name="web"]',
        '.spec.template.spec.containers[name="web"].image',
        '.spec.template.spec.containers[name="web"].name',
        '.spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"]',
        '.spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"].containerPort',
        '.spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"].name',
    ]


@given(DEPLOYMENTS, DEPLOYMENTS)
def test_a_merge_has_all_the_configuration_says_and_is_done_once(live: Any, config: Any) -> None:
    result = merged(live, config, DEPLOYMENT)
    wanted = fields_of(config, DEPLOYMENT)
    assert paths(wanted) <= paths(fields_of(result, DEPLOYMENT))
    changes = compare(result, merged(result, config, DEPLOYMENT), DEPLOYMENT)
    assert (changes.changed, changes.removed) == ({}, {})
    names = [one["name"] for one in result["spec"]["template"]["spec"]["containers"]]
    order = [one["name"] for one in config["spec"]["template"]["spec"]["containers"]]
    assert [name for name in names if name in order] == order


@given(DEPLOYMENTS, DEPLOYMENTS)
def test_what_changed_is_what_differs(old: Any, new: Any) -> None:
    changes = compare(old, new, DEPLOYMENT)
    before, after = paths(fields_of(old, DEPLOYMENT)), paths(fields_of(new, DEPLOYMENT))
    assert after - before <= paths(changes.changed)
    assert before - after <= paths(changes.removed) | paths(changes.changed)
    assert (old == new) == (not changes.changed and not changes.removed)


@given(CONFIG_MAPS, CONFIG_MAPS)
def test_what_is_taken_away_is_gone_and_the_rest_is_there(one: Any, other: Any) -> None:
    whole = merged(one, other, CONFIG_MAP)
    ours, theirs = fields_of(one, CONFIG_MAP), fields_of(other, CONFIG_MAP)
    left = without(whole, difference(ours, theirs), theirs, CONFIG_MAP)
    assert paths(fields_of(left, CONFIG_MAP)) == paths(theirs)


@pytest.mark.parametrize(
    ("live", "config", "order"),
    [("abc", "c", "abc"), ("abc", "cb", "acb"), ("ab", "xb", "axb"), ("", "ba", "ba")],
)
def test_items_keep_their_places(live: str, config: str, order: str) -> None:
    def deployment(names: str) -> Any:
        return {"spec": {"template": {"spec": {"containers": [{"name": name} for name in names]}}}}

    found = merged(deployment(live), deployment(config), DEPLOYMENT)
    assert "".join(one["name"] for one in found["spec"]["template"]["spec"]["containers"]) == order
