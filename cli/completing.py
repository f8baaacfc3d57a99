"""Which words may come next on a command line: verbs, flags and their values, and what the cluster and the node have.

What each verb takes stands in one table; options are read from the commands themselves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from cli.framework import EVERYWHERE
from cli.session import Session


@dataclass
class Line:
    """A command line so far.

    Attributes:
        command: the command that its words lead to.
        path: the words that led there.
        words: those after them that are no options.
        last: what was typed of the next word.
        options: values of options, by parameter name.
        waiting: the option whose value comes next.
    """

    command: click.Command
    path: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    last: str = ""
    options: dict[str, str] = field(default_factory=dict)
    waiting: str = ""

    def session(self) -> Session:
        """Return a session as the line's options ask for."""
        names = ("namespace", "context", "kubeconfig", "server", "user", "cluster")
        return Session({name: self.options[name] for name in names if name in self.options})


Completer = Callable[[Line], Iterable[str]]


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last of the words may become."""
    line = _read(words or [""])
    if line.waiting:
        found: Iterable[str] = _values(line)
    elif line.last.startswith("-"):
        found = _flags(line)
    elif isinstance(line.command, click.Group) and not line.words:
        found = line.command.list_commands(click.get_current_context())
    else:
        found = _arguments(line)
    return sorted({word for word in found if word.startswith(line.last)})


def _read(words: Sequence[str]) -> Line:
    line = Line(click.get_current_context().find_root().command, last=words[-1])
    for word in words[:-1]:
        if line.waiting:
            line.options[line.waiting], line.waiting = word, ""
        elif word.startswith("-") and word != "-":
            _option(line, word)
        elif (inner := _inner(line, word)) is not None:
            line.command = inner
            line.path.append(word)
        else:
            line.words.append(word)
    if line.last.startswith("--") and "=" in line.last:
        name, _, line.last = line.last.partition("=")
        _option(line, name)
    return line


def _inner(line: Line, word: str) -> click.Command | None:
    is_open = isinstance(line.command, click.Group) and not line.words
    return line.command.get_command(click.get_current_context(), word) if is_open else None  # type: ignore[attr-defined]


def _option(line: Line, word: str) -> None:
    """Take an option; remember it when its value is the next word."""
    name, equals, value = word.partition("=")
    param = next((one for one in _options(line.command) if name in one.opts), None)
    if param is None and name in ("-n", *EVERYWHERE) and "flag" not in EVERYWHERE.get(name, ""):
        key = {"-n": "namespace"}.get(name, name[2:].replace("-", "_"))
    elif param is None or param.is_flag or param.count:
        return
    else:
        key = param.name or ""
    if equals:
        line.options[key] = value
    else:
        line.waiting = key


def _options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def _flags(line: Line) -> list[str]:
    own = [name for param in _options(line.command) for name in param.opts if name.startswith("--")]
    return own if line.path else [*own, *EVERYWHERE]


def _values(line: Line) -> Iterable[str]:
    """Return the values of the option that waits for one."""
    param = next((one for one in _options(line.command) if one.name == line.waiting), None)
    if param is not None and isinstance(param.type, click.Choice):
        return [str(one) for one in param.type.choices]
    completer = _OF_OPTIONS.get(line.waiting)
    return completer(line) if completer else ()


def _forms(_: Line) -> Iterable[str]:
    from cli.printers import FORMS

    return FORMS


def _configured(kind: str) -> Completer:
    def names(_: Line) -> list[str]:
        from cli.commands.config import merged

        return [one["name"] for one in merged()[kind]]

    return names


def _containers(line: Line) -> list[str]:
    from cli.pods import container_names, find_pods

    groups = ("containers", "initContainers", "ephemeralContainers")
    return container_names(find_pods(line.session(), line.words[0])[0], groups) if line.words else []


def _named(kind: str) -> Completer:
    return lambda line: _names(line, kind)


def _names(line: Line, kind: str) -> list[str]:
    session = line.session()
    resource = session.discovery.find(kind).resource
    path = resource.path(session.namespace if resource.namespaced else "")
    metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
    found = session.connection.json("GET", path, accept=metadata)["items"]
    return [one["metadata"]["name"] for one in found]


def _kinds(line: Line) -> list[str]:
    before, comma, _ = line.last.rpartition(",")
    known = [one.resource for one in line.session().discovery.all()]
    names = [*(one.plural for one in known), *(one.group_resource for one in known if one.group)]
    return [f"{before}{comma}{name}" for name in names]


def _slashed(line: Line) -> list[str]:
    kind = line.last.partition("/")[0]
    return [f"{kind}/{name}" for name in _names(line, kind)]


def _objects(line: Line) -> Iterable[str]:
    """A kind and then names, or KIND/NAME."""
    if "/" in line.last:
        return _slashed(line)
    if any("/" in word for word in line.words):
        return ()
    return _names(line, line.words[0]) if line.words else _kinds(line)


def _objects_of(*kinds: str) -> Completer:
    """As `_objects`, where only some kinds make sense."""

    def words(line: Line) -> Iterable[str]:
        if "/" in line.last:
            return _slashed(line)
        return _names(line, line.words[0]) if line.words else [*kinds, *(f"{kind}/" for kind in kinds)]

    return words


def _pods_of(*kinds: str, many: bool = False) -> Completer:
    """A pod's name, or KIND/NAME of what has pods."""

    def words(line: Line) -> Iterable[str]:
        if "/" in line.last:
            return _slashed(line)
        if line.words and not many:
            return ()
        return [*_names(line, "pods"), *(f"{kind}/" for kind in kinds)]

    return words


def _images(_: Line) -> list[str]:
    from cli.containers.node import Images

    with Images() as node:
        return [tag for one in node.call("List") for tag in one["tags"]]


def _first(completer: Completer) -> Completer:
    return lambda line: () if line.words else completer(line)


def _services(line: Line) -> list[str]:
    from machinery.compose.project import load

    files = [line.options["files"]] if "files" in line.options else []
    return list(load(files, folder=line.options.get("project_directory", "")).services)


def _volumes(_: Line) -> list[str]:
    from cli.commands.volumes import known_volumes

    return known_volumes()


def _addons(_: Line) -> list[str]:
    from pathlib import Path

    folder = Path(__file__).parent.parent / "manifests"
    return [path.stem.removeprefix("addon-") for path in folder.glob("addon-*.yaml")]


def _measured(line: Line) -> Iterable[str]:
    if not line.words:
        return ["nodes", "pods", *_names(line, "pods")]
    return _names(line, line.words[0]) if line.words[0] in ("nodes", "node", "pods", "pod", "no", "po") else ()


def _may(line: Line) -> Iterable[str]:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    return verbs if not line.words else _kinds(line)


def _every(*words: str) -> Completer:
    return lambda _: words


_OF_OPTIONS: dict[str, Completer] = {
    "namespace": _named("namespaces"), "output": _forms, "context": _configured("contexts"),
    "cluster": _configured("clusters"), "user": _configured("users"), "container": _containers, "target": _containers,
    "what": _every("condition=", "create", "delete", "jsonpath="), "image": _images,
}  # fmt: skip
_WORKLOADS = ("deployment", "daemonset", "statefulset")
_SCALED = ("deployment", "replicaset", "statefulset", "replicationcontroller")
_OF_VERBS: dict[str, Completer] = {
    **dict.fromkeys(
        ("get", "describe", "delete", "edit", "label", "annotate", "patch", "wait", "tree"), _objects
    ),
    "explain": _first(_kinds), "scale": _objects_of(*_SCALED), "autoscale": _objects_of(*_SCALED),
    "expose": _objects_of("deployment", "pod", "replicaset", "replicationcontroller", "service"),
    "rollout": _objects_of(*_WORKLOADS), "set": _objects_of(*_WORKLOADS, "cronjob", "pod", "replicaset"),
    "logs": _pods_of(*_WORKLOADS, "job"), "exec": _pods_of(*_WORKLOADS, "job", "service"),
    "attach": _pods_of(*_WORKLOADS, "job"), "port-forward": _pods_of("service", "deployment"),
    "debug": _pods_of("node"), "timeline": _pods_of(), "why": _pods_of("pod"), "cp": _pods_of(),
    **dict.fromkeys(("stop", "start", "restart", "kill", "rm", "stats"), _pods_of(many=True)), "port": _pods_of(),
    **dict.fromkeys(("drain", "cordon", "uncordon"), _named("nodes")), "taint": _objects_of("node"),
    "top": _measured, "auth can-i": _may, "certificate": _named("certificatesigningrequests"),
    "run": _first(_images), **dict.fromkeys(("rmi", "history", "tag", "save", "push"), _images),
    "inspect": lambda line: [*_names(line, "pods"), *_images(line)], "volume": _volumes, "compose": _services,
    "addon enable": _addons, "addon disable": _addons, "net trace": _pods_of(),
    **{f"config {verb}": _configured("contexts") for verb in
       ("use-context", "delete-context", "rename-context", "set-context", "get-contexts")},
    "config delete-cluster": _configured("clusters"), "config set-cluster": _configured("clusters"),
    "config delete-user": _configured("users"), "config set-credentials": _configured("users"),
}  # fmt: skip


def _arguments(line: Line) -> Iterable[str]:
    path: list[Any] = line.path
    for count in range(len(path), 0, -1):
        if (completer := _OF_VERBS.get(" ".join(path[:count]))) is not None:
            return completer(line)
    return ()
