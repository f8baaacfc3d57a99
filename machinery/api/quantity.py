"""Quantities: "500m" of CPU, "1.5Gi" of memory.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import ROUND_CEILING, ROUND_UP, Context, Decimal
from enum import Enum
from functools import lru_cache

_BINARY = {suffix: 2 ** (10 * power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX_OF = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_SHAPE = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([A-Za-z]*)([+-]?[0-9]*)", re.ASCII)
_MAX = Decimal(2**63 - 1)
_NANO = Decimal("1e-9")
_EXACT = Context(prec=80)
_MAX_EXPONENT = 1000
"""Far beyond what is capped or rounded away; keeps "1e999999999" from costing a gigabyte."""


class Form(Enum):
    """How a quantity was written, and is written again."""

    DECIMAL_SI = "DecimalSI"
    BINARY_SI = "BinarySI"
    DECIMAL_EXPONENT = "DecimalExponent"


class QuantityError(ValueError):
    """The text is not a quantity."""


def parse_quantity(text: str | int | float | Decimal) -> Decimal:
    """Return the value of a quantity; finer than nano rounds away from zero, larger than 2^63-1 is capped.

    Raises: QuantityError, in upstream's words.
    """
    return _parse(text if isinstance(text, str) else _plain(text))[0]


def form_of(text: str | int | float) -> Form:
    """Return how a quantity is written. Raises: QuantityError."""
    return _parse(text if isinstance(text, str) else _plain(text))[1]


def cpu_millis(text: str | int | float | Decimal) -> int:
    """Return an amount of CPU in millicores, rounded up. Raises: QuantityError."""
    return _ceil(parse_quantity(text) * 1000)


def to_bytes(text: str | int | float | Decimal) -> int:
    """Return an amount in whole units (bytes of memory, numbers of pods), rounded up. Raises: QuantityError."""
    return _ceil(parse_quantity(text))


@lru_cache(maxsize=4096, typed=True)
def canonical(text: str | int | float) -> str:
    """Return a quantity as the API writes it: no fraction, the largest suffix that leaves none.

    Raises: QuantityError.
    """
    return format_quantity(*_parse(text if isinstance(text, str) else _plain(text)))


def format_quantity(value: Decimal | int, form: Form = Form.DECIMAL_SI) -> str:
    """Write a value in canonical form. Binary suffixes are used only for whole numbers of 1024 and more."""
    value = Decimal(value)
    if form is Form.BINARY_SI and abs(value) >= 1024 and value == value.to_integral_value():
        return _format_binary(int(value))
    mantissa, exponent = _whole_mantissa(value)
    if form is Form.DECIMAL_EXPONENT:
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    while exponent > 18:
        mantissa, exponent = mantissa * 1000, exponent - 3
    return f"{mantissa}{_SUFFIX_OF[exponent]}"


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Decimal, Form]:
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise QuantityError(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    number, letters, digits = found.groups()
    value = Decimal(number)
    if letters in ("e", "E") and digits.lstrip("+-"):
        exponent, form = max(-_MAX_EXPONENT, min(int(digits), _MAX_EXPONENT)), Form.DECIMAL_EXPONENT
        value = value.scaleb(exponent, _EXACT)
    elif digits:
        raise QuantityError("unable to parse quantity's suffix")
    elif letters in _BINARY:
        value, form = _EXACT.multiply(value, Decimal(_BINARY[letters])), Form.BINARY_SI
    elif letters in _DECIMAL:
        value, form = value.scaleb(_DECIMAL[letters], _EXACT), Form.DECIMAL_SI
    else:
        raise QuantityError("unable to parse quantity's suffix")
    return _bounded(value), form


def _bounded(value: Decimal) -> Decimal:
    if abs(value) >= _MAX:
        return _MAX.copy_sign(value)
    return value.quantize(_NANO, rounding=ROUND_UP, context=_EXACT)


def _plain(number: float | Decimal) -> str:
    """Return the text of a number that came as a number: JSON and YAML allow `cpu: 1` and `cpu: 0.5`."""
    if isinstance(number, bool):
        raise QuantityError("a boolean is not a quantity")
    return format(Decimal(str(number)), "f")


def _ceil(value: Decimal) -> int:
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def _format_binary(value: int) -> str:
    suffix = ""
    for larger in _BINARY:
        if value % 1024:
            break
        value, suffix = value // 1024, larger
    return f"{value}{suffix}"


def _whole_mantissa(value: Decimal) -> tuple[int, int]:
    """Split a value into a whole number and the largest power of 1000 that leaves it whole."""
    mantissa, exponent = int(value.scaleb(9, _EXACT)), -9
    while mantissa and mantissa % 1000 == 0:
        mantissa, exponent = mantissa // 1000, exponent + 3
    return (mantissa, exponent) if mantissa else (0, 0)
