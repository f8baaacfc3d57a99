"""Writes kubeconfig files."""

import base64
from pathlib import Path

import orjson

from machinery.files import write_atomically


def write_kubeconfig(
    path: Path, *, server: str, ca_file: Path, cert_file: Path, key_file: Path, user: str, inline: bool = True
) -> None:
    """Write a kubeconfig; readable by its owner alone. It is written as JSON, which is YAML too.

    Args: `inline` puts the certificate and key into it, else it names their files, in which they may be renewed.
    """

    def data(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    identity = {"client-certificate": str(cert_file), "client-key": str(key_file)}
    if inline:
        identity = {"client-certificate-data": data(cert_file), "client-key-data": data(key_file)}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "wherry",
        "clusters": [{"name": "wherry", "cluster": {"server": server, "certificate-authority-data": data(ca_file)}}],
        "contexts": [{"name": "wherry", "context": {"cluster": "wherry", "user": user}}],
        "users": [{"name": user, "user": identity}],
    }  # fmt: skip
    write_atomically(path, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
