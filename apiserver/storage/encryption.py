"""Values encrypted at rest: which resources, by which keys, and which values should be written anew.

They bear the prefixes of Kubernetes ("k8s:enc:aesgcm:v1:key1:"), so that tools which look into etcd know them.
Source: https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

_KINDS = ("apiserver.config.k8s.io/v1",)
_PREFIX = b"k8s:enc:"
_IDENTITY = "identity"


class ConfigurationError(ValueError):
    """An encryption configuration makes no sense; the message says where."""


class DecryptionFailed(Exception):
    """A stored value can't be read with any of the keys there are."""


class Cipher(Protocol):
    """One way to encrypt, with one key."""

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Return what is stored; `context` is the key of the value, bound to it where the way can."""

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return the plain value. Raises: ValueError when it was not sealed by this key."""


class _AesCbc:
    """AES-CBC with PKCS#7; does not notice changes of what is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _cipher(self, start: bytes) -> Any:
        from cryptography.hazmat.primitives.ciphers import Cipher as Aes
        from cryptography.hazmat.primitives.ciphers import algorithms, modes

        return Aes(algorithms.AES(self._key), modes.CBC(start))

    def seal(self, plain: bytes, _: bytes) -> bytes:
        start, short = os.urandom(16), 16 - len(plain) % 16
        encryptor = self._cipher(start).encryptor()
        return start + bytes(encryptor.update(plain + bytes([short]) * short) + encryptor.finalize())

    def open(self, sealed: bytes, _: bytes) -> bytes:
        if len(sealed) < 32 or len(sealed) % 16:
            raise ValueError("the stored data is no whole number of blocks")
        decryptor = self._cipher(sealed[:16]).decryptor()
        plain = bytes(decryptor.update(sealed[16:]) + decryptor.finalize())
        short = plain[-1]
        if not 1 <= short <= 16 or plain[-short:] != bytes([short]) * short:
            raise ValueError("invalid padding on input")
        return plain[:-short]


class _AesGcm:
    """AES-GCM bound to where a value lies; keys should be changed after 200,000 writes."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes = AESGCM(key)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + bytes(self._aes.encrypt(nonce, plain, context))

    def open(self, sealed: bytes, context: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._aes.decrypt(sealed[:12], sealed[12:], context))
        except InvalidTag as error:
            raise ValueError("cipher: message authentication failed") from error


class _SecretBox:
    """XSalsa20 and Poly1305."""

    def __init__(self, key: bytes) -> None:
        from nacl.secret import SecretBox

        self._box = SecretBox(key)

    def seal(self, plain: bytes, _: bytes) -> bytes:
        return bytes(self._box.encrypt(plain))

    def open(self, sealed: bytes, _: bytes) -> bytes:
        from nacl.exceptions import CryptoError

        try:
            return bytes(self._box.decrypt(sealed))
        except CryptoError as error:
            raise ValueError("failed to decrypt the data") from error


_WAYS: Mapping[str, tuple[type[Any], tuple[int, ...]]] = {
    "aescbc": (_AesCbc, (16, 24, 32)), "aesgcm": (_AesGcm, (16, 24, 32)), "secretbox": (_SecretBox, (32,)),
}  # fmt: skip


class Transformer:
    """The providers of some resources: the first writes, all of them read."""

    def __init__(self, providers: Sequence[tuple[bytes, Cipher | None]]) -> None:
        """Args: `providers` are prefixes and ciphers; None with an empty prefix leaves values as they are."""
        self._providers = providers

    def seal(self, key: str, plain: bytes) -> bytes:
        """Return a value as it is stored."""
        prefix, cipher = self._providers[0]
        return prefix + cipher.seal(plain, key.encode()) if cipher is not None else plain

    def open(self, key: str, stored: bytes) -> tuple[bytes, bool]:
        """Return a stored value, and whether it should be written anew. Raises: DecryptionFailed."""
        encrypted = stored.startswith(_PREFIX)
        for index, (prefix, cipher) in enumerate(self._providers):
            if cipher is None:
                if not encrypted:
                    return stored, index > 0
            elif stored.startswith(prefix):
                try:
                    return cipher.open(stored[len(prefix) :], key.encode()), index > 0
                except ValueError as error:
                    raise DecryptionFailed(f"{key}: {error}") from error
        told = "no key for it is configured" if encrypted else "it is not encrypted, and identity is no provider"
        raise DecryptionFailed(f"{key}: {told}")


class Encryption:
    """Which transformer is for which resource."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read an EncryptionConfiguration. Raises: ConfigurationError."""
        if document.get("kind") != "EncryptionConfiguration" or document.get("apiVersion") not in _KINDS:
            raise ConfigurationError(f"it is no EncryptionConfiguration of {_KINDS[0]}")
        self._rules: list[tuple[Sequence[str], Transformer]] = []
        self._known: dict[str, Transformer | None] = {}
        for index, one in enumerate(document.get("resources") or ()):
            path = f"resources[{index}]"
            if not one.get("resources") or not one.get("providers"):
                raise ConfigurationError(f"{path}: Required value: resources and providers must be given")
            providers = [
                pair for at, given in enumerate(one["providers"]) for pair in _read(given, f"{path}.providers[{at}]")
            ]
            self._rules.append((one["resources"], Transformer(providers)))
        if not self._rules:
            raise ConfigurationError("resources: Required value")

    def of(self, key: str) -> Transformer | None:
        """Return the transformer for a store key; None for what is stored as it is."""
        resource = key.split("/", 3)[2]
        if resource not in self._known:
            self._known[resource] = next((t for names, t in self._rules if _covers(names, resource)), None)
        return self._known[resource]


def read_configuration(path: Path) -> Encryption:
    """Read a configuration file. Raises: ConfigurationError, OSError."""
    import yaml

    try:
        return Encryption(yaml.safe_load(path.read_text()) or {})
    except (ConfigurationError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _covers(names: Sequence[str], resource: str) -> bool:
    plural, _, group = resource.partition(".")
    for name in names:
        asked, _, asked_group = name.partition(".")
        if name in (resource, "*.*") or (asked == "*" and asked_group == group and "." in name):
            return True
        if asked == plural and asked_group == group:
            return True
    return False


def _read(provider: Mapping[str, Any], path: str) -> list[tuple[bytes, Cipher | None]]:
    if len(provider) != 1:
        raise ConfigurationError(f"{path}: Invalid value: provider must contain exactly one of its kinds")
    ((name, given),) = provider.items()
    if name == _IDENTITY:
        return [(b"", None)]
    if name not in _WAYS:
        raise ConfigurationError(f"{path}: Unsupported value: {name!r}: supported values: {[*_WAYS, _IDENTITY]}")
    cipher, sizes = _WAYS[name]
    found: list[tuple[bytes, Cipher | None]] = []
    for index, key in enumerate((given or {}).get("keys") or ()):
        where = f"{path}.{name}.keys[{index}]"
        try:
            secret = base64.b64decode(key["secret"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError) as error:
            raise ConfigurationError(f"{where}.secret: Invalid value: secret must be base64 encoded") from error
        if len(secret) not in sizes:
            raise ConfigurationError(f"{where}.secret: Invalid value: expected key length is one of {list(sizes)}")
        if not key.get("name") or ":" in key["name"]:
            raise ConfigurationError(f"{where}.name: Invalid value: it must be there and hold no colon")
        found.append((f"k8s:enc:{name}:v1:{key['name']}:".encode(), cipher(secret)))
    if not found:
        raise ConfigurationError(f"{path}.{name}.keys: Required value")
    return found
