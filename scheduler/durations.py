"""Lengths of time as configuration files write them, and what is said of files that are wrong."""

import re

_DURATION = re.compile(r"([0-9.]+)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class ConfigError(ValueError):
    """The file is no configuration of a scheduler; the text says where and why."""


def duration_seconds(text: str) -> float:
    """Return how long a duration such as 1m30s is. Raises: ConfigError."""
    parts = _DURATION.findall(text)
    if not parts:
        raise ConfigError(f'"{text}" is not a duration')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
