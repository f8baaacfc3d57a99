"""SELinux labels of containers and their files, on hosts that have SELinux.

A label is USER:ROLE:TYPE:LEVEL. What the host's policy has for containers is the start; a pod may replace each part.
The level keeps pods apart: each sandbox draws two categories, unless it asks for some.
Sources: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#assign-selinux-labels-to-a-container,
https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-process
"""

import contextlib
import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from agent.cri import api_pb2 as cri

CONTEXTS = Path("/etc/selinux")
_ENABLED = Path("/sys/fs/selinux/enforce")
_PROCESS, _FILE = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"
_PRIVILEGED_TYPE = "spc_t"
_CATEGORIES = 1024
_ATTRIBUTE = "security.selinux"
_KEPT = frozenset(
    """
    / /bin /boot /dev /etc /home /lib /lib64 /media /proc /root /run /sbin /sys /tmp /usr /var /var/lib /var/log
    """.split()  # noqa: SIM905 - a list of paths
)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a container's processes and its files bear."""

    process: str
    file: str


def is_enabled() -> bool:
    """Whether this host has SELinux."""
    return _ENABLED.exists()


def defaults(root: Path = CONTEXTS) -> Labels:
    """Return what the host's policy has for containers. Blocks."""
    found = {"process": _PROCESS, "file": _FILE}
    kind = "targeted"
    for line in _lines(root / "config"):
        if line.startswith("SELINUXTYPE="):
            kind = line.partition("=")[2].strip()
    for line in _lines(root / kind / "contexts" / "lxc_contexts"):
        name, _, value = line.partition("=")
        if name.strip() in found:
            found[name.strip()] = value.strip().strip('"')
    return Labels(**found)


def labels(asked: cri.SELinuxOption, sandbox_id: str, base: Labels, *, privileged: bool) -> Labels:
    """Return a container's labels: the host's, with the parts that its pod asks for in their place.

    Args: `sandbox_id` is what the pod's own categories are drawn from, the same for all its containers.
    """
    level = asked.level or f"s0:{','.join(categories(sandbox_id))}"
    user, role, kind = base.process.split(":")[:3]
    if privileged and not asked.type:
        kind = _PRIVILEGED_TYPE
    process = (asked.user or user, asked.role or role, asked.type or kind, level)
    file_user, file_role, file_kind = base.file.split(":")[:3]
    return Labels(":".join(process), ":".join((asked.user or file_user, file_role, file_kind, level)))


def relabel(path: str, label: str) -> None:
    """Give a file, or a folder with all below it, a label. Blocks. Raises: OSError, but where labels are not known.

    Links are labelled themselves and not followed. What the host itself needs keeps its labels, as in containerd.
    """
    if os.path.realpath(path) in _KEPT:
        raise OSError(errno.EPERM, f"SELinux relabeling of {path} is not allowed")
    _set_label(path, label)
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):  # others may work there
                _set_label(os.path.join(folder, name), label)


def _set_label(path: str, label: str) -> None:
    value = label.encode() + b"\0"
    try:
        if os.getxattr(path, _ATTRIBUTE, follow_symlinks=False) == value:
            return
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return  # this file system knows no labels
        if error.errno != errno.ENODATA:
            raise
    try:
        os.setxattr(path, _ATTRIBUTE, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EROFS):
            raise


def categories(sandbox_id: str) -> tuple[str, str]:
    """Return two different categories, the lower one first."""
    digest = int.from_bytes(hashlib.sha256(sandbox_id.encode()).digest()[:8])
    first, second = digest % _CATEGORIES, digest // _CATEGORIES % (_CATEGORIES - 1)
    second += second >= first
    return f"c{min(first, second)}", f"c{max(first, second)}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
