"""When schedules come round where clocks are put forward and back.

Source: the tables of github.com/robfig/cron, which Kubernetes uses, for the days of 2012 on which New York did so.
"""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from machinery.api.cron import Schedule

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("start", "fields", "times"),
    [
        # 2:00 becomes 3:00: what is left out does not come.
        ("2012-03-11T00:00:00-05:00", "30 2 11 3 *", ["2013-03-11T02:30:00-04:00"]),
        ("2012-03-11T00:00:00-05:00", "0 2 * * *", ["2012-03-12T02:00:00-04:00"]),
        (
            "2012-03-11T00:00:00-05:00", "0 * * * *",
            ["2012-03-11T01:00:00-05:00", "2012-03-11T03:00:00-04:00", "2012-03-11T04:00:00-04:00"],
        ),
        ("2012-03-11T01:45:00-05:00", "30 * * * *", ["2012-03-11T03:30:00-04:00"]),
        # 2:00 becomes 1:00: what comes twice is run twice.
        ("2012-11-04T00:00:00-04:00", "30 2 4 11 *", ["2012-11-04T02:30:00-05:00"]),
        ("2012-11-04T01:45:00-04:00", "30 1 4 11 *", ["2012-11-04T01:30:00-05:00"]),
        (
            "2012-11-04T00:00:00-04:00", "0 1 * * *",
            ["2012-11-04T01:00:00-04:00", "2012-11-04T01:00:00-05:00", "2012-11-05T01:00:00-05:00"],
        ),
        (
            "2012-11-04T00:30:00-04:00", "*/30 * * * *",
            [
                "2012-11-04T01:00:00-04:00", "2012-11-04T01:30:00-04:00", "2012-11-04T01:00:00-05:00",
                "2012-11-04T01:30:00-05:00", "2012-11-04T02:00:00-05:00",
            ],
        ),
        # Both changes lie between the two.
        ("2012-03-01T00:00:00-05:00", "0 12 1 1 *", ["2013-01-01T12:00:00-05:00", "2014-01-01T12:00:00-05:00"]),
    ],
)  # fmt: skip
def test_times_follow_the_clock_on_the_wall(start: str, fields: str, times: list[str]) -> None:
    found = Schedule(fields).after(datetime.fromisoformat(start).astimezone(NEW_YORK))
    assert [one.isoformat() for one in islice(found, len(times))] == times


@pytest.mark.parametrize("fields", ["*/7 * * * *", "15 */3 * * *", "0 0 * * 0"])
@pytest.mark.parametrize("zone", ["Europe/London", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
def test_every_minute_the_schedule_names_comes_and_no_other(fields: str, zone: str) -> None:
    """Against a look at each minute of ten days, in zones that change by an hour, by half of one, and never."""
    minutes, hours, _, _, days = fields.split()
    local = ZoneInfo(zone)
    start = datetime(2031, 3, 28, tzinfo=UTC)

    def named(moment: datetime) -> bool:
        here = moment.astimezone(local)
        return (
            (here.minute % 7 == 0 if minutes == "*/7" else here.minute == int(minutes))
            and (hours == "*" or (here.hour % 3 == 0 if hours == "*/3" else here.hour == int(hours)))
            and (days == "*" or here.isoweekday() == 7)
        )

    span = [start + timedelta(minutes=n) for n in range(1, 10 * 24 * 60)]
    wanted = [moment for moment in span if named(moment)]
    found = list(islice(Schedule(fields).after(start.astimezone(local)), len(wanted)))
    assert [one.astimezone(UTC) for one in found] == wanted
