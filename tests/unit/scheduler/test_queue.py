"""The pods that wait: who is next, and what wakes those that were put aside."""

from hypothesis import given
from hypothesis import strategies as st

from machinery.api.meta import ObjectKey
from scheduler.queue import Entry, SchedulingQueue
from tests.unit.scheduler.builders import pod

NONE: frozenset[str] = frozenset()


def popped(queue: SchedulingQueue, now: float = 0.0) -> Entry:
    entry = queue.pop(now)
    assert entry is not None
    return entry


def test_priority_comes_first_then_order() -> None:
    queue = SchedulingQueue()
    for name, priority in (("a", 0), ("b", 10), ("c", 0)):
        queue.put(pod(name, priority=priority))
    assert [popped(queue).pod.name for _ in range(3)] == ["b", "a", "c"]
    queue.validate_state()


def test_what_was_put_aside_comes_back_when_something_helps_it() -> None:
    queue = SchedulingQueue()
    queue.put(pod("a"))
    queue.put_aside(popped(queue), frozenset(("NodeAffinity",)), 0.0)
    assert queue.pop(50.0) is None
    assert queue.happened(lambda one, plugins: "NodeResourcesFit" in plugins, 50.0) == 0
    assert queue.pop(50.0) is None
    assert queue.happened(lambda one, plugins: "NodeAffinity" in plugins, 50.0) == 1
    assert popped(queue, 50.0).attempts == 2
    queue.validate_state()


def test_an_error_is_waited_out_even_when_nothing_else_is_to_do() -> None:
    queue = SchedulingQueue()
    queue.put(pod("a"))
    queue.back_off(popped(queue), 50.0)
    assert queue.next_time() == 51.0
    assert queue.pop(50.9) is None
    queue.back_off(popped(queue, 51.0), 51.0)
    assert queue.pop(52.9) is None  # the second time it waits two seconds
    assert popped(queue, 53.0).attempts == 3


def test_a_pod_woken_early_is_tried_when_nothing_else_is_to_do() -> None:
    queue = SchedulingQueue()
    for name in ("a", "b"):
        queue.put(pod(name))
    first = popped(queue)
    queue.put_aside(first, NONE, 0.0)
    queue.happened(lambda one, plugins: True, 0.1)  # its back-off of a second is not over
    assert popped(queue, 0.2).pod.name == "b"
    assert popped(queue, 0.2).pod.name == "a"


def test_nothing_stays_aside_for_ever() -> None:
    queue = SchedulingQueue()
    queue.put(pod("a"))
    queue.put_aside(popped(queue), NONE, 0.0)
    assert queue.next_time() == 300.0
    assert popped(queue, 300.0).pod.name == "a"


def test_a_gated_pod_waits_until_its_gates_are_gone() -> None:
    queue = SchedulingQueue(gate=lambda one: " ".join(one.gates))
    queue.put(pod("a", schedulingGates=[{"name": "example.com/wait"}]))
    assert queue.pop(0.0) is None
    assert queue.counts()["gated"] == 1
    queue.put(pod("a"))
    assert popped(queue).pod.name == "a"


@given(
    st.lists(st.tuples(st.sampled_from(["put", "pop", "aside", "back", "remove", "happen", "pass"]), st.integers(0, 4)))
)
def test_every_pod_is_in_one_place_and_none_is_lost(steps: list[tuple[str, int]]) -> None:
    queue, taken, now = SchedulingQueue(), {}, 0.0
    known: set[str] = set()
    for what, number in steps:
        name = f"p{number}"
        key = ObjectKey("n", name)
        if what == "put":
            queue.put(pod(name))
            known.add(name)
        elif what == "pop" and (entry := queue.pop(now)) is not None:
            assert entry.pod.name in known
            assert entry.pod.name not in taken
            taken[entry.pod.name] = entry
        elif what in ("aside", "back") and name in taken:
            entry = taken.pop(name)
            queue.put_aside(entry, NONE, now) if what == "aside" else queue.back_off(entry, now)
        elif what == "remove":
            queue.remove(key)
            known.discard(name)
            taken.pop(name, None)
        elif what == "happen":
            queue.happened(lambda one, plugins: True, now)
        else:
            now += 1.0
        queue.validate_state()
    for entry in taken.values():
        queue.put_aside(entry, NONE, now)
    found = set()
    while (last := queue.pop(now + 1000.0)) is not None:
        found.add(last.pod.name)
    assert found == known
