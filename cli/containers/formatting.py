"""Docker's --format: a Go template a row, `table TEMPLATE` with headers, or json."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cli import gotemplate
from cli.printers import rows_text

_FIELD = re.compile(r"\.(\w+)")
_JSON = re.compile(r"\{\{-?\s*json\s+\.(\w*)\s*-?\}\}")
_HEADERS = {"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT"}
_LETTER_BEFORE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def formatted(template: str, rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str] | None = None) -> str:
    """Return rows as a template shows them, a line each, without the last line's end; empty without rows.

    Args: `headers` are the words above a table's columns by the fields' names, where these are no words themselves.
    Raises: TemplateError.
    """
    if template in ("json", "{{json .}}"):
        return "\n".join(json.dumps(dict(row)) for row in rows)
    form, _, rest = template.partition(" ")
    text = (rest if form == "table" else template).replace("\\t", "\t").replace("\\n", "\n")
    lines = [_filled(text, row) for row in rows]
    if form != "table":
        return "\n".join(lines)
    columns = [
        " ".join((headers or {}).get(name) or _header(name) for name in _FIELD.findall(part))
        for part in text.split("\t")
    ]
    return rows_text(columns, [line.split("\t") for line in lines])


def _header(name: str) -> str:
    return _HEADERS.get(name) or _LETTER_BEFORE.sub(" ", name).upper()


def _filled(text: str, row: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        found = row.get(match[1]) if match[1] else dict(row)
        return json.dumps(found).replace("{{", "{{`{{`}}")

    return gotemplate.fill(_JSON.sub(value, text), dict(row))
