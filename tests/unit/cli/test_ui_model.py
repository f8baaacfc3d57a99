"""The rows of the terminal interface: order, filter and what may not reach a terminal."""

from typing import Any

import pytest

from cli.ui.grid import mood
from cli.ui.model import Model, natural, plain
from cli.ui.screens import harmless


def table(*rows: tuple[str, str], columns: bool = True) -> dict[str, Any]:
    names = ("Name", "Ready", "Status", "Age", "Node")
    head = [{"name": name, "priority": int(name == "Node")} for name in names] if columns else []
    return {
        "columnDefinitions": head,
        "rows": [
            {
                "cells": [name, "1/1", status, "5m", "n"],
                "object": {"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}"}},
            }
            for name, status in rows
        ],
    }


def names(model: Model, word: str = "", **how: Any) -> list[str]:
    return [row.name for row in model.view(word, **how)]


def test_rows_are_in_the_order_of_numbers_and_follow_changes() -> None:
    model = Model()
    model.replace(table(("web-10", "Running"), ("web-2", "Running"), ("db", "Pending")))
    assert names(model) == ["db", "web-2", "web-10"]
    model.apply("MODIFIED", table(("web-2", "Failed"), columns=False))
    assert names(model) == ["db", "web-2", "web-10"]
    assert model.view()[1].cells[2] == "Failed"
    model.apply("ADDED", table(("web-3", "Running"), columns=False))
    model.apply("DELETED", table(("db", "Pending"), columns=False))
    assert names(model) == ["web-2", "web-3", "web-10"]
    assert names(model, by=2, backwards=True) == ["web-10", "web-3", "web-2"]


def test_a_filter_takes_and_leaves_out() -> None:
    model = Model(all_namespaces=True)
    model.replace(table(("web", "Running"), ("db", "Pending")))
    assert [column.title for column in model.columns] == ["Namespace", "Name", "Ready", "Status", "Age", "Node"]
    assert names(model, "pend") == ["db"]
    assert names(model, "!pend") == ["web"]
    assert names(model, "SHOP") == ["db", "web"]


@pytest.mark.parametrize(
    ("status", "expected"), [("Running", ""), ("CrashLoopBackOff", "bad"), ("Pending", "busy"), ("Completed", "done")]
)
def test_a_row_looks_as_its_object_is(status: str, expected: str) -> None:
    model = Model()
    model.replace(table(("web", status)))
    assert mood(model.view()[0]) == expected


def test_what_the_cluster_says_is_no_command_for_the_terminal() -> None:
    evil = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\r\n"
    assert not set(plain(evil)) & {"\x1b", "\x07", "\x9b", "\r", "\n"}
    assert harmless(evil) == "abc31md\n"


def test_numbers_within_words_are_numbers() -> None:
    assert sorted(["a10", "a9", "10", "9", "a"], key=natural) == ["9", "10", "a", "a9", "a10"]
