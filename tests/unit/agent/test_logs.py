"""What users see of a container's log. Source: the CRI's log format, one raw line each: TIME STREAM TAG TEXT."""

from pathlib import Path

import pytest

from agent.logs import LogOptions, read_log

RAW = """\
2026-01-31T10:00:00.000000001+00:00 stdout F one
2026-01-31T10:00:01.000000000+00:00 stdout P tw
2026-01-31T10:00:02.000000000+00:00 stdout P o
2026-01-31T10:00:03.000000000+00:00 stdout F !
2026-01-31T12:00:04.000000000+02:00 stderr F three
"""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (LogOptions(), "one\ntwo!\nthree\n"),
        (
            LogOptions(timestamps=True),
            "2026-01-31T10:00:00.000000001Z one\n2026-01-31T10:00:01.000000000Z two!\n"
            "2026-01-31T12:00:04.000000000+02:00 three\n",
        ),
        (LogOptions(tail_lines=2), "two!\nthree\n"),
        (LogOptions(since_time="2026-01-31T10:00:04Z"), "three\n"),
        (LogOptions(limit_bytes=6), "one\ntw"),
    ],
    ids=["plain", "times", "tail", "since", "limit"],
)
async def test_lines_are_put_together_and_times_stand_before_whole_ones(
    tmp_path: Path, options: LogOptions, text: str
) -> None:
    path = tmp_path / "0.log"
    path.write_text(RAW)
    pieces = [piece async for piece in read_log(tmp_path, path, options, lambda: False)]
    assert b"".join(pieces).decode() == text
