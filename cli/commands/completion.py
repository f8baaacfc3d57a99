"""`wherry completion bash|zsh|fish`, and what the scripts ask: the words that may come next.

The scripts only hand the line over; what is possible is worked out here, resource names by asking the cluster.
"""

import sys
from collections.abc import Iterable, Sequence

import click

from cli.framework import verb
from cli.session import Session

_BASH = """# bash completion for wherry: source <(wherry completion bash)
_wherry_complete() {
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$(wherry completion --words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _wherry_complete wherry
"""
_ZSH = """#compdef wherry
# zsh completion for wherry: source <(wherry completion zsh)
_wherry_complete() {
    local -a found
    found=("${(@f)$(wherry completion --words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -a found
}
compdef _wherry_complete wherry
"""
_FISH = """# fish completion for wherry: wherry completion fish | source
complete -c wherry -f -a '(wherry completion --words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
# Verbs whose first words are a kind and then names, and those that take pods alone.
_KINDS_THEN_NAMES = {
    "get",
    "describe",
    "delete",
    "edit",
    "label",
    "annotate",
    "patch",
    "scale",
    "expose",
    "autoscale",
    "wait",
    "tree",
    "explain",
}
_PODS = {
    "logs",
    "exec",
    "attach",
    "port-forward",
    "cp",
    "debug",
    "timeline",
    "stop",
    "start",
    "restart",
    "kill",
    "rm",
    "stats",
    "port",
}
_NODES = {"drain", "cordon", "uncordon"}
_SLASHED = {"rollout": ("deployment", "daemonset", "statefulset"), "set": ("deployment", "daemonset", "statefulset")}


@verb(context_settings={"ignore_unknown_options": True})
@click.option("--words", "asks", is_flag=True, hidden=True)
@click.argument("words", nargs=-1)
def completion(words: Sequence[str], asks: bool) -> None:
    """Print a shell's completion script: completion bash|zsh|fish."""
    if asks:
        try:
            for word in candidates(list(words)):
                click.echo(word)
        except (Exception, SystemExit):  # noqa: BLE001 - a line that can't be completed must not disturb the shell
            sys.exit(0)
        return
    if len(words) != 1 or words[0] not in _SCRIPTS:
        problem = "Too many arguments. Expected only the shell type." if len(words) > 1 else "Shell not specified."
        if len(words) == 1:
            problem = f'Unsupported shell type "{words[0]}".'
        raise click.UsageError(f"{problem} There are: {', '.join(sorted(_SCRIPTS))}")
    click.echo(_SCRIPTS[words[0]], nl=False)


def candidates(words: list[str]) -> list[str]:
    """Return what the last of the words may become."""
    *before, last = words or [""]
    plain, namespace = _plain(before)
    if last.startswith("-"):
        return sorted(one for one in _flags(plain) if one.startswith(last))
    if before and before[-1] in ("-n", "--namespace"):
        return _starting(last, _names("namespaces", ""))
    if before and before[-1] in ("-o", "--output"):
        from cli.printers import FORMS

        return _starting(last, FORMS)
    if not plain:
        return _starting(last, _verbs())
    return _starting(last, _arguments(plain, last, namespace))


def _starting(prefix: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(prefix)})


_WITH_VALUE = (
    "-n",
    "--namespace",
    "-o",
    "--output",
    "-l",
    "--selector",
    "-f",
    "--filename",
    "-c",
    "--container",
    "--context",
    "--kubeconfig",
)


def _plain(words: Sequence[str]) -> tuple[list[str], str]:
    """Return the words that are no options, and the namespace among these."""
    plain, namespace, skips = [], "", False
    for at, word in enumerate(words):
        if skips:
            skips = False
        elif word in _WITH_VALUE:
            skips = True
            if word in ("-n", "--namespace") and at + 1 < len(words):
                namespace = words[at + 1]
        elif not word.startswith("-"):
            plain.append(word)
    return plain, namespace


def _verbs() -> list[str]:
    context = click.get_current_context().find_root()
    return context.command.list_commands(context) if isinstance(context.command, click.Group) else []


def _command(plain: Sequence[str]) -> click.Command | None:
    context = click.get_current_context().find_root()
    found: click.Command | None = context.command
    for word in plain:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        if inner is None:
            break
        found = inner
    return found


def _flags(plain: Sequence[str]) -> list[str]:
    command = _command(plain)
    return [name for param in (command.params if command else ()) for name in param.opts if name.startswith("--")]


def _arguments(plain: Sequence[str], last: str, namespace: str) -> Iterable[str]:
    verb_, *rest = plain
    command = _command(plain[:1])
    if isinstance(command, click.Group) and not rest:
        context = click.get_current_context()
        return [*command.list_commands(context), *(_kinds() if verb_ == "create" else ())]
    if verb_ in _PODS:
        return _names("pods", namespace) if not rest or verb_ in ("stop", "start", "rm", "kill", "restart") else ()
    if verb_ in _NODES:
        return _names("nodes", "")
    if verb_ in _SLASHED and "/" in last:
        return _slashed(last, namespace)
    if verb_ in _SLASHED:
        return [f"{kind}/" for kind in _SLASHED[verb_]]
    if verb_ in _KINDS_THEN_NAMES:
        if "/" in last:
            return _slashed(last, namespace)
        return _names(rest[0], namespace) if rest else _kinds()
    return ()


def _slashed(last: str, namespace: str) -> list[str]:
    kind = last.partition("/")[0]
    return [f"{kind}/{name}" for name in _names(kind, namespace)]


def _session(namespace: str) -> Session:
    return Session({"namespace": namespace})


def _kinds() -> list[str]:
    known = _session("").discovery.all()
    return [one.resource.group_resource if one.resource.group else one.resource.plural for one in known] + [
        one.resource.plural for one in known
    ]


def _names(kind: str, namespace: str) -> list[str]:
    session = _session(namespace)
    resource = session.discovery.find(kind).resource
    path = resource.path(session.namespace if resource.namespaced else "")
    metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
    found = session.connection.json("GET", path, accept=metadata)["items"]
    return [one["metadata"]["name"] for one in found]
