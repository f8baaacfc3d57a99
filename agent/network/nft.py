"""Hands transactions to nft and reads back what only the kernel knows."""

import asyncio
import json
import subprocess
from collections.abc import Sequence


class RulesRefused(RuntimeError):
    """nft did not take a transaction; nothing of it was done."""


async def apply(transaction: str) -> None:
    """Carry out one transaction, all of it or nothing. Raises: RulesRefused with what nft says."""
    done = await asyncio.to_thread(_run, ["-f", "-"], transaction)
    if done.returncode != 0:
        raise RulesRefused(done.stderr.strip()[:2000])


def _run(arguments: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    argv = ["nft", *arguments]
    try:
        return subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, "", "nft is not installed")


async def chain_is_there(table: str, chain: str) -> bool:
    """Whether the kernel still has a chain. Args: `table` has its family before its name."""
    done = await asyncio.to_thread(_run, ["-t", "list", "chain", *table.split(), chain])
    return done.returncode == 0


async def read_affinity(table: str) -> dict[str, tuple[str, int]]:
    """Return the clients a table remembers: "address . mark" -> ("address . port", seconds left)."""
    done = await asyncio.to_thread(_run, ["-j", "list", "map", *table.split(), "affinity"])
    if done.returncode != 0:
        return {}
    found: dict[str, tuple[str, int]] = {}
    for item in json.loads(done.stdout)["nftables"]:
        for key, value in (item.get("map") or {}).get("elem") or ():
            about = key.get("elem") or {"val": key}
            client, mark = about["val"]["concat"]
            address, port = value["concat"]
            found[f"{client} . 0x{mark:08x}"] = (f"{address} . {port}", int(about.get("expires", 0)) or 1)
    return found
