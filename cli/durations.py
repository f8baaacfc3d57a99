"""Durations as Go writes them: 30s, 5m, 1h30m."""

import click

from machinery.compose.values import ComposeError
from machinery.compose.values import seconds as read_seconds


def seconds(text: str) -> float:
    """Read a duration, or a plain number of seconds. Raises: ClickException."""
    try:
        return read_seconds(text)
    except ComposeError as error:
        raise click.ClickException(str(error)) from error


def short(total_seconds: float) -> str:
    """Return an age as kubectl prints it: 5s, 3m10s, 5h, 2d3h (apimachinery's HumanDuration)."""
    whole = int(total_seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = whole // 3600
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return _days(hours)


def _days(hours: int) -> str:
    days = hours // 24
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if hours < 24 * 365 * 2:
        return f"{days}d"
    years = days // 365
    return f"{years}y{days % 365}d" if hours < 24 * 365 * 8 and days % 365 else f"{years}y"
