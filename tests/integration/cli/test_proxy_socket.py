"""`wherry proxy --unix-socket`: the API on a socket of the file system."""

import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration.cli.conftest import ROOT, Lab


def test_the_api_answers_on_a_socket_that_goes_with_the_command(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "api"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    own = {**os.environ, "KUBECONFIG": str(lab.layout.kubeconfig), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "cluster.main", "proxy", "--unix-socket", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=own) as proxy:
        assert proxy.stdout
        assert proxy.stdout.readline() == f"Starting to serve on {path}\n"
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/api/v1/namespaces/default")
        assert json.load(connection.getresponse())["metadata"]["name"] == "default"
        connection.close()
        proxy.send_signal(2)
        assert proxy.wait(10) == 0
    assert not path.exists()
    refused = lab.wherry(f"proxy --port 9 --unix-socket {path}")
    assert (refused.code, refused.err) == (1, "error: cannot set --unix-socket and --port at the same time\n")
