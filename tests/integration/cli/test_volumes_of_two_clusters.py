"""Named volumes where several clusters share a machine: what another's container has mounted stays."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.containers.volumes import VOLUMES
from tests.integration.cli.conftest import Answer, Lab

pytestmark = pytest.mark.root


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Path]:
    """A volume that a process in a mount namespace of its own has mounted, as a container of another cluster does."""
    folder, place = tmp_path / "volumes" / "theirs", tmp_path / "place"
    for path in (folder, place, tmp_path / "volumes" / "free"):
        path.mkdir(parents=True)
    (folder / "data").write_text("precious")
    script = f"mount --bind {folder} {place} && echo ready && read line"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "ready\n"
        yield folder
        holder.communicate("\n", timeout=10)


def ask(lab: Lab, volumes: Path, words: str) -> Answer:
    """Run `wherry volume` where these are the machine's volumes: its real ones must not be touched by a test."""
    script = f"mkdir -p {VOLUMES} && mount --bind {volumes} {VOLUMES} && exec {sys.executable} -m cluster.main"
    return lab.run("unshare", "--mount", "sh", "-c", f"{script} volume {words}")


def test_prune_leaves_what_another_cluster_has_mounted(lab: Lab, theirs: Path) -> None:
    done = ask(lab, theirs.parent, "prune -a -f")
    assert done.code == 0, done.err
    assert done.out.splitlines()[:2] == ["Deleted Volumes:", "free"]
    assert (theirs / "data").read_text() == "precious"
    assert [one.name for one in theirs.parent.iterdir()] == ["theirs"]


def test_what_another_cluster_made_stays_though_nothing_has_it_mounted(lab: Lab, tmp_path: Path) -> None:
    """Its containers may have stopped, and will want it when they start again."""
    volumes = tmp_path / "volumes"
    (volumes / ".owners").mkdir(parents=True)
    for name, others in (("stopped", "another-cluster"), ("old", "")):
        (volumes / name).mkdir()
        (volumes / ".owners" / name).write_text(others)
    made = ask(lab, volumes, "create mine")
    assert made.out == "mine\n", made.err
    shared = ask(lab, volumes, "create stopped")
    assert len((volumes / ".owners" / "stopped").read_text().split()) == 2, shared.err
    assert ask(lab, volumes, "ls -q").out == "mine\nold\nstopped\n"
    refused = ask(lab, volumes, "rm stopped")
    assert (refused.code, "belongs to another cluster" in refused.err) == (1, True)
    done = ask(lab, volumes, "prune -a -f")
    assert done.out.splitlines()[:3] == ["Deleted Volumes:", "mine", "old"], done.err
    assert (volumes / ".owners" / "stopped").read_text() == "another-cluster"
    assert ask(lab, volumes, "rm -f stopped").out == "stopped\n"
    assert [one.name for one in (volumes / ".owners").iterdir()] == []


def test_rm_refuses_what_another_cluster_has_mounted(lab: Lab, theirs: Path) -> None:
    done = ask(lab, theirs.parent, "rm theirs free")
    assert done.code == 1
    assert "remove theirs: volume is in use by a container of another cluster" in done.err
    assert (theirs / "data").read_text() == "precious"
    assert [one.name for one in theirs.parent.iterdir()] == ["theirs"]
