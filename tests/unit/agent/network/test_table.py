"""What is sent to the kernel: only differences, in an order it takes; any history ends in the same table."""

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.network.routes import Affinity, Backend, Frontend, Route
from agent.network.table import IPV4, IPV6, Site, Table

SITE = Site(IPV4, "10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/16", "unit0")
SITE6 = Site(IPV6, "10.244.0.0/16", "10.244.0.0/24", "10.96.0.0/16", "unit0")  # addresses are but words here


class Kernel:
    """Takes transactions as nft does: what is added twice, or deleted and not there, is an error."""

    def __init__(self) -> None:
        self.elements: dict[tuple[str, str], str] = {}
        self.names: set[str] = set()

    def apply(self, text: str) -> None:
        if re.search(r"^delete table ip6? unit0$", text, re.MULTILINE):
            self.elements, self.names = {}, set()
        self.names |= set(re.findall(r"^  (?:chain|map|set) (\S+) \{", text, re.MULTILINE))
        for verb, container, body in re.findall(
            r"^(add|delete) element ip6? unit0 (\S+) \{ (.*) \}$", text, re.MULTILINE
        ):
            assert container in self.names, container
            for element in body.split(", "):
                key, _, value = element.partition(" : ")
                if verb == "delete":
                    del self.elements[container, key]
                else:
                    assert (container, key) not in self.elements, (container, key)
                    assert value.removeprefix("goto ") in self.names or not value.startswith("goto"), value
                    self.elements[container, key] = value


def routes() -> st.SearchStrategy[list[Route]]:
    frontend = st.builds(
        Frontend, st.sampled_from(["10.96.0.1", "10.96.0.2", ""]), st.just("tcp"), st.sampled_from([80, 81])
    )
    backends = st.lists(st.sampled_from([Backend(f"10.244.0.{n}", 80) for n in range(3)]), unique=True).map(tuple)
    affinity = st.none() | st.builds(Affinity, st.sampled_from(["a", "b"]), st.sampled_from([10, 20]))
    route = st.builds(Route, frontend, backends, st.none() | backends, st.booleans(), affinity)
    return st.lists(route, max_size=3, unique_by=lambda one: one.frontend)


@given(st.sampled_from([SITE, SITE6]), st.lists(st.tuples(st.sampled_from("pqr"), routes(), st.booleans()), max_size=8))
def test_changes_lead_to_the_same_elements_as_starting_anew(
    site: Site, history: list[tuple[str, list[Route], bool]]
) -> None:
    kernel, table = Kernel(), Table(site)
    kernel.apply(table.whole())
    for owner, asked, flush in history:
        # One affinity name has one time, as one service's port has.
        table.change(
            owner,
            [
                r if r.affinity is None else Route(r.frontend, r.backends, r.outside, r.has_any, Affinity(owner, 10))
                for r in asked
            ],
        )
        if flush:
            kernel.apply(table.take_changes())
    kernel.apply(table.take_changes())
    anew = Kernel()
    anew.apply(table.whole())
    assert kernel.elements == anew.elements
    assert table.take_changes() == ""


def test_one_change_is_a_few_elements_whatever_else_is_there() -> None:
    table = Table(SITE)
    for number in range(100):
        table.change(f"s{number}", [Route(Frontend(f"10.96.1.{number}", "tcp", 80), (Backend("10.244.0.5", 80),))])
    table.whole()
    table.change("s7", [Route(Frontend("10.96.1.7", "tcp", 80), (Backend("10.244.0.6", 80),))])
    assert len(table.take_changes()) < 600
