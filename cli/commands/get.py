"""`wherry get`."""

import sys
from collections.abc import Sequence
from typing import Any

import click
import orjson

from cli import manifests, options
from cli.connection import TABLE, Connection, connect
from cli.printers import TablePrinter, print_objects
from cli.resources import Discovery, Target, targets
from machinery.errors import APIError, NotFound


@click.command()
@click.argument("words", nargs=-1)
@options.connected
@options.namespaced
@options.selected
@options.output
@options.files
@click.option("--field-selector", default="", help="Field selector.")
@click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces.")
@click.option("-w", "--watch", "watches", is_flag=True, help="Go on telling of changes.")
@click.option("--watch-only", is_flag=True, help="Tell of changes alone.")
@click.option("--no-headers", is_flag=True)
@click.option("--show-labels", is_flag=True)
@click.option("--sort-by", default="", help="A path to sort by.")
@click.option("--ignore-not-found", is_flag=True)
@click.option("--chunk-size", default=500, hidden=True)
@click.option("--raw", default="", help="Ask for a path of the server.")
def get(words: Sequence[str], raw: str, **given: Any) -> None:
    """Show objects."""
    connection = connect(options.split(given))
    if raw:
        click.echo(connection.request("GET", raw, accept="*/*"), nl=False)
        return
    discovery = Discovery(connection)
    if given["filenames"]:
        found = [
            Target(discovery.of_kind(obj["apiVersion"], obj["kind"]), obj["metadata"]["name"])
            for obj in manifests.read(given["filenames"])
        ]
    else:
        found = targets(discovery, words)
    namespace = "" if given["all_namespaces"] else given["namespace"] or connection.config.namespace
    sys.exit(_Get(connection, namespace, given).run(found))


class _Get:
    """One call of the command."""

    def __init__(self, connection: Connection, namespace: str, given: dict[str, Any]) -> None:
        self._connection = connection
        self._namespace = namespace
        self._given = given
        self._failed = False

    def run(self, found: Sequence[Target]) -> int:
        output = self._given["output"]
        if output in ("", "wide"):
            self._tables(found)
        else:
            self._objects(found, output)
        return 1 if self._failed else 0

    def _path(self, target: Target) -> str:
        return target.known.resource.path(self._namespace, target.name)

    def _params(self, target: Target) -> dict[str, Any]:
        if target.name:
            return {}
        return {"labelSelector": self._given["selector"], "fieldSelector": self._given["field_selector"]}

    def _ask(self, target: Target, accept: str) -> dict[str, Any] | None:
        try:
            params = self._params(target)
            return self._connection.json("GET", self._path(target), params=params, accept=accept)
        except NotFound as error:
            if not self._given["ignore_not_found"]:
                self._fail(error)
        except APIError as error:
            self._fail(error)
        return None

    def _fail(self, error: APIError) -> None:
        click.echo(f"Error from server ({error.reason}): {error}", err=True)
        self._failed = True

    def _tables(self, found: Sequence[Target]) -> None:
        kinds = {target.known for target in found}
        printed = False
        for known in dict.fromkeys(target.known for target in found):
            tables = [(target, self._ask(target, TABLE)) for target in found if target.known == known]
            answers = [(target, table) for target, table in tables if table is not None]
            if not answers:
                continue
            merged = {**answers[0][1], "rows": [row for _, table in answers for row in table["rows"]]}
            prefix = f"{_prefix(known)}/" if len(kinds) > 1 else ""
            printer = self._printer(known.resource.namespaced, prefix)
            if merged["rows"]:
                if printed:
                    click.echo()
                click.echo(printer.text(merged, self._given["sort_by"]))
                printed = True
            if self._given["watches"]:
                self._watch(answers[0][0], merged, printer)
        if not printed and not self._failed and not self._given["ignore_not_found"]:
            where = f" in {self._namespace} namespace" if self._namespace and found[0].known.resource.namespaced else ""
            click.echo(f"No resources found{where}.", err=True)

    def _printer(self, namespaced: bool, prefix: str) -> TablePrinter:
        given = self._given
        return TablePrinter(
            wide=given["output"] == "wide", headers=not given["no_headers"], show_labels=given["show_labels"],
            show_namespace=given["all_namespaces"] and namespaced, prefix=prefix,
        )  # fmt: skip

    def _watch(self, target: Target, table: dict[str, Any], printer: TablePrinter) -> None:
        params = self._params(target)
        path = target.known.resource.path(self._namespace)
        if target.name:
            params["fieldSelector"] = f"metadata.name={target.name}"
        params |= {"watch": "true", "resourceVersion": table["metadata"].get("resourceVersion", "")}
        printer = TablePrinter(
            wide=self._given["output"] == "wide", headers=False, show_labels=self._given["show_labels"],
            show_namespace=self._given["all_namespaces"],
        )  # fmt: skip
        for line in self._connection.lines(path, params, accept=TABLE):
            event = orjson.loads(line)
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                event["object"]["columnDefinitions"] = table["columnDefinitions"]
                click.echo(printer.text(event["object"]))
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
        single = len(found) == 1 and bool(found[0].name)
        if objects or not single:
            print_objects(objects, output, single=single)


def _prefix(known: Any) -> str:
    resource = known.resource
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}" if resource.group else kind
