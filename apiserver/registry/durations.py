"""Spans of time as kubectl shows them."""

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
# Below the first number of seconds, a span is told in the second's unit and the rest in the fourth's, if any.
_DURATIONS = (
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)


def human_duration(seconds: float) -> str:
    """Return a span as kubectl shows ages: "45s", "5m30s", "3h12m", "4d", "2y30d".

    The units and their limits are those of apimachinery's duration.HumanDuration.
    """
    if seconds < -1:
        return "<invalid>"
    total = max(int(seconds), 0)
    for limit, unit, name, rest_unit, rest_name in _DURATIONS:
        if total < limit:
            rest = total % unit // rest_unit if rest_unit else 0
            return f"{total // unit}{name}{rest}{rest_name}" if rest else f"{total // unit}{name}"
    return f"{total // _YEAR}y"
