"""API errors in kubectl's words.

Source: kubectl's pkg/cmd/util (CheckErr and its printing of Status errors).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import click

from machinery.errors import APIError

T = TypeVar("T")


def text_of(error: APIError, doing: str = "") -> str:
    """Return the line or lines that tell of a refusal; `doing` is such as `error when creating "pod.yaml"`."""
    if error.reason == "Unauthorized":
        return f"error: You must be logged in to the server ({error})"
    if error.reason == "Invalid":
        known = bool(error.kind or error.name)
        prefix = f'The {error.kind} "{error.name}" is invalid' if known else "The request is invalid"
        causes = list(
            dict.fromkeys(f"{one.field}: {one.message}" if one.field else one.message for one in error.causes)
        )
        if not causes:
            return prefix if known else f"{prefix}: {error}"
        return f"{prefix}: {causes[0]}" if len(causes) == 1 else "\n".join([f"{prefix}: ", *(f"* {c}" for c in causes)])
    where = f"{doing}: " if doing else ""
    return (
        f"Error from server ({error.reason}): {where}{error}" if error.reason else f"Error from server: {where}{error}"
    )


def report(error: APIError) -> None:
    """Tell of a refusal on standard error."""
    click.echo(text_of(error, getattr(error, "doing", "")), err=True)


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Note in a refusal raised inside what was being done: `error when creating "pod.yaml"`."""
    try:
        yield
    except APIError as error:
        error.doing = what  # type: ignore[attr-defined]  # a note for `report` alone
        raise


def each(items: Iterable[T], action: Callable[[T], Any]) -> bool:
    """Do something with each; tell of refusals and go on. Returns whether all went well."""
    fine = True
    for item in items:
        try:
            action(item)
        except APIError as error:
            report(error)
            fine = False
        except click.UsageError:
            raise
        except click.ClickException as error:
            click.echo(f"error: {error.format_message()}", err=True)
            fine = False
    return fine
