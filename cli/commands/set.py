"""`wherry set image|env|resources|selector|serviceaccount|subject`."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from cli import options
from cli.applying import shape_of_kind
from cli.framework import verb_group
from cli.making import tell
from cli.selection import JSON_PATCH, MERGE, STRATEGIC, Selected, act
from cli.session import Session, leave

Container = dict[str, Any]


@verb_group("set")
def set_() -> None:
    """Set images, environment, resources and more."""


def _shared(command: Any) -> Any:
    for option in (
        click.argument("words", nargs=-1), options.connected, options.namespaced, options.selected, options.files,
        options.kustomize, options.recursive, options.dry_run, options.output, options.field_manager,
        options.show_managed_fields, click.option("--all", "everything", is_flag=True),
        click.option("--local", is_flag=True, help="Do not ask the server."),
        click.option("--template", default="", hidden=True),
    ):  # fmt: skip
        command = option(command)
    return command


def _without_user(command: Any) -> Any:
    """Take the global --user away: here it names subjects, as kubectl has it."""
    command.__click_params__ = [one for one in command.__click_params__ if one.name != "user"]
    return command


def pod_spec(obj: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the pod spec inside an object and the path to it. Raises: ClickException when it has none."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "Pod":
        return spec, ("spec",)
    if obj["kind"] == "CronJob":
        return spec["jobTemplate"]["spec"]["template"]["spec"], ("spec", "jobTemplate", "spec", "template", "spec")
    if "template" not in spec:
        raise click.ClickException(
            f"{obj['kind'].lower()}/{obj['metadata']['name']} the object is not a pod or does not have a pod template"
        )
    return spec["template"]["spec"], ("spec", "template", "spec")


def _matching(spec: dict[str, Any], pattern: str, *, init: bool = False) -> list[tuple[str, Container]]:
    """Return containers by name, where * stands for any part of it, each with the list it is in."""
    import fnmatch

    groups = ("initContainers", "containers") if init else ("containers",)
    return [
        (group, one) for group in groups for one in spec.get(group) or () if fnmatch.fnmatchcase(one["name"], pattern)
    ]


def _send(
    session: Session, one: Selected, obj: dict[str, Any], changes: dict[str, list[Container]], what: str,
    given: dict[str, Any],
) -> None:  # fmt: skip
    """Patch containers, or print the object with them set when nothing is to be sent."""
    _, path = pod_spec(obj)
    body: Any = {group: items for group, items in changes.items() if items}
    for key in reversed(path):
        body = {key: body}
    answer = obj
    if given["local"] or given["dry_run"] == "client":
        from machinery.api.patch import apply_strategic_merge_patch

        answer = apply_strategic_merge_patch(obj, body, shape_of_kind(one.known))
    elif any(changes.values()):
        params = {
            "fieldManager": given["field_manager"] or "kubectl-set",
            "dryRun": "All" if given["dry_run"] == "server" else None,
        }  # fmt: skip
        answer = one.patch(session, body, STRATEGIC, **params)
        if (
            answer["metadata"].get("resourceVersion") == obj["metadata"].get("resourceVersion")
            and given["dry_run"] == "none"
        ):
            return
    else:
        return
    tell(one.known.resource, answer, what, given)


def _patched(
    session: Session, one: Selected, obj: dict[str, Any], body: Any, media: str, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the object with a patch applied: by the server, or here where nothing is to be sent."""
    if given["local"] or given["dry_run"] == "client":
        from machinery.api.patch import apply_json_patch, apply_merge_patch, apply_strategic_merge_patch

        if media == JSON_PATCH:
            return dict(apply_json_patch(obj, body))
        shape = shape_of_kind(one.known) if media == STRATEGIC else None
        return apply_strategic_merge_patch(obj, body, shape) if shape else dict(apply_merge_patch(obj, body))
    params = {
        "fieldManager": given["field_manager"] or "kubectl-set",
        "dryRun": "All" if given["dry_run"] == "server" else None,
    }  # fmt: skip
    return one.patch(session, body, media, **params)


def _run(
    words: Sequence[str], given: dict[str, Any], action: Callable[[Session, Selected, dict[str, Any]], None]
) -> None:
    session = Session(given)

    def one_by_one(one: Selected) -> None:
        obj = dict(one.manifest or {}) if given["local"] else one.read(session)
        action(session, one, obj)

    leave(act(session, words, given, one_by_one))


@set_.command()
@_shared
def image(words: Sequence[str], **given: Any) -> None:
    """KIND/NAME CONTAINER=IMAGE …; * is every container."""
    pairs = [word.partition("=") for word in words if "=" in word]
    named = [word for word in words if "=" not in word]
    if not pairs:
        raise click.ClickException("at least one image update is required")

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        spec, _ = pod_spec(obj)
        changes: dict[str, list[Container]] = {}
        for name, _, wanted in pairs:
            found = _matching(spec, name, init=True)
            if not found:
                raise click.ClickException(f'unable to find container named "{name}"')
            for group, container in found:
                if container.get("image") != wanted:
                    changes.setdefault(group, []).append({"name": container["name"], "image": wanted})
        _send(session, one, obj, changes, "image updated", given)

    _run(named, given, one_by_one)


@set_.command()
@_shared
@click.option("-e", "--env", "envs", multiple=True, help="KEY=VALUE.")
@click.option("-c", "--containers", default="*")
@click.option("--list", "lists", is_flag=True)
@click.option("--from", "source", default="", help="configmap/NAME or secret/NAME.")
@click.option("--prefix", default="")
@click.option("--keys", default="")
@click.option("--overwrite/--no-overwrite", default=True)
@click.option("--resolve", is_flag=True, help="With --list: look up what comes from ConfigMaps and Secrets.")
def env(words: Sequence[str], envs: Sequence[str], containers: str, lists: bool, **given: Any) -> None:
    """KIND/NAME KEY=VALUE … KEY-."""
    changes = [*(word for word in words if "=" in word or word.endswith("-")), *envs]
    named = [word for word in words if word not in changes]

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        spec, _ = pod_spec(obj)
        if lists:
            _list_env(one, spec, containers, session if given["resolve"] else None)
            return
        wanted = [_env_change(text) for text in changes] + _env_from(session, given)
        if not wanted:
            raise click.ClickException("at least one environment variable must be provided")
        if not given["overwrite"]:
            _keep_env(one, spec, containers, wanted)
        sent = {"containers": [_env_of(container, wanted) for _, container in _matching(spec, containers)]}
        _send(session, one, obj, sent, "env updated", given)

    _run(named, given, one_by_one)


def _env_of(container: Container, wanted: list[dict[str, Any]]) -> Container:
    """Return the change of a container's variables; new ones come last, since they may use those before them."""
    gone = {one["name"] for one in wanted if "$patch" in one}
    names = [one["name"] for one in (*(container.get("env") or ()), *wanted) if one["name"] not in gone]
    order = [{"name": name} for name in dict.fromkeys(names)]
    return {"name": container["name"], "env": wanted, "$setElementOrder/env": order}


def _variable(key: str) -> str:
    name = key.upper().replace("-", "_").replace(".", "_")
    if name != key:
        click.echo(f"Warning: key {key} transferred to {name}", err=True)
    return name


def _keep_env(one: Selected, spec: dict[str, Any], containers: str, wanted: Sequence[dict[str, Any]]) -> None:
    """Refuse to change what is set already. Raises: ClickException."""
    present = {
        entry["name"]: entry.get("value", "")
        for _, container in _matching(spec, containers) for entry in container.get("env") or ()
    }  # fmt: skip
    if clash := [one["name"] for one in wanted if one["name"] in present and "$patch" not in one]:
        raise click.ClickException(
            f"{one.known.resource.plural}/{one.name} '{clash[0]}' already has a value ({present[clash[0]]}), and --overwrite is false"
        )


def _env_change(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    return {"name": key, "value": value} if equals else {"name": text.removesuffix("-"), "$patch": "delete"}


def _env_from(session: Session, given: dict[str, Any]) -> list[dict[str, Any]]:
    if not given["source"]:
        return []
    kind, _, name = given["source"].partition("/")
    known = session.discovery.find(kind)
    field = {"ConfigMap": "configMapKeyRef", "Secret": "secretKeyRef"}.get(known.resource.kind)
    if field is None:
        raise click.ClickException(f"unsupported resource specified in --from: {kind}")
    data = session.connection.json("GET", known.resource.path(session.namespace, name)).get("data") or {}
    keys = given["keys"].split(",") if given["keys"] else sorted(data)
    return [
        {
            "name": given["prefix"] + _variable(key),
            "valueFrom": {field: {"name": name, "key": key}},
        }
        for key in keys
    ]


def _list_env(one: Selected, spec: dict[str, Any], containers: str, session: Session | None) -> None:
    """List variables; with a session, those that come from elsewhere are looked up (--resolve)."""
    for _, container in _matching(spec, containers):
        click.echo(f"# {one.known.resource.kind} {one.name}, container {container['name']}")
        for entry in container.get("env") or ():
            if "valueFrom" in entry and (found := _resolved(session, one, entry["valueFrom"])) is not None:
                click.echo(f"{entry['name']}={found}")
            elif "valueFrom" in entry:
                click.echo(f"# {entry['name']} from {next(iter(entry['valueFrom']))}")
            else:
                click.echo(f"{entry['name']}={entry.get('value', '')}")


def _resolved(session: Session | None, one: Selected, source: dict[str, Any]) -> str | None:
    """Return the value of a key of a ConfigMap or Secret; None for other sources, or when nobody asks."""
    import base64

    for field, plural in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if session is not None and (ref := source.get(field)):
            known = session.discovery.find(plural)
            data = session.connection.json("GET", known.resource.path(one.namespace, ref["name"])).get("data") or {}
            value = data.get(ref["key"])
            return base64.b64decode(value).decode() if value is not None and plural == "secrets" else value
    return None


@set_.command()
@_shared
@click.option("-c", "--containers", default="*")
@click.option("--limits", default="", help="cpu=100m,memory=256Mi; 0 takes one away.")
@click.option("--requests", default="")
def resources(words: Sequence[str], containers: str, limits: str, requests: str, **given: Any) -> None:
    """KIND/NAME --limits=… --requests=…."""
    if not limits and not requests:
        raise click.ClickException(
            "you must specify an update to requests or limits (in the form of --requests/--limits)"
        )
    asked = {
        field: {key: None if value == "0" else value for key, _, value in (pair.partition("=") for pair in text.split(","))}
        for field, text in (("limits", limits), ("requests", requests)) if text
    }  # fmt: skip

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        spec, _ = pod_spec(obj)
        found = [{"name": container["name"], "resources": asked} for _, container in _matching(spec, containers)]
        if not found:
            raise click.ClickException(f'unable to find container named "{containers}"')
        _send(session, one, obj, {"containers": found}, "resource requirements updated", given)

    _run(words, given, one_by_one)


@set_.command()
@_shared
@click.option("--resource-version", default="", help="Only if the object is of this version still.")
def selector(words: Sequence[str], resource_version: str, **given: Any) -> None:
    """service/NAME KEY=VALUE,…."""
    *named, text = words
    wanted = dict(pair.split("=", 1) for pair in text.split(","))

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        if one.known.resource.kind != "Service":
            raise click.ClickException(f"selector for resource of type {one.known.resource.kind} can't be changed")
        patch: list[dict[str, Any]] = [{"op": "add", "path": "/spec/selector", "value": wanted}]
        if resource_version:
            patch.insert(0, {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version})
        answer = _patched(session, one, obj, patch, JSON_PATCH, given)
        tell(one.known.resource, answer, "selector updated", given)

    _run(named, given, one_by_one)


@set_.command()
@_shared
def serviceaccount(words: Sequence[str], **given: Any) -> None:
    """KIND/NAME ACCOUNT."""
    *named, account = words

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        _, path = pod_spec(obj)
        body: Any = {"serviceAccountName": account}
        for key in reversed(path):
            body = {key: body}
        answer = _patched(session, one, obj, body, STRATEGIC, given)
        tell(one.known.resource, answer, "serviceaccount updated", given)

    _run(named, given, one_by_one)


@set_.command()
@_without_user
@_shared
@click.option("--user", "users", multiple=True, help="A user.")
@click.option("--group", "groups", multiple=True)
@click.option("--serviceaccount", "accounts", multiple=True, help="NAMESPACE:NAME.")
def subject(
    words: Sequence[str], users: Sequence[str], groups: Sequence[str], accounts: Sequence[str], **given: Any
) -> None:
    """rolebinding/NAME --group=… --serviceaccount=NAMESPACE:NAME."""
    group = "rbac.authorization.k8s.io"
    wanted: list[dict[str, Any]] = [
        {"apiGroup": group, "kind": kind, "name": name}
        for kind, names in (("User", users), ("Group", groups)) for name in names
    ]  # fmt: skip
    wanted += [
        {"kind": "ServiceAccount", "namespace": text.partition(":")[0], "name": text.partition(":")[2]}
        for text in accounts
    ]

    def one_by_one(session: Session, one: Selected, obj: dict[str, Any]) -> None:
        present = list(obj.get("subjects") or ())
        after = present + [item for item in wanted if item not in present]
        answer = _patched(session, one, obj, {"subjects": after}, MERGE, given)
        tell(one.known.resource, answer, "subjects updated", given)

    _run(words, given, one_by_one)
