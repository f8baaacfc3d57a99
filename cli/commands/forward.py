"""`wherry port-forward` and `wherry proxy`."""

import contextlib
import http.client
import re
import socket
import socketserver
import sys
import threading
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.connection import Headers
from cli.durations import seconds
from cli.framework import verb
from cli.pods import find_pods
from cli.session import Session
from cli.websocket import open_websocket
from machinery.errors import APIError

_PROTOCOLS = ("v4.channel.k8s.io",)
_DATA, _ERROR = 0, 1
_PROXY_PORT = 8001
_PREFIX_BYTES = 2  # each channel begins with the port it is for


@verb("port-forward")
@click.argument("word")
@click.argument("ports", nargs=-1, required=True)
@options.connected
@options.namespaced
@click.option("--address", default="localhost", show_default=True)
@click.option("--pod-running-timeout", default="1m0s", hidden=True)
def port_forward(word: str, ports: Sequence[str], address: str, **given: Any) -> None:
    """Forward local ports to a pod: [LOCAL:]REMOTE …; :REMOTE takes any free port here."""
    session = Session(given)
    pod = find_pods(session, word, wait_seconds=seconds(given["pod_running_timeout"]))[0]
    if (pod.get("status") or {}).get("phase") != "Running":
        phase = (pod.get("status") or {}).get("phase", "Unknown")
        raise click.ClickException(f"unable to forward port because pod is not running. Current status={phase}")
    service = _service_of(session, word)
    listeners = []
    for text in ports:
        local, remote = _pair(text)
        number = _target(service, pod, remote)
        addresses = [
            one for part in address.split(",") for one in (("127.0.0.1", "::1") if part == "localhost" else (part,))
        ]
        opened = [listener for one in addresses if (listener := _listen(one, local, required=one != "::1"))]
        for listener in opened:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            click.echo(f"Forwarding from {shown}:{port} -> {number}")
            local = port
        listeners += [(listener, number) for listener in opened]
    sys.stdout.flush()
    path = f"/api/v1/namespaces/{session.namespace}/pods/{pod['metadata']['name']}/portforward"
    threads = [threading.Thread(target=_accept, args=(session, path, *pair), daemon=True) for pair in listeners]
    for thread in threads:
        thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        for thread in threads:
            thread.join()


def _service_of(session: Session, word: str) -> dict[str, Any] | None:
    kind, slash, name = word.partition("/")
    if not slash or session.discovery.find(kind).resource.kind != "Service":
        return None
    return session.connection.json("GET", f"/api/v1/namespaces/{session.namespace}/services/{name}")


def _pair(text: str) -> tuple[int, str]:
    local, colon, remote = text.partition(":")
    if not colon:
        remote = local
        local = local if local.isdigit() else "0"
    try:
        return int(local or 0), remote
    except ValueError:
        raise click.ClickException(f"error parsing local port '{local}': invalid port") from None


def _target(service: dict[str, Any] | None, pod: dict[str, Any], remote: str) -> int:
    """Return the pod's port that a number or name means; a service's port leads to its target."""
    wanted: int | str = int(remote) if remote.isdigit() else remote
    if service is not None:
        for port in service["spec"].get("ports") or ():
            if wanted in (port["port"], port.get("name")):
                wanted = port.get("targetPort") or port["port"]
                break
        else:
            raise click.ClickException(f"Service {service['metadata']['name']} does not have a service port {remote}")
    if isinstance(wanted, int):
        return wanted
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == wanted:
                return int(port["containerPort"])
    raise click.ClickException(f"Pod '{pod['metadata']['name']}' does not have a named port '{wanted}'")


def _listen(address: str, port: int, *, required: bool) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
    except OSError as error:
        if not required:
            return None
        raise click.ClickException(
            f"unable to listen on port {port}: Listeners failed to create with the following errors: [unable to create listener: Error listen tcp {address}:{port}: {error.strerror}]"
        ) from error
    return listener


def _accept(session: Session, path: str, listener: socket.socket, port: int) -> None:
    while True:
        local, _ = listener.accept()
        click.echo(f"Handling connection for {listener.getsockname()[1]}")
        threading.Thread(target=_carry, args=(session, path, local, port), daemon=True).start()


def _carry(session: Session, path: str, local: socket.socket, port: int) -> None:
    """Carry one connection: both ways until one side ends."""
    try:
        remote = open_websocket(session.connection.another(), path, [("ports", port)], _PROTOCOLS)
    except (APIError, click.ClickException) as error:
        click.echo(f"error: an error occurred forwarding {port}: {error}", err=True)
        local.close()
        return

    def upwards() -> None:
        with contextlib.suppress(OSError):
            while data := local.recv(65536):
                remote.send(bytes([_DATA]) + data)
        remote.close()

    threading.Thread(target=upwards, daemon=True).start()
    greeted: set[int] = set()
    with contextlib.suppress(OSError):
        while (message := remote.receive()) is not None:
            channel, data = message[0], message[1:]
            if channel not in greeted:
                greeted.add(channel)
                data = data[_PREFIX_BYTES:]
            if channel == _ERROR and data:
                click.echo(f"error: an error occurred forwarding {port}: {data.decode(errors='replace')}", err=True)
                break
            if channel == _DATA and data:
                local.sendall(data)
    local.close()
    remote.close()


_HOP = {"connection", "transfer-encoding", "keep-alive", "upgrade", "host", "authorization", "content-length"}


@verb()
@options.connected
@click.option("-p", "--port", default=_PROXY_PORT, show_default=True)
@click.option("-u", "--unix-socket", default="", help="A socket's path to serve on in place of a port.")
@click.option("--address", default="127.0.0.1", show_default=True)
@click.option("--accept-hosts", default=r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")
@click.option("--accept-paths", default="^.*")
@click.option("--reject-paths", default=r"^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")
@click.option("--reject-methods", default="^$")
@click.option("--api-prefix", default="/")
@click.option("-w", "--www", default="", help="A folder of files to serve too.")
@click.option("-P", "--www-prefix", default="/static/")
@click.option("--append-server-path", is_flag=True, help="Put the path of the server's address before each path.")
@click.option("--keepalive", default="0s", help="How long a connection may be idle before the kernel asks.")
@click.option("--disable-filter", is_flag=True)
def proxy(port: int, address: str, unix_socket: str, **given: Any) -> None:
    """Serve the API on a local port or socket, with our credentials."""
    if unix_socket and port != _PROXY_PORT:
        raise click.ClickException("cannot set --unix-socket and --port at the same time")
    if not 0 <= port < 65536:
        raise click.ClickException(f"listen tcp: address {port}: invalid port")
    session = Session(given)
    handler = type("Handler", (_Proxy,), {"session": session, "settings": given})
    server, place = _unix_server(unix_socket, handler) if unix_socket else _port_server(address, port, handler)
    click.echo(f"Starting to serve on {place}")
    sys.stdout.flush()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        if unix_socket:
            Path(unix_socket).unlink(missing_ok=True)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _port_server(address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> tuple[socketserver.BaseServer, str]:
    try:
        server = ThreadingHTTPServer((address, port), handler)
    except OSError as error:
        raise click.ClickException(f"listen tcp {address}:{port}: bind: {error.strerror}") from error
    host, number = server.server_address[:2]
    return server, f"{host!s}:{number}"


def _unix_server(path: str, handler: type[BaseHTTPRequestHandler]) -> tuple[socketserver.BaseServer, str]:
    if Path(path).is_socket():
        Path(path).unlink()  # one that was left behind; a file of another kind stays, and binding fails
    try:
        return _UnixServer(path, handler), path
    except OSError as error:
        raise click.ClickException(f"listen unix {path}: bind: {error.strerror or error}") from error


class _Proxy(BaseHTTPRequestHandler):
    """Passes requests on; those from other hosts' pages and to risky paths are refused, as kubectl does."""

    protocol_version = "HTTP/1.1"
    session: Session
    settings: dict[str, Any]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def setup(self) -> None:
        """Take a connection; the kernel finds out about dead ones as --keepalive asks."""
        super().setup()
        idle_seconds = int(seconds(self.settings["keepalive"]))
        if idle_seconds > 0 and self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_seconds)

    def _allowed(self) -> bool:
        settings = self.settings
        if settings["disable_filter"]:
            return True
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        path = self.path.partition("?")[0]
        return (
            any(re.search(one, host) for one in settings["accept_hosts"].split(","))
            and not any(re.search(one, path) for one in settings["reject_paths"].split(","))
            and any(re.search(one, path) for one in settings["accept_paths"].split(","))
            and not re.search(settings["reject_methods"], self.command)
        )

    def _serve(self) -> None:
        if not self._allowed():
            self._plain(403, b"Forbidden")
            return
        settings = self.settings
        if settings["www"] and self.path.startswith(settings["www_prefix"]):
            self._static(self.path.removeprefix(settings["www_prefix"]).partition("?")[0])
            return
        prefix = settings["api_prefix"].rstrip("/")
        if prefix and not self.path.startswith(prefix):
            self._plain(404, b"404 page not found")
            return
        self._pass_on(self.path.removeprefix(prefix) or "/")

    def _static(self, name: str) -> None:
        from pathlib import Path

        root = Path(self.settings["www"]).resolve()
        path = (root / name).resolve()
        if root not in (path, *path.parents) or not path.is_file():
            self._plain(404, b"404 page not found")
        else:
            self._plain(200, path.read_bytes())

    def _plain(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, target: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection = self.session.connection
        try:
            upstream = connection.opened(timeout_seconds=None)
            if self.settings["append_server_path"]:
                target = urllib.parse.urlsplit(connection.config.server).path.rstrip("/") + target
            upstream.request(self.command, target, body, Headers({**connection.credentials(), **headers}))
            answer = upstream.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._plain(502, str(error).encode())
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve
