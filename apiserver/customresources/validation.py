"""Holding custom resources to their schemas, in the words of upstream's validator.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from apiserver.customresources import formats, rules
from apiserver.customresources.structural import Structural
from apiserver.registry.kind import Object, duplicate, invalid, required, too_many, unsupported
from machinery.api.patterns import compile_pattern
from machinery.errors import Cause

_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
rule_causes = rules.rule_causes


class Rules:
    """The rules of one schema."""

    def __init__(self, schema: Structural, *, with_rules: bool = True) -> None:
        self._schema = schema
        self._programs = rules.Programs(schema) if with_rules else None

    def causes(self, new: Object, old: Object | None, *, is_root: bool = True) -> list[Cause]:
        """Return what is wrong; members that an update left as they were are let be."""
        found: list[Cause] = []
        for name, child in self._schema.properties.items():
            if (is_root and name in ("apiVersion", "kind", "metadata")) or name not in new:
                continue
            if old is not None and name in old and old[name] == new[name]:
                continue
            before = None if old is None else old.get(name)
            _check(new[name], child.raw, name, found, before)
            _structural_causes(new[name], child, name, found)
        if is_root:
            found += self._name_causes(new)
            top = {key: value for key, value in self._schema.raw.items() if key not in ("properties", "type")}
            _check_object(new, top, "", found, None)
        if self._programs is not None and not any(cause.reason != "FieldValueInvalid" for cause in found):
            found += self._programs.causes(new, old)
        return found

    def _name_causes(self, obj: Object) -> list[Cause]:
        """A schema may restrict metadata.name and metadata.generateName, nothing else of the metadata."""
        found: list[Cause] = []
        for name, child in _metadata_rules(self._schema).items():
            if name in obj["metadata"]:
                _check(obj["metadata"][name], child.raw, f"metadata.{name}", found)
        return found


def _metadata_rules(schema: Structural) -> Mapping[str, Structural]:
    metadata = schema.properties.get("metadata")
    return metadata.properties if metadata is not None else {}


def _check(value: Any, raw: Mapping[str, Any], path: str, found: list[Cause], old: Any = None) -> None:
    if value is None and raw.get("nullable"):
        return
    if old is not None and old == value:
        return  # it is as it was: rules that came later do not count
    if not _check_type(value, raw, path, found):
        return
    _check_enum(value, raw, path, found)
    if isinstance(value, dict):
        _check_object(value, raw, path, found, old)
    elif isinstance(value, list):
        _check_array(value, raw, path, found, old)
    elif isinstance(value, str):
        found += _string_causes(value, raw, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found += _number_causes(value, raw, path)
    _check_junctors(value, raw, path, found)


def _type_name(value: Any) -> str:
    return "null" if value is None else _NAMES[type(value)]


def _check_type(value: Any, raw: Mapping[str, Any], path: str, found: list[Cause]) -> bool:
    actual = _type_name(value)
    if raw.get("x-kubernetes-int-or-string"):
        wanted: tuple[str, ...] = ("integer", "string")
    elif raw.get("type"):
        wanted = (raw["type"],)
    else:
        return True
    if actual in wanted or (actual == "integer" and "number" in wanted):
        return True
    if "integer" in wanted and isinstance(value, float) and value.is_integer():
        return True
    found.append(_type_invalid(path, actual, ",".join(wanted), actual))
    return False


def _type_invalid(path: str, value: Any, wanted: str, told: str) -> Cause:
    cause = invalid(path, value, f'{path} in body must be of type {wanted}: "{told}"')
    return Cause("FieldValueTypeInvalid", cause.message, path)


def _check_enum(value: Any, raw: Mapping[str, Any], path: str, found: list[Cause]) -> None:
    allowed = raw.get("enum")
    if allowed and not any(value == one and type(value) is type(one) for one in allowed):
        shown = [one if isinstance(one, str) else orjson.dumps(one).decode() for one in allowed]
        found.append(unsupported(path, value, shown))


def _string_causes(value: str, raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if (limit := raw.get("maxLength")) is not None and len(value) > limit:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", path)
    if (limit := raw.get("minLength")) is not None and len(value) < limit:
        yield invalid(path, value, f"{path} in body should be at least {limit} chars long")
    if (pattern := raw.get("pattern")) and not compile_pattern(pattern).search(value):
        yield invalid(path, value, f"{path} in body should match '{pattern}'")
    if (name := raw.get("format")) and not formats.matches(name, value):
        yield _type_invalid(path, value, name, value)


def _number_causes(value: float, raw: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if (limit := raw.get("maximum")) is not None:
        if raw.get("exclusiveMaximum") and value >= limit:
            yield invalid(path, value, f"{path} in body should be less than {_number(limit)}")
        elif value > limit:
            yield invalid(path, value, f"{path} in body should be less than or equal to {_number(limit)}")
    if (limit := raw.get("minimum")) is not None:
        if raw.get("exclusiveMinimum") and value <= limit:
            yield invalid(path, value, f"{path} in body should be greater than {_number(limit)}")
        elif value < limit:
            yield invalid(path, value, f"{path} in body should be greater than or equal to {_number(limit)}")
    if (step := raw.get("multipleOf")) and not float(value / step).is_integer():
        yield invalid(path, value, f"{path} in body should be a multiple of {_number(step)}")
    bits = {"int32": 31, "int64": 63}.get(raw.get("format", ""))
    if bits is not None and not -(2**bits) <= value < 2**bits:
        yield invalid(path, value, f"Checked value must be of type {raw['type']} with format {raw['format']}")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _check_object(value: Object, raw: Mapping[str, Any], path: str, found: list[Cause], old: Any) -> None:
    if (limit := raw.get("maxProperties")) is not None and len(value) > limit:
        found.append(too_many(path, len(value), limit))
    if (limit := raw.get("minProperties")) is not None and len(value) < limit:
        found.append(invalid(path, value, f"{path} in body should have at least {limit} properties"))
    found.extend(
        required(f"{path}.{name}" if path else name) for name in raw.get("required") or () if name not in value
    )
    properties, additional = raw.get("properties") or {}, raw.get("additionalProperties")
    before = old if isinstance(old, dict) else {}
    for name, one in value.items():
        child = properties.get(name, additional if isinstance(additional, Mapping) else None)
        if child is not None:
            _check(one, child, f"{path}.{name}" if path else name, found, before.get(name))
    if not path:
        _check_junctors(value, raw, path, found)


def _check_array(value: list[Any], raw: Mapping[str, Any], path: str, found: list[Cause], old: Any) -> None:
    if (limit := raw.get("maxItems")) is not None and len(value) > limit:
        found.append(too_many(path, len(value), limit))
    if (limit := raw.get("minItems")) is not None and len(value) < limit:
        found.append(invalid(path, value, f"{path} in body should have at least {limit} items"))
    if raw.get("uniqueItems") and len({orjson.dumps(one, option=orjson.OPT_SORT_KEYS) for one in value}) < len(value):
        found.append(invalid(path, value, f"{path} in body shouldn't contain duplicates"))
    items = raw.get("items")
    if isinstance(items, Mapping):
        before = {item_key(one, raw): one for one in old} if isinstance(old, list) else {}
        for index, one in enumerate(value):
            _check(one, items, f"{path}[{index}]", found, before.get(item_key(one, raw)))


def item_key(item: Any, raw: Mapping[str, Any]) -> bytes:
    """Return what an item of a list is known by: its keys in a list of type map, else itself."""
    keys = raw.get("x-kubernetes-list-map-keys")
    known = {key: item.get(key) for key in keys} if keys and isinstance(item, dict) else item
    return orjson.dumps(known, option=orjson.OPT_SORT_KEYS)


def _check_junctors(value: Any, raw: Mapping[str, Any], path: str, found: list[Cause]) -> None:
    def fails(text: str) -> None:
        found.append(Cause("FieldValueInvalid", f'Invalid value: "": "{path}" must {text}', "<nil>"))

    if raw.get("allOf"):
        wrong = [cause for inner in _failures(value, raw["allOf"], path) for cause in inner]
        if wrong:
            found += wrong
            fails("validate all the schemas (allOf)")
    if raw.get("anyOf") and all(results := _failures(value, raw["anyOf"], path)):
        found += _fewest(results)
        fails("validate at least one schema (anyOf)")
    if raw.get("oneOf"):
        results = _failures(value, raw["oneOf"], path)
        valid = sum(not inner for inner in results)
        if valid == 0:
            found += _fewest(results)
            fails("validate one and only one schema (oneOf). Found none valid")
        elif valid > 1:
            fails(f"validate one and only one schema (oneOf). Found {valid} valid alternatives")
    if raw.get("not") is not None and not _failures(value, [raw["not"]], path)[0]:
        fails("not validate the schema (not)")


def _failures(value: Any, schemas: Sequence[Mapping[str, Any]], path: str) -> list[list[Cause]]:
    """Return what each schema finds wrong."""
    results: list[list[Cause]] = []
    for schema in schemas:
        inner: list[Cause] = []
        _check(value, schema, path, inner)
        results.append(inner)
    return results


def _fewest(results: list[list[Cause]]) -> list[Cause]:
    return sorted(results, key=len)[0]


def _structural_causes(value: Any, schema: Structural, path: str, found: list[Cause]) -> None:
    """What lists of type set and map, and embedded resources, ask for."""
    if isinstance(value, list):
        found += _list_causes(value, schema, path)
        if schema.items is not None:
            for index, one in enumerate(value):
                _structural_causes(one, schema.items, f"{path}[{index}]", found)
    elif isinstance(value, dict):
        if schema.embedded:
            missing = [name for name in ("apiVersion", "kind") if not value.get(name)]
            found += [required(f"{path}.{name}", "must not be empty") for name in missing]
        for name, one in value.items():
            child = schema.child(name)
            if child is not None and isinstance(one, dict | list):
                _structural_causes(one, child, f"{path}.{name}", found)


def _list_causes(value: list[Any], schema: Structural, path: str) -> Iterator[Cause]:
    """Yield the items that a list of type set or map may hold once only."""
    if schema.raw.get("x-kubernetes-list-type") not in ("set", "map"):
        return
    seen: set[bytes] = set()
    for index, one in enumerate(value):
        key = item_key(one, schema.raw)
        if key in seen:
            yield duplicate(f"{path}[{index}]", orjson.loads(key))
        seen.add(key)
