"""`wherry completion bash|zsh|fish`, and what the scripts ask: the words that may come next.

The scripts only hand the line over; what is possible is worked out here, resource names by asking the cluster.
"""

import sys
from collections.abc import Sequence

import click

from cli.framework import verb

_BASH = """# bash completion for wherry: source <(wherry completion bash)
_wherry_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" words found cur
    IFS=' ' read -ra words <<< "$line"
    [[ $line == *' ' ]] && words+=("")
    cur="${words[-1]}"
    local IFS=$'\\n'
    found=($(wherry completion --words -- "${words[@]:1}" 2>/dev/null))
    # What readline takes for the word begins after these signs.
    COMPREPLY=("${found[@]#"${cur%"${cur##*[:=]}"}"}")
}
complete -o default -F _wherry_complete wherry
"""
_ZSH = """#compdef wherry
# zsh completion for wherry: source <(wherry completion zsh)
_wherry_complete() {
    local -a found
    found=("${(@f)$(wherry completion --words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ ${words[CURRENT]} == --*=* ]] && compset -P '*='
    compadd -a found
}
compdef _wherry_complete wherry
"""
_FISH = """# fish completion for wherry: wherry completion fish | source
complete -c wherry -f -a '(wherry completion --words --whole -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@verb(context_settings={"ignore_unknown_options": True})
@click.option("--words", "asks", is_flag=True, hidden=True)
@click.option("--whole", is_flag=True, hidden=True)
@click.argument("words", nargs=-1)
def completion(words: Sequence[str], asks: bool, whole: bool) -> None:
    """Print a shell's completion script: completion bash|zsh|fish."""
    if asks:
        from cli.completing import candidates

        try:
            given = words[-1] if words else ""
            before = given[: given.find("=") + 1] if whole and given.startswith("--") else ""
            for word in candidates(list(words)):
                click.echo(before + word)
        except (Exception, SystemExit):  # noqa: BLE001 - a line that can't be completed must not disturb the shell
            sys.exit(0)
        return
    if len(words) != 1 or words[0] not in _SCRIPTS:
        problem = "Too many arguments. Expected only the shell type." if len(words) > 1 else "Shell not specified."
        if len(words) == 1:
            problem = f'Unsupported shell type "{words[0]}".'
        raise click.UsageError(f"{problem} There are: {', '.join(sorted(_SCRIPTS))}")
    click.echo(_SCRIPTS[words[0]], nl=False)
