"""Work in a child process: done, or told."""

import os
from pathlib import Path

import pytest

from cluster.processes import apart


def test_work_is_done_by_another_process(tmp_path: Path) -> None:
    apart(lambda: (tmp_path / "pid").write_text(str(os.getpid())))  # type: ignore[arg-type,return-value]
    assert int((tmp_path / "pid").read_text()) != os.getpid()


def test_a_failure_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("no room")

    with pytest.raises(ChildProcessError):
        apart(fail)
    assert "no room" in capfd.readouterr().err
