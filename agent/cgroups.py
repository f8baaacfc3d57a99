"""Removes the cgroups of pods that have ended; containers' own go with them, their parents are left to us."""

import contextlib
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def remove(path: str) -> None:
    """Remove a cgroup and those below it, in each hierarchy (v1 has several, v2 one); one in use stays."""
    hierarchies = [ROOT, *(one for one in ROOT.iterdir() if one.is_dir())] if ROOT.is_dir() else []
    for hierarchy in hierarchies:
        folder = hierarchy / path.lstrip("/")
        if not folder.is_dir():
            continue
        below = sorted((one for one in folder.rglob("*") if one.is_dir()), key=lambda one: len(one.parts), reverse=True)
        for one in (*below, folder):
            with contextlib.suppress(OSError):
                one.rmdir()
