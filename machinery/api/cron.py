"""Schedules of CronJobs: five fields, or a macro such as @hourly.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

_MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_PROBE = timedelta(days=20)
"""No zone changes its offset and back within this time, but for the oddest of years."""


class BadSchedule(ValueError):
    """A schedule that cannot be understood; the message says why."""


class Schedule:
    """The times a schedule names, in the time zone of the time asked from."""

    def __init__(self, text: str) -> None:
        """Read a schedule. Raises: BadSchedule."""
        self._text, self._every = text, 0.0
        if text.startswith("@every "):
            self._every = _span(text.removeprefix("@every "))
            return
        if text.startswith("@") and text not in _MACROS:
            raise BadSchedule(f"unrecognized descriptor: {text}")
        fields = _MACROS.get(text, text).replace("?", "*").split()
        if len(fields) != 5:
            raise BadSchedule(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
        self._fields = " ".join(fields)
        try:
            CronSim(self._fields, datetime(2000, 1, 1))
        except CronSimError as error:
            raise BadSchedule(f"failed to parse schedule: {error}") from error

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after a moment, earliest first; none when the schedule names a day that never comes.

        Where clocks are put forward, what the schedule names in the hour that is left out does not come; where they
        are put back, what it names in the hour that comes twice comes twice. So have it the schedules of Kubernetes.
        """
        if self._every:
            while True:
                moment = (moment + timedelta(seconds=self._every)).replace(microsecond=0)
                yield moment
        else:
            yield from _through(self._fields, moment)


def _through(fields: str, moment: datetime) -> Iterator[datetime]:
    """Yield the times of five fields by the clock on the wall, from one change of its offset to the next."""
    zone = moment.tzinfo or UTC
    first = moment.replace(tzinfo=None)
    after = moment.astimezone(UTC)
    while True:
        offset = _offset(after, zone)
        for wall in CronSim(fields, first):
            found = (wall - offset).replace(tzinfo=UTC)
            change = _change(after, found, offset, zone)
            if change is not None:
                break
            yield found.astimezone(zone)
            after = found
        else:
            return
        # From the change on, itself included: the library looks from the minute after the one it is given.
        after, first = change, (change + _offset(change, zone)).replace(tzinfo=None) - timedelta(minutes=1)


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _change(start: datetime, end: datetime, offset: timedelta, zone: tzinfo) -> datetime | None:
    """Return the first moment up to `end`, to the second, at which a zone has another offset; None if there is none."""
    known = start
    while known < end:
        probe = min(known + _PROBE, end)
        if _offset(probe, zone) != offset:
            break
        known = probe
    else:
        return None
    while probe - known > timedelta(seconds=1):
        middle = known + timedelta(seconds=(probe - known) // timedelta(seconds=2))
        if _offset(middle, zone) == offset:
            known = middle
        else:
            probe = middle
    return probe.replace(microsecond=0)


def _span(text: str) -> float:
    parts = _SPAN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadSchedule(f"failed to parse duration @every {text}")
    return max(sum(float(number) * _SECONDS[unit] for number, unit in parts), 1.0)
