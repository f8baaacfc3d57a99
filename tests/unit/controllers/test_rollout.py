"""The sizes a Deployment gives its ReplicaSets; the figures are those of the upstream documentation and rules."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers import rollout
from controllers.rollout import DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY
from tests.unit.controllers.builders import ago, deployment, pod, replica_set, template


def sizes(resizes: list[rollout.Resize] | None) -> dict[str, int] | None:
    return None if resizes is None else {rs.metadata.name: size for rs, size in resizes}


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (10, "0%", "5%", (0, 1)),
        (3, 5, 5, (5, 3)),
        (0, "50%", "50%", (0, 0)),
        (10, "100%", 1, (10, 1)),
    ],
)
def test_fences_round_surge_up_and_unavailable_down_and_are_never_both_nothing(
    replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    found = deployment(replicas, surge=surge, unavailable=unavailable)
    assert (rollout.max_surge(found), rollout.max_unavailable(found)) == expected


@pytest.mark.parametrize(
    ("new", "old", "fences", "expected"),
    [
        pytest.param((0, 0), [(3, 3)], (1, 0), {"new": 1}, id="grow into the surge"),
        pytest.param((1, 0), [(3, 3)], (1, 0), {}, id="wait for the new pod"),
        pytest.param((1, 1), [(3, 3)], (1, 0), {"old0": 2}, id="one new serves, one old goes"),
        pytest.param((0, 0), [(3, 3)], (0, 1), {"old0": 2}, id="no surge: the old shrinks first"),
        pytest.param((0, 0), [(2, 2)], (0, 1), {"new": 1}, id="then the new grows"),
        pytest.param((1, 0), [(3, 1)], (1, 0), {}, id="too few serve already: nothing goes"),
        pytest.param((2, 2), [(2, 0)], (1, 0), {"old0": 1}, id="old pods that do not serve go at once"),
        pytest.param((3, 3), [(0, 0)], (1, 0), {}, id="done"),
        pytest.param((5, 5), [(0, 0)], (1, 0), {"new": 3}, id="too large: shrink"),
        pytest.param((3, 3), [(1, 1), (1, 1)], (2, 0), {"old0": 0, "old1": 0}, id="several old sets"),
    ],
)
def test_a_rolling_step(
    new: tuple[int, int], old: list[tuple[int, int]], fences: tuple[int, int], expected: dict[str, int]
) -> None:
    found = deployment(3, surge=fences[0], unavailable=fences[1])
    old_sets = [
        replica_set(f"old{at}", size, available=up, creationTimestamp=ago(100 - at))
        for at, (size, up) in enumerate(old)
    ]
    assert sizes(rollout.rolling_step(found, replica_set("new", new[0], available=new[1]), old_sets)) == expected


@given(
    replicas=st.integers(1, 20),
    old_size=st.integers(0, 20),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    image_is_bad=st.booleans(),
)
def test_a_rollout_stays_within_its_fences_and_ends(
    replicas: int, old_size: int, surge: int, unavailable: int, image_is_bad: bool
) -> None:
    """Play agent: each step's pods come up before the next, unless the new image is bad."""
    found = deployment(replicas, surge=surge, unavailable=unavailable)
    new_size, old_size = 0, min(old_size, replicas)
    started_full = old_size == replicas
    for _ in range(200):
        new = replica_set("new", new_size, available=0 if image_is_bad else new_size)
        old = replica_set("old", old_size, available=old_size)
        step = sizes(rollout.rolling_step(found, new, [old]))
        assert step is not None
        if not step:
            break
        new_size, old_size = step.get("new", new_size), step.get("old", old_size)
        assert new_size + old_size <= replicas + rollout.max_surge(found)
        serving = old_size + (0 if image_is_bad else min(new_size, new.status.availableReplicas))
        if started_full:
            assert serving >= replicas - rollout.max_unavailable(found)
    else:
        pytest.fail("the rollout does not end")
    if not image_is_bad:
        assert (new_size, old_size) == (replicas, 0)


def test_recreate_shrinks_the_old_waits_for_their_end_and_then_grows() -> None:
    found = deployment(3, strategy="Recreate")
    new = replica_set("new", 0)
    assert sizes(rollout.recreate_step(found, new, [replica_set("old", 3)], [])) == {"old": 0}
    gone = replica_set("old", 0)
    assert sizes(rollout.recreate_step(found, new, [replica_set("old", 0, actual=1)], [])) is None
    assert sizes(rollout.recreate_step(found, new, [gone], [pod()])) is None
    assert sizes(rollout.recreate_step(found, new, [gone], [pod(phase="Succeeded")])) == {"new": 3}
    assert sizes(rollout.recreate_step(found, None, [gone], [])) is None
    assert sizes(rollout.recreate_step(found, replica_set("new", 3), [gone], [])) == {}


def sized(name: str, replicas: int, desired: int, maximum: int, **more: Any) -> Any:
    annotations = {DESIRED_REPLICAS: str(desired), MAX_REPLICAS: str(maximum)}
    return replica_set(name, replicas, annotations=annotations, **more)


def test_a_change_of_the_number_is_told_from_the_annotations() -> None:
    assert rollout.is_resized(deployment(5), [sized("a", 3, 3, 4)])
    assert not rollout.is_resized(deployment(3), [sized("a", 3, 3, 4)])
    assert not rollout.is_resized(deployment(5), [sized("a", 0, 3, 4)]), "a set without pods keeps its old number"


def test_a_lone_set_takes_the_new_number() -> None:
    assert sizes(rollout.resize_step(deployment(5), sized("new", 3, 3, 4), [sized("old", 0, 3, 4)])) == {"new": 5}
    assert sizes(rollout.resize_step(deployment(0), sized("new", 3, 3, 4), [])) == {"new": 0}
    assert sizes(rollout.resize_step(deployment(5), None, [])) == {}


def test_a_finished_rollout_drops_what_is_left_of_the_old() -> None:
    new, old = sized("new", 5, 5, 6), sized("old", 1, 5, 6)
    assert sizes(rollout.resize_step(deployment(5), new, [old])) == {"old": 0}


def test_in_the_middle_of_a_rollout_the_sets_keep_their_shares() -> None:
    """The documentation's example: maxSurge 3, 8 old and 5 new of 10; of 15, 3 more go to the old, 2 to the new."""
    new, old = sized("new", 5, 10, 13, available=0), sized("old", 8, 10, 13)
    found = deployment(15, surge=3, unavailable=2)
    assert sizes(rollout.resize_step(found, new, [old])) == {"old": 11, "new": 7}


@given(
    old=st.integers(1, 30),
    new=st.integers(1, 30),
    before=st.integers(1, 50),
    after=st.integers(0, 50),
    surge=st.integers(0, 5),
)
def test_shares_add_up_to_what_is_allowed(old: int, new: int, before: int, after: int, surge: int) -> None:
    found = deployment(after, surge=surge, unavailable=1)
    sets = [sized("old", old, before, before + surge), sized("new", new, before, before + surge, available=0)]
    step = sizes(rollout.resize_step(found, sets[1], [sets[0]]))
    assert step is not None
    assert all(size >= 0 for size in step.values())
    allowed = after + surge if after else 0
    assert sum(step.values()) == allowed or (min(step.values()) == 0 and sum(step.values()) <= allowed + max(old, new))


def test_the_new_set_is_the_oldest_with_the_template_whatever_its_hash() -> None:
    hashed = template("two", labels={"app": "web", "pod-template-hash": "x"}, creationTimestamp=None)
    young = replica_set("young", spec={"template": hashed}, creationTimestamp=ago(1))
    old = replica_set("old", spec={"template": hashed}, creationTimestamp=ago(9))
    other = replica_set("other", image="one", creationTimestamp=ago(99))
    assert rollout.find_new(deployment(image="two"), [young, other, old]) is old
    assert rollout.find_new(deployment(image="three"), [young, other, old]) is None


def test_revisions_grow_and_remember() -> None:
    old = replica_set("old", annotations={REVISION: "4"})
    again = replica_set("again", annotations={REVISION: "2", REVISION_HISTORY: "1"})
    assert rollout.next_revision([old, replica_set("hand-made")]) == 5
    assert rollout.revision_annotations(again, 5) == {REVISION: "5", REVISION_HISTORY: "1,2"}
    assert rollout.revision_annotations(old, 4) == {}


def test_own_notes_and_the_last_applied_state_are_not_inherited() -> None:
    found = deployment(
        meta={"annotations": {REVISION: "1", rollout.LAST_APPLIED: "{}", "kubernetes.io/change-cause": "x"}}
    )
    assert rollout.inherited_annotations(found) == {"kubernetes.io/change-cause": "x"}


def test_the_hash_is_stable_and_changes_with_template_and_collisions() -> None:
    one = rollout.template_hash(template("one"), 0)
    backwards = dict(reversed(template("one").items()))
    assert one == rollout.template_hash(backwards, 0)
    assert len({one, rollout.template_hash(template("two"), 0), rollout.template_hash(template("one"), 1)}) == 3
    assert set(one) <= set("bcdfghjklmnpqrstvwxz2456789")


def test_only_empty_and_settled_old_sets_are_surplus_history() -> None:
    found = deployment(revisionHistoryLimit=1)
    sets = [
        replica_set("r1", annotations={REVISION: "1"}),
        replica_set("r2", actual=1, annotations={REVISION: "2"}),
        replica_set("r3", annotations={REVISION: "3"}, generation=2),
        replica_set("r4", annotations={REVISION: "4"}),
    ]
    assert [rs.metadata.name for rs in rollout.surplus_history(found, sets)] == ["r1"]
    assert rollout.surplus_history(deployment(), sets) == []
