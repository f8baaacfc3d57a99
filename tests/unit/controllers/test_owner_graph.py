"""The graph of owners against plain rules, and against a model that forgets nothing."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.owner_graph import FOREGROUND, ORPHAN, OwnerGraph, Vertex
from controllers.views import OwnerReference
from machinery.api.meta import ObjectKey
from machinery.api.resources import CONFIG_MAPS


def ref(uid: str, *, block: bool = False) -> OwnerReference:
    return OwnerReference(apiVersion="v1", kind="ConfigMap", name=uid, uid=uid, blockOwnerDeletion=block)


def vertex(uid: str, *owners: str, finalizer: str = "", block: bool = False) -> Vertex:
    references = tuple(ref(owner, block=block) for owner in owners)
    finalizers = (finalizer,) if finalizer else ()
    return Vertex(CONFIG_MAPS, ObjectKey("default", uid), uid, references, finalizers, bool(finalizer))


def test_a_removed_owner_calls_for_its_dependents() -> None:
    graph = OwnerGraph()
    assert graph.put(vertex("owner")) == set()
    assert graph.put(vertex("a", "owner")) == set()
    assert graph.put(vertex("b", "owner", "unseen")) == {"b"}
    assert graph.remove("owner") == {"a", "b"}
    assert not graph.is_settled(vertex("a", "owner"))


def test_an_owner_that_waits_calls_for_itself_and_its_dependents() -> None:
    graph = OwnerGraph()
    graph.put(vertex("owner"))
    graph.put(vertex("a", "owner", block=True))
    graph.put(vertex("b", "owner"))
    assert graph.put(vertex("owner", finalizer=FOREGROUND)) == {"owner", "a", "b"}
    assert [found.uid for found in graph.blocking_dependents("owner")] == ["a"]
    assert graph.remove("a") == {"owner"}


def test_an_owner_that_lets_go_calls_for_itself() -> None:
    graph = OwnerGraph()
    graph.put(vertex("a", "owner"))
    assert graph.put(vertex("owner", finalizer=ORPHAN)) == {"owner"}
    assert [found.uid for found in graph.dependents("owner")] == ["a"]


def test_a_dependent_that_changes_owners_is_found_at_the_new_one_only() -> None:
    graph = OwnerGraph()
    graph.put(vertex("one", finalizer=FOREGROUND))
    graph.put(vertex("two"))
    graph.put(vertex("a", "one"))
    assert graph.put(vertex("a", "two")) == {"one"}
    assert graph.dependents("one") == []
    assert [found.uid for found in graph.dependents("two")] == ["a"]


def test_removing_what_is_not_there_calls_for_nothing() -> None:
    assert OwnerGraph().remove("nobody") == set()


UIDS = st.sampled_from("abcdef")


class Machine(RuleBasedStateMachine):
    """Whatever comes and goes: nothing in need of a look goes unnoticed, and no link is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = OwnerGraph()
        self.model: dict[str, Vertex] = {}
        self.noticed: set[str] = set()

    @rule(uid=UIDS, owners=st.sets(UIDS, max_size=3), finalizer=st.sampled_from(("", FOREGROUND, ORPHAN)))
    def put(self, uid: str, owners: set[str], finalizer: str) -> None:
        new = vertex(uid, *sorted(owners), finalizer=finalizer)
        self.model[uid] = new
        self.noticed |= self.graph.put(new)

    @rule(uid=UIDS)
    def remove(self, uid: str) -> None:
        self.model.pop(uid, None)
        self.noticed |= self.graph.remove(uid)

    @invariant()
    def links_are_right(self) -> None:
        for uid in "abcdef":
            assert self.graph.get(uid) == self.model.get(uid)
            expected = {one.uid for one in self.model.values() if any(owner.uid == uid for owner in one.owners)}
            assert {found.uid for found in self.graph.dependents(uid)} == expected

    @invariant()
    def unsettled_objects_were_noticed(self) -> None:
        unsettled = {uid for uid, found in self.model.items() if not self.graph.is_settled(found)}
        assert unsettled <= self.noticed


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, deadline=None)
