"""Records on disk, and the small pure parts of the runtime."""

import json
from pathlib import Path

import pytest

from agent.runtime import cni, sessions
from agent.runtime.errors import InvalidArgument, NotFound
from agent.runtime.images.pull import Credentials, is_loopback
from agent.runtime.images.reference import parse
from agent.runtime.images.store import chain_ids
from agent.runtime.oci import error_text
from agent.runtime.state import ContainerRecord, Records


def record(name: str, created_at: int = 0) -> ContainerRecord:
    return ContainerRecord(name, "pod", b"\x00\xff", created_at, "boot", user=[1, 2], layers=["a"])


def test_records_are_the_same_after_a_restart(tmp_path: Path) -> None:
    records = Records(tmp_path / "c", ContainerRecord, "container")
    records.load()
    records.save(record("b" * 64, 2))
    records.save(record("a" * 64, 1))
    again = Records(tmp_path / "c", ContainerRecord, "container")
    again.load()
    assert again.all() == [record("a" * 64, 1), record("b" * 64, 2)]


def test_a_record_may_be_named_by_the_beginning_of_its_id_if_only_one_begins_so(tmp_path: Path) -> None:
    records = Records(tmp_path / "c", ContainerRecord, "container")
    records.load()
    for name in ("abc1", "abc2", "b1"):
        records.save(record(name))
    assert records.get("b").id == "b1"
    for unknown in ("abc", "x", ""):
        with pytest.raises(NotFound):
            records.get(unknown)


def test_a_folder_that_a_crash_left_without_a_record_is_removed(tmp_path: Path) -> None:
    (tmp_path / "c" / "half").mkdir(parents=True)
    (tmp_path / "c" / "half" / ".record.json.tmp").write_text("{")
    records = Records(tmp_path / "c", ContainerRecord, "container")
    records.load()
    assert records.all() == []
    assert list((tmp_path / "c").iterdir()) == []


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    records = Records(tmp_path / "c", ContainerRecord, "container")
    records.load()
    records.save(record("a"))
    path = tmp_path / "c" / "a" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invented": 1}))
    records.load()
    assert records.get("a") == record("a")


def test_chain_ids_stand_for_all_layers_below() -> None:
    """https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid"""
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert chain_ids([one])[0] == one
    assert chain_ids([one, two])[1] != chain_ids([two, two])[1]
    assert chain_ids([one, two, one])[:2] == chain_ids([one, two])


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        *((name, True) for name in ("localhost", "localhost:5000", "127.1.2.3:5000", "[::1]:5000")),
        *((name, False) for name in ("docker.io", "10.0.0.1:5000", "localhost.io")),
    ],
)
def test_registries_on_this_machine_may_do_without_tls(domain: str, *, expected: bool) -> None:
    assert is_loopback(domain) is expected


def test_credentials_are_filed_under_the_registry() -> None:
    assert Credentials().auth_file(parse("busybox")) is None
    made = json.loads(Credentials(username="u", password="p").auth_file(parse("host.io/a")) or b"")
    assert made == {"auths": {"host.io": {"auth": "dTpw"}}}
    assert b"index.docker.io/v1" in (Credentials(auth="dTpw").auth_file(parse("busybox")) or b"")


def test_the_oci_runtime_s_last_error_is_the_message() -> None:
    log = '{"level":"warning","msg":"w"}\n{"level":"error","msg":"first"}\n{"level":"error","msg":"last"}\n'
    assert error_text(log + '{"level":"info","msg":"i"}\n') == "last"
    assert error_text("no json") == "no json"
    assert error_text("") == "no message"


def test_addresses_of_a_network_come_with_the_old_kind_first() -> None:
    result = {"ips": [{"address": "fd00::5/64"}, {"address": "10.1.2.3/24"}]}
    assert cni.addresses(result) == ["10.1.2.3", "fd00::5"]


def test_the_bridge_s_network_list_has_a_range_for_each_cidr(tmp_path: Path) -> None:
    network = cni.Network(tmp_path, (Path("/usr/lib/cni"),), "br0", tmp_path / "ipam")
    network.write_bridge_list("10.1.0.0/24, fd00::/64")
    plugin, limits = json.loads((tmp_path / cni.OWN_FILE).read_bytes())["plugins"]
    assert limits == {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    assert plugin["bridge"] == "br0"
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert plugin["ipam"]["routes"] == [  # pods of this node are reached through the node, where rules hold
        {"dst": "0.0.0.0/0"}, {"dst": "10.1.0.128/25", "gw": "10.1.0.1"}, {"dst": "10.1.0.0/25", "gw": "10.1.0.1"},
        {"dst": "::/0"}, {"dst": "fd00::8000:0:0:0/65", "gw": "fd00::1"}, {"dst": "fd00::/65", "gw": "fd00::1"},
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match="pod CIDR"):
        network.write_bridge_list("10.1.0.0/99")


@pytest.mark.parametrize(
    ("conflist", "complaint"),
    [
        (None, "cni plugin not initialized"),
        ("{", "net.conflist"),
        ('{"name":"n","plugins":[{"type":"no-such-plugin"}]}', 'failed to find plugin "no-such-plugin"'),
    ],
)
def test_a_network_that_cannot_be_made_says_why(tmp_path: Path, conflist: str | None, complaint: str) -> None:
    if conflist:
        (tmp_path / "net.conflist").write_text(conflist)
    with pytest.raises(cni.NetworkError, match=complaint):
        cni.Network(tmp_path, (Path("/usr/lib/cni"),), "br0", tmp_path / "ipam").load()


def test_a_list_of_the_system_wins_unless_it_is_another_engine_s(tmp_path: Path) -> None:
    own, system = tmp_path / "own", tmp_path / "system"
    system.mkdir()
    network = cni.Network(own, (Path("/usr/lib/cni"),), "br0", tmp_path / "ipam", system)
    network.write_bridge_list("10.1.0.0/24")
    conflist = '{"name": "%s", "cniVersion": "1.0.0", "plugins": [{"type": "loopback"}]}'
    (system / "87-podman-bridge.conflist").write_text(conflist % "podman")
    assert network.load().name == "wherry"
    (system / "10-calico.conflist").write_text(conflist % "calico")
    assert network.load().name == "calico"


def test_addresses_of_sandboxes_that_are_no_more_are_given_back(tmp_path: Path) -> None:
    leases = tmp_path / "ipam" / "wherry"
    leases.mkdir(parents=True)
    for name, owner in (("10.1.0.2", "alive"), ("10.1.0.3", "dead"), ("last_reserved_ip.0", "10.1.0.3"), ("lock", "")):
        (leases / name).write_text(f"{owner}\neth0")
    network = cni.Network(tmp_path, (Path("/usr/lib/cni"),), "br0", tmp_path / "ipam")
    assert network.forget_leaked({"alive"}) == ["10.1.0.3"]
    assert sorted(path.name for path in leases.iterdir()) == ["10.1.0.2", "last_reserved_ip.0", "lock"]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"Width":"x","Height":1}', b"\xff"])
def test_what_is_no_window_size_is_ignored(data: bytes) -> None:
    assert sessions.window_size(data) is None
    assert sessions.window_size(b'{"Width":80,"Height":24}') == (24, 80)
