"""SELinux labels, as they are made of the host's policy and of what a pod asks for."""

import os
from pathlib import Path

import pytest

from agent.cri import api_pb2 as cri
from agent.runtime.selinux import Labels, categories, defaults, labels, relabel

BASE = Labels("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")


@pytest.mark.parametrize(
    ("asked", "process", "file"),
    [
        (
            {"level": "s0:c1,c2"},
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        ({"type": "spc_t", "level": "s0"}, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0"),
        (
            {"user": "u", "role": "r", "type": "t", "level": "l"},
            "u:r:t:l",
            "u:object_r:container_file_t:l",
        ),
    ],
)
def test_what_a_pod_asks_for_stands_in_place_of_the_hosts(asked: dict[str, str], process: str, file: str) -> None:
    assert labels(cri.SELinuxOption(**asked), "sandbox", BASE, privileged=False) == Labels(process, file)


def test_containers_of_a_pod_share_categories_that_others_have_not() -> None:
    asked = cri.SELinuxOption(type="mine_t")
    one, same, other = (labels(asked, name, BASE, privileged=False) for name in ("a", "a", "b"))
    assert one == same != other
    assert one.process.split(":")[3:] == one.file.split(":")[3:] == ["s0", ",".join(categories("a"))]
    for number in range(500):
        low, high = (int(part[1:]) for part in categories(str(number)))
        assert 0 <= low < high < 1024


def test_a_privileged_container_is_of_the_type_that_may_all() -> None:
    found = labels(cri.SELinuxOption(level="s0"), "a", BASE, privileged=True)
    assert found.process == "system_u:system_r:spc_t:s0"


def test_the_hosts_policy_is_read(tmp_path: Path) -> None:
    assert defaults(tmp_path) == BASE
    (tmp_path / "config").write_text("SELINUX=enforcing\nSELINUXTYPE=mine\n")
    contexts = tmp_path / "mine" / "contexts"
    contexts.mkdir(parents=True)
    (contexts / "lxc_contexts").write_text('process = "a:b:c:s0"\ncontent = "x"\nfile = "d:e:f:s0"\n')
    assert defaults(tmp_path) == Labels("a:b:c:s0", "d:e:f:s0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set labels")
def test_a_volume_s_files_get_the_label_and_what_links_lead_to_does_not(tmp_path: Path) -> None:
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    outside.write_text("")
    (volume / "deep").mkdir(parents=True)
    (volume / "deep" / "file").write_text("")
    (volume / "link").symlink_to(outside)
    relabel(str(volume), "u:r:t:s0:c1,c2")
    for path in (volume, volume / "deep", volume / "deep" / "file", volume / "link"):
        assert os.getxattr(path, "security.selinux", follow_symlinks=False) == b"u:r:t:s0:c1,c2\0"
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(outside, "security.selinux")
    relabel(str(volume), "u:r:t:s0")
    assert os.getxattr(volume / "deep" / "file", "security.selinux") == b"u:r:t:s0\0"
    for path in ("/", "/etc", "/usr/"):
        with pytest.raises(OSError, match="is not allowed"):
            relabel(path, "u:r:t:s0")
