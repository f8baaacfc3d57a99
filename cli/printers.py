"""Prints what the server answers: its tables, and objects as YAML, JSON, names, columns or paths."""

import re
from collections.abc import Sequence
from typing import Any

import click
import orjson

_GAP = "   "
# Where the YAML of kubectl breaks long lines.
_WIDTH = 80


def rows_text(headers: Sequence[str], rows: Sequence[Sequence[str]], *, show_headers: bool = True) -> str:
    """Return columns aligned as kubectl aligns them."""
    lines = [list(headers), *map(list, rows)] if show_headers else list(map(list, rows))
    widths = [max((len(line[at]) for line in lines), default=0) for at in range(len(headers))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(_GAP.join(line).rstrip() for line in padded)


class TablePrinter:
    """Prints the rows of tables under one header."""

    def __init__(
        self, *, wide: bool, headers: bool = True, show_namespace: bool = False, show_labels: bool = False,
        prefix: str = "",
    ) -> None:  # fmt: skip
        self._wide = wide
        self._headers = headers
        self._show_namespace = show_namespace
        self._show_labels = show_labels
        self._prefix = prefix

    def text(self, table: dict[str, Any], sort_by: str = "") -> str:
        """Return a Table as text."""
        columns = table["columnDefinitions"]
        shown = [at for at, column in enumerate(columns) if self._wide or not column["priority"]]
        names = [columns[at]["name"].upper() for at in shown]
        rows = table["rows"]
        if sort_by:
            rows = sorted(rows, key=lambda row: _sort_key(path_values(row["object"], sort_by)))
        cells = [[self._cell(row, at, columns[at]) for at in shown] for row in rows]
        if self._show_namespace:
            names.insert(0, "NAMESPACE")
            for line, row in zip(cells, rows, strict=True):
                line.insert(0, row["object"]["metadata"].get("namespace", ""))
        if self._show_labels:
            names.append("LABELS")
            for line, row in zip(cells, rows, strict=True):
                labels = row["object"]["metadata"].get("labels") or {}
                line.append(",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>")
        return rows_text(names, cells, show_headers=self._headers)

    def _cell(self, row: dict[str, Any], at: int, column: dict[str, Any]) -> str:
        value = row["cells"][at]
        text = "<none>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        return self._prefix + text if column.get("format") == "name" else text


def _sort_key(values: list[Any]) -> tuple[int, Any]:
    value = values[0] if values else None
    if isinstance(value, bool) or value is None:
        return (0, str(value))
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def print_objects(objects: list[dict[str, Any]], output: str, *, single: bool) -> None:
    """Print objects in the form `-o` asks for. Raises: ClickException for forms that are not known."""
    form, _, template = output.partition("=")
    whole: Any = objects[0] if single else {
        "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects,
    }  # fmt: skip
    match form:
        case "json":
            click.echo(json_text(whole))
        case "yaml":
            click.echo(yaml_text(whole), nl=False)
        case "name":
            for one in objects:
                click.echo(object_name(one))
        case "jsonpath":
            click.echo(jsonpath(template, whole), nl=False)
        case "custom-columns":
            click.echo(custom_columns(template, objects))
        case _:
            known = "json,name,yaml,wide,custom-columns,jsonpath"
            raise click.ClickException(
                f'unable to match a printer suitable for the output format "{output}", allowed formats are: {known}'
            )


def object_name(obj: dict[str, Any]) -> str:
    """Return an object as `-o name` prints it."""
    group = obj["apiVersion"].rpartition("/")[0]
    kind = obj["kind"].lower()
    return f"{kind}.{group}/{obj['metadata']['name']}" if group else f"{kind}/{obj['metadata']['name']}"


def json_text(obj: Any) -> str:
    """Return JSON with four spaces, as kubectl indents it."""
    import json

    return json.dumps(_plain(obj), indent=4, ensure_ascii=False)


def _plain(obj: Any) -> Any:
    """Return the object with its keys sorted and without managedFields."""
    if isinstance(obj, dict):
        return {key: _plain(value) for key, value in sorted(obj.items()) if key != "managedFields"}
    return [_plain(value) for value in obj] if isinstance(obj, list) else obj


def yaml_text(obj: Any) -> str:
    """Return YAML as kubectl writes it: keys sorted, lists not indented, long text in blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        if style is None and dumper.resolve(yaml.ScalarNode, value, (True, False)) != "tag:yaml.org,2002:str":
            style = '"'  # text that would be read as a number, a date or a truth value
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(
        _plain(obj), Dumper=Dumper, sort_keys=True, default_flow_style=False, allow_unicode=True, width=_WIDTH
    )


def custom_columns(template: str, objects: list[dict[str, Any]]) -> str:
    """Return the columns of `-o custom-columns=NAME:.path,…`."""
    if not template:
        raise click.ClickException("custom-columns format specified but no custom columns given")
    headers, paths = [], []
    for part in template.split(","):
        header, colon, path = part.partition(":")
        if not colon:
            raise click.ClickException(f"unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")
        headers.append(header)
        paths.append(path)
    rows = [
        [",".join(_shown(value) for value in path_values(one, path)) or "<none>" for path in paths] for one in objects
    ]
    return rows_text(headers, rows)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)


_STEP = re.compile(r"\.?(\*|[A-Za-z0-9_$-]+(?:\\\.[A-Za-z0-9_/-]+)*)|\[([^\]]*)\]|\.\.")
_FILTER = re.compile(r"\?\(@\.([\w.\\/-]+)\s*(==|!=)\s*[\"']?([^\"')]*)[\"']?\)")


def path_values(obj: Any, path: str) -> list[Any]:
    """Return what a JSON path leads to: `.a.b[0]`, `[*]`, `[?(@.type=="Ready")]`, `['key']`, escaped dots."""
    path = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    found = [obj]
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise click.ClickException(f"error parsing jsonpath {path}")
        position = match.end()
        name, inside = match.group(1), match.group(2)
        if name is not None:
            found = [value for one in found for value in _member(one, name.replace("\\.", "."))]
        elif inside is not None:
            found = [value for one in found for value in _indexed(one, inside)]
    return found


def _member(obj: Any, name: str) -> list[Any]:
    if name == "*":
        return list(obj.values()) if isinstance(obj, dict) else list(obj) if isinstance(obj, list) else []
    return [obj[name]] if isinstance(obj, dict) and name in obj else []


def _indexed(obj: Any, inside: str) -> list[Any]:
    if inside == "*":
        return _member(obj, "*")
    if match := _FILTER.fullmatch(inside):
        path, operator, wanted = match.groups()
        items = obj if isinstance(obj, list) else []
        return [
            one for one in items
            if (bool(values := path_values(one, "." + path)) and _shown(values[0]) == wanted) == (operator == "==")
        ]  # fmt: skip
    if inside.lstrip("-").isdigit():
        return [obj[int(inside)]] if isinstance(obj, list) and -len(obj) <= int(inside) < len(obj) else []
    if ":" in inside:
        start, _, end = inside.partition(":")
        return obj[int(start or 0) : int(end) if end else None] if isinstance(obj, list) else []
    return _member(obj, inside.strip("'\""))


_PART = re.compile(r"\{([^{}]*)\}")


def jsonpath(template: str, obj: Any) -> str:
    """Return a template's text with its `{…}` parts filled in; `{range …}{end}` repeats."""
    parts = _PART.split(template)
    text, _ = _fill(parts, 0, obj)
    return text


def _fill(parts: list[str], at: int, obj: Any) -> tuple[str, int]:
    """Fill from part `at` up to an `{end}`; even parts are text, odd ones expressions."""
    result = ""
    while at < len(parts):
        part = parts[at]
        if at % 2 == 0:
            result += part
        elif part.strip() == "end":
            return result, at
        elif part.startswith("range "):
            end = at
            for one in path_values(obj, part.removeprefix("range ")) or [None]:
                piece, end = _fill(parts, at + 1, one)
                result += piece if one is not None else ""
            at = end
        elif part[:1] in "\"'":
            result += part.strip("\"'").replace("\\n", "\n").replace("\\t", "\t")
        else:
            result += " ".join(
                _shown(value)
                for value in path_values(
                    obj, "." + part.removeprefix("@").lstrip(".") if not part.startswith("[") else part
                )
            )
        at += 1
    return result, at
