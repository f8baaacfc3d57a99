"""Node selectors over all nodes at once, by the columns of their labels.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scheduler.table import ALL, Mask, NodeTable, Rows

Object = Mapping[str, Any]
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NAME_FIELD = "metadata.name"


def _integer(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and _INTEGER.fullmatch(text) else None


def requirement_mask(table: NodeTable, rule: Object, rows: Rows = ALL) -> Mask:
    """Return which rows meet one of `matchExpressions`."""
    column = table.label(rule["key"])
    ids = column.of_row[: table.size][rows]
    values: Sequence[str] = rule.get("values") or ()
    match rule.get("operator"):
        case "In":
            return _among(ids, [column.ids[value] for value in values if value in column.ids])
        case "NotIn":
            return ~_among(ids, [column.ids[value] for value in values if value in column.ids])
        case "Exists":
            return ids >= 0
        case "DoesNotExist":
            return ids < 0
        case "Gt" | "Lt" as operator:
            bound = _integer(values[0]) if values else None
            if bound is None:
                return np.zeros(len(ids), dtype=bool)
            numbers = [_integer(value) for value in column.values]
            holds = [n is not None and (n > bound if operator == "Gt" else n < bound) for n in numbers]
            return np.array([*holds, False], dtype=bool)[ids]  # -1, no such label, is the last
        case _:
            return np.zeros(len(ids), dtype=bool)


def _among(ids: Any, wanted: list[int]) -> Mask:
    if len(wanted) == 1:
        return ids == wanted[0]
    return np.isin(ids, wanted)


def _field_mask(table: NodeTable, rule: Object, rows: Rows) -> Mask:
    named: Mask = np.zeros(table.size, dtype=bool)
    if rule.get("key") != _NAME_FIELD:
        return named[rows]
    for name in rule.get("values") or ():
        if name in table.by_name:
            named[table.by_name[name].row] = True
    return named[rows] if rule.get("operator") == "In" else ~named[rows]


def term_mask(table: NodeTable, term: Object, rows: Rows = ALL) -> Mask | None:
    """Return which rows a term takes; None when it is empty and takes none."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    masks = [requirement_mask(table, rule, rows) for rule in expressions]
    masks += [_field_mask(table, rule, rows) for rule in fields]
    if not masks:
        return None
    found = masks[0]
    for mask in masks[1:]:
        found = found & mask
    return found


def selector_mask(table: NodeTable, selector: Object, rows: Rows = ALL) -> Mask:
    """Return which rows a NodeSelector takes: any of its terms."""
    found: Mask = np.zeros(table.size, dtype=bool)[rows]
    for term in selector.get("nodeSelectorTerms") or ():
        mask = term_mask(table, term, rows)
        if mask is not None:
            found = found | mask
    return found


def labels_mask(table: NodeTable, labels: Mapping[str, str], rows: Rows = ALL) -> Mask:
    """Return which rows have all of some labels."""
    found: Mask = np.ones(table.size, dtype=bool)[rows]
    for key, value in labels.items():
        column = table.label(key)
        wanted = column.ids.get(value, -2)
        found = found & (column.of_row[: table.size][rows] == wanted)
    return found


def required_mask(
    table: NodeTable, node_selector: Mapping[str, str], node_affinity: Object, rows: Rows = ALL
) -> Mask | None:
    """Return which rows a pod's nodeSelector and required node affinity take; None when it asks for nothing."""
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not node_selector and required is None:
        return None
    found = labels_mask(table, node_selector, rows)
    return found if required is None else found & selector_mask(table, required, rows)
