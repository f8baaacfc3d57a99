"""One blocking connection to the API server, on the standard library alone: the command line has to start quickly."""

import http.client
import json
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from machinery.client.kubeconfig import ClientConfig, ConfigError, load_config
from machinery.errors import from_status

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


class Connection:
    """Requests to one server; errors are APIError, or a ClickException where the server can't be reached."""

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
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

    def _open(self, timeout_seconds: float | None) -> http.client.HTTPConnection:
        if self._scheme == "https":
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls(), timeout=timeout_seconds)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_seconds)

    def _headers(self, accept: str, content_type: str) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": "wherry-cli"}
        if content_type:
            headers["Content-Type"] = content_type
        token = self.config.token
        if not token and self.config.token_file:
            token = Path(self.config.token_file).read_text().strip()
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers

    def request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None,
        content_type: str = "application/json", accept: str = "application/json",
    ) -> bytes:  # fmt: skip
        """Send a request and return the body of its answer. Raises: APIError, ClickException."""
        response = self._send(method, path, params, body, content_type, accept, timeout_seconds=60)
        data = response.read()
        if response.status >= 400:
            raise _refusal(response.status, data)
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
            if self._connection is None or timeout_seconds is None:
                self._connection = self._open(timeout_seconds)
            self._connection.request(method, url, data, headers)
            return self._connection.getresponse()
        except ConnectionRefusedError as error:
            where = f"The connection to the server {self._host}:{self._port} was refused"
            raise click.ClickException(f"{where} - did you specify the right host or port?") from error
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"Unable to connect to the server: {error}") from error

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
            raise _refusal(response.status, response.read())
        while line := response.readline():
            yield line

    def pieces(self, path: str, params: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield an answer in the pieces it comes in."""
        response = self._send("GET", path, params, None, "", "*/*", timeout_seconds=None)
        if response.status >= 400:
            raise _refusal(response.status, response.read())
        while piece := response.read1(65536):
            yield piece


def _refusal(status: int, data: bytes) -> Exception:
    try:
        return from_status(json.loads(data), code=status)
    except (ValueError, AttributeError):
        return from_status({"message": data.decode(errors="replace").strip() or f"status {status}"}, code=status)


def connect(settings: Mapping[str, Any]) -> Connection:
    """Return a connection as the global options say. Raises: ClickException when there is no configuration."""
    import dataclasses

    try:
        config = load_config(settings.get("kubeconfig"), context=settings.get("context"))
    except ConfigError as error:
        if not settings.get("server"):
            raise click.ClickException(str(error)) from error
        config = ClientConfig(server=settings["server"])
    changes = {name: settings[name] for name in ("server", "token") if settings.get(name)}
    return Connection(dataclasses.replace(config, **changes))
