"""Unpacks layers, in a process of its own: `python -m agent.runtime.images.unpack` with a JSON list on standard input.

Each layer is unpacked through an overlay over those below it, so that whiteouts, directories a layer doesn't list and
paths through links mean what they will mean in a container; the kernel writes the whiteouts. The unpacking child has a
mount namespace of its own, and the overlay for its root: no name in an archive leads out of it, and nothing stays
mounted when it is killed.

Layer format: https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from agent.runtime import kernel

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_CHUNK = 1 << 20


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashing:
    """Passes a stream on and hashes it."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        return data


class LayerWriter:
    """Applies the members of one layer to the file system that is our root."""

    def __init__(self) -> None:
        self._written: set[str] = set()
        self._directory_times: list[tuple[str, int]] = []

    def apply(self, archive: tarfile.TarFile) -> None:
        """Write all members; times of directories last, since filling them changes these."""
        for member in archive:
            path = os.path.normpath("/" + member.name)
            parent, name = os.path.split(path)
            if name.startswith(_WHITEOUT):
                self._white_out(parent, name)
            elif path != "/" or member.isdir():
                self._write(archive, member, path)
        for path, when in reversed(self._directory_times):
            with contextlib.suppress(FileNotFoundError):  # replaced by a later member
                os.utime(path, (when, when), follow_symlinks=False)

    def _white_out(self, parent: str, name: str) -> None:
        """Remove what lower layers have; this layer's own files stay (order in the archive means nothing)."""
        if name == _OPAQUE:
            with contextlib.suppress(FileNotFoundError):
                for entry in os.listdir(parent):
                    self._remove_lower(os.path.join(parent, entry))
        elif not name.startswith(_WHITEOUT + _WHITEOUT):  # other .wh..wh. files are aufs' own books
            self._remove_lower(os.path.join(parent, name.removeprefix(_WHITEOUT)))

    def _remove_lower(self, path: str) -> None:
        if path in self._written:
            return
        if any(written.startswith(path + "/") for written in self._written):
            for entry in os.listdir(path):
                self._remove_lower(os.path.join(path, entry))
            return
        _remove(path)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        # Resolved first: the parent may be a link to a folder that is yet to come.
        os.makedirs(os.path.realpath(os.path.dirname(path)), exist_ok=True)
        try:
            there: os.stat_result | None = os.lstat(path)
        except FileNotFoundError:
            there = None
        if there is not None and not (member.isdir() and stat.S_ISDIR(there.st_mode)):
            _remove(path)
            there = None
        self._written.add(path)
        if member.islnk():
            os.link(os.path.normpath("/" + member.linkname), path, follow_symlinks=False)
            return  # owner and mode are the target's
        if member.isdir():
            if there is None:
                os.mkdir(path)
            self._directory_times.append((path, int(member.mtime)))
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.isreg():
            _write_file(archive, member, path)
        elif member.isfifo():
            os.mkfifo(path)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        else:
            return
        _set_attributes(member, path)


def _write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    content = archive.extractfile(member)
    with open(path, "xb") as file:
        if content is not None:
            shutil.copyfileobj(content, file, _CHUNK)


def _set_attributes(member: tarfile.TarInfo, path: str) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(path, member.mode & 0o7777)  # after chown, which clears setuid
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            name = key.removeprefix(_XATTR)
            # tarfile decodes headers as UTF-8 with surrogates for the bytes that aren't.
            data = value.encode("utf-8", "surrogateescape")
            if not name.startswith("trusted.overlay."):  # would be taken for the overlay's own marks
                with contextlib.suppress(OSError):  # a file system without this kind of attribute
                    os.setxattr(path, name, data, follow_symlinks=False)
    if not member.isdir():
        os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path)


@contextlib.contextmanager
def _decompressed(file: BinaryIO):  # type: ignore[no-untyped-def] # noqa: ANN202 - a generator's type says less than this name
    """Yield the tar stream, whatever it was compressed with (told by its first bytes)."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        yield gzip.GzipFile(fileobj=file)
    elif magic == b"\x28\xb5\x2f\xfd":
        with subprocess.Popen(["zstd", "-dc"], stdin=file, stdout=subprocess.PIPE) as process:
            yield process.stdout
            if process.wait() != 0:
                raise OSError("zstd failed")
    else:
        yield file


def _unpack(blob: str, diff_id: str, target: str, lower: list[str]) -> None:
    """Unpack one layer into `target`/diff; runs in a child that ends afterwards."""
    folder = Path(target)
    for name in ("diff", "work", "merged"):
        (folder / name).mkdir()
    os.umask(0)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    root = folder / "diff"
    root.chmod(0o755)
    if lower:
        root = folder / "merged"
        data = f"lowerdir={':'.join(lower)},upperdir={folder}/diff,workdir={folder}/work"
        kernel.mount("overlay", root, "overlay", data=data)
    with open(blob, "rb") as file, _decompressed(file) as stream:
        os.chroot(root)
        os.chdir("/")
        source = _Hashing(stream)
        with tarfile.open(fileobj=cast(io.BufferedReader, source), mode="r|", bufsize=_CHUNK) as archive:
            LayerWriter().apply(archive)
        while source.read(_CHUNK):  # what follows the archive's end belongs to the digest
            pass
    if f"sha256:{source.sha256.hexdigest()}" != diff_id:
        raise OSError(f"layer {diff_id} has other content than its digest says")


def main() -> int:
    """Unpack the layers that standard input lists, each in a child of its own."""
    for layer in json.load(sys.stdin):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _unpack(layer["blob"], layer["diff_id"], layer["target"], layer["lower"])
                code = 0
            except (OSError, tarfile.TarError, EOFError, ValueError) as error:
                print(f"failed to unpack layer {layer['diff_id']}: {error}", file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            return 1
        os.rename(f"{layer['target']}/diff", layer["place"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
