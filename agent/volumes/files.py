"""Writes a volume's files so that a reader sees all old or all new ones, never a mixture.

The files lie in a folder named by the time; `..data` points at it and is swapped by one rename, and each name in the
volume points through `..data`. It is how the field does it; programs watch `..data` for changes.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

DATA = "..data"
_GROUP_READS = 0o440


class File(NamedTuple):
    """One file of a volume; `owner` is the uid it is given to, None for root."""

    content: bytes
    mode: int
    owner: int | None = None


def write_files(folder: Path, files: Mapping[str, File], group: int | None) -> bool:
    """Make the volume hold exactly these files; returns whether anything changed.

    Args: `group` is the pod's fsGroup, whose members may read them all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777 if group is None else 0o2777)
    if _holds(folder, files, group):
        return False
    fresh = Path(tempfile.mkdtemp(prefix=f"..{os.urandom(2).hex()}", dir=folder))
    fresh.chmod(0o755)
    for name, file in files.items():
        _write(fresh, name, file, group)
    if group is not None:
        for place in (folder, fresh, *(path for path in fresh.rglob("*") if path.is_dir())):
            os.chown(place, -1, group)
    old = _target(folder)
    link = folder / "..data_new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(folder / DATA)
    _link_names(folder, files)
    if old is not None:
        shutil.rmtree(folder / old, ignore_errors=True)
    return True


def is_filled(folder: Path) -> bool:
    """Whether a volume has been written before."""
    return (folder / DATA).exists()


def _write(fresh: Path, name: str, file: File, group: int | None) -> None:
    path = fresh / name
    if not path.resolve().is_relative_to(fresh.resolve()):
        raise OSError(f"{name} leads out of its volume")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    if file.owner is not None or group is not None:
        os.chown(path, -1 if file.owner is None else file.owner, -1 if group is None else group)
    path.chmod(_mode(file, group))


def _mode(file: File, group: int | None) -> int:
    return file.mode | (_GROUP_READS if group is not None else 0)


def _target(folder: Path) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(folder / DATA)
    return None


def _holds(folder: Path, files: Mapping[str, File], group: int | None) -> bool:
    current = folder / DATA
    if not current.exists():
        return False
    present = {str(path.relative_to(current)) for path in current.rglob("*") if path.is_file()}
    if present != set(files):
        return False
    return all(_is_same(current / name, file, group) for name, file in files.items())


def _is_same(path: Path, file: File, group: int | None) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == _mode(file, group) and path.read_bytes() == file.content


def _link_names(folder: Path, files: Mapping[str, File]) -> None:
    wanted = {Path(name).parts[0] for name in files}
    for name in wanted:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path(DATA) / name)
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
