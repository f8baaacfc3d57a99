"""Writes a volume's files so that a reader sees all old or all new ones, never a mixture.

The files lie in a folder named by the time; `..data` points at it and is swapped by one rename, and each name in the
volume points through `..data`. It is how the field does it; programs watch `..data` for changes.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

DATA = "..data"


def write_files(folder: Path, files: Mapping[str, tuple[bytes, int]], group: int | None) -> bool:
    """Make the volume hold exactly these files; returns whether anything changed."""
    folder.mkdir(parents=True, exist_ok=True)
    if _holds(folder, files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    fresh.chmod(0o755)
    for name, (content, mode) in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode | (0o040 if group is not None and mode & 0o400 else 0))
        if group is not None:
            os.chown(path, -1, group)
    old = _target(folder)
    link = folder / "..data_new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(folder / DATA)
    _link_names(folder, files)
    if old is not None:
        shutil.rmtree(folder / old, ignore_errors=True)
    return True


def _target(folder: Path) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(folder / DATA)
    return None


def _holds(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> bool:
    current = folder / DATA
    if not current.exists():
        return False
    present = {str(path.relative_to(current)) for path in current.rglob("*") if path.is_file()}
    return present == set(files) and all((current / name).read_bytes() == body for name, (body, _) in files.items())


def _link_names(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    wanted = {Path(name).parts[0] for name in files}
    for name in wanted:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(Path(DATA) / name)
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
