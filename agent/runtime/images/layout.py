"""Makes images without a builder: a tar archive and a configuration become blobs."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machinery.files import write_atomically

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class File:
    """One entry of a layer; directories end in "/", a link has a target, all else has content."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    link: str = ""
    uid: int = 0
    gid: int = 0


def make_layer(files: Sequence[File]) -> bytes:
    """Archive files; the same files give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.path.rstrip("/"))
            member.mode, member.uid, member.gid = file.mode, file.uid, file.gid
            if file.link:
                member.type, member.linkname = tarfile.SYMTYPE, file.link
            elif file.path.endswith("/"):
                member.type = tarfile.DIRTYPE
            member.size = len(file.content)
            archive.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def write_image(blobs: Path, layers: Sequence[bytes], config: Mapping[str, Any]) -> tuple[str, int]:
    """Write an image's blobs.

    Args:
        blobs: a folder such as blobs/ of an OCI layout; they go below its sha256/.
        layers: tar archives, lowest first.
        config: `config` of the image configuration, such as {"Cmd": ["/bin/sh"]}.

    Returns: digest and size of its manifest.
    """

    def put(data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = blobs / digest.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, data)
        return digest

    digests = [put(layer) for layer in layers]
    machine = os.uname().machine
    configuration = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": [{"created_by": "wherry"} for _ in layers],
    }
    encoded = json.dumps(configuration).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": put(encoded), "size": len(encoded)},
            "layers": [
                {"mediaType": LAYER, "digest": digest, "size": len(layer)}
                for digest, layer in zip(digests, layers, strict=True)
            ],
        }
    ).encode()
    return put(manifest), len(manifest)
