import base64
import subprocess
import sys
from pathlib import Path

import pytest

from machinery.client.kubeconfig import ClientConfig, ConfigError, load_config

ONE = """
apiVersion: v1
kind: Config
current-context: main
clusters:
- name: c1
  cluster: {server: "https://127.0.0.1:6443/", certificate-authority: pki/ca.crt}
users:
- name: u1
  user: {client-certificate-data: %s, client-key: pki/u1.key}
contexts:
- name: main
  context: {cluster: c1, user: u1, namespace: work}
"""
TWO = """
current-context: other
clusters:
- name: c1
  cluster: {server: "https://never"}
- name: c2
  cluster: {server: "https://c2", insecure-skip-tls-verify: true}
users:
- name: u2
  user: {token: abc}
contexts:
- name: other
  context: {cluster: c2, user: u2}
"""


@pytest.fixture
def one(tmp_path: Path) -> Path:
    path = tmp_path / "one"
    path.write_text(ONE % base64.b64encode(b"PEM").decode())
    return path


def test_a_context_gives_cluster_user_and_namespace(one: Path) -> None:
    assert load_config(str(one)) == ClientConfig(
        server="https://127.0.0.1:6443",
        ca_file=str(one.parent / "pki/ca.crt"),
        cert_data=b"PEM",
        key_file=str(one.parent / "pki/u1.key"),
        namespace="work",
    )


def test_of_several_files_the_first_to_name_something_wins(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = one.with_name("two")
    two.write_text(TWO)
    monkeypatch.setenv("KUBECONFIG", f"{one}:{one.with_name('absent')}:{two}")
    assert load_config().server == "https://127.0.0.1:6443"
    assert load_config(context="other") == ClientConfig(server="https://c2", token="abc", insecure=True)


def test_an_unknown_context_is_named(one: Path) -> None:
    with pytest.raises(ConfigError, match='context "nope" does not exist'):
        load_config(str(one), context="nope")


@pytest.mark.parametrize("text", ["[]", "a: [", "clusters: []", "\x00"])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(str(path))


def test_an_absent_file_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or directory"):
        load_config(str(tmp_path / "absent"))


@pytest.mark.slow
def test_reading_the_configuration_loads_no_http_client() -> None:
    code = (
        "import sys, machinery.client.kubeconfig, machinery.api.selectors, machinery.api.quantity;"
        "sys.exit(sorted(sys.modules.keys() & {'aiohttp', 'asyncio', 'yaml', 'ssl'}) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
