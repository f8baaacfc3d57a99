"""Variables that a container takes from a file of another.

Source: https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/
"""

from pathlib import Path

import pytest

from agent.env_files import parse, read_beneath
from agent.environment import ConfigError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A='1'\nB='x y'\n", {"A": "1", "B": "x y"}),
        ("  # a comment\n\n\tA='1' # another\n", {"A": "1"}),
        ("A='one\n two'\nB=''", {"A": "one\n two", "B": ""}),
        ("A='$B \\n'", {"A": "$B \\n"}),
        ("A= 'v'\nB=", {"A": "", "B": ""}),
        ("A='1'\nA='2'", {"A": "1"}),
        ("", {}),
    ],
)
def test_values_stand_between_single_quotes(text: str, found: dict[str, str]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1", 1), ("A='1'\nno", 2), ("A ='1'", 1), ("='1'", 1), ("A='1", 1), ("A='1'x", 1), ('A="1"', 1)],
)
def test_what_is_no_variable_is_told_by_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=f"at line {line}$"):
        parse(text)


def test_a_file_is_read_below_its_volume_only(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "secret").write_text("A='1'")
    (volume / "out").symlink_to(tmp_path / "secret")
    (volume / "real").write_text("B='2'")
    (volume / "link").symlink_to("real")
    (volume / "folder").mkdir()
    (volume / "big").write_text("x" * 70_000)
    assert read_beneath(volume, "link") == "B='2'"
    assert read_beneath(volume, "none") is None
    for path, why in (("out", "leads out"), ("folder", "not a regular file"), ("big", "longer than")):
        with pytest.raises(ConfigError, match=why):
            read_beneath(volume, path)
