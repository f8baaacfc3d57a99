"""Mounts that show other owners than the disk has: how a pod in a user namespace of its own finds root's files its own.

Source: mount_setattr(2), MOUNT_ATTR_IDMAP
"""

import ctypes
import os
import select
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.cri import api_pb2 as cri
from agent.runtime import kernel
from agent.runtime.errors import InvalidArgument, RuntimeFailure

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_CLONE, _CLOEXEC, _MOVE_FROM_FD = 1, os.O_CLOEXEC, 0x4
_ATTR_IDMAP = 0x00100000
_READY_SECONDS = 10
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def mount(source: Path | str, target: Path, user_namespace: Path) -> None:
    """Mount `source` (with what is mounted below it) at `target`, owners mapped as in a user namespace.

    Raises: RuntimeFailure where the file system can't do that; OSError.
    """
    tree = _call(
        _OPEN_TREE, _AT_FDCWD, os.fsencode(source), ctypes.c_uint(_CLONE | _CLOEXEC | _AT_RECURSIVE)
    )  # fmt: skip
    namespace = os.open(user_namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        attributes = struct.pack("QQQQ", _ATTR_IDMAP, 0, 0, namespace)
        flags = ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE)
        try:
            _call(_MOUNT_SETATTR, tree, b"", flags, attributes, ctypes.c_size_t(len(attributes)))
        except OSError as error:
            raise RuntimeFailure(f"failed to set MOUNT_ATTR_IDMAP on {source}: {error.strerror}") from error
        _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_MOVE_FROM_FD))
    finally:
        os.close(namespace)
        os.close(tree)


def check(options: cri.UserNamespace) -> tuple[str, str]:
    """Return the lines of uid_map and gid_map that a pod asks for. Raises: InvalidArgument."""
    maps = []
    for name, ids in (("uid", options.uids), ("gid", options.gids)):
        if len(ids) != 1:
            raise InvalidArgument(f"can't create a user namespace with {len(ids)} {name} mappings: one is supported")
        if ids[0].length == 0 or ids[0].container_id != 0:
            raise InvalidArgument(f"the {name} mapping must begin at 0 and have a length")
        maps.append(f"{ids[0].container_id} {ids[0].host_id} {ids[0].length}\n")
    if maps[0] != maps[1]:
        raise InvalidArgument("the mappings of users and groups must be the same")
    return maps[0], maps[1]


def make_namespaces(folder: Path, kinds: Sequence[str], maps: tuple[str, str]) -> None:
    """Make a user namespace and those of `kinds` within it, and pin them at `folder`/KIND. Blocks.

    A process of many threads can't leave its user namespace, so a child does it: unshare(1), which then only waits.
    """
    options = {"net": "--net", "ipc": "--ipc", "uts": "--uts"}
    argv = ["unshare", "--user", *(options[kind] for kind in kinds), "cat"]
    said, says = os.pipe2(os.O_CLOEXEC)
    held, holds = os.pipe2(os.O_CLOEXEC)
    os.write(holds, b"x")
    try:
        with subprocess.Popen(argv, stdin=held, stdout=says, stderr=subprocess.DEVNULL) as child:
            try:
                # It passes on what it was sent once it is in its namespaces, and waits for more.
                if not select.select([said], [], [], _READY_SECONDS)[0]:
                    raise RuntimeFailure("user namespaces can't be made on this machine")
                _set_up(child.pid, folder, kinds, maps)
            finally:
                child.kill()
    finally:
        for fd in (said, says, held, holds):
            os.close(fd)


def _set_up(pid: int, folder: Path, kinds: Sequence[str], maps: tuple[str, str]) -> None:
    proc = Path(f"/proc/{pid}")
    (proc / "uid_map").write_text(maps[0])
    (proc / "gid_map").write_text(maps[1])
    for kind in ("user", *kinds):
        (folder / kind).touch()
        kernel.mount(f"{proc}/ns/{kind}", folder / kind, flags=kernel.MS_BIND)
