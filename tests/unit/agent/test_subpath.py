"""A path below a volume never leads out of it, though somebody exchanges folders for links meanwhile.

Source: CVE-2017-1002101, CVE-2021-25741
"""

import contextlib
import os
import threading
from pathlib import Path

import pytest

from agent.environment import ConfigError
from agent.volumes.subpath import open_beneath


@pytest.mark.parametrize("sub", ["/etc", "../x", "a/../../x"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, sub: str) -> None:
    with pytest.raises(ConfigError):
        os.close(open_beneath(tmp_path, sub))


@pytest.mark.parametrize("target", ["/etc", "..", "../../etc/passwd", "/proc/self/root"])
def test_links_that_lead_out_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigError):
        os.close(open_beneath(tmp_path, "link"))
    with pytest.raises(ConfigError):
        os.close(open_beneath(tmp_path, "link/below"))


def test_links_that_stay_inside_are_followed_and_missing_folders_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    os.close(open_beneath(tmp_path, "link/new/deep"))
    assert (tmp_path / "real/new/deep").is_dir()


def test_a_race_between_check_and_use_cannot_be_won(tmp_path: Path) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    (volume / "a").mkdir(parents=True)
    outside.mkdir()
    secret = (outside / "secret").resolve()
    secret.mkdir()
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                (volume / "a").rename(volume / "b")
                (volume / "a").symlink_to(outside)
                (volume / "a").unlink()
                (volume / "b").rename(volume / "a")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(2000):
            with contextlib.suppress(ConfigError, OSError):
                fd = open_beneath(volume, "a/secret", create=False)
                try:
                    assert not Path(os.readlink(f"/proc/self/fd/{fd}")).is_relative_to(outside)
                finally:
                    os.close(fd)
    finally:
        stop.set()
        thread.join()
