"""What the command line talks to when nobody says."""

import os
from pathlib import Path

import pytest

from cluster import main


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kubeconfig of this machine's cluster; the user has none."""
    monkeypatch.setattr(main, "default_data_dir", lambda: tmp_path / "wherry")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "wherry").mkdir()
    return tmp_path / "wherry/kubeconfig"


def test_this_machines_cluster_is_found(own: Path) -> None:
    own.write_text("{}")
    main._prefer_own_cluster()
    assert os.environ.pop("KUBECONFIG") == str(own)


@pytest.mark.parametrize("given", ["KUBECONFIG", ".kube/config"])
def test_what_the_user_has_is_used_before_it(own: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text("{}")
    if given == "KUBECONFIG":
        monkeypatch.setenv(given, "/elsewhere")
    else:
        (own.parents[1] / ".kube").mkdir()
        (own.parents[1] / given).write_text("{}")
    main._prefer_own_cluster()
    assert os.environ.get("KUBECONFIG") == ("/elsewhere" if given == "KUBECONFIG" else None)


def test_where_none_is_nothing_is_set(own: Path) -> None:
    assert not own.exists()
    main._prefer_own_cluster()
    assert "KUBECONFIG" not in os.environ
