"""The command line's frame: finds a command, runs it, turns its errors into kubectl's words and exit codes.

Each command is imported when it is used: that keeps `wherry get` quick.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

import click

from cli.commands import COMMANDS
from cli.framework import LEADING, LazyGroup, Source
from machinery.errors import APIError

_MISSING = {
    "attach": "at least 1 argument is required for attach",
    "port-forward": "TYPE/NAME and list of ports are required for port-forward",
}
"""What kubectl says where an argument is missing, for verbs that say it in words of their own."""
_PLAIN = ("The connection to", "Unable to connect", "error:", "Error")


def build_group(extra: Mapping[str, str | Source]) -> click.Group:
    """Return the command line: kubectl's and Docker's verbs, and the commands of `extra` (name to place)."""
    from cli.options import LEADING_OPTIONS

    added = {name: one if isinstance(one, Source) else Source(one) for name, one in extra.items()}
    return LazyGroup(
        "wherry", sources={**COMMANDS, **added}, help="A small cluster that speaks the Kubernetes API.",
        context_settings={"help_option_names": ["-h", "--help"]}, leading=LEADING_OPTIONS,
    )  # fmt: skip


def _plugin(words: list[str], known: Mapping[str, object]) -> list[str] | None:
    """Return the command line of a plugin, wherry-WORD-WORD… on PATH, the longest name first; None without one."""
    named = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    if not words or not named or words[0] in known:
        return None
    for count in range(named, 0, -1):
        name = "-".join(word.replace("-", "_") for word in words[:count])
        for prefix in ("wherry-", "kubectl-"):
            if path := shutil.which(prefix + name):
                return [path, *words[count:]]
    return None


def run_cli(extra: Mapping[str, str | Source]) -> int:
    """Run the command line and return its exit code."""
    if plugin := _plugin(sys.argv[1:], {**COMMANDS, **extra}):
        os.execv(plugin[0], plugin)  # noqa: S606 - a plugin takes over the process, as kubectl's do
    try:
        build_group(extra).main(prog_name="wherry", standalone_mode=False)
        return _warnings_counted(0)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        return _complain(error)
    except APIError as error:
        from cli import problems

        problems.report(error)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:
        return _warnings_counted(int(error.code or 0))


def _warnings_counted(code: int) -> int:
    """Return the exit code, where --warnings-as-errors makes the server's warnings count."""
    count = LEADING.get("warnings", 0)
    if code or not count or not LEADING.get("warnings_as_errors"):
        return code
    click.echo(f"error: {count} warning{'s' if count > 1 else ''} received", err=True)
    return 1


def _complain(error: click.ClickException) -> int:
    text = error.format_message()
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "wherry"
        if isinstance(error, click.MissingParameter) and error.param is not None:
            text = _MISSING.get(path.rpartition(" ")[2]) or _missing(error.param)
        if isinstance(error, click.NoSuchOption):
            name = error.option_name
            near = _near(name, _offers(error.ctx) or error.possibilities or ())
            text = (
                f"unknown flag: {name}{near}"
                if name.startswith("--")
                else f"unknown shorthand flag: '{name[1:]}' in {name}"
            )
        click.echo(f"error: {text}\nSee '{path} --help' for usage.", err=True)
    else:
        click.echo(text if text.startswith(_PLAIN) else f"error: {text}", err=True)
    return error.exit_code if error.exit_code != 2 else 1


def _offers(ctx: click.Context | None) -> list[str]:
    params = ctx.command.params if ctx else []
    return [one for param in params if isinstance(param, click.Option) for one in param.opts]


def _near(name: str, offers: Sequence[str]) -> str:
    """Name the nearest flag; the dashes don't count, or every short word would be near every other."""
    import difflib

    words = {offer.lstrip("-"): offer for offer in offers if offer.startswith("--")}
    word = name.lstrip("-")
    begun = sorted((offer for offer in words if offer.startswith(word)), key=len) if len(word) > 1 else []
    near = begun or difflib.get_close_matches(word, words, 1, 0.75)
    return f"; did you mean {words[near[0]]}?" if near else ""


def _missing(param: click.Parameter) -> str:
    if isinstance(param, click.Option):
        return f'required flag(s) "{param.opts[-1].lstrip("-")}" not set'
    return f"exactly one {param.make_metavar(click.Context(click.Command(''))).strip('[]')} is required, got 0"


def main() -> None:
    """The console script without the cluster's own commands."""
    sys.exit(run_cli({}))


if __name__ == "__main__":
    main()
