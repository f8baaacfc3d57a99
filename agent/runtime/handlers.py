"""The OCI runtimes that sandboxes may ask for by name, as RuntimeClasses do: runc, and crun where it is installed.

"" is the usual one. Each keeps its state in a folder of its own.
"""

import os
import shutil
from pathlib import Path

from agent.runtime import cgroups
from agent.runtime.errors import InvalidArgument
from agent.runtime.oci import OciRuntime

_HYBRID = cgroups.ROOT / "unified"
# crun takes a machine that has cgroups of both versions for one of version 2, and finds no controllers there. It is
# shown the first version alone, in a mount namespace of its own.
_WITHOUT_UNIFIED = f"""#!/bin/sh
exec unshare --mount --propagation unchanged sh -c \
    'mount --make-rprivate {cgroups.ROOT} && umount {_HYBRID} && exec "$0" "$@"' PROGRAM "$@"
"""


class OciRuntimes:
    """The runtimes by their names."""

    def __init__(self, usual: str, state: Path) -> None:
        """Args: `usual` is the path of the usual runtime; `state` holds the folders of all."""
        self._usual = OciRuntime(usual, state / "oci", has_gate=os.path.basename(usual) != "crun")
        self._by_name = {"": self._usual, os.path.basename(usual): self._usual}
        crun = shutil.which("crun")
        if crun is not None and "crun" not in self._by_name:
            self._by_name["crun"] = OciRuntime(_shown_one_version(crun, state), state / "oci-crun", has_gate=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What sandboxes may ask for."""
        return tuple(self._by_name)

    def of(self, name: str) -> OciRuntime:
        """The runtime of this name. Raises: InvalidArgument."""
        found = self._by_name.get(name)
        if found is None:
            raise InvalidArgument(f'no runtime for "{name}" is configured')
        return found


def _shown_one_version(program: str, state: Path) -> str:
    """The program itself, or where cgroups are of both versions a script that hides the second from it."""
    if cgroups.is_v2() or not _HYBRID.is_dir():
        return program
    script = state / "crun"
    script.write_text(_WITHOUT_UNIFIED.replace("PROGRAM", program))
    script.chmod(0o755)
    return str(script)
