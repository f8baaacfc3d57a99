"""Which host ids a pod's user namespace maps to: no two pods of a node share one, and each keeps its own for life.

Source: https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/
"""

import contextlib
from pathlib import Path

from agent.security import ID_COUNT

_FILE = "id-base"
_BLOCKS = 2**32 // ID_COUNT - 1  # the last is not whole: -1 is no id


class IdRanges:
    """Gives each pod a block of ids; the block is written beside the pod's files and goes with them."""

    def __init__(self, pods_dir: Path) -> None:
        self._root = pods_dir

    def base(self, uid: str) -> int:
        """Return the first id of a pod's block, taken now if it has none. Raises: OSError."""
        path = self._root / uid / _FILE
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
        taken = set()
        for other in self._root.glob(f"*/{_FILE}"):
            with contextlib.suppress(OSError, ValueError):
                taken.add(int(other.read_text()))
        first = next(block * ID_COUNT for block in range(1, _BLOCKS) if block * ID_COUNT not in taken)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(first))
        return first
