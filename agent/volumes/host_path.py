"""Checks and makes hostPath volumes as their type says.

Source: https://kubernetes.io/docs/concepts/storage/volumes/#hostpath-volume-types
"""

from pathlib import Path

from agent.environment import ConfigError

_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
_CHECKS = {
    "Directory": Path.is_dir, "File": Path.is_file, "Socket": Path.is_socket, "CharDevice": Path.is_char_device,
    "BlockDevice": Path.is_block_device, "DirectoryOrCreate": Path.is_dir, "FileOrCreate": Path.is_file,
}  # fmt: skip
_NAMES = {
    "Directory": "directory", "File": "file", "Socket": "socket file", "CharDevice": "character device",
    "BlockDevice": "block device", "DirectoryOrCreate": "directory", "FileOrCreate": "file",
}  # fmt: skip


def check_host_path(path: Path, kind: str) -> None:
    """Make what the type allows to be made. Raises: ConfigError for a path of another type; OSError."""
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=_FILE_MODE)
    elif not kind and not path.exists():
        path.mkdir(parents=True, mode=_FOLDER_MODE)  # as container runtimes do for a bind source that is missing
    if kind in _CHECKS and not _CHECKS[kind](path):
        raise ConfigError(f"hostPath type check failed: {path} is not a {_NAMES[kind]}")
