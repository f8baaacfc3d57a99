"""How Compose and Docker write sizes, times and ports; and the error that tells of a mistake in a project."""

import re
from collections.abc import Callable
from typing import Any

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class ComposeError(Exception):
    """A project that can't be run as it is written; the text names file, line and column where it can."""


def seconds(text: str) -> float:
    """Read a duration such as 1h30m, or a plain number of seconds. Raises: ComposeError."""
    sign = -1.0 if text.startswith("-") else 1.0
    plain = text.lstrip("-")
    if plain.isdigit():
        return sign * float(plain)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", plain)
    if not parts or "".join(number + unit for number, unit in parts) != plain:
        raise ComposeError(f'invalid argument "{text}": time: invalid duration "{text}"')
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)


def byte_size(text: str) -> str:
    """Return Docker's size (512m, 1g) as a quantity. Raises: ComposeError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.lower())
    if match is None:
        raise ComposeError(f"invalid size: '{text}'")
    factor = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[match[2]]
    return str(int(float(match[1]) * factor))


def literal(text: str) -> str:
    """Return text so that the agent, which fills in $(NAME) and takes $$ for $, leaves it as it is.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    """
    return re.sub(r"\$(?=[$(])", "$$", text)


def unescaped(text: str) -> str:
    """Return what the agent makes of text in which no $(NAME) is filled in."""
    return text.replace("$$", "$")


def container_port(text: str, free_port: Callable[[], int] | None) -> dict[str, Any]:
    """Return the container port that `[IP:]HOST:CONTAINER[/PROTOCOL]` asks for. Raises: ComposeError.

    Args:
        text: the entry; without HOST, any port of the host will do.
        free_port: gives such a port; without it, the container's port is on no host.
    """
    body, _, protocol = text.partition("/")
    *front, inner = body.split(":")
    if not inner.isdigit() or (front and front[-1] and not front[-1].isdigit()):
        raise ComposeError(
            f"invalid containerPort: {inner}" if not inner.isdigit() else f"invalid hostPort: {front[-1]}"
        )
    found: dict[str, Any] = {"containerPort": int(inner), "protocol": (protocol or "tcp").upper()}
    if front and front[-1]:
        found["hostPort"] = int(front[-1])
    elif free_port is not None:
        found["hostPort"] = free_port()
    if len(front) > 1:
        found["hostIP"] = ":".join(front[:-1]).strip("[]")
    return found
