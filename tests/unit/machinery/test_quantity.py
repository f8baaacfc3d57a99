from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinery.api.quantity import (
    Form,
    QuantityError,
    canonical,
    cpu_millis,
    format_quantity,
    parse_quantity,
    to_bytes,
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0", "0"), ("0.0", "0"), ("1", "1"), ("1000m", "1"), ("1500m", "1500m"), ("1.5", "1500m"), ("0.1", "100m"),
        ("1000k", "1M"), ("1234567", "1234567"), ("1Ki", "1Ki"), ("1024Ki", "1Mi"), ("1.5Gi", "1536Mi"),
        ("512", "512"), ("0.5Ki", "512"), ("0.0005Ki", "512m"), ("1e3", "1e3"), ("1E3", "1e3"), ("12e4", "120e3"),
        ("1E", "1E"), ("100n", "100n"), ("0.1n", "1n"), ("-0.1n", "-1n"), ("+5", "5"), ("-5m", "-5m"), (".5", "500m"),
        ("5.", "5"), ("1e-3", "1e-3"), ("1Ei", "1Ei"), ("9E", "9E"), ("100Ei", "9223372036854775807"), ("-1Ki", "-1Ki"),
        ("1e999999999999", "9223372036854775807e0"), ("1e-999999999999", "1e-9"),
    ],
)  # fmt: skip
def test_a_quantity_is_written_in_canonical_form(text: str, written: str) -> None:
    assert canonical(text) == written.removesuffix("e0")


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "abc", "1Kii", "1K", "1ki", "--1", "1 Gi", "1e", "e3", "1Gi5", "\u0661", "."]
)
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match=r"quantit"):
        parse_quantity(text)


def test_amounts_round_up() -> None:
    assert cpu_millis("100.5m") == 101
    assert cpu_millis("0.5") == 500
    assert cpu_millis(2) == 2000
    assert cpu_millis(0.1) == 100
    assert to_bytes("1.5Ki") == 1536
    assert to_bytes("1m") == 1
    assert to_bytes("128974848") == to_bytes("123Mi") == to_bytes("128974848000m") == 128974848


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(Form))
def test_writing_and_reading_again_keeps_whole_numbers(number: int, form: Form) -> None:
    assert parse_quantity(format_quantity(number, form)) == number


@given(st.decimals(-(10**9), 10**9, places=9), st.sampled_from(Form))
def test_writing_and_reading_again_keeps_nanos_and_is_stable(number: Decimal, form: Form) -> None:
    text = format_quantity(number, form)
    assert parse_quantity(text) == number
    assert canonical(text) == text or form is Form.BINARY_SI  # a binary one without suffix reads as decimal


@given(st.text("0123456789.+-eEinumkKMGTP", max_size=12))
def test_any_text_is_refused_or_stays_the_same_written_canonically(text: str) -> None:
    try:
        value = parse_quantity(text)
    except QuantityError:
        return
    assert abs(value) <= 2**63 - 1
    assert parse_quantity(canonical(text)) == value
