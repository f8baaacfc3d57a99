"""`wherry config`: looks into kubeconfig files and changes them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cli.framework import LEADING, verb_group
from cli.printers import print_objects, rows_text

Config = dict[str, Any]
_KINDS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_SECRET = ("certificate-authority-data", "client-certificate-data", "client-key-data")


@verb_group()
@click.option("--kubeconfig", default="", help="The file to use.")
def config(kubeconfig: str) -> None:
    """Change kubeconfig files."""
    if kubeconfig:
        LEADING["kubeconfig"] = kubeconfig


def _paths() -> list[Path]:
    if LEADING.get("kubeconfig"):
        return [Path(LEADING["kubeconfig"])]
    listed = [Path(entry) for entry in os.environ.get("KUBECONFIG", "").split(os.pathsep) if entry]
    return listed or [Path.home() / ".kube" / "config"]


def _read(path: Path) -> Config:
    import yaml

    try:
        found = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        found = {}
    except (OSError, yaml.YAMLError) as error:
        raise click.ClickException(f'error loading config file "{path}": {error}') from error
    empty = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [],
        "contexts": [],
        "users": [],
        "current-context": "",
    }
    return {**empty, **{key: value for key, value in found.items() if value is not None}}


def merged() -> Config:
    """Return what all kubeconfig files say together, the first to name something winning."""
    found = _read(_paths()[0])
    for path in _paths()[1:]:
        other = _read(path)
        for kind in _KINDS:
            known = {one["name"] for one in found[kind]}
            found[kind] += [one for one in other[kind] if one["name"] not in known]
        found["current-context"] = found["current-context"] or other["current-context"]
    return found


def _entry(found: Config, kind: str, name: str) -> Config | None:
    return next((one for one in found[kind] if one["name"] == name), None)


def _change(action: Callable[[Config], None], *, kind: str = "", name: str = "") -> None:
    """Read the file that has the entry (else the first), change it, and write it, readable by its owner alone."""
    from cli.printers import yaml_text

    paths = _paths()
    path = next(
        (one for one in paths if kind and _entry(_read(one), kind, name)),
        next((p for p in paths if p.exists()), paths[0]),
    )
    found = _read(path)
    action(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(0o600)
    temporary.write_text(yaml_text(found))
    temporary.replace(path)


@config.command("current-context")
def current_context() -> None:
    """Print the current context."""
    name = merged()["current-context"]
    if not name:
        raise click.ClickException("current-context is not set")
    click.echo(name)


@config.command("use-context", context_settings={"ignore_unknown_options": False})
@click.argument("name")
def use_context(name: str) -> None:
    """Make a context the current one."""
    if _entry(merged(), "contexts", name) is None:
        raise click.ClickException(f'no context exists with the name: "{name}"')
    _change(lambda found: found.__setitem__("current-context", name))
    click.echo(f'Switched to context "{name}".')


@config.command("get-contexts")
@click.argument("names", nargs=-1)
@click.option("-o", "--output", default="")
@click.option("--no-headers", is_flag=True)
def get_contexts(names: Sequence[str], output: str, no_headers: bool) -> None:
    """List contexts."""
    found = merged()
    chosen = [one for one in found["contexts"] if not names or one["name"] in names]
    for name in names:
        if _entry(found, "contexts", name) is None:
            raise click.ClickException(f"context {name} not found")
    chosen.sort(key=lambda one: one["name"])
    if output == "name":
        for one in chosen:
            click.echo(one["name"])
        return
    rows = [
        [
            "*" if one["name"] == found["current-context"] else "", one["name"], one["context"].get("cluster", ""),
            one["context"].get("user", ""), one["context"].get("namespace", ""),
        ]
        for one in chosen
    ]  # fmt: skip
    click.echo(rows_text(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"], rows, show_headers=not no_headers))


@config.command("get-clusters")
def get_clusters() -> None:
    """List clusters."""
    click.echo("\n".join(["NAME", *sorted(one["name"] for one in merged()["clusters"])]))


@config.command("get-users")
def get_users() -> None:
    """List users."""
    click.echo("\n".join(["NAME", *sorted(one["name"] for one in merged()["users"])]))


@config.command()
@click.option("--raw", is_flag=True, help="Secrets too.")
@click.option("--minify", is_flag=True, help="Only what the current context uses.")
@click.option("--merge/--no-merge", "merges", default=True, help="All files of $KUBECONFIG, or the first alone.")
@click.option("--flatten", is_flag=True, help="Files' contents in place of their names.")
@click.option("--context", default="")
@click.option("-o", "--output", default="yaml")
def view(raw: bool, minify: bool, flatten: bool, context: str, output: str, merges: bool) -> None:
    """Print the configuration, secrets left out."""
    if not merges and not LEADING.get("kubeconfig"):
        raise click.ClickException("if merge==false a precise file must be specified")
    found = merged()
    if minify:
        found = _minified(found, context or found["current-context"])
    if flatten:
        _flatten(found)
    if not raw:
        _redact(found)
    shown = {**found, **{kind: found[kind] or None for kind in _KINDS}}
    if not shown["preferences"]:
        del shown["preferences"]
    print_objects([shown], output, single=True)


def _minified(found: Config, name: str) -> Config:
    one = _entry(found, "contexts", name)
    if one is None:
        raise click.ClickException(
            f"cannot locate context {name}" if name else "current-context must exist in order to minify"
        )
    used = one["context"]
    return {
        **found, "contexts": [one], "current-context": name,
        "clusters": [c for c in found["clusters"] if c["name"] == used.get("cluster")],
        "users": [u for u in found["users"] if u["name"] == used.get("user")],
    }  # fmt: skip


def _flatten(found: Config) -> None:
    import base64

    for kind, inner in _KINDS.items():
        for one in found[kind]:
            body = one.get(inner) or {}
            for field in ("certificate-authority", "client-certificate", "client-key"):
                if body.get(field):
                    body[f"{field}-data"] = base64.b64encode(Path(body.pop(field)).read_bytes()).decode()


def _redact(found: Config) -> None:
    for kind, inner in _KINDS.items():
        for one in found[kind]:
            body = one.get(inner) or {}
            for field in _SECRET:
                if body.get(field):
                    body[field] = "DATA+OMITTED"
            for field in ("token", "password"):
                if body.get(field):
                    body[field] = "REDACTED"


def _set_entry(kind: str, name: str, changes: Config) -> bool:
    """Set fields of an entry; returns whether it was there before."""
    there = _entry(merged(), kind, name) is not None

    def action(found: Config) -> None:
        one = _entry(found, kind, name)
        if one is None:
            one = {"name": name, _KINDS[kind]: {}}
            found[kind] = sorted([*found[kind], one], key=lambda entry: str(entry["name"]))
        body = one.setdefault(_KINDS[kind], {})
        for field, value in changes.items():
            if value is None:
                body.pop(field, None)
            elif value not in ("", False):
                body[field] = value

    _change(action, kind=kind, name=name)
    return there


def _file_field(changes: Config, field: str, path: str, *, embed: bool) -> None:
    if not path:
        return
    if embed:
        import base64

        changes[f"{field}-data"] = base64.b64encode(Path(path).read_bytes()).decode()
        changes[field] = None
    else:
        changes[field] = str(Path(path).absolute())


@config.command("set-cluster")
@click.argument("name")
@click.option("--server", default="")
@click.option("--certificate-authority", default="")
@click.option("--embed-certs", is_flag=True)
@click.option("--insecure-skip-tls-verify", is_flag=True)
@click.option("--tls-server-name", default="")
@click.option("--proxy-url", default="")
def set_cluster(name: str, certificate_authority: str, embed_certs: bool, **given: Any) -> None:
    """Set fields of a cluster."""
    changes: Config = {field.replace("_", "-"): value for field, value in given.items()}
    _file_field(changes, "certificate-authority", certificate_authority, embed=embed_certs)
    _set_entry("clusters", name, changes)
    click.echo(f'Cluster "{name}" set.')


def _exec(before: Config, asked: Config) -> Config:
    """Return what a user's credential program is, changed by what is asked."""
    words = [word for text in asked["exec_args"] for word in text.split(",")]
    envs = {one["name"]: one["value"] for one in before.get("env") or ()}
    for text in (one for given in asked["exec_envs"] for one in given.split(",")):
        key, equals, value = text.partition("=")
        if equals:
            envs[key] = value
        else:
            envs.pop(key.removesuffix("-"), None)
    return {
        "apiVersion": asked["exec_api_version"] or before.get("apiVersion"),
        "args": words or before.get("args"), "command": asked["exec_command"] or before.get("command", ""),
        "env": [{"name": key, "value": value} for key, value in envs.items()] or None,
        "interactiveMode": asked["exec_interactive_mode"] or before.get("interactiveMode", "IfAvailable"),
        "provideClusterInfo": asked["exec_cluster_info"] or before.get("provideClusterInfo", False),
    }  # fmt: skip


def _provider(before: Config, name: str, arguments: Sequence[str]) -> Config:
    """Return what a user's provider of credentials is, changed by what is asked."""
    values: Config = dict(before.get("config") or {}) if name in ("", before.get("name")) else {}
    for text in (one for given in arguments for one in given.split(",")):
        key, equals, value = text.partition("=")
        if equals:
            values[key] = value
        else:
            values.pop(key.removesuffix("-"), None)
    return {"config": values or None, "name": name or before.get("name", "")}


@config.command("set-credentials")
@click.argument("name")
@click.option("--token", default="")
@click.option("--username", default="")
@click.option("--password", default="")
@click.option("--client-certificate", default="")
@click.option("--client-key", default="")
@click.option("--embed-certs", is_flag=True)
@click.option("--auth-provider", default="", help="The name of a provider of credentials, for other clients.")
@click.option("--auth-provider-arg", "provider_args", multiple=True, help="KEY=VALUE for it; KEY- takes one away.")
@click.option("--exec-command", default="", help="A program that tells our credentials.")
@click.option("--exec-api-version", default="")
@click.option("--exec-arg", "exec_args", multiple=True)
@click.option("--exec-env", "exec_envs", multiple=True, help="NAME=VALUE for it; NAME- takes one away.")
@click.option("--exec-interactive-mode", default="", type=click.Choice(["", "Never", "IfAvailable", "Always"]))
@click.option("--exec-provide-cluster-info", "exec_cluster_info", is_flag=True)
def set_credentials(name: str, client_certificate: str, client_key: str, embed_certs: bool, **given: Any) -> None:
    """Set fields of a user."""
    provider, arguments = given.pop("auth_provider"), given.pop("provider_args")
    program = {key: given.pop(key) for key in list(given) if key.startswith("exec_")}
    changes: Config = dict(given)
    user = (_entry(merged(), "users", name) or {}).get("user") or {}
    if provider or arguments:
        changes["auth-provider"] = _provider(user.get("auth-provider") or {}, provider, arguments)
    if any(program.values()):
        changes["exec"] = _exec(user.get("exec") or {}, program)
    _file_field(changes, "client-certificate", client_certificate, embed=embed_certs)
    _file_field(changes, "client-key", client_key, embed=embed_certs)
    _set_entry("users", name, changes)
    click.echo(f'User "{name}" set.')


@config.command("set-context")
@click.argument("name", required=False)
@click.option("--current", is_flag=True)
@click.option("--cluster", default="")
@click.option("--user", default="")
@click.option("-n", "--namespace", default="")
def set_context(name: str | None, current: bool, **given: Any) -> None:
    """Set fields of a context."""
    if bool(name) == current:
        raise click.ClickException("you must specify a non-empty context name or --current")
    chosen = name or merged()["current-context"]
    if not chosen:
        raise click.ClickException("no current context is set")
    there = _set_entry("contexts", chosen, given)
    click.echo(f'Context "{chosen}" {"modified" if there else "created"}.')


def _delete(kind: str, name: str) -> None:
    inner = _KINDS[kind]
    if _entry(merged(), kind, name) is None:
        raise click.ClickException(f"cannot delete {inner} {name}, not in {_paths()[0]}")
    _change(
        lambda found: found.__setitem__(kind, [one for one in found[kind] if one["name"] != name]), kind=kind, name=name
    )
    click.echo(f"deleted {inner} {name} from {_paths()[0]}")


@config.command("delete-context")
@click.argument("name")
def delete_context(name: str) -> None:
    """Delete a context."""
    was_current = merged()["current-context"] == name
    _delete("contexts", name)
    if was_current:
        text = 'warning: this removed your active context, use "wherry config use-context" to select a different one'
        click.echo(text, err=True)


@config.command("delete-cluster")
@click.argument("name")
def delete_cluster(name: str) -> None:
    """Delete a cluster."""
    _delete("clusters", name)


@config.command("delete-user")
@click.argument("name")
def delete_user(name: str) -> None:
    """Delete a user."""
    _delete("users", name)


@config.command("rename-context")
@click.argument("old")
@click.argument("new")
def rename_context(old: str, new: str) -> None:
    """Give a context another name."""
    found = merged()
    if _entry(found, "contexts", old) is None:
        raise click.ClickException(f'cannot rename the context "{old}", it\'s not in {_paths()[0]}')
    if _entry(found, "contexts", new) is not None:
        raise click.ClickException(
            f'cannot rename the context "{old}", the context "{new}" already exists in {_paths()[0]}'
        )

    def action(config_: Config) -> None:
        one = _entry(config_, "contexts", old)
        if one is not None:
            one["name"] = new
        if config_["current-context"] == old:
            config_["current-context"] = new

    _change(action, kind="contexts", name=old)
    click.echo(f'Context "{old}" renamed to "{new}".')


def _place(found: Config, path: str, *, make: bool) -> tuple[Config, str]:
    """Return what holds the field of a path such as clusters.NAME.server, and the field's name."""
    parts = path.split(".")
    here: Config = found
    if parts[0] in _KINDS and len(parts) > 1:
        kind, name = parts[0], ".".join(parts[1:-1]) or parts[1]
        one = _entry(found, kind, name)
        if one is None:
            if not make:
                raise click.ClickException(f"item to remove does not exist: {path}")
            one = {"name": name, _KINDS[kind]: {}}
            found[kind].append(one)
        return one.setdefault(_KINDS[kind], {}), parts[-1]
    for part in parts[:-1]:
        here = here.setdefault(part, {})
    return here, parts[-1]


@config.command("set")
@click.argument("path")
@click.argument("value")
@click.option("--set-raw-bytes", is_flag=True, help="The value of a …-data field as it is, not as base64.")
def set_value(path: str, value: str, set_raw_bytes: bool) -> None:
    """Set one field: clusters.NAME.server https://…."""
    if set_raw_bytes and path.endswith("-data"):
        import base64

        value = base64.b64encode(value.encode()).decode()

    def action(found: Config) -> None:
        holder, field = _place(found, path, make=True)
        holder[field] = {"true": True, "false": False}.get(value, value)

    _change(action)
    click.echo(f'Property "{path}" set.')


@config.command()
@click.argument("path")
def unset(path: str) -> None:
    """Take one field away."""

    def action(found: Config) -> None:
        holder, field = _place(found, path, make=False)
        if field == "current-context":
            holder[field] = ""
        else:
            holder.pop(field, None)

    _change(action)
    click.echo(f'Property "{path}" unset.')
