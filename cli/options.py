"""Options that several commands take, and what they come to."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli.framework import LEADING

F = TypeVar("F", bound=Callable[..., Any])

GLOBAL = (
    ("kubeconfig", "--kubeconfig", "Path to the kubeconfig file."),
    ("context", "--context", "The kubeconfig context to use."),
    ("cluster", "--cluster", "The kubeconfig cluster to use."),
    ("user", "--user", "The kubeconfig user to use."),
    ("server", "--server", "Address of the API server."),
    ("token", "--token", "Bearer token."),
    ("as_user", "--as", "Act as another user."),
    ("as_uid", "--as-uid", "Act with this uid."),
    ("certificate_authority", "--certificate-authority", "File of the server's certificate authority."),
    ("client_certificate", "--client-certificate", "File of our certificate."),
    ("client_key", "--client-key", "File of our key."),
    ("tls_server_name", "--tls-server-name", "The name the server's certificate has to bear."),
    ("request_timeout", "--request-timeout", "How long one request may take; 0 for no limit."),
    ("verbosity", "--v", "kubectl's level of logging; taken and not used."),
    ("cache_dir", "--cache-dir", "Where discovery is kept."),
)
_SHORT = {"server": "-s", "verbosity": "-v"}
_UNLISTED = ("as_user_extra", "username", "password", "match_server_version", "warnings_as_errors")
SETTINGS = (*(name for name, _, _ in GLOBAL), "as_group", "insecure", *_UNLISTED)

LEADING_OPTIONS = {
    **{long: name for name, long, _ in GLOBAL}, **{short: name for name, short in _SHORT.items()},
    "-n": "namespace", "--namespace": "namespace",
}  # fmt: skip
"""What may stand before the verb."""


def connected(command: F) -> F:
    """Add the options that say which server to talk to; the command gets them as keyword arguments."""
    command = click.option("--insecure-skip-tls-verify", "insecure", is_flag=True, hidden=True)(command)
    command = click.option("--as-group", multiple=True, hidden=True)(command)
    for name, long, text in reversed(GLOBAL):
        short = (_SHORT[name],) if name in _SHORT else ()
        command = click.option(*short, long, name, help=text, hidden=name not in ("kubeconfig", "context", "server"))(
            command
        )
    return command


def reachable(command: F) -> F:
    """Add only what says which cluster is meant: Docker's verbs use the other names and letters for things of their own."""
    command = click.option("--context", help="The kubeconfig context to use.")(command)
    return click.option("--kubeconfig", help="Path to the kubeconfig file.")(command)


in_namespace = click.option("--namespace", help="The namespace; the context's by default.")
namespaced = click.option("-n", "--namespace", help="The namespace; the context's by default.")
selected = click.option("-l", "--selector", default="", help="Label selector.")
field_selected = click.option("--field-selector", default="", help="Field selector.")
output = click.option("-o", "--output", default="", help="Output format.")
show_managed_fields = click.option("--show-managed-fields", is_flag=True, help="Keep managedFields in the output.")
templated = click.option("--template", default="", hidden=True, help="The template for -o go-template and jsonpath.")
files = click.option("-f", "--filename", "filenames", multiple=True, help="File, directory, URL or - to read from.")
kustomize = click.option("-k", "--kustomize", default="", help="A folder with a kustomization.")
recursive = click.option("-R", "--recursive", is_flag=True, help="Go into directories.")
everywhere = click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces.")
field_manager = click.option("--field-manager", default="", help="Who is said to have set the fields.")
validated = click.option(
    "--validate", default="strict", hidden=True, help="strict, warn or ignore: what becomes of unknown fields."
)
dry_run = click.option(
    "--dry-run", type=click.Choice(["none", "client", "server"]), default="none", help="Do not change anything."
)

override_type = click.option(
    "--override-type", type=click.Choice(["merge", "strategic", "json"]), default="merge",
    help="What kind of patch --overrides is.",
)  # fmt: skip

DRY_SUFFIXES = {"none": "", "client": " (dry run)", "server": " (server dry run)"}


def split(given: dict[str, Any]) -> dict[str, Any]:
    """Take the global options out of a command's arguments and return them; those before the verb count too."""
    return {name: given.pop(name, None) or LEADING.get(name) for name in SETTINGS}


def field_validation(given: dict[str, Any]) -> str:
    """Return what `--validate` asks of the server."""
    asked = str(given.get("validate", "strict")).lower()
    return {"true": "Strict", "strict": "Strict", "warn": "Warn"}.get(asked, "Ignore")
