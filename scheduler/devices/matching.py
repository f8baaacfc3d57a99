"""Whether a device meets an expression, as far as that is not known already."""

import re

from scheduler.devices.pools import Device

_DOMAIN = re.compile(r"\bdevice\.(attributes|capacity)\s*\[\s*(?:\"([^\"]+)\"|'([^']+)')\s*\]")


def matches(device: Device, expression: str) -> bool:
    """Say whether a device meets a CEL expression. Raises: ValueError when it fails on it."""
    known = device.matched.get(expression)
    if known is None:
        known = device.matched[expression] = _evaluate(device, expression)
    return known


def _evaluate(device: Device, expression: str) -> bool:
    from machinery.cel.program import compile_expression  # the engine is large, and seldom needed

    variables = device.variables()
    for group, double, single in _DOMAIN.findall(expression):
        variables[group].setdefault(double or single, {})  # a domain nobody knows has no attributes; that is no mistake
    return compile_expression(expression, {"device": "dyn"}).evaluate({"device": variables}) is True
