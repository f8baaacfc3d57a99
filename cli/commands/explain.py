"""`wherry explain`: what fields a kind has, from the server's OpenAPI v3."""

import textwrap
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.resources import Known
from cli.session import Session

Schema = dict[str, Any]


@verb()
@click.argument("path")
@options.connected
@click.option("--recursive", is_flag=True, help="Only the names, all the way down.")
@click.option("--api-version", default="")
@click.option("-o", "--output", type=click.Choice(["plaintext", "plaintext-openapiv2"]), default="plaintext")
def explain(path: str, recursive: bool, api_version: str, **given: Any) -> None:
    """Show what fields a kind has: explain pod.spec.containers."""
    session = Session(given)
    word, fields = _cut(session, path)
    known = session.discovery.find(word)
    if api_version:
        known = session.discovery.of_kind(api_version, known.resource.kind)
    resource = known.resource
    root = f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"
    document = session.connection.json("GET", f"/openapi/v3/{root}")
    schemas = document["components"]["schemas"]
    click.echo(_Explainer(schemas, known).text(fields, recursive=recursive), nl=False)


def _cut(session: Session, path: str) -> tuple[str, list[str]]:
    """Return the resource and the fields; a resource may have points in it (`deployments.apps.spec`)."""
    parts = path.split(".")
    for count in range(len(parts), 1, -1):
        word = ".".join(parts[:count])
        if any(word == one.resource.group_resource for one in session.discovery.all()):
            return word, parts[count:]
    return parts[0], parts[1:]


class _Explainer:
    def __init__(self, schemas: dict[str, Schema], known: Known) -> None:
        self._schemas = schemas
        self._known = known

    def _root(self) -> Schema:
        resource = self._known.resource
        wanted = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        for schema in self._schemas.values():
            if wanted in (schema.get("x-kubernetes-group-version-kind") or ()):
                return schema
        raise click.ClickException(f'couldn\'t find resource for "{resource.api_version}, Kind={resource.kind}"')

    def _resolved(self, schema: Schema) -> Schema:
        """Follow a reference; what stands beside it wins."""
        for part in (schema, *(schema.get("allOf") or ())):
            if "$ref" in part:
                return {
                    **self._schemas[part["$ref"].rpartition("/")[2]],
                    **{k: v for k, v in schema.items() if k not in ("$ref", "allOf")},
                }
        return schema

    def _inner(self, schema: Schema) -> Schema:
        """Return the schema whose fields a path goes on with: an item of a list, a value of a map."""
        found = self._resolved(schema)
        while found.get("type") == "array" or (
            isinstance(found.get("additionalProperties"), dict) and not found.get("properties")
        ):
            found = self._resolved(found["items"] if found.get("type") == "array" else found["additionalProperties"])
        return found

    def _type(self, schema: Schema) -> str:
        reference = next(
            (part["$ref"].rpartition(".")[2] for part in (schema, *(schema.get("allOf") or ())) if "$ref" in part), ""
        )
        found = self._resolved(schema)
        if found.get("type") == "array":
            return f"[]{self._type(found['items'])}"
        if isinstance(found.get("additionalProperties"), dict):
            return f"map[string]{self._type(found['additionalProperties'])}"
        if reference and (
            found.get("properties")
            or "type" not in found
            or reference in ("Time", "MicroTime", "Quantity", "IntOrString")
        ):
            return reference
        return (
            "Object"
            if found.get("type") == "object" and (found.get("properties") or not reference)
            else str(found.get("type", reference or "Object"))
        )

    def text(self, fields: list[str], *, recursive: bool) -> str:
        resource = self._known.resource
        shown: Schema = self._root()
        lines = [f"GROUP:      {resource.group}"] if resource.group else []
        lines += [f"KIND:       {resource.kind}", f"VERSION:    {resource.version}", ""]
        for field in fields:
            inner = self._inner(shown)
            properties = inner.get("properties") or {}
            if field not in properties:
                click.echo("\n".join(lines))
                raise click.ClickException(f'field "{field}" does not exist')
            shown = properties[field]
        if fields:
            lines += [f"FIELD: {fields[-1]} <{self._type(shown)}>", "", ""]
        inner = self._inner(shown)
        lines += _enum(self._resolved(shown))
        lines.append("DESCRIPTION:")
        texts = self._descriptions(shown)
        for text in dict.fromkeys(filter(None, texts)):
            lines += _wrapped(str(text), 4)
        if not any(texts):
            lines.append("    <empty>")
        lines.append("    ")
        if inner.get("properties"):
            lines.append("FIELDS:")
            lines += self._tree(inner, 2) if recursive else self._fields(inner)
        return "\n".join(lines) + "\n\n"

    def _descriptions(self, schema: Schema) -> list[str]:
        """Return a field's own description and those of what it holds; a bare reference is its target."""
        if "$ref" in schema:
            return self._descriptions(self._schemas[schema["$ref"].rpartition("/")[2]])
        found = [str(schema["description"])] if schema.get("description") else []
        inner = [schema.get("items"), schema.get("additionalProperties"), *(schema.get("allOf") or ())]
        return found + [text for one in inner if isinstance(one, dict) for text in self._descriptions(one)]

    def _fields(self, schema: Schema) -> list[str]:
        lines = []
        for name, one in sorted(schema["properties"].items()):
            required = " -required-" if name in (schema.get("required") or ()) else ""
            lines.append(f"  {name}\t<{self._type(one)}>{required}")
            lines += _enum(self._resolved(one), indent=2)
            lines += _wrapped(
                str(one.get("description") or self._resolved(one).get("description") or "<no description>"), 4
            )
            lines.append("")
        return lines

    def _tree(self, schema: Schema, indent: int, seen: tuple[int, ...] = ()) -> list[str]:
        lines = []
        for name, one in sorted((schema.get("properties") or {}).items()):
            required = " -required-" if name in (schema.get("required") or ()) else ""
            lines.append(f"{' ' * indent}{name}\t<{self._type(one)}>{required}")
            inner = self._inner(one)
            if inner.get("properties") and id(inner["properties"]) not in seen:
                lines += self._tree(inner, indent + 2, (*seen, id(inner["properties"])))
        return lines


def _enum(schema: Schema, *, indent: int = 0) -> list[str]:
    values = [str(value) or '""' for value in schema.get("enum") or ()]
    return [f"{' ' * indent}ENUM:", *(f"{' ' * (indent + 4)}{value}" for value in values)] if values else []


def _wrapped(text: str, indent: int) -> list[str]:
    blank = " " * indent
    lines: list[str] = []
    for paragraph in text.splitlines():
        found = textwrap.wrap(paragraph, 80 - indent, break_long_words=False, break_on_hyphens=False)
        lines += [blank + line for line in found] or [blank]
    return lines
