"""Hands transactions to nft and reads back what only the kernel knows."""

import asyncio
import json
import re
import subprocess
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from agent.network.table import ID_MASK, Client


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


async def read_affinity(table: str, numbers: Collection[int] | None = None) -> list[Client]:
    """Return the clients a table remembers; of services' ports of these numbers, or of all."""
    names = await asyncio.to_thread(_memories, table)
    wanted = [name for name in names if numbers is None or name == "affinity" or _number(name) in numbers]
    found: list[Client] = []
    for name in wanted:
        done = await asyncio.to_thread(_run, ["-j", "list", "map", *table.split(), name])
        if done.returncode == 0:
            found += list(_clients(name, json.loads(done.stdout)))
    return found if numbers is None else [one for one in found if one.number in numbers]


def _memories(table: str) -> list[str]:
    """Return the names of the maps in which a table remembers clients."""
    done = _run(["-j", "-t", "list", "table", *table.split()])
    if done.returncode != 0:
        return []
    maps = [item["map"]["name"] for item in json.loads(done.stdout)["nftables"] if "map" in item]
    return [name for name in maps if name == "affinity" or _number(name)]


def _number(name: str) -> int:
    match = re.fullmatch(r"affinity-([0-9a-f]{8})", name)
    return int(match[1], 16) if match else 0


def _clients(name: str, listed: dict[str, Any]) -> Iterator[Client]:
    for item in listed["nftables"]:
        for key, value in (item.get("map") or {}).get("elem") or ():
            about = key.get("elem") or {"val": key}
            seconds = int(about.get("expires", 0)) or 1
            if name == "affinity":
                client, mark = about["val"]["concat"]
                address, port = value["concat"]
                number = mark & ID_MASK
                yield Client(name, f"{client} . 0x{mark:08x}", number, f"{address} . {port}", seconds)
            else:
                yield Client(name, str(about["val"]), _number(name), f"0x{value:08x}", seconds)
