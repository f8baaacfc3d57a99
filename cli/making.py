"""Makes one object on the server, or only shows it: what create, run, expose and autoscale end in."""

from typing import Any

import click

from cli import options
from cli.printers import print_objects
from cli.resources import display_name
from cli.session import Session
from machinery.errors import APIError

Object = dict[str, Any]


def making_options(command: Any) -> Any:
    """Add the options every command that makes one object has."""
    for option in (
        options.connected, options.namespaced, options.dry_run, options.output, options.field_manager, options.validated,
        options.show_managed_fields, click.option("--template", default="", hidden=True),
        click.option("--save-config", is_flag=True, help="Remember what was said, for apply."),
    ):  # fmt: skip
        command = option(command)
    return command


def make(
    session: Session, obj: Object, given: dict[str, Any], *, what: str = "created", manager: str = "kubectl-create"
) -> Object:
    """Create an object, or not as --dry-run says, and tell of it. Raises: APIError."""
    known = session.discovery.of_kind(obj["apiVersion"], obj["kind"])
    metadata = obj["metadata"]
    namespace = ""
    if known.resource.namespaced:
        namespace = metadata.get("namespace") or session.namespace
        if session.asked_namespace:
            metadata["namespace"] = namespace
    if given.get("save_config"):
        from cli.applying import annotated

        obj = annotated(obj, namespace)
    made = obj
    if given["dry_run"] != "client":
        params = {
            "fieldValidation": options.field_validation(given), "fieldManager": given.get("field_manager") or manager,
            "dryRun": "All" if given["dry_run"] == "server" else None,
        }  # fmt: skip
        try:
            made = session.connection.json("POST", known.resource.path(namespace), params=params, body=obj)
        except APIError as error:
            if manager != "kubectl-create":
                raise
            raise click.ClickException(f"failed to create {known.resource.kind.lower()}: {error}") from error
    tell(known.resource, made, what, given)
    return made


def tell(resource: Any, obj: Object, what: str, given: dict[str, Any]) -> None:
    """Print an object as -o asks, or the line that says what was done to it."""
    output = given.get("output") or ""
    if output == "name":
        click.echo(display_name(resource, obj["metadata"].get("name", "")))
    elif output:
        print_objects(
            [obj], output, single=True, template=given.get("template") or "",
            keep_managed=bool(given.get("show_managed_fields")),
        )  # fmt: skip
    else:
        name = display_name(resource, obj["metadata"].get("name", ""))
        click.echo(f"{name} {what}{options.DRY_SUFFIXES[given.get('dry_run') or 'none']}")
