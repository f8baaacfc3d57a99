"""The command line of the runtime: `python -m agent.runtime --root DIR --state DIR --socket PATH`."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the options; each is explained at its namesake in config.RuntimeConfig."""
    parser = argparse.ArgumentParser(prog="python -m agent.runtime", description="Wherry's container runtime (CRI v1)")
    for name in ("root", "state", "socket"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--oci-runtime", default="runc")
    parser.add_argument("--conmon", default="conmon")
    parser.add_argument("--cni-conf-dir", type=Path)
    parser.add_argument("--cni-bin-dir", type=Path, action="append", help="may be given more than once")
    parser.add_argument("--bridge", default="wherry0")
    parser.add_argument("--pod-cidr", default="10.244.0.0/24")
    parser.add_argument("--cgroup-root", default="/wherry")
    parser.add_argument("--no-import-busybox", dest="import_busybox", action="store_false")
    parser.add_argument("--log-level", default="INFO")
    return parser.parse_args(argv)


async def _run(options: dict[str, object]) -> None:
    # Here, after grpc was told what it needs to know.
    from agent.runtime.config import DEFAULT_CNI_BIN_DIRS, RuntimeConfig
    from agent.runtime.server import run

    bin_dirs = options.pop("cni_bin_dir")
    config = RuntimeConfig(**options, cni_bin_dirs=tuple(bin_dirs) if bin_dirs else DEFAULT_CNI_BIN_DIRS)  # type: ignore[arg-type]
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)  # type: ignore[union-attr]  # asyncio.run made it
    await run(config)


def main() -> int:
    """Run until SIGTERM or SIGINT; containers go on."""
    options = vars(parse(sys.argv[1:]))
    logging.basicConfig(level=options.pop("log_level"), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Children are started with vfork, which needs none of grpc's care, and the care costs threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
