import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinery.api.selectors import (
    EVERYTHING,
    NOTHING,
    FieldSelector,
    FieldTerm,
    SelectorError,
    from_label_selector,
    from_labels,
    parse_field_selector,
    parse_label_selector,
)

WEB = {"app": "web", "tier": "front", "gen": "7", "empty": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True), ("app=web", True), ("app==web", True), ("app = web , tier=front", True), ("app!=web", False),
        ("app", True), ("!app", False), ("! none", True), ("none", False), ("none!=x", True), ("none=x", False),
        ("app in (web)", True), ("app in (db, web)", True), ("app in (db)", False), ("app notin (db)", True),
        ("none notin (db)", True), ("none in (db)", False), ("app in (web),tier notin (back)", True),
        ("gen>6", True), ("gen>7", False), ("gen<8", True), ("app>1", False), ("none<1", False), ("empty=", True),
        ("empty=,app=web", True), ("app=", False), ("empty in (,x)", True), ("empty in (x,)", True),
        ("in in (in)", False), ("example.com/role", False), ("app,tier", True), ("app,!tier", False),
    ],
)  # fmt: skip
def test_a_label_selector_selects(text: str, selected: bool) -> None:
    selector = parse_label_selector(text)
    assert selector.matches(WEB) is selected
    assert parse_label_selector(str(selector)) == selector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app=web,", "found '', expected: identifier after ','"),
        (",app", "found ',', expected: !, identifier, or 'end of string'"),
        ("app=web tier", "found 'tier', expected: ',' or 'end of string'"),
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app foo", "unable to parse requirement: found 'foo', expected: in, notin, =, ==, !=, gt, lt"),
        ("app=(", "unable to parse requirement: found '(', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("!app in (a)", "found 'in', expected: ',' or 'end of string'"),
        ("app in ()", "for 'in', 'notin' operators, values set can't be empty"),
        ("a>b", "the value must be an integer"),
        ("-bad=x", 'key: Invalid value: "-bad": name part must consist of alphanumeric characters'),
        ("app=-x", 'values[0][app]: Invalid value: "-x": a valid label must be an empty string or consist of'),
        ("a/b/c", "a qualified name must consist of"),
        ("/b", "prefix part must be non-empty"),
        ("a" * 64, "name part must be no more than 63 bytes"),
    ],
)
def test_a_malformed_label_selector_is_refused_in_upstreams_words(text: str, message: str) -> None:
    with pytest.raises(SelectorError, match=re.escape(message)):
        parse_label_selector(text)


def test_an_absent_selector_object_selects_nothing_and_an_empty_one_everything() -> None:
    assert from_label_selector(None) == NOTHING
    assert from_label_selector({}) == EVERYTHING
    assert not NOTHING.matches(WEB)
    assert EVERYTHING.matches(None)
    assert EVERYTHING.empty
    assert not NOTHING.empty


def test_a_selector_object_needs_all_its_parts() -> None:
    selector = from_label_selector(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "canary", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches(WEB)
    assert not selector.matches({**WEB, "canary": ""})
    assert str(selector) == "app=web,!canary,tier in (back,front)"
    assert from_labels({"app": "web"}).matches(WEB)


def test_a_selector_object_with_an_unknown_operator_is_refused() -> None:
    with pytest.raises(SelectorError, match='"Near" is not a valid label selector operator'):
        from_label_selector({"matchExpressions": [{"key": "a", "operator": "Near"}]})


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("status.phase=Running", (FieldTerm("status.phase", "Running"),)),
        ("status.phase==Running", (FieldTerm("status.phase", "Running"),)),
        ("a!=b,c=", (FieldTerm("a", "b", negated=True), FieldTerm("c", ""))),
        (r"a=x\,y\=z\\", (FieldTerm("a", "x,y=z\\"),)),
    ],
)
def test_a_field_selector_is_read(text: str, terms: tuple[FieldTerm, ...]) -> None:
    assert parse_field_selector(text).terms == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec.nodeName", "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'"),
        ("a=b=c", "invalid field selector: unescaped character in value: ="),
        ("a=b\\x", "invalid field selector: invalid escape sequence: \\x"),
        ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
    ],
)
def test_a_malformed_field_selector_is_refused(text: str, message: str) -> None:
    with pytest.raises(SelectorError, match=re.escape(message)):
        parse_field_selector(text)


def test_field_terms_must_all_hold() -> None:
    selector = parse_field_selector("spec.nodeName=n1,status.phase!=Failed")
    assert selector.matches({"spec.nodeName": "n1", "status.phase": "Running"})
    assert not selector.matches({"spec.nodeName": "n1", "status.phase": "Failed"})
    assert not selector.matches(lambda field: "")
    assert selector.required_value("spec.nodeName") == "n1"
    assert selector.required_value("status.phase") is None


@given(st.lists(st.tuples(st.text("abc./", min_size=1), st.text(), st.booleans())))
def test_a_printed_field_selector_reads_back_as_the_same(terms: list[tuple[str, str, bool]]) -> None:
    selector = FieldSelector(tuple(FieldTerm(field, value, negated=negated) for field, value, negated in terms))
    again = parse_field_selector(str(selector))
    assert sorted(again.terms, key=str) == sorted(selector.terms, key=str)


@given(st.text("ab=!,()<> in\\-./\t"))
def test_what_is_not_refused_reads_back_as_the_same(text: str) -> None:
    for parse in (parse_label_selector, parse_field_selector):
        with contextlib.suppress(SelectorError):
            selector = parse(text)
            assert parse(str(selector)) == selector
