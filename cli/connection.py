"""One blocking connection to the API server, on the standard library alone: the command line has to start quickly."""

import base64
import http.client
import json
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from cli.framework import LEADING
from machinery.client.kubeconfig import ClientConfig, ConfigError, load_config
from machinery.errors import from_status


class Headers(dict[str, Any]):
    """Headers for http.client, where a list of values becomes a line each: commas belong to a group's name."""

    def items(self) -> Any:
        """Return the pairs that are lines."""
        return [
            (name, one) for name, value in super().items() for one in (value if isinstance(value, list) else [value])
        ]


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Connection:
    """Requests to one server; errors are APIError, or a ClickException where the server can't be reached."""

    def __init__(
        self, config: ClientConfig, *, impersonation: Mapping[str, Any] | None = None, timeout_seconds: float = 60.0
    ) -> None:
        """Args: `impersonation` are the headers that make us act as another."""
        self.config = config
        self.impersonation = dict(impersonation or {})
        self._timeout_seconds = timeout_seconds
        self._warned: set[str] = set()
        parts = urllib.parse.urlsplit(config.server)
        self._host, self._port = parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80)
        self._scheme = parts.scheme
        self._context: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None

    def _tls(self) -> ssl.SSLContext:
        config = self.config
        if self._context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if config.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            elif config.ca_data or config.ca_file:
                context.load_verify_locations(config.ca_file or None, cadata=config.ca_data.decode() or None)
            else:
                context.load_default_certs()
            if config.cert_data and config.key_data:
                with tempfile.TemporaryDirectory() as folder:  # the ssl module reads files only; mode 0700
                    cert, key = Path(folder, "cert"), Path(folder, "key")
                    cert.write_bytes(config.cert_data)
                    key.write_bytes(config.key_data)
                    context.load_cert_chain(cert, key)
            elif config.cert_file:
                context.load_cert_chain(config.cert_file, config.key_file or None)
            self._context = context
        return self._context

    def opened(self, *, timeout_seconds: float | None) -> http.client.HTTPConnection:
        """Return a connection to the server that is not connected yet."""
        if self._scheme == "https":
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls(), timeout=timeout_seconds)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_seconds)

    def _headers(self, accept: str, content_type: str) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": "wherry-cli", **self.credentials()}
        return {**headers, "Content-Type": content_type} if content_type else headers

    def credentials(self) -> dict[str, str]:
        """Return the headers that say who we are."""
        token = self.config.token
        if not token and self.config.token_file:
            token = Path(self.config.token_file).read_text().strip()
        return {**self.impersonation, **({"Authorization": f"Bearer {token}"} if token else {})}

    def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None,
        content_type: str = "application/json", accept: str = "application/json",
    ) -> bytes:  # fmt: skip
        """Send a request and return the body of its answer. Raises: APIError, ClickException."""
        response = self._send(method, path, params, body, content_type, accept, timeout_seconds=self._timeout_seconds)
        data = response.read()
        if response.status >= 400:
            raise refusal(response.status, data)
        return data

    def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, content_type: str, accept: str,
        *, timeout_seconds: float | None,
    ) -> http.client.HTTPResponse:  # fmt: skip
        given = {name: value for name, value in (params or {}).items() if value not in (None, "")}
        url = path + ("?" + urllib.parse.urlencode(given, doseq=True) if given else "")
        data = body if isinstance(body, bytes | None) else orjson.dumps(body)
        headers = self._headers(accept, content_type if data is not None else "")
        try:
            if timeout_seconds is None:  # a stream may be left before its end, so it gets a connection of its own
                connection = self.opened(timeout_seconds=None)
            else:
                connection = self._connection = self._connection or self.opened(timeout_seconds=timeout_seconds)
            connection.request(method, url, data, Headers(headers))
            response = connection.getresponse()
            self._warn(response)
            return response
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> click.ClickException:
        if isinstance(error, ConnectionRefusedError):
            where = f"The connection to the server {self._host}:{self._port} was refused"
            return click.ClickException(
                f"{where} - did you specify the right host or port? (`wherry up` starts a cluster)"
            )
        return click.ClickException(f"Unable to connect to the server: {error}")

    def _warn(self, response: http.client.HTTPResponse) -> None:
        """Show the server's warnings, each once."""
        for header in response.headers.get_all("Warning") or ():
            text = header.partition('"')[2].removesuffix('"').replace('\\"', '"')
            if text and text not in self._warned:
                self._warned.add(text)
                LEADING["warnings"] = LEADING.get("warnings", 0) + 1
                click.echo(f"Warning: {text}", err=True)

    def ask(self, connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Send a request without a body on a connection of its own. Raises: ClickException."""
        try:
            connection.request(method, target, headers=Headers({**self._headers("*/*", ""), **headers}))
        except OSError as error:
            raise self._unreachable(error) from error

    def another(self) -> "Connection":
        """Return a connection of its own to the same server: one can't ask while an answer still comes."""
        return Connection(self.config, impersonation=self.impersonation, timeout_seconds=self._timeout_seconds)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()

    def json(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        """Send a request and return the object of its answer."""
        found: dict[str, Any] = orjson.loads(self.request(method, path, **given))
        return found

    def lines(self, path: str, params: Mapping[str, Any], accept: str = "application/json") -> Iterator[bytes]:
        """Yield the lines of an answer as they come. Raises: as `request`."""
        response = self._send("GET", path, params, None, "", accept, timeout_seconds=None)
        if response.status >= 400:
            raise refusal(response.status, response.read())
        while line := response.readline():
            yield line

    def pieces(self, path: str, params: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield an answer in the pieces it comes in."""
        response = self._send("GET", path, params, None, "", "*/*", timeout_seconds=None)
        if response.status >= 400:
            raise refusal(response.status, response.read())
        while piece := response.read1(65536):
            yield piece


def refusal(status: int, data: bytes) -> Exception:
    """Return the error that an answer of 400 and above is."""
    try:
        return from_status(json.loads(data), code=status)
    except (ValueError, AttributeError):
        return from_status({"message": data.decode(errors="replace").strip() or f"status {status}"}, code=status)


def connect(settings: Mapping[str, Any]) -> Connection:
    """Return a connection as the global options say. Raises: ClickException when there is no configuration."""
    import dataclasses

    try:
        config = load_config(
            settings.get("kubeconfig"), context=settings.get("context"), cluster=settings.get("cluster"),
            user=settings.get("user"),
        )  # fmt: skip
    except ConfigError as error:
        if not settings.get("server"):
            raise click.ClickException(_no_cluster(str(error))) from error
        config = ClientConfig(server=settings["server"])
    changes: dict[str, Any] = {
        field: settings[name] for name, field in _CHANGES.items() if settings.get(name)
    }  # fmt: skip
    if settings.get("insecure"):
        changes["insecure"] = True
    impersonation: dict[str, Any] = {"Impersonate-User": settings["as_user"]} if settings.get("as_user") else {}
    if settings.get("as_group"):
        impersonation["Impersonate-Group"] = list(settings["as_group"])
    if settings.get("as_uid"):
        impersonation["Impersonate-Uid"] = settings["as_uid"]
    impersonation |= _extra(settings.get("as_user_extra") or ())
    if settings.get("username"):
        pair = f"{settings['username']}:{settings.get('password') or ''}"
        impersonation["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    connection = Connection(
        dataclasses.replace(config, **changes), impersonation=impersonation,
        timeout_seconds=_timeout_seconds(settings.get("request_timeout")),
    )  # fmt: skip
    if settings.get("match_server_version"):
        _match_versions(connection)
    return connection


_DEFAULT_TIMEOUT_SECONDS, _NO_TIMEOUT_SECONDS = 60.0, 86400.0 * 365


def _timeout_seconds(text: str | None) -> float:
    """Return what --request-timeout says: a number of seconds, or a duration; 0 is none. Raises: ClickException."""
    from cli.durations import seconds

    if not text:
        return _DEFAULT_TIMEOUT_SECONDS
    try:
        asked = float(text) if text.isdigit() else seconds(text)
    except click.ClickException as error:
        raise click.ClickException(
            "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a "
            "corresponding time unit (e.g. 1s | 2m | 3h)"
        ) from error
    return asked or _NO_TIMEOUT_SECONDS


def _match_versions(connection: Connection) -> None:
    """Refuse to go on where client and server are not of the same version. Raises: ClickException."""
    from importlib import metadata

    own, server = f"v{metadata.version('wherry')}", connection.json("GET", "/version")["gitVersion"]
    if own not in server:
        raise click.ClickException(f"server version ({server}) differs from client version ({own})")


def _extra(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the headers of --as-user-extra=KEY=VALUE."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            continue  # as kubectl does
        name = f"Impersonate-Extra-{urllib.parse.quote(key.lower(), safe='')}"
        found.setdefault(name, []).append(value)
    return found


_CHANGES = {
    "server": "server", "token": "token", "certificate_authority": "ca_file", "client_certificate": "cert_file",
    "client_key": "key_file", "tls_server_name": "tls_server_name",
}  # fmt: skip


def _no_cluster(problem: str) -> str:
    """Return one line about a missing configuration, and how to come to a cluster."""
    if "no configuration" in problem:
        return f"{problem}; start a cluster with `wherry up`, then set KUBECONFIG as it says"
    return problem
