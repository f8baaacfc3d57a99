"""`wherry create configmap|secret|namespace|serviceaccount|token`."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from cli.durations import seconds
from cli.framework import verb, verb_group
from cli.making import make, making_options
from cli.printers import plain_json
from cli.session import Session
from machinery.errors import APIError


def _literal(text: str) -> tuple[str, bytes]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.ClickException(f"invalid literal source {text}, expected key=value")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return key, value.encode()


def _from_file(text: str) -> dict[str, bytes]:
    key, equals, path = text.partition("=")
    file = Path(path if equals else text)
    if not file.exists():
        raise click.ClickException(f"error reading {file}: no such file or directory")
    if file.is_dir():
        if equals:
            raise click.ClickException("cannot give a key name for a directory path")
        return {one.name: one.read_bytes() for one in sorted(file.iterdir()) if one.is_file()}
    return {key if equals else file.name: file.read_bytes()}


def env_file(path: str) -> dict[str, bytes]:
    """Return the variables of a file of KEY=VALUE lines. Raises: ClickException."""
    import os

    found: dict[str, bytes] = {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise click.ClickException(f"error reading {path}: no such file or directory") from error
    for line in lines:
        text = line.lstrip()
        if text and not text.startswith("#"):
            key, equals, value = text.partition("=")
            found[key] = value.encode() if equals else os.environ.get(key, "").encode()
    return found


def collected(given: dict[str, Any]) -> dict[str, bytes]:
    """Return the data of --from-literal, --from-file and --from-env-file. Raises: ClickException on a key said twice."""
    found: dict[str, bytes] = {}
    if given["from_env_file"] and (given["from_literal"] or given["from_file"]):
        raise click.ClickException("from-env-file cannot be combined with from-file or from-literal")
    parts = [_from_file(text) for text in given["from_file"]]
    parts += [dict([_literal(text)]) for text in given["from_literal"]]
    parts += [env_file(path) for path in given["from_env_file"]]
    for part in parts:
        for key, value in part.items():
            if key in found:
                raise click.ClickException(f'cannot add key "{key}", another key by that name already exists in Data')
            found[key] = value
    return found


def _data_options(command: Any) -> Any:
    command = click.option("--from-literal", multiple=True, help="KEY=VALUE.")(command)
    command = click.option("--from-file", multiple=True, help="[KEY=]PATH.")(command)
    command = click.option("--from-env-file", multiple=True, help="A file of KEY=VALUE lines.")(command)
    return click.option("--append-hash", is_flag=True, help="Put a hash of the data behind the name.")(command)


def _hashed(obj: dict[str, Any]) -> dict[str, Any]:
    return {**obj, "metadata": {**obj["metadata"], "name": f"{obj['metadata']['name']}-{name_hash(obj)}"}}


def name_hash(obj: dict[str, Any]) -> str:
    """Return the ten characters that kubectl and kustomize put behind the name of a ConfigMap or Secret."""
    fields = {
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "data": obj.get("data") or "",
    }
    if obj.get("binaryData"):
        fields["binaryData"] = obj["binaryData"]
    if obj["kind"] == "Secret":
        fields["type"] = obj.get("type", "")
        if obj.get("stringData"):
            fields["stringData"] = obj["stringData"]
    digest = hashlib.sha256(plain_json(fields)).hexdigest()[:10]
    return digest.translate(str.maketrans("013ae", "ghkmt"))


@verb()
@click.argument("name")
@making_options
@_data_options
def configmap(name: str, **given: Any) -> None:
    """Create a configmap from literals and files."""
    text: dict[str, str] = {}
    binary: dict[str, str] = {}
    for key, value in collected(given).items():
        try:
            text[key] = value.decode()
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(value).decode()
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    obj |= ({"data": text} if text else {}) | ({"binaryData": binary} if binary else {})
    make(Session(given), _hashed(obj) if given["append_hash"] else obj, given)


@verb_group()
def secret() -> None:
    """Create a secret."""


def _secret(name: str, data: dict[str, bytes], kind: str, given: dict[str, Any]) -> None:
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    if data:
        obj["data"] = {key: base64.b64encode(value).decode() for key, value in data.items()}
    if kind:
        obj["type"] = kind
    make(Session(given), _hashed(obj) if given["append_hash"] else obj, given)


@secret.command()
@click.argument("name")
@making_options
@_data_options
@click.option("--type", "kind", default="", help="The secret's type.")
def generic(name: str, kind: str, **given: Any) -> None:
    """From literals and files."""
    _secret(name, collected(given), kind, given)


@secret.command()
@click.argument("name")
@making_options
@click.option("--cert", required=True, help="File of the certificate.")
@click.option("--key", required=True, help="File of the key.")
@click.option("--append-hash", is_flag=True)
def tls(name: str, cert: str, key: str, **given: Any) -> None:
    """From a certificate and its key."""
    try:
        data = {"tls.crt": Path(cert).read_bytes(), "tls.key": Path(key).read_bytes()}
    except OSError as error:
        raise click.ClickException(f"open {error.filename}: no such file or directory") from error
    _secret(name, data, "kubernetes.io/tls", given)


@secret.command("docker-registry")
@click.argument("name")
@making_options
@click.option("--docker-server", default="https://index.docker.io/v1/")
@click.option("--docker-username", default="")
@click.option("--docker-password", default="")
@click.option("--docker-email", default="")
@click.option("--from-file", multiple=True, help="A file as Docker's config.json.")
@click.option("--append-hash", is_flag=True)
def docker_registry(name: str, **given: Any) -> None:
    """For pulling images from a registry."""
    if given["from_file"]:
        data = {".dockerconfigjson": next(iter(_from_file(given["from_file"][0]).values()))}
    else:
        if not (given["docker_username"] and given["docker_password"]):
            raise click.ClickException(
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
            )
        pair = f"{given['docker_username']}:{given['docker_password']}".encode()
        entry = {"username": given["docker_username"], "password": given["docker_password"]}
        if given["docker_email"]:
            entry["email"] = given["docker_email"]
        entry["auth"] = base64.b64encode(pair).decode()
        data = {".dockerconfigjson": orjson.dumps({"auths": {given["docker_server"]: entry}})}
    _secret(name, data, "kubernetes.io/dockerconfigjson", given)


@verb()
@click.argument("name")
@making_options
def namespace(name: str, **given: Any) -> None:
    """Create a namespace."""
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}, "status": {}}
    make(Session(given), obj, given)


@verb()
@click.argument("name")
@making_options
def serviceaccount(name: str, **given: Any) -> None:
    """Create a service account."""
    make(Session(given), {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, given)


@verb()
@click.argument("name")
@making_options
@click.option("--audience", "audiences", multiple=True)
@click.option("--duration", default="", help="How long it is to be good, such as 1h.")
@click.option("--bound-object-kind", default="")
@click.option("--bound-object-name", default="")
@click.option("--bound-object-uid", default="")
def token(name: str, audiences: Sequence[str], duration: str, **given: Any) -> None:
    """Ask for a token of a service account."""
    session = Session(given)
    spec: dict[str, Any] = {"audiences": list(audiences)} if audiences else {}
    if duration:
        spec["expirationSeconds"] = int(seconds(duration))
    if given["bound_object_kind"]:
        bound = {"kind": given["bound_object_kind"], "apiVersion": "v1", "name": given["bound_object_name"]}
        spec["boundObjectRef"] = {**bound, **({"uid": given["bound_object_uid"]} if given["bound_object_uid"] else {})}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{session.namespace}/serviceaccounts/{name}/token"
    try:
        answer = session.connection.json("POST", path, body=body)
    except APIError as error:
        raise click.ClickException(f"failed to create token: {error}") from error
    if given["output"]:
        from cli.printers import print_objects

        print_objects([answer], given["output"], single=True)
    else:
        click.echo(answer["status"]["token"])
