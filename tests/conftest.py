"""Which tests may run at the same time: two workers share them, and what changes the machine stays with one."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Bridges, rules, cgroups and mounts have fixed names: one at a time.
MACHINE = ("e2e", "integration/runtime", "integration/network")


def group_of(path: Path) -> str:
    place = path.relative_to(TESTS).as_posix()
    return "machine" if place.startswith(MACHINE) else place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, and those that change the machine; the latter take longest and come first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
    items.sort(key=lambda item: group_of(item.path) != "machine")
