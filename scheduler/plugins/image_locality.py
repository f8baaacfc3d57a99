"""Nodes that have a pod's images already start it sooner.

Source: https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins
"""

import numpy as np

from scheduler.framework.plugin import MAX_SCORE, NodePlugin
from scheduler.pods import Needs
from scheduler.table import Ints, NodeTable, Rows

_MIB = 1024 * 1024
_LEAST, _MOST_EACH = 23 * _MIB, 1000 * _MIB
"""Less than the first is not worth looking at; more than the second, a container, makes no difference."""


class ImageLocality(NodePlugin):
    """Prefers nodes that hold the pod's images; an image counts for more the more nodes have it."""

    name = "ImageLocality"

    def score_one(self, needs: Needs, table: NodeTable, row: int) -> int:
        """See NodePlugin."""
        return super().score_one(needs, table, row) if table.image_sizes else 0

    def score(self, needs: Needs, table: NodeTable, rows: Rows) -> Ints | None:
        """See NodePlugin."""
        if not table.image_sizes:
            return None
        total: Ints = np.zeros(len(table.alive[rows]), dtype=np.int64)
        for image in needs.images:
            sizes = table.images(with_tag(image))
            if sizes is not None:
                share = int(np.count_nonzero(sizes)) / max(table.count, 1)
                total += (sizes[rows] * share).astype(np.int64)
        most = _MOST_EACH * max(len(needs.images), 1)
        return MAX_SCORE * (np.clip(total, _LEAST, most) - _LEAST) // (most - _LEAST)


def with_tag(image: str) -> str:
    """Return an image's name as nodes list it: with its tag."""
    return image if image.rfind(":") > image.rfind("/") else f"{image}:latest"
