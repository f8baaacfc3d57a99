"""Prints what the server answers: its tables, and objects as YAML, JSON, names, columns, paths and templates."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from cli.framework import LEADING
from cli.jsonpath import compiled, path_values, shown

# kubectl's tables: a column is at least six wide, three of them blank; the last cell of a line is not padded.
_MIN_WIDTH, _PADDING = 6, 3
# Where the YAML of kubectl breaks long lines.
_WIDTH = 80
FORMS = (
    "custom-columns", "custom-columns-file", "go-template", "go-template-file", "json", "jsonpath", "jsonpath-as-json",
    "jsonpath-file", "kyaml", "name", "template", "templatefile", "wide", "yaml",
)  # fmt: skip


class Columns:
    """Aligns lines as kubectl's tables are; remembers how wide columns were, for lines that come later."""

    def __init__(self) -> None:
        self._widths: list[int] = []

    def text(self, lines: Sequence[Sequence[str]]) -> str:
        """Return lines of cells as aligned text."""
        for line in lines:
            for at, cell in enumerate(line[:-1]):
                width = max(len(cell) + _PADDING, _MIN_WIDTH)
                if at < len(self._widths):
                    self._widths[at] = max(self._widths[at], width)
                else:
                    self._widths.append(width)
        return "\n".join(
            "".join(cell.ljust(width) for cell, width in zip(line[:-1], self._widths, strict=False)) + line[-1]
            for line in lines
            if line
        )


def rows_text(headers: Sequence[str], rows: Sequence[Sequence[str]], *, show_headers: bool = True) -> str:
    """Return columns aligned as kubectl aligns them."""
    return Columns().text([headers, *rows] if show_headers else rows)


class TablePrinter:
    """Prints the rows of tables under one header."""

    def __init__(
        self, *, wide: bool, headers: bool = True, show_namespace: bool = False, show_labels: bool = False,
        label_columns: Sequence[str] = (), prefix: str = "",
    ) -> None:  # fmt: skip
        """Args: `label_columns` are labels that get a column each; `prefix` stands before names, such as "pod/"."""
        self._wide = wide
        self._headers = headers
        self._show_namespace = show_namespace
        self._show_labels = show_labels
        self._label_columns = label_columns
        self._prefix = prefix
        self._columns = Columns()

    def text(self, table: dict[str, Any], sort_by: str = "") -> str:
        """Return a Table as text; its header once only."""
        columns = table["columnDefinitions"]
        shown_at = [at for at, column in enumerate(columns) if self._wide or not column["priority"]]
        rows = table["rows"]
        if sort_by:
            rows = sort_rows(rows, sort_by)
        lines = [self._line(row, shown_at, columns) for row in rows]
        if self._headers:
            self._headers = False
            lines.insert(0, self._header([columns[at]["name"].upper() for at in shown_at]))
        return self._columns.text(lines)

    def _header(self, names: list[str]) -> list[str]:
        labels = [label.rpartition("/")[2].upper() for label in self._label_columns]
        return [
            *(["NAMESPACE"] if self._show_namespace else []), *names, *labels,
            *(["LABELS"] if self._show_labels else []),
        ]  # fmt: skip

    def _line(self, row: dict[str, Any], shown_at: list[int], columns: list[dict[str, Any]]) -> list[str]:
        metadata = row["object"]["metadata"]
        labels = metadata.get("labels") or {}
        line = [self._cell(row, at, columns[at]) for at in shown_at]
        if self._show_namespace:
            line.insert(0, metadata.get("namespace", ""))
        line += [labels.get(label, "") for label in self._label_columns]
        if self._show_labels:
            line.append(",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>")
        return line

    def _cell(self, row: dict[str, Any], at: int, column: dict[str, Any]) -> str:
        value = row["cells"][at]
        text = "<none>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        text = text.partition("\n")[0] + "..." if "\n" in text else text
        return self._prefix + text if column.get("format") == "name" or (at == 0 and self._prefix) else text


def sort_rows(rows: Sequence[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """Return table rows, or objects, sorted by what a path leads to. Raises: ClickException when it leads nowhere."""
    find = compiled(path)
    keyed = [(find(row.get("object", row) if "cells" in row else row), row) for row in rows]
    if rows and not any(values for values, _ in keyed):
        raise click.ClickException(
            f"couldn't find any field with path {_braced(path)!r} in the list of objects".replace("'", '"')
        )
    return [row for _, row in sorted(keyed, key=lambda pair: _sort_key(pair[0]))]


def _braced(path: str) -> str:
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix(".")
    return "{." + text + "}"


def _sort_key(values: list[Any]) -> tuple[int, Any]:
    from machinery.api.quantity import parse_quantity

    value = values[0] if values else None
    if value is None:
        return (0, "")
    if isinstance(value, bool):
        return (1, str(value))
    if isinstance(value, int | float):
        return (2, value)
    text = str(value)
    try:
        return (2, float(parse_quantity(text)))
    except (ValueError, ArithmeticError):
        return (3, text)


def _template_text(form: str, template: str) -> str:
    if not form.endswith("file"):
        return template
    try:
        return Path(template).read_text()
    except OSError as error:
        raise click.ClickException(f"error reading --template {template}, {error.strerror}") from error


def listed(objects: list[dict[str, Any]], *, single: bool) -> Any:
    """Return one object, or a List of all."""
    if single:
        return objects[0]
    return {"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}}


def format_of(output: str, template: str = "") -> tuple[str, str]:
    """Return form and template of `-o form=template`. Raises: ClickException for forms that are not known."""
    form, _, inline = output.partition("=")
    if form not in FORMS:
        raise click.ClickException(
            f'unable to match a printer suitable for the output format "{output}", allowed formats are: '
            + ",".join(FORMS)
        )
    text = inline or template or LEADING.get("template", "")
    if form not in ("json", "yaml", "kyaml", "name", "wide") and not text:
        what = {"custom-columns": "custom-columns format specified but no custom columns given"}
        raise click.ClickException(what.get(form, f"template format specified but no template given: {form}"))
    return form, text


def print_objects(
    objects: list[dict[str, Any]], output: str, *, single: bool, template: str = "", keep_managed: bool = False,
    headers: bool = True,
) -> None:  # fmt: skip
    """Print objects in the form `-o` asks for. Raises: ClickException for forms that are not known."""
    form, text = format_of(output, template)
    kept = objects if keep_managed or LEADING.get("show_managed_fields") else [_without_managed(one) for one in objects]
    if form == "name":
        for one in objects:
            click.echo(object_name(one))
    elif form.startswith("custom-columns"):
        spec = _template_text(form, text)
        click.echo(custom_columns(_columns_file(spec) if form.endswith("file") else spec, kept, headers=headers))
    else:
        click.echo(_whole(form, text, listed(kept, single=single)), nl=form == "json")


def _whole(form: str, text: str, whole: Any) -> str:
    """Return one object, or a List, as JSON, YAML, or a template filled in."""
    match form:
        case "json":
            return json_text(whole)
        case "yaml":
            return yaml_text(whole)
        case "kyaml":
            return "---\n" + _kyaml(whole, "") + "\n"
        case "jsonpath-as-json":
            return json_text(path_values(whole, text)) + "\n"
        case "jsonpath" | "jsonpath-file":
            return jsonpath(_template_text(form, text), whole)
        case _:
            from cli import gotemplate

            return gotemplate.fill(_template_text(form, text), whole)


def jsonpath(template: str, obj: Any) -> str:
    """Return a template's text with its `{…}` parts filled in. Raises: ClickException in kubectl's words."""
    from cli.jsonpath import PathError, fill

    whole = template if "{" in template else "{" + template + "}"
    try:
        return fill(whole, obj)
    except PathError as error:
        raise click.ClickException(f'error executing jsonpath "{whole}": {error.message}') from error


def object_name(obj: dict[str, Any]) -> str:
    """Return an object as `-o name` prints it."""
    group = obj["apiVersion"].rpartition("/")[0]
    kind = obj["kind"].lower()
    return f"{kind}.{group}/{obj['metadata']['name']}" if group else f"{kind}/{obj['metadata']['name']}"


def _without_managed(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def json_text(obj: Any) -> str:
    """Return JSON with four spaces and keys sorted, as kubectl writes it: <, > and & are escaped."""
    import json

    text = json.dumps(obj, indent=4, ensure_ascii=False, sort_keys=True)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


# Text that YAML 1.1 would read as a truth value though PyYAML does not; Go's writer quotes it.
_TRUTHS = frozenset(["y", "Y", "n", "N"])
_BASE60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


def yaml_text(obj: Any) -> str:
    """Return YAML as kubectl writes it: keys sorted, lists not indented, long text in blocks."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the C one where it is there
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        if style is None and (
            value in _TRUTHS or _BASE60.fullmatch(value)
            or dumper.resolve(yaml.ScalarNode, value, (True, False)) != "tag:yaml.org,2002:str"
        ):  # fmt: skip
            style = '"'  # text that would be read as a number, a date or a truth value
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    found: str = yaml.dump(
        obj, Dumper=Dumper, sort_keys=True, default_flow_style=False, allow_unicode=True, width=_WIDTH
    )
    return found


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_KEYS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def _kyaml(value: Any, indent: str) -> str:
    """Return a value as KYAML: YAML with braces, and all text in quotes."""
    import json

    if isinstance(value, dict):
        if not value:
            return "{}"
        inner = "".join(f"{indent}  {_kyaml_key(key)}: {_kyaml(value[key], indent + '  ')},\n" for key in sorted(value))
        return f"{{\n{inner}{indent}}}"
    if isinstance(value, list):
        if not value:
            return "[]"
        if all(isinstance(one, dict | list) for one in value):
            return "[" + ", ".join(_kyaml(one, indent) for one in value) + "]"
        return "[\n" + "".join(f"{indent}  {_kyaml(one, indent + '  ')},\n" for one in value) + f"{indent}]"
    if isinstance(value, str) and "\n" in value:
        lines = [json.dumps(line, ensure_ascii=False)[1:-1] for line in value.splitlines(keepends=True)]
        return '"\\\n' + "".join(f"{indent}   {line}\\\n" for line in lines) + f'{indent}  "'
    return json.dumps(value, ensure_ascii=False)


def _kyaml_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _NO_KEYS else f'"{key}"'


def _columns_file(text: str) -> str:
    """Return the columns of a file: a line of headers above a line of paths."""
    lines = text.splitlines()
    if len(lines) < 2:
        raise click.ClickException(
            "invalid template, missing fields line. Expected first line of headers and a second line of paths"
        )
    headers, paths = lines[0].split(), lines[1].split()
    if len(headers) != len(paths):
        raise click.ClickException(
            f"number of headers ({len(headers)}) and field specifications ({len(paths)}) don't match"
        )
    return ",".join(f"{header}:{path}" for header, path in zip(headers, paths, strict=True))


_BETWEEN_COLUMNS = re.compile(r",(?=[^,:\[\]]+:)")


def custom_columns(template: str, objects: list[dict[str, Any]], *, headers: bool = True) -> str:
    """Return the columns of `-o custom-columns=NAME:.path,…`."""
    names, paths = [], []
    for part in _BETWEEN_COLUMNS.split(template):
        header, colon, path = part.partition(":")
        if not colon:
            raise click.ClickException(f"unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")
        names.append(header)
        paths.append(compiled(path))
    rows = [[",".join(_cell(value) for value in find(one)) or "<none>" for find in paths] for one in objects]
    return rows_text(names, rows, show_headers=headers)


def _cell(value: Any) -> str:
    """Return a value as Go's %v prints it, which is what custom columns show."""
    if value is None:
        return "<none>"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_cell(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_cell, value)) + "]"
    return shown(value)


def plain_json(obj: Any) -> bytes:
    """Return an object as compact JSON with sorted keys."""
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
