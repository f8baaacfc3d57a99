"""Writes kubeconfig files."""

import base64
import os
from pathlib import Path

import orjson


def write_kubeconfig(path: Path, *, server: str, ca_file: Path, cert_file: Path, key_file: Path, user: str) -> None:
    """Write a kubeconfig that holds everything a client needs; readable by its owner alone.

    It is written as JSON, which is YAML too.
    """

    def data(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "wherry",
        "clusters": [{"name": "wherry", "cluster": {"server": server, "certificate-authority-data": data(ca_file)}}],
        "contexts": [{"name": "wherry", "context": {"cluster": "wherry", "user": user}}],
        "users": [
            {"name": user, "user": {"client-certificate-data": data(cert_file), "client-key-data": data(key_file)}}
        ],
    }  # fmt: skip
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    temporary.replace(path)
