"""Reads Compose files: interpolation, several files, env files, extends, profiles, and the specification's own schema.

compose-spec.json is the Compose specification's JSON schema, unchanged (Apache-2.0).
Source: https://github.com/compose-spec/compose-spec
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machinery.compose.values import ComposeError

Document = dict[str, Any]
_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_OVERRIDES = (
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
)
_SCHEMA = Path(__file__).parent / "compose-spec.json"


@dataclass
class Project:
    """A Compose project.

    Attributes:
        name: becomes the namespace.
        folder: what relative paths start from; None when the project came without files of its own.
        document: the merged files.
        services: those whose profiles are on.
        environment: where variables without a value take theirs from.
        free_port: gives a port of the host to a port that names none; without it, it gets none.
        sources: the files and their text, for errors.
    """

    name: str
    folder: Path | None
    document: Document
    services: dict[str, Document] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    free_port: Callable[[], int] | None = None
    sources: Sequence[tuple[Path, str]] = ()

    def where(self, *place: str) -> str:
        """Return "file:line:column: " of a path of keys, in the last file that has it all; empty when none has."""
        for path, text in reversed(self.sources):
            if (position := _position_of(text, place)) is not None:
                return f"{path}:{position[0]}:{position[1]}: "
        return ""

    def path(self, text: str) -> Path:
        """Return where a file of the project is. Raises: ComposeError when it has none."""
        return _beside(self.folder, text)


def _beside(folder: Path | None, text: str) -> Path:
    if folder is None:
        raise ComposeError(f"{text}: a project kept in the cluster can't refer to files")
    return folder / text


def load(
    files: Sequence[str],
    *,
    name: str = "",
    profiles: Sequence[str] = (),
    env_file: str = "",
    folder: str = "",
    free_port: Callable[[], int] | None = None,
) -> Project:
    """Read, check and merge Compose files. Raises: ComposeError, which names file, line and column."""
    paths = [Path(one) for one in files] or _default_files(Path(folder or "."))
    base = Path(folder) if folder else paths[0].resolve().parent
    environment = {**dot_env(Path(env_file) if env_file else base / ".env"), **os.environ}
    merged: Document = {}
    for path in paths:
        merged = merge(merged, _read(path, environment))
    found = Project(
        _project_name(name or environment.get("COMPOSE_PROJECT_NAME") or merged.get("name") or base.resolve().name),
        base.resolve(),
        merged,
        environment=os.environ,
        free_port=free_port,
        sources=[(path, path.read_text()) for path in paths],
    )
    on = {*profiles, *filter(None, environment.get("COMPOSE_PROFILES", "").split(","))}
    _choose(found, on, environment)
    return found


def loads(text: str, *, name: str, source: str, environment: Mapping[str, str] | None = None) -> Project:
    """Read and check one Compose file that is not on a disk: it sees no files and no variables but those given.

    Raises: ComposeError, which names `source`, line and column.
    """
    variables = dict(environment or {})
    document = _parsed(text, Path(source), variables)
    found = Project(name, None, document, environment=variables, sources=[(Path(source), text)])
    _choose(found, set(), variables)
    return found


def _choose(project: Project, on: set[str], environment: Mapping[str, str]) -> None:
    """Take the services whose profiles are on. Raises: ComposeError."""
    for service, body in (project.document.get("services") or {}).items():
        wanted = set(body.get("profiles") or ())
        if not wanted or wanted & on or "*" in on:
            project.services[service] = _extended(body, project.document, project.folder, environment)
    _check_references(project)


def _default_files(folder: Path) -> list[Path]:
    for place in (folder.resolve(), *folder.resolve().parents):
        main = next((place / one for one in _FILES if (place / one).is_file()), None)
        if main is not None:
            return [main, *(place / one for one in _OVERRIDES if (place / one).is_file())]
    raise ComposeError("no configuration file provided: not found")


def _project_name(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "", text.lower().replace("_", "-").replace(".", "-")).strip("-") or "default"


def dot_env(path: Path) -> dict[str, str]:
    """Return the variables of a file such as .env; empty when there is none."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        text = line.strip().removeprefix("export ")
        if text and not text.startswith("#"):
            key, _, value = text.partition("=")
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found[key.strip()] = value[1:-1] if quoted else value.split(" #")[0].rstrip()
    return found


def _read(path: Path, environment: Mapping[str, str]) -> Document:
    try:
        text = path.read_text()
    except OSError as error:
        raise ComposeError(f"open {path}: no such file or directory") from error
    return _parsed(text, path, environment)


def _parsed(text: str, path: Path, environment: Mapping[str, str]) -> Document:
    import yaml

    try:
        document = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ComposeError(f"{where}: {getattr(error, 'problem', error)}") from error
    document = interpolated(document, environment, path)
    _validate(document, path, text)
    return document if isinstance(document, dict) else {}


def _validate(document: Any, path: Path, text: str) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(json.loads(_SCHEMA.read_bytes()))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is None:
        return
    place = list(error.absolute_path)
    if error.validator in ("additionalProperties", "unevaluatedProperties") and isinstance(error.instance, dict):
        unknown = re.search(r"'([^']+)' (?:was|were) unexpected|'([^']+)' does not match", error.message)
        name = next(filter(None, unknown.groups()), "") if unknown else ""
        if name in error.instance:
            place.append(name)
    line, column = _position(text, place)
    dotted = ".".join(map(str, error.absolute_path)) or "the file"
    raise ComposeError(f"{path}:{line}:{column}: validating {path.name}: {dotted}: {error.message}")


def _position(text: str, place: Sequence[Any]) -> tuple[int, int]:
    """Return line and column, from one, of what a path of keys and indexes leads to."""
    import yaml

    node = yaml.compose(text, Loader=yaml.SafeLoader)
    mark = node.start_mark if node is not None else None
    for key in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _position_of(text: str, place: Sequence[str]) -> tuple[int, int] | None:
    """Return line and column of a path of keys, or of an entry of a list; None where it is not all there."""
    import yaml

    node, mark = yaml.compose(text, Loader=yaml.SafeLoader), None
    for key in place:
        entries: list[tuple[Any, Any]] = []
        if isinstance(node, yaml.MappingNode):
            entries = node.value
        elif isinstance(node, yaml.SequenceNode):
            entries = [(one, one) for one in node.value if isinstance(one, yaml.ScalarNode)]
        pair = next(((k, v) for k, v in entries if str(k.value).partition(":")[0] == key), None)
        if pair is None:
            return None
        mark, node = pair[0].start_mark, pair[1]
    return (mark.line + 1, mark.column + 1) if mark else None


_VARIABLE = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-?+])((?:[^{}]|\$\{[^{}]*\})*))?\})")


def interpolated(value: Any, environment: Mapping[str, str], path: Path) -> Any:
    """Return a document with ${VARIABLE}, ${V:-default}, ${V:?error}, ${V:+other} filled in. Raises: ComposeError."""
    if isinstance(value, dict):
        return {key: interpolated(one, environment, path) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, environment, path) for one in value]
    if not isinstance(value, str) or "$" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        there = environment.get(name)
        operator, text = match[3] or "", match[4] or ""
        missing = there is None or (operator.startswith(":") and there == "")
        if operator.endswith("?") and missing:
            raise ComposeError(f"{path}: required variable {name} is missing a value: {text}")
        if operator.endswith("+"):
            return "" if missing else _VARIABLE.sub(fill, text)
        return _VARIABLE.sub(fill, text) if missing and operator else there or ""

    return _VARIABLE.sub(fill, value)


def merge(base: Any, over: Any) -> Any:
    """Return one document with another over it: maps are merged, lists joined, all else replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        found = dict(base)
        for key, value in over.items():
            replaced = key in ("command", "entrypoint", "test") or key not in found
            found[key] = value if replaced else merge(found[key], value)
        return found
    if isinstance(base, list) and isinstance(over, list):
        return base + [one for one in over if one not in base]
    if isinstance(base, list | dict) and isinstance(over, list | dict):
        return {**pairs(base), **pairs(over)}
    return over


def pairs(value: Any) -> dict[str, Any]:
    """Return a map that may be written as a list of KEY=VALUE; a bare key has the value None."""
    if isinstance(value, dict):
        return dict(value)
    found: dict[str, Any] = {}
    for text in value or ():
        key, equals, rest = str(text).partition("=")
        found[key] = rest if equals else None
    return found


def _extended(body: Document, merged: Document, base: Path | None, environment: Mapping[str, str]) -> Document:
    extends = body.get("extends")
    if not extends:
        return body
    source = {"service": extends} if isinstance(extends, str) else extends
    document = _read(_beside(base, source["file"]), environment) if source.get("file") else merged
    parent = (document.get("services") or {}).get(source["service"])
    if parent is None:
        raise ComposeError(f'cannot extend service "{source["service"]}": service not found')
    own = {key: value for key, value in body.items() if key != "extends"}
    found: Document = merge(_extended(parent, document, base, environment), own)
    return found


def dependencies(body: Document) -> dict[str, str]:
    """Return what a service waits for, and for what: service_started, _healthy or _completed_successfully."""
    found = body.get("depends_on") or {}
    if isinstance(found, list):
        return dict.fromkeys(found, "service_started")
    return {name: (one or {}).get("condition", "service_started") for name, one in found.items()}


def _check_references(project: Project) -> None:
    for name, body in project.services.items():
        for other in dependencies(body):
            if other not in project.services:
                where = project.where("services", name, "depends_on", other)
                raise ComposeError(
                    f'{where}service "{name}" depends on undefined service "{other}": invalid compose project'
                )
        for kind in ("networks", "volumes", "secrets", "configs"):
            known = {"default", *(project.document.get(kind) or {})}
            for one in sorted(_used_names(body.get(kind) or (), kind) - known):
                where = project.where("services", name, kind, one) or project.where("services", name, kind)
                raise ComposeError(
                    f'{where}service "{name}" refers to undefined {kind[:-1]} {one}: invalid compose project'
                )
    in_order(project)


def _used_names(entries: Any, kind: str) -> set[str]:
    """Return what of the project's networks, volumes, secrets or configs a service refers to."""
    found = set()
    for one in entries:
        if isinstance(one, dict):
            name = str(one.get("source", "")) if one.get("type", "volume") == "volume" else ""
        elif kind == "volumes":
            name = one.partition(":")[0] if ":" in one else ""
        else:
            name = str(one)
        found |= {name} if name and not name.startswith((".", "/", "~")) else set()
    return found


def in_order(project: Project, wanted: Sequence[str] = ()) -> list[str]:
    """Return services after those they wait for; only those `wanted` and what they need. Raises: ComposeError."""
    found: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ComposeError(f"dependency cycle detected: {' -> '.join((*path, name))}")
        if name in found:
            return
        if name not in project.services:
            raise ComposeError(f"no such service: {name}")
        for other in dependencies(project.services[name]):
            visit(other, (*path, name))
        found.append(name)

    for name in wanted or project.services:
        visit(name, ())
    return found
