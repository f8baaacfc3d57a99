"""Cgroup folders, of version 1 and 2 alike: a path such as /kubepods/pod1 stands for one folder in each hierarchy."""

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def is_v2() -> bool:
    """Whether the pure version 2 hierarchy is mounted."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The mounted hierarchies: one for version 2, one for each controller of version 1."""
    if is_v2():
        return [ROOT]
    return [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def folder(controller: str, path: str) -> Path:
    """The folder that holds `controller`'s files for the cgroup `path`."""
    relative = path.lstrip("/")
    return ROOT / relative if is_v2() else ROOT / controller / relative


def exists(path: str) -> bool:
    """Whether any hierarchy has it."""
    return any((hierarchy / path.lstrip("/")).is_dir() for hierarchy in hierarchies())


def remove(path: str) -> None:
    """Remove the cgroup and its empty children; one that is in use stays."""
    for hierarchy in hierarchies():
        top = hierarchy / path.lstrip("/")
        if top == hierarchy or not top.is_dir():
            continue
        for below, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(below)


def processes(path: str) -> set[int]:
    """The processes in the cgroup, in any hierarchy."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):
            found.update(map(int, (hierarchy / path.lstrip("/") / "cgroup.procs").read_text().split()))
    return found


def killed_for_memory(path: str) -> bool:
    """Whether the kernel killed a process of the cgroup for want of memory, as its own counter tells."""
    memory = folder("memory", path)
    with contextlib.suppress(OSError):
        rows = (memory / ("memory.events" if is_v2() else "memory.oom_control")).read_text().splitlines()
        return any(row.startswith("oom_kill ") and row != "oom_kill 0" for row in rows)
    return False


def join(path: str, pid: int) -> None:
    """Put a process into the cgroup, making it where there is none; hierarchies that refuse are left out."""
    for hierarchy in hierarchies():
        target = hierarchy / path.lstrip("/")
        with contextlib.suppress(OSError):
            target.mkdir(parents=True, exist_ok=True)
            (target / "cgroup.procs").write_text(str(pid))


def remove_if_empty(path: str) -> None:
    """Remove the cgroup if it has neither children nor processes."""
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):
            os.rmdir(hierarchy / path.lstrip("/"))
