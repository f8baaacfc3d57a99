"""The seam between the scheduling cycle and its rules: what a plugin is asked, and what it answers.

Plugins judge all nodes at once. `filter` answers with a code for each row of the table: 0 lets the node through, any
other number stands for reasons that `explain` puts in words when somebody wants to know. Scores are whole numbers.

- `NodePlugin`: its answer follows from a pod's needs, the node, and the pods on that node. It is kept for each needs
  and worked out again only for rows that changed, so it is also asked about some rows.
- `ClusterPlugin`: its answer follows from anything else too (pods on other nodes, volumes). It is asked each time.

Everything else at Kubernetes' extension points has an empty method here; a plugin overrides those it has a part in.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/scheduling-framework/#extension-points
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster import Cluster
from scheduler.pods import Needs, Pod
from scheduler.table import Ints, Mask, Node, NodeTable, Rows

MAX_SCORE = 100
Codes = NDArray[Any]


class Reason(NamedTuple):
    """Why a node does not pass, in users' words; `resolvable` when pods leaving the node could help."""

    text: str
    resolvable: bool = False


class Rejected(Exception):
    """No node passes, whatever it is like; the text is what users read."""

    def __init__(self, text: str, *, resolvable: bool = False) -> None:
        super().__init__(text)
        self.resolvable = resolvable


@dataclass(frozen=True, slots=True)
class Happening:
    """Something changed: `kind` of object (pods on nodes are "AssignedPod"), and "add", "update" or "delete"."""

    kind: str
    action: str
    old: Any = None
    new: Any = None
    row: int = -1


@dataclass(slots=True)
class Cycle:
    """One pod being placed. Plugins that answer several questions about it keep what they worked out in `memo`."""

    pod: Pod
    table: NodeTable
    cluster: Cluster
    passes_on: Callable[["Cycle", int], bool] = lambda _cycle, _row: True
    """Whether the pod passes all filters on one row, as the table now stands."""
    looks_beyond: Callable[["Cycle"], bool] = lambda _cycle: False
    """Whether any filter that looks beyond the node has a say about the pod."""
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> Needs:
        """What the pod asks of a node by itself."""
        return self.pod.shape.needs


class Handle(Protocol):
    """What a scheduler offers plugins that look at, or wait for, other pods it is placing."""

    def group(self, pod: Pod) -> Mapping[str, bool]:
        """Return the pods of a pod's group, by uid: whether each has a place."""

    def allow(self, uid: str) -> None:
        """Let a pod that waits in `permit` be bound."""

    def reject(self, uid: str, why: "Rejected") -> None:
        """Have a pod that waits in `permit` give up its place."""


class Plugin:
    """One rule. What it is given is shared: never change it."""

    name: ClassVar[str]

    def attach(self, handle: Handle) -> None:
        """Take what the scheduler offers; called once, before anything else."""

    # ---- the queue

    def pre_enqueue(self, pod: Pod) -> str:
        """Return why a pod may not be tried yet; nothing when it may."""
        return ""

    def sort_key(self, pod: Pod) -> Any:
        """Return what the queue is ordered by, smallest first; only one plugin of a profile may have it."""
        raise NotImplementedError

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """Say whether a change could let a pod pass that this plugin rejected."""
        return True

    # ---- after a node is chosen

    def reserve(self, cycle: Cycle, node: Node) -> None:
        """Set aside what the pod will use. Raises: Rejected."""

    def unreserve(self, cycle: Cycle, node: Node) -> None:
        """Undo `reserve`; also called when it was not reached, so it must be harmless then."""

    def permit(self, cycle: Cycle, node: Node) -> float:
        """Return how long the pod is to wait for leave to be bound, in seconds; 0 is now. Raises: Rejected."""
        return 0.0

    async def pre_bind(self, cycle: Cycle, node: Node) -> None:
        """Do what must be done before the pod is bound. Raises: Rejected, APIError."""

    def needs_pre_bind(self, cycle: Cycle) -> bool:
        """Say whether `pre_bind` has anything to do for a pod: one nobody has waits for nothing."""
        return False

    def binds(self, cycle: Cycle) -> bool:
        """Say whether `bind` is to bind a pod: the first plugin that says so does; where none does, the scheduler."""
        return False

    async def bind(self, cycle: Cycle, node: Node) -> None:
        """Bind the pod. Raises: Rejected, APIError."""
        raise NotImplementedError

    def post_bind(self, cycle: Cycle, node: Node) -> None:
        """Take notice that the pod was bound."""


class NodePlugin(Plugin):
    """A rule over needs and a node's own row."""

    looks_at_pods: ClassVar[bool] = False
    """Whether it judges by the pods on a node, too, so that one that leaves could help."""

    normalizes: ClassVar[bool] = False
    """Whether scores are made comparable by `normalize`, over the nodes that passed; else they are 0 to 100."""

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """Return a code for each of the rows; None when all pass."""
        return None

    def helped_by(self, happening: Happening, pod: Pod, table: NodeTable) -> bool:
        """A change of a node helps if the pod passes there now; one of a pod, only where this looks at pods."""
        row = happening.row
        if row < 0 or happening.kind not in ("Node", "AssignedPod"):
            return False
        if happening.kind == "AssignedPod":
            if not self.looks_at_pods or happening.action == "add":
                return False
            if table.nominated.get(pod.uid, (None, -1))[1] == row:
                return True  # it waits for just this
        return self.passes(pod.shape.needs, table, row)

    def confines(self, needs: Needs, table: NodeTable) -> Mask | None:
        """Return the rows a pod is confined to beforehand, so that others are not even looked at; None for all."""
        return None

    def passes(self, needs: Needs, table: NodeTable, row: int) -> bool:
        """Say of one row what `filter` says; a plugin may know a shorter way than an array of one."""
        codes = self.filter(needs, table, np.array((row,)))
        return codes is None or not codes[0]

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """Return what a code says."""
        return ()

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """Say of one row what `score` says."""
        scores = self.score(needs, table, np.array((row,)))
        return 0 if scores is None else int(scores[0])

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """Return how well each of the rows suits; None when they all suit alike."""
        return None

    def normalize(self, scores: Ints) -> Ints:
        """Return scores from 0 to 100 for the nodes that passed."""
        return scores


class PerNodePlugin(NodePlugin):
    """A rule put for one pod's needs and one node at a time: simple to write, slow over many nodes."""

    def allows(self, needs: Needs, node: Node) -> str:
        """Return why a node does not take a pod of these needs; nothing when it does."""
        return ""

    def rates(self, needs: Needs, node: Node) -> int:
        """Return how well a node suits, 0 to 100."""
        return 0

    def filter(self, needs: Needs, table: NodeTable, rows: Rows) -> Codes | None:
        """See NodePlugin."""
        texts = self.__dict__.setdefault("_texts", [""])
        codes = []
        for row in np.arange(table.size)[rows].tolist():
            text = self.allows(needs, table.nodes[row]) if table.alive[row] else ""
            if text not in texts:
                texts.append(text)
            codes.append(texts.index(text))
        return np.array(codes, dtype=np.int64)

    def explain(self, needs: Needs, table: NodeTable, code: int) -> tuple[Reason, ...]:
        """See NodePlugin."""
        return (Reason(self.__dict__["_texts"][code]),)

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        nodes = (table.nodes[row] for row in np.arange(table.size)[rows].tolist())
        return np.array([self.rates(needs, one) for one in nodes], dtype=np.int64)


class ClusterPlugin(Plugin):
    """A rule over anything."""

    looks_at_pods: ClassVar[bool] = False
    """Whether it judges by pods on other nodes, so that pods nominated for a node bear on it."""

    def pre_filter(self, cycle: Cycle) -> None:
        """Look once before the nodes are judged. Raises: Rejected."""

    def filter(self, cycle: Cycle) -> Codes | None:
        """Return a code for each row of the table; None when all pass."""
        return None

    def explain(self, cycle: Cycle, code: int) -> tuple[Reason, ...]:
        """Return what a code says."""
        return ()

    def scores(self, cycle: Cycle) -> bool:
        """Say whether `score` could tell nodes apart for this pod; a cheap guess that may be too high."""
        return True

    def score(self, cycle: Cycle, passed: NDArray[np.intp]) -> Ints | None:
        """Return scores from 0 to 100 for the rows that passed; None when they all suit alike."""
        return None


class Victims(NamedTuple):
    """Who would have to go from a node, the most important first."""

    pods: tuple[Pod, ...]
    violations: int = 0
    """How many of them a disruption budget would rather keep."""


@dataclass(frozen=True, slots=True)
class Rescue:
    """What is to be done for a pod that fits nowhere."""

    text: str = ""
    """What users are told."""
    node: str | None = None
    """The node the pod is nominated for; "" takes a nomination back, None leaves it."""
    victims: tuple[Pod, ...] = ()
    """Pods that are to go from there."""
    options: Mapping[str, Victims] = field(default_factory=dict)
    """All nodes that would do, which extenders may judge before one is chosen."""


class PostFilterPlugin(Plugin):
    """What is tried when no node passed."""

    def post_filter(self, cycle: Cycle, resolvable: Mask) -> Rescue:
        """Say what could make room, on the rows where pods leaving could help."""
        raise NotImplementedError

    def choose(self, options: Mapping[str, Victims]) -> str:
        """Return the best of a rescue's options, as extenders left them."""
        return min(options)


def default_normalize(scores: Ints, *, reverse: bool = False) -> Ints:
    """Scale scores to 0 to 100 by the largest; with `reverse`, the largest becomes the smallest."""
    most = int(scores.max(initial=0))
    if most == 0:
        return np.full(len(scores), MAX_SCORE if reverse else 0, dtype=np.int64)
    scaled: Ints = MAX_SCORE * scores // most
    return MAX_SCORE - scaled if reverse else scaled


Args = Mapping[str, Any]
