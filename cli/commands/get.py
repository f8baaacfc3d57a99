"""`wherry get`."""

import sys
from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli import options, problems
from cli.connection import TABLE
from cli.framework import verb
from cli.printers import TablePrinter, format_of, print_objects, sort_rows
from cli.resources import Known, Target, targets
from cli.selection import file_objects
from cli.session import Session
from machinery.errors import APIError, NotFound


@verb()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.output
@options.files
@options.kustomize
@options.recursive
@options.field_selected
@options.everywhere
@options.show_managed_fields
@click.option("-w", "--watch", "watches", is_flag=True, help="Go on telling of changes.")
@click.option("--watch-only", is_flag=True, help="Tell of changes alone.")
@click.option("--output-watch-events", is_flag=True, help="Say what kind of change each line is.")
@click.option("--no-headers", is_flag=True)
@click.option("--show-labels", is_flag=True)
@click.option("--show-kind", is_flag=True)
@click.option("-L", "--label-columns", multiple=True, help="Labels to show as columns.")
@click.option("--sort-by", default="", help="A path to sort by.")
@click.option("--template", default="", help="The template for -o go-template and jsonpath.")
@click.option("--subresource", default="", help="Show a subresource: status, scale.")
@click.option("--ignore-not-found", is_flag=True)
@click.option("--chunk-size", default=500, hidden=True)
@click.option("--server-print/--no-server-print", default=True, hidden=True)
@click.option("--raw", default="", help="Ask for a path of the server.")
def get(words: Sequence[str], raw: str, **given: Any) -> None:
    """Show objects."""
    session = Session(given)
    if raw:
        sys.stdout.buffer.write(session.connection.request("GET", raw, accept="*/*"))
        return
    sys.exit(_Get(session, given).run(words))


class _Get:
    """One call of the command."""

    def __init__(self, session: Session, given: dict[str, Any]) -> None:
        self._session = session
        self._connection = session.connection
        self._namespace = "" if given["all_namespaces"] else session.namespace
        self._given = given
        self._failed = False

    def run(self, words: Sequence[str]) -> int:
        given, output = self._given, self._given["output"]
        if output not in ("", "wide"):
            format_of(output, given["template"])
        found = self._targets(words)
        if given["watch_only"] or (given["watches"] and output not in ("", "wide")):
            if len(found) != 1:
                raise click.ClickException(
                    "watch is only supported on individual resources and resource collections - more than 1 resource was found"
                )
            self._watch_objects(found[0]) if output not in ("", "wide") else self._watch(found[0], "", None)
        elif output in ("", "wide"):
            self._tables(found, multiple=len({one.known for one in found}) > 1 or words[:1] == ("all",))
        else:
            self._objects(found, output)
        return 1 if self._failed else 0

    def _targets(self, words: Sequence[str]) -> list[Target]:
        if self._given["filenames"] or self._given["kustomize"]:
            return [Target(one.known, one.name, one.namespace) for one in file_objects(self._session, self._given)]
        found = targets(self._session.discovery, words)
        if self._given["all_namespaces"] and any(one.name for one in found):
            raise click.ClickException("a resource cannot be retrieved by name across all namespaces")
        if any(one.name for one in found) and (self._given["selector"]):
            raise click.ClickException("name cannot be provided when a selector is specified")
        return found

    def _path(self, target: Target) -> str:
        namespace = target.namespace or self._namespace
        return target.known.resource.path(namespace, target.name, self._given["subresource"] if target.name else "")

    def _params(self, target: Target) -> dict[str, Any]:
        if target.name:
            return {}
        return {"labelSelector": self._given["selector"], "fieldSelector": self._given["field_selector"]}

    def _ask(self, target: Target, accept: str) -> dict[str, Any] | None:
        params = self._params(target)
        if accept == TABLE and (self._given["sort_by"]):
            params["includeObject"] = "Object"
        try:
            return self._connection.json("GET", self._path(target), params=params, accept=accept)
        except NotFound as error:
            if not self._given["ignore_not_found"]:
                self._fail(error)
        except APIError as error:
            self._fail(error)
        return None

    def _fail(self, error: APIError) -> None:
        problems.report(error)
        self._failed = True

    def _tables(self, found: Sequence[Target], *, multiple: bool) -> None:
        printed = False
        for known in dict.fromkeys(target.known for target in found):
            tables = [(target, self._ask(target, TABLE)) for target in found if target.known == known]
            answers = [(target, table) for target, table in tables if table is not None]
            if not answers:
                continue
            merged = {**answers[0][1], "rows": [row for _, table in answers for row in table["rows"]]}
            prefix = f"{_prefix(known)}/" if multiple or self._given["show_kind"] else ""
            printer = self._printer(known.resource.namespaced, prefix)
            if merged["rows"]:
                if printed:
                    click.echo()
                click.echo(printer.text(merged, self._given["sort_by"]))
                printed = True
            if self._given["watches"]:
                self._watch(answers[0][0], merged["metadata"].get("resourceVersion", ""), (merged, printer))
        if not printed and not self._failed and not self._given["ignore_not_found"]:
            self._nothing(found)

    def _nothing(self, found: Sequence[Target]) -> None:
        is_scoped = self._namespace and all(one.known.resource.namespaced for one in found)
        click.echo(
            f"No resources found in {self._namespace} namespace." if is_scoped else "No resources found", err=True
        )

    def _printer(self, namespaced: bool, prefix: str = "") -> TablePrinter:
        given = self._given
        return TablePrinter(
            wide=given["output"] == "wide", headers=not given["no_headers"], show_labels=given["show_labels"],
            show_namespace=given["all_namespaces"] and namespaced, prefix=prefix,
            label_columns=[name for text in given["label_columns"] for name in text.split(",")],
        )  # fmt: skip

    def _events(self, target: Target, version: str, accept: str) -> Any:
        params = self._params(target)
        path = target.known.resource.path(target.namespace or self._namespace)
        if target.name:
            params["fieldSelector"] = f"metadata.name={target.name}"
        if self._given["watch_only"] and not version:
            version = self._connection.json("GET", path, params={**params, "limit": 1})["metadata"]["resourceVersion"]
        params |= {"watch": "true", "resourceVersion": version}
        for line in self._connection.lines(path, params, accept=accept):
            event = orjson.loads(line)
            if event["type"] == "ERROR":
                raise click.ClickException(event["object"].get("message", "the watch failed"))
            if event["type"] != "BOOKMARK":
                yield event

    def _watch(self, target: Target, version: str, known: tuple[dict[str, Any], TablePrinter] | None) -> None:
        table, printer = known or ({}, self._printer(target.known.resource.namespaced))
        columns = table.get("columnDefinitions")
        for event in self._events(target, version, TABLE):
            columns = event["object"].get("columnDefinitions") or columns
            text = printer.text({**event["object"], "columnDefinitions": columns})
            click.echo(f"{event['type']:<10} {text}" if self._given["output_watch_events"] else text)
            sys.stdout.flush()

    def _watch_objects(self, target: Target) -> None:
        resource = target.known.resource
        for event in self._events(target, "", "application/json"):
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, **event["object"]}
            if self._given["output"] == "yaml":
                click.echo("---")
            self._print([obj], single=True)
            sys.stdout.flush()

    def _objects(self, found: Sequence[Target], output: str) -> None:
        objects: list[dict[str, Any]] = []
        for target in found:
            answer = self._ask(target, "application/json")
            if answer is None:
                continue
            if target.name:
                objects.append(answer)
            else:
                resource = target.known.resource
                kind = {"apiVersion": resource.api_version, "kind": resource.kind}
                objects += [{**kind, **item} for item in answer["items"]]
        if self._given["sort_by"]:
            objects = sort_rows(objects, self._given["sort_by"])
        single = len(found) == 1 and bool(found[0].name)
        if not objects and (output.startswith("custom-columns") or output == "name"):
            if not self._failed and output != "name":
                self._print([], single=False)
        elif objects or not (single or self._failed):
            self._print(objects, single=single)

    def _print(self, objects: list[dict[str, Any]], *, single: bool) -> None:
        given = self._given
        print_objects(
            objects, given["output"], single=single, template=given["template"],
            keep_managed=given["show_managed_fields"], headers=not given["no_headers"],
        )  # fmt: skip


def _prefix(known: Known) -> str:
    resource = known.resource
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}" if resource.group else kind
