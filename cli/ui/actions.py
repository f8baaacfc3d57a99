"""What is done to objects: by the other verbs, each a process of its own, so that all of it exists once.

Those that want the terminal get it while the interface steps aside.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Forward:
    """One port forwarding that runs."""

    what: str
    process: asyncio.subprocess.Process


@dataclass
class Verbs:
    """Runs `wherry VERB …` as the session is: the same cluster, the same user."""

    settings: Sequence[str]
    forwards: list[Forward] = field(default_factory=list)

    def argv(self, verb: str, *words: str) -> list[str]:
        """Return a verb's command line."""
        return [sys.executable, "-P", "-m", "cli.main", verb, *self.settings, *words]

    async def run(self, *words: str) -> tuple[int, str]:
        """Run a verb; returns its exit code and all it said."""
        process = await asyncio.create_subprocess_exec(
            *self.argv(*words), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode(errors="replace")

    async def forward(self, namespace: str, target: str, ports: str) -> str:
        """Begin to forward ports; returns what was said of it. Raises: RuntimeError when it can't be."""
        words = ("port-forward", target, *ports.split(), "-n", namespace)
        process = await asyncio.create_subprocess_exec(
            *self.argv(*words), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - it was asked for
        said = (await process.stdout.readline()).decode(errors="replace").strip()
        if not said.startswith("Forwarding from"):
            rest = (await process.stdout.read()).decode(errors="replace")
            await process.wait()
            raise RuntimeError(f"{said}\n{rest}".strip())
        self.forwards.append(Forward(f"{target} {ports}", process))
        return said

    async def stop_forwards(self) -> int:
        """End all forwardings; returns how many there were."""
        ended, self.forwards = self.forwards, []
        for one in ended:
            if one.process.returncode is None:
                one.process.terminate()
                await one.process.wait()
        return len(ended)
