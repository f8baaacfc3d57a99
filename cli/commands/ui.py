"""`wherry ui`: a terminal interface to the cluster."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import click

from cli import options
from cli.framework import verb
from cli.session import Session


@verb()
@click.argument("kind", default="pods")
@options.connected
@options.namespaced
@options.everywhere
def ui(kind: str, all_namespaces: bool, **given: Any) -> None:
    """Browse the cluster and act on it by single keys: ui [KIND]; ? shows the keys."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("wherry ui needs a terminal")
    settings = dict(given)
    session = Session(given)
    session.discovery.find(kind)
    from cli.ui.actions import Verbs
    from cli.ui.app import run
    from machinery.client.rest import Client

    connection = session.connection
    client = Client(connection.config, user_agent="wherry-ui", headers=connection.impersonation)
    namespace = "" if all_namespaces or not session.asked_namespace else session.namespace
    chosen = {"kind": kind, "namespace": namespace}
    asyncio.run(run(client, session.discovery, Verbs(_same_options(settings)), chosen))


def _same_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options by which another verb speaks to the same cluster as the same user."""
    given = options.split(dict(settings))
    found = []
    for name, long, _ in options.GLOBAL:
        if given.get(name):
            found += [long, str(given[name])]
    found += [word for group in given.get("as_group") or () for word in ("--as-group", group)]
    return found + (["--insecure-skip-tls-verify"] if given.get("insecure") else [])
