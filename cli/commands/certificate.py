"""`wherry certificate approve|deny`."""

from collections.abc import Sequence
from typing import Any

import click

from cli import options
from cli.framework import verb_group
from cli.making import tell
from cli.selection import Selected, act
from cli.session import Session, leave
from machinery.api.meta import now


@verb_group()
def certificate() -> None:
    """Approve and deny certificate requests."""


def _shared(command: Any) -> Any:
    for option in (
        click.argument("names", nargs=-1), options.connected, options.files, options.kustomize, options.recursive,
        options.output, click.option("--force", is_flag=True, help="Also when it is decided already."),
    ):  # fmt: skip
        command = option(command)
    return command


@certificate.command()
@_shared
def approve(names: Sequence[str], **given: Any) -> None:
    """Approve certificate requests."""
    _decide(names, "Approved", "approved", given)


@certificate.command()
@_shared
def deny(names: Sequence[str], **given: Any) -> None:
    """Deny certificate requests."""
    _decide(names, "Denied", "denied", given)


def _decide(names: Sequence[str], kind: str, word: str, given: dict[str, Any]) -> None:
    session = Session(given)
    given["dry_run"] = "none"

    def one_by_one(one: Selected) -> None:
        obj = one.read(session)
        conditions = (obj.get("status") or {}).get("conditions") or []
        decided = {item["type"] for item in conditions} & {"Approved", "Denied"}
        if decided and decided != {kind}:
            raise click.ClickException(f"certificate signing request {one.name} is already {decided.pop()}")
        if not decided or given["force"]:
            conditions = [item for item in conditions if item["type"] != kind]
            conditions.append({
                "type": kind, "status": "True", "reason": f"Kubectl{'Approve' if kind == 'Approved' else 'Deny'}",
                "message": f"This CSR was {word} by wherry certificate {'approve' if kind == 'Approved' else 'deny'}.",
                "lastUpdateTime": now(),
            })  # fmt: skip
            obj["status"] = {**(obj.get("status") or {}), "conditions": conditions}
            obj = session.connection.json("PUT", f"{one.path}/approval", body=obj)
        tell(one.known.resource, obj, word, given)

    words = [] if given["filenames"] else ["csr", *(name.rpartition("/")[2] for name in names)]
    leave(act(session, words, given, one_by_one))
