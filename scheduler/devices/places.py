"""From which nodes which devices can be reached: rows of the table that see the same devices, together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.devices.pools import Device, Pool
from scheduler.nodeselect import selector_mask
from scheduler.table import Mask, NodeTable


class Places:
    """Which devices each row sees."""

    def __init__(self, table: NodeTable, pools: Sequence[Pool]) -> None:
        self._table = table
        self._own: dict[int, list[tuple[int, Device]]] = {}
        self._shared: list[tuple[Mask, list[tuple[int, Device]]]] = []
        by_place: dict[int, list[tuple[int, Device]]] = {}
        places: dict[int, Mapping[str, Any]] = {}
        for order, device in enumerate(one for pool in pools for one in pool.devices):
            by_place.setdefault(id(device.place), []).append((order, device))
            places[id(device.place)] = device.place
        for key, devices in by_place.items():
            place = places[key]
            if place.get("nodeName"):
                node = table.by_name.get(place["nodeName"])
                if node is not None:
                    self._own.setdefault(node.row, []).extend(devices)
            elif place.get("allNodes"):
                self._shared.append((np.ones(table.size, dtype=bool), devices))
            elif place.get("nodeSelector"):
                self._shared.append((selector_mask(table, place["nodeSelector"]), devices))

    def alike(self, rows: Mask, differences: Sequence[Mask]) -> Iterator[tuple[NDArray[np.intp], list[Device]]]:
        """Yield rows that see the same devices, and the devices; rows that differ in `differences` are kept apart."""
        kinds: NDArray[np.int64] = np.zeros(self._table.size, dtype=np.int64)
        for mask in (*differences, *(mask for mask, _ in self._shared)):
            kinds = np.unique(kinds * 2 + mask, return_inverse=True)[1].astype(np.int64)
        local = [row for row in self._own if rows[row]]
        others = rows.copy()
        others[local] = False
        for row in local:
            yield np.array([row]), self._seen_from(row)
        for kind in np.unique(kinds[others]).tolist():
            members = np.flatnonzero(others & (kinds == kind))
            yield members, self._seen_from(int(members[0]))

    def _seen_from(self, row: int) -> list[Device]:
        found = list(self._own.get(row, ()))
        for mask, devices in self._shared:
            if mask[row]:
                found += devices
        return [device for _, device in sorted(found, key=_order)]


def _order(pair: tuple[int, Device]) -> int:
    return pair[0]
