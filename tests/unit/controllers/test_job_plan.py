"""Decisions about Jobs: sets of indexes, schedules, back-off."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.batch_views import CronJob
from controllers.cronjob import due
from controllers.job_indexes import format_indexes, parse_indexes
from controllers.job_pods import Backoff
from machinery.api.cron import BadSchedule, Schedule
from machinery.api.meta import ObjectKey
from tests.unit.controllers.builders import NOW, pod

KEY = ObjectKey("default", "work")


@given(st.sets(st.integers(0, 60)))
def test_a_set_of_indexes_survives_being_written(indexes: set[int]) -> None:
    assert parse_indexes(format_indexes(indexes)) == indexes


@pytest.mark.parametrize(("indexes", "text"), [(set(), ""), ({1}, "1"), ({1, 2}, "1,2"), ({0, 2, 3, 4, 9}, "0,2-4,9")])
def test_runs_of_three_are_written_with_a_dash(indexes: set[int], text: str) -> None:
    assert format_indexes(indexes) == text
    assert parse_indexes("0-9,x,12", 3) == {0, 1, 2}


def cron_job(schedule: str, **spec: object) -> CronJob:
    metadata = {"name": "tick", "uid": "u", "creationTimestamp": "2030-01-01T00:00:00Z"}
    return msgspec.convert({"metadata": metadata, "spec": {"schedule": schedule, **spec}}, CronJob)


@pytest.mark.parametrize(
    ("schedule", "zone", "at", "run", "later"),
    [
        ("*/5 * * * *", None, "2030-01-01T00:04:00Z", None, "2030-01-01T00:05:00Z"),
        ("*/5 * * * *", None, "2030-01-01T00:11:00Z", "2030-01-01T00:10:00Z", "2030-01-01T00:15:00Z"),
        ("@hourly", None, "2030-01-01T03:30:00Z", "2030-01-01T03:00:00Z", "2030-01-01T04:00:00Z"),
        ("0 6 * * *", "Europe/London", "2030-07-01T05:30:00Z", "2030-07-01T05:00:00Z", "2030-07-02T05:00:00Z"),
        ("* * * * *", None, "2030-01-03T00:00:30Z", "2030-01-03T00:00:00Z", "2030-01-03T00:01:00Z"),
    ],
)
def test_the_latest_missed_run_is_due(schedule: str, zone: str | None, at: str, run: str | None, later: str) -> None:
    found = due(cron_job(schedule, timeZone=zone), at=datetime.fromisoformat(at))
    assert found.run == (datetime.fromisoformat(run) if run else None)
    assert found.next == datetime.fromisoformat(later)


def test_a_run_older_than_the_deadline_is_left_out() -> None:
    at = datetime.fromisoformat("2030-01-01T00:58:00Z")
    assert due(cron_job("0 * * * *", startingDeadlineSeconds=60), at=at).run is None
    assert due(cron_job("30 * * * *", startingDeadlineSeconds=3600), at=at).missed == 1


@pytest.mark.parametrize("text", ["", "* * *", "61 * * * *", "@never", "@every x", "a b c d e"])
def test_a_bad_schedule_says_so(text: str) -> None:
    with pytest.raises(BadSchedule):
        Schedule(text)


def test_failures_in_a_row_double_the_wait_and_a_success_ends_it() -> None:
    backoff, at = Backoff(), NOW
    assert backoff.seconds(KEY, at=at) == 0
    for count, wait in ((1, 10), (2, 20), (3, 40)):
        # A pod whose containers tell of no end ended when it ceased to be ready.
        backoff.note(KEY, [], [pod(f"p{count}", phase="Failed", ready=False, ready_seconds=0)])
        assert backoff.seconds(KEY, at=at) == pytest.approx(wait, abs=1)
    assert backoff.seconds(KEY, at=at + timedelta(seconds=60)) == 0
    backoff.note(KEY, [pod("good", phase="Succeeded", ready=False, ready_seconds=0)], [])
    assert backoff.seconds(KEY, at=at) == 0
