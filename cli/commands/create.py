"""`wherry create`: from files, or one object from arguments. The generators are in create_*.py, by what they make."""

from typing import Any

import click

from cli import options, problems
from cli.framework import LazyGroup, Source
from cli.making import tell
from cli.selection import Selected, file_objects, of_manifest
from cli.session import Session, leave

_GENERATORS = {
    name: Source(f"cli.commands.{module}:{name.replace('-', '_')}", f"Create {article} {name}")
    for module, names in {
        "create_config": ("configmap", "secret", "namespace", "serviceaccount", "token"),
        "create_workloads": ("deployment", "job", "cronjob", "poddisruptionbudget", "priorityclass", "quota"),
        "create_rbac": ("role", "clusterrole", "rolebinding", "clusterrolebinding"),
        "create_network": ("service", "ingress"),
    }.items()
    for name in names
    for article in ("an" if name[0] in "aeiou" else "a",)
}
_ALIASES = {
    "cm": "configmap", "ns": "namespace", "sa": "serviceaccount", "deploy": "deployment", "cj": "cronjob",
    "pdb": "poddisruptionbudget", "pc": "priorityclass", "resourcequota": "quota", "svc": "service", "ing": "ingress",
}  # fmt: skip


class _Create(LazyGroup):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


@click.group("create", cls=_Create, sources=_GENERATORS, invoke_without_command=True)
@options.connected
@options.namespaced
@options.files
@options.kustomize
@options.recursive
@options.selected
@options.dry_run
@options.output
@options.field_manager
@options.validated
@options.show_managed_fields
@click.option("--template", default="", hidden=True)
@click.option("--save-config", is_flag=True, help="Remember what was said, for apply.")
@click.option("--edit", "edits", is_flag=True, help="Open the manifest in an editor first.")
@click.option("--windows-line-endings", is_flag=True, hidden=True)
@click.option("--raw", default="", help="Send the file to a path of the server.")
@click.pass_context
def create(ctx: click.Context, **given: Any) -> None:
    """Create objects from files, or one from arguments."""
    if ctx.invoked_subcommand is not None:
        return
    session = Session(given)
    if given["raw"]:
        _raw(session, given)
        return
    leave(problems.each(file_objects(session, given), lambda one: _edited(session, one, given)))


def _edited(session: Session, one: Selected, given: dict[str, Any]) -> None:
    if not given["edits"]:
        _one(session, one, given)
        return
    from cli.editing import edit_object

    form = given["output"] if given["output"] in ("yaml", "json") else "yaml"
    edit_object(
        one.manifest or {}, form, lambda changed: _one(session, of_manifest(session, changed, one.source), given),
        windows=given["windows_line_endings"],
    )  # fmt: skip


def _raw(session: Session, given: dict[str, Any]) -> None:
    if len(given["filenames"]) != 1:
        raise click.ClickException("--raw can only use a single local file or stdin")
    import sys
    from pathlib import Path

    name = given["filenames"][0]
    body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    sys.stdout.buffer.write(session.connection.request("POST", given["raw"], body=body, accept="*/*"))


def _one(session: Session, one: Selected, given: dict[str, Any]) -> None:
    params = {
        "fieldValidation": options.field_validation(given), "fieldManager": given["field_manager"] or "kubectl-create",
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip
    obj = one.manifest or {}
    if given["save_config"]:
        from cli.applying import annotated

        obj = annotated(obj, one.namespace)
    if given["dry_run"] != "client":
        path = one.known.resource.path(one.namespace)
        with problems.doing(f'error when creating "{one.source}"'):
            obj = session.connection.json("POST", path, params=params, body=obj)
    tell(one.known.resource, obj, "created", given)
