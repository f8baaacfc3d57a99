"""Whole numbers in texts that others wrote."""

_MAX_DIGITS = 18  # what an int64 holds in any case; Python itself refuses to read thousands of digits


def is_number(text: str) -> bool:
    """Whether a text is a number of ASCII digits that is not too long; `str.isdigit` takes "¹" for one, too."""
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
