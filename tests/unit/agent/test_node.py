"""What a node tells of its machine."""

from pathlib import Path
from typing import Any

import pytest

from agent.environment import ConfigError
from agent.node import hugepages
from agent.volumes.manager import _memory_options


def test_pages_set_aside_are_told_by_their_size(tmp_path: Path) -> None:
    for name, count in (("2048kB", 6), ("1048576kB", 1), ("64kB", 0)):
        (tmp_path / f"hugepages-{name}").mkdir()
        (tmp_path / f"hugepages-{name}" / "nr_hugepages").write_text(f"{count}\n")
    assert hugepages(tmp_path) == {"hugepages-2Mi": "12Mi", "hugepages-1Gi": "1Gi", "hugepages-64Ki": "0"}
    assert hugepages(tmp_path / "absent") == {}


def pod(*limits: dict[str, str]) -> dict[str, Any]:
    containers = [
        {"name": f"c{number}", "resources": {"limits": one, "requests": one}} for number, one in enumerate(limits)
    ]
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": containers}}


@pytest.mark.parametrize(
    ("given", "source", "expected"),
    [
        (pod({}), {"medium": "Memory"}, ("tmpfs", "size=100%")),
        (pod({}), {"medium": "Memory", "sizeLimit": "1Mi"}, ("tmpfs", f"size={1 << 20}")),
        (pod({"memory": "4Mi"}, {"memory": "4Mi"}), {"medium": "Memory"}, ("tmpfs", f"size={8 << 20}")),
        (pod({"memory": "4Mi"}, {}), {"medium": "Memory"}, ("tmpfs", "size=100%")),
        (pod({"memory": "4Mi"}), {"medium": "Memory", "sizeLimit": "1Gi"}, ("tmpfs", f"size={4 << 20}")),
        (pod({}), {"medium": "HugePages-2Mi"}, ("hugetlbfs", "pagesize=2M")),
        (pod({"hugepages-1Gi": "1Gi"}), {"medium": "HugePages"}, ("hugetlbfs", "pagesize=1G")),
    ],
)
def test_a_volume_in_memory_is_no_larger_than_the_pod(
    given: dict[str, Any], source: dict[str, str], expected: tuple[str, str]
) -> None:
    assert _memory_options(given, source) == expected


@pytest.mark.parametrize("limits", [{}, {"hugepages-1Gi": "1Gi", "hugepages-2Mi": "2Mi"}], ids=["none", "both"])
def test_which_pages_are_meant_must_be_plain(limits: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="which pages are meant"):
        _memory_options(pod(limits), {"medium": "HugePages"})
