"""Patterns that users write: in Go's syntax, and run in time linear in the text, whatever the pattern."""

import functools
from typing import Any


@functools.lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Any:
    """Return a compiled pattern, with the methods of one of `re`. Raises: ValueError that tells what is wrong."""
    import re2  # 3 MB that a cluster without patterns of its users does without

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0] if error.args else error
        raise ValueError(told.decode() if isinstance(told, bytes) else str(told)) from error
