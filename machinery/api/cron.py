"""Schedules of CronJobs: five fields, or a macro such as @hourly.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

_MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1}


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
        """Yield the times after a moment, earliest first; none when the schedule names a day that never comes."""
        if self._every:
            while True:
                moment = (moment + timedelta(seconds=self._every)).replace(microsecond=0)
                yield moment
        else:
            yield from CronSim(self._fields, moment)


def _span(text: str) -> float:
    parts = _SPAN.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BadSchedule(f"failed to parse duration @every {text}")
    return max(sum(float(number) * _SECONDS[unit] for number, unit in parts), 1.0)
