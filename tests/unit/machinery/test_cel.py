"""CEL expressions as Kubernetes writes them."""

from typing import Any

import pytest

from machinery.cel.program import CompileError, EvaluationError, compile_expression

VARIABLES = {"self": "dyn", "oldSelf": "dyn"}


def evaluate(expression: str, value: Any = None) -> Any:
    return compile_expression(expression, VARIABLES).evaluate({"self": value})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("self.minReplicas <= self.replicas && self.replicas <= self.maxReplicas", {"minReplicas": 1, "replicas": 2, "maxReplicas": 3}),
        ("'Available' in self.stateCounts", {"stateCounts": {"Available": 1}}),
        ("(self.list1.size() == 0) != (self.list2.size() == 0)", {"list1": [], "list2": [1]}),
        ("has(self.expired) && self.created + self.ttl < self.expired || !has(self.expired)", {}),
        ("self.metadata.name.startsWith(self.prefix)", {"metadata": {"name": "a-1"}, "prefix": "a"}),
        ("self.widgets.exists(w, w.key == 'x' && w.foo < 10)", {"widgets": [{"key": "x", "foo": 1}]}),
        ("type(self) == string ? self == '99%' : self == 42", "99%"),
        ("self.set1.all(e, !(e in self.set2))", {"set1": [1], "set2": [2]}),
        ("[1, 2, 2].isSorted() && [3, 1].max() == 3 && [3, 1].min() == 1 && [1, 2].sum() == 3", None),
        ("['a', 'b', 'a'].indexOf('a') == 0 && ['a', 'b', 'a'].lastIndexOf('a') == 2", None),
        ("'abc 123'.find('[0-9]+') == '123' && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']", None),
        ("url('https://user@example.com:80/a?k=1').getHost() == 'example.com:80' && isURL('/a') && !isURL('a b')", None),
        ("ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && !isIP('1.2.3')", None),
        ("cidr('10.0.0.0/8').containsIP('10.9.9.9') && cidr('10.0.0.0/8').prefixLength() == 8", None),
        ("quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('1')).compareTo(quantity('1.5')) == 0", None),
        ("quantity('2').asInteger() == 2 && isQuantity('1Mi') && !isQuantity('1Zz')", None),
        ("semver('1.2.3-a').isLessThan(semver('1.2.3')) && semver('1.10.0').minor() == 10", None),
        ("cel.bind(twice, self + self, twice == 'abab')", "ab"),
        ("self.?missing.orValue('x') == 'x'", {}),
    ],
)  # fmt: skip
def test_expressions_of_the_documentation_hold(expression: str, value: Any) -> None:
    assert evaluate(expression, value) is True


def test_what_can_not_be_compiled_is_told_with_its_place() -> None:
    with pytest.raises(CompileError, match=r"ERROR: <input>:1:\d+: Syntax error"):
        compile_expression("self.a <", VARIABLES)
    with pytest.raises(CompileError, match="undeclared reference to 'other'"):
        compile_expression("other == 1", VARIABLES)


def test_what_can_not_be_evaluated_says_why() -> None:
    with pytest.raises(EvaluationError, match="no such key: a"):
        evaluate("self.a == 1", {})
    with pytest.raises(EvaluationError, match="min called on empty list"):
        evaluate("[].min() == 1")


def test_loops_within_loops_over_much_are_refused_before_they_run() -> None:
    with pytest.raises(EvaluationError, match="cost limit exceeded"):
        evaluate("self.all(x, self.all(y, self.all(z, x == y || y == z || true)))", list(range(1000)))
    with pytest.raises(CompileError, match="nests 5 loops"):
        compile_expression("self.all(a, a.all(b, b.all(c, c.all(d, d.all(e, true)))))", VARIABLES)
