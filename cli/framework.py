"""Commands that read their arguments as kubectl's do: `--wait=false`, `-n=ns`, options before the verb, near misses.

Kept apart from main.py so that a command's module can use it without knowing how commands are found.
"""

import importlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

_TRUE, _FALSE = ("true", "True", "TRUE", "t", "T", "1"), ("false", "False", "FALSE", "f", "F", "0")

LEADING: dict[str, Any] = {}
"""Global options that stood before the verb, or that the verb has no words of its own for, by parameter name."""


EVERYWHERE: dict[str, str] = {
    **dict.fromkeys(
        (
            "--kubeconfig", "--context", "--cluster", "--server", "--token", "--as-uid", "--certificate-authority",
            "--client-certificate", "--client-key", "--tls-server-name", "--request-timeout", "--cache-dir", "--kuberc",
            "--namespace", "--username", "--password",
        ),
        "one",
    ),
    **dict.fromkeys(("--as-group", "--as-user-extra"), "many"),
    **dict.fromkeys(("--match-server-version", "--warnings-as-errors"), "flag"),
    "--user": "one", "--as": "one", "--insecure-skip-tls-verify": "flag",
    **dict.fromkeys(("--vmodule", "--log-flush-frequency", "--v"), "unused"), "--disable-compression": "unused flag",
}  # fmt: skip
"""kubectl's global options, which any command takes, beside those it names itself: "one" value, "many", "flag"."""
_PARAMETERS = {"--as": "as_user", "--insecure-skip-tls-verify": "insecure"}
_PRINTING = {"--allow-missing-template-keys": "flag", "--show-managed-fields": "flag", "--template": "one"}
"""What goes with --output, where a verb does not name it."""
_OPTIONAL_VALUES = {"--validate": "strict", "--cascade": "background"}
"""Options whose value may be left out, and what that means."""


def _spelled_out(command: click.Command, args: Sequence[str]) -> list[str]:
    """Return the arguments with Go's spellings turned into click's."""
    before, rest = _parted(command, args)
    return [*before, *rest]


def _parted(command: click.Command, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments in click's spelling, and those from the first on that are no longer this command's."""
    by_name = {name: param for param in command.params if isinstance(param, click.Option) for name in param.opts}
    found: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--" or (not arg.startswith("-") and command.allow_interspersed_args is False):
            return found, [arg, *rest]
        if _taken_everywhere(by_name, arg, rest):
            continue
        found += _one(by_name, arg)
        option = by_name.get(arg)
        if option is not None and not option.is_flag and not option.count and rest and arg not in _OPTIONAL_VALUES:
            found.append(rest.pop(0))
    return found, []


def _taken_everywhere(known: Container[str], arg: str, rest: list[str]) -> bool:
    """Remember an option that every command takes, unless this one has its own of the name; its value leaves `rest`."""
    name, equals, value = arg.partition("=")
    if name in known:
        return False
    how = EVERYWHERE.get(name, "") or (_PRINTING.get(name, "") if "--output" in known else "")
    if not how or (how == "one" and not equals and not rest):
        return False
    parameter = _PARAMETERS.get(name, name[2:].replace("-", "_"))
    if how.endswith("flag"):
        truth = _truth(name, value or "true")
        if how == "flag":
            LEADING[parameter] = truth
        return True
    given = value if equals else rest.pop(0) if rest else ""
    if how == "many":
        LEADING.setdefault(parameter, []).append(given)
    elif how == "one":
        LEADING[parameter] = given
    return True


def takes(command: click.Command, name: str) -> bool:
    """Whether a command takes an option, be it its own or one that every command takes."""
    own = {one for param in command.params if isinstance(param, click.Option) for one in param.opts}
    return name in own or name in EVERYWHERE or ("--output" in own and name in _PRINTING)


def _truth(name: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise click.ClickException(f'invalid argument "{value}" for "{name}" flag: strconv.ParseBool: invalid syntax')
    return value in _TRUE


def _one(by_name: Mapping[str, click.Option], arg: str) -> list[str]:
    name, equals, value = arg.partition("=")
    option = by_name.get(name)
    if option is not None and not equals and name in _OPTIONAL_VALUES:
        return [f"{name}={_OPTIONAL_VALUES[name]}"]
    if option is None or not equals:
        return [arg]
    if option.is_flag:
        return [name] if _truth(name, value) else list(option.secondary_opts[:1])
    if not name.startswith("--"):  # click would take the sign for a part of the value
        return [name, value]
    return [arg]


class Verb(click.Command):
    """A command whose arguments are read as kubectl's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments after Go's spellings are turned into click's."""
        return super().parse_args(ctx, _spelled_out(self, args))


class VerbGroup(click.Group):
    """A group of verbs: `rollout status`."""

    command_class = Verb
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the command's name: options of the group, of the command, or global ones."""
        before, rest = _parted(self, args)
        if rest and self.invoke_without_command and self.get_command(ctx, rest[0]) is not None:
            before, rest = [], [rest[0], *before, *rest[1:]]  # kubectl create --dry-run=client deployment web
        return super().parse_args(ctx, [*before, *rest])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a word; a word that is none gets kubectl's answer. Raises: ClickException."""
        if args and self.get_command(ctx, args[0]) is None:
            raise click.ClickException(unknown_command(args[0], ctx.command_path, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


def unknown_command(word: str, path: str, known: Sequence[str]) -> str:
    """Return what to say of a word that is no command, with those it may have been meant for."""
    import difflib

    near = [name for name in known if name.startswith(word)] or difflib.get_close_matches(word, known, 3, 0.6)
    text = f'unknown command "{word}" for "{path}"'
    if near:
        text += "\n\nDid you mean this?\n" + "\n".join(f"\t{name}" for name in near)
    return text


def verb(name: str | None = None, **given: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """As click.command, for a Verb."""
    return click.command(name, cls=Verb, **given)


def verb_group(name: str | None = None, **given: Any) -> Callable[[Callable[..., Any]], VerbGroup]:
    """As click.group, for a VerbGroup."""
    return click.group(name, cls=VerbGroup, **given)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a command is, "module:attribute", and what the list of commands says of it."""

    place: str
    help: str = ""
    section: str = ""


class LazyGroup(VerbGroup):
    """A group whose commands are imported by name when they are called; global options may stand before the verb."""

    def __init__(
        self, *args: Any, sources: Mapping[str, Source], leading: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        """Args: `leading` are options that may stand before the verb, to the parameter each is kept under."""
        super().__init__(*args, **kwargs)
        self._sources = sources
        self._leading = leading or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self._sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        source = self._sources.get(cmd_name)
        if source is None:
            return None
        module, _, attribute = source.place.partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the global options before the verb away and remember them."""
        rest = list(args)
        while rest and rest[0].startswith("-"):
            name, equals, value = rest[0].partition("=")
            short, kept = self._leading.get(name[:2]), self._leading.get(name)
            if kept is not None and equals:
                LEADING[kept], rest = value, rest[1:]
            elif kept is not None and len(rest) > 1:
                LEADING[kept], rest = rest[1], rest[2:]
            elif short is not None and not name.startswith("--") and len(name) > 2:
                LEADING[short], rest = rest[0][2:], rest[1:]
            else:
                break
        return super().parse_args(ctx, rest)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone: importing them all would take a second."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, source in self._sources.items():
            sections.setdefault(source.section or "Cluster", []).append((name, source.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)
