"""Finds the objects a command line means: words, files, selectors. One way for all verbs, as kubectl's builder is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from cli import manifests, problems
from cli.resources import Known, display_name, targets
from cli.session import Session
from machinery.errors import APIError

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Selected:
    """One object a command means.

    Attributes:
        known: its resource.
        namespace: empty for cluster-scoped kinds.
        name: its name.
        manifest: what a file says of it, None when words or selectors named it.
        source: the file, for messages.
        live: the object as listed, None when it has not been read yet.
    """

    known: Known
    namespace: str
    name: str
    manifest: Object | None = None
    source: str = ""
    live: Object | None = None

    @property
    def path(self) -> str:
        """The object's path on the server."""
        return self.known.resource.path(self.namespace, self.name)

    @property
    def shown(self) -> str:
        """The object as messages name it: "deployment.apps/web"."""
        return display_name(self.known.resource, self.name)

    def read(self, session: Session) -> Object:
        """Return the object as the server has it, with kind and apiVersion. Raises: APIError."""
        resource = self.known.resource
        obj = self.live if self.live is not None else session.connection.json("GET", self.path)
        return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}

    def patch(self, session: Session, body: Any, content_type: str, **params: Any) -> Object:
        """Change part of the object. Raises: APIError."""
        return session.connection.json("PATCH", self.path, body=body, content_type=content_type, params=params)


_NOTHING_NAMED = """You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'"""
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def file_objects(session: Session, given: dict[str, Any]) -> Iterator[Selected]:
    """Yield what the files of -f and -k name. Raises: ClickException."""
    for source, obj in manifests.read(
        given.get("filenames") or (), recursive=bool(given.get("recursive")), kustomize=given.get("kustomize") or ""
    ):
        yield of_manifest(session, obj, source)


def of_manifest(session: Session, obj: Object, source: str) -> Selected:
    """Return the object that a manifest tells of. Raises: ClickException."""
    metadata = obj.setdefault("metadata", {})
    known = session.discovery.of_kind(
        obj["apiVersion"], obj["kind"], source=source, name=metadata.get("name", ""),
        namespace=metadata.get("namespace", ""),
    )  # fmt: skip
    return Selected(known, object_namespace(session, known, metadata), metadata.get("name", ""), obj, source)


def object_namespace(session: Session, known: Known, metadata: Object) -> str:
    """Return the namespace of a manifest's object. Raises: ClickException if it is not the one asked for."""
    if not known.resource.namespaced:
        return ""
    said, asked = metadata.get("namespace", ""), session.asked_namespace
    if asked and said and asked != said:
        raise click.ClickException(
            f'the namespace from the provided object "{said}" does not match the namespace "{asked}". '
            f"You must pass '--namespace={said}' to perform this operation."
        )
    return said or session.namespace


def select(session: Session, words: Sequence[str], given: dict[str, Any], *, needs_name: bool = True) -> list[Selected]:
    """Return the objects that files, words or selectors name.

    Args:
        session: the call.
        words: `pod x y`, `pod/x svc/y`, `deploy`.
        given: filenames, recursive, kustomize, selector, field_selector, everything, all_namespaces, as far as the
            command has them.
        needs_name: whether a kind without a name or selector is refused.

    Raises: ClickException, APIError.
    """
    if given.get("filenames") or given.get("kustomize"):
        return list(file_objects(session, given))
    if not words:
        if not needs_name:
            targets(session.discovery, words)
        raise click.ClickException(_NOTHING_NAMED)
    found: list[Selected] = []
    for target in targets(session.discovery, words):
        namespaced = target.known.resource.namespaced
        if target.name:
            if given.get("all_namespaces"):
                raise click.ClickException("a resource cannot be retrieved by name across all namespaces")
            found.append(Selected(target.known, session.namespace if namespaced else "", target.name))
        elif needs_name and not (given.get("selector") or given.get("field_selector") or given.get("everything")):
            raise click.ClickException("resource(s) were provided, but no name was specified")
        else:
            found += list_all(session, target.known, given)
    return found


def list_all(session: Session, known: Known, given: dict[str, Any]) -> list[Selected]:
    """Return the objects of a resource that the selectors leave. Raises: APIError."""
    resource = known.resource
    namespace = "" if given.get("all_namespaces") or not resource.namespaced else session.namespace
    params = {"labelSelector": given.get("selector"), "fieldSelector": given.get("field_selector")}
    items = session.connection.json("GET", resource.path(namespace), params=params)["items"]
    return [Selected(known, one["metadata"].get("namespace", ""), one["metadata"]["name"], live=one) for one in items]


def act(session: Session, words: Sequence[str], given: dict[str, Any], action: Callable[[Selected], Any]) -> bool:
    """Do something with each object meant; tell of refusals. Returns whether all went well."""
    try:
        found = select(session, words, given)
    except APIError as error:
        problems.report(error)
        return False
    if not found and not (given.get("filenames") or given.get("kustomize")):
        click.echo("No resources found", err=True)
    return problems.each(found, action)
