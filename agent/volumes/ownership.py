"""Gives a volume to the pod's fsGroup.

Source: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
"""

import os
import stat
from pathlib import Path

_GROUP_WRITES, _GROUP_ENTERS = 0o660, 0o110


def give_to_group(folder: Path, group: int, *, on_root_mismatch: bool) -> None:
    """Make everything in a volume the group's, readable and writable for it. Blocks: call it in a thread.

    Args: `on_root_mismatch` leaves the contents alone where the top folder is as it should be already.
    """
    status = folder.lstat()
    wanted = _GROUP_WRITES | _GROUP_ENTERS | stat.S_ISGID
    if on_root_mismatch and status.st_gid == group and stat.S_IMODE(status.st_mode) & wanted == wanted:
        return
    for base, names, files in os.walk(folder, topdown=False):
        for name in (*names, *files):
            _give(os.path.join(base, name), group)
    _give(str(folder), group)  # last: only when all is done it says so


def _give(path: str, group: int) -> None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        os.chown(path, -1, group, follow_symlinks=False)
        return
    mode = stat.S_IMODE(status.st_mode) | _GROUP_WRITES
    if stat.S_ISDIR(status.st_mode):
        mode |= _GROUP_ENTERS | stat.S_ISGID
    if status.st_gid != group:
        os.chown(path, -1, group)
    os.chmod(path, mode)
